"""Half precision is storage: results are float32's over the widened arrays, rounded once.

That makes an exact oracle of the float32 kernels, for every operation of which the arrays all have
one dtype. Those are listed here; optimizers and linear have tests of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import innerloop as il
from support import LAYOUTS, equal_bits, numbers

HALVES = [np.float16, ml_dtypes.bfloat16]
Operation = Callable[..., Any]


def operations() -> Iterator[tuple[str, Operation, int]]:
    """Name, function and how many arrays of one shape it takes."""
    for name in il.activations.NAMES:
        yield name, getattr(il, name), 1
        yield f"{name}_backward", getattr(il, f"{name}_backward"), 2
    for name in ("softmax", "log_softmax"):
        for axis in (0, 1, 2):
            yield f"{name} axis {axis}", partial(getattr(il, name), axis=axis), 1
            backward = partial(getattr(il, f"{name}_backward"), axis=axis)
            yield f"{name}_backward axis {axis}", backward, 2


OPERATIONS = {name: (function, count) for name, function, count in operations()}


def rounded(values: np.ndarray, dtype: Any) -> np.ndarray:
    with np.errstate(all="ignore"):
        return values.astype(dtype)


def in_float32(function: Operation, dtype: Any, *arrays: np.ndarray) -> np.ndarray:
    return rounded(function(*(a.astype(np.float32) for a in arrays)), dtype)


@pytest.mark.parametrize("dtype", HALVES)
def test_every_value_is_read_and_rounded_as_numpy_does(target: str, dtype: Any) -> None:
    every = np.arange(2**16, dtype=np.uint16).view(dtype)
    assert equal_bits(rounded(il.identity(every), np.float32), rounded(every, np.float32))
    for slope in (1.0, 2.0**-7, 1 / 3, 1.0009765625, 300.0):  # overflow, subnormals, halfway
        got = il.leaky_relu(every, slope)
        if target == "reference":
            continue  # rounds the exact product, not the float32 one
        wide = rounded(every, "f4")
        with np.errstate(all="ignore"):
            expected = rounded(np.where(wide > 0, wide, wide * np.float32(slope)), dtype)
        assert equal_bits(rounded(got, "f4"), rounded(expected, "f4"))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_is_float32_rounded_once(isa: str, name: str, dtype: Any) -> None:
    function, count = OPERATIONS[name]
    for shape in [(0, 2, 3), (1, 1, 1), (2, 3, 5), (3, 40, 33), (2, 5, 4100)]:
        arrays = [rounded(numbers(shape, "f4", seed), dtype) for seed in range(count)]
        expected = in_float32(function, dtype, *arrays)
        got = function(*arrays)
        assert got.dtype == dtype
        assert equal_bits(rounded(got, "f4"), rounded(expected, "f4"))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_layouts_and_in_place(isa: str, name: str, layout: str, dtype: Any) -> None:
    function, count = OPERATIONS[name]
    arrays = [rounded(numbers((3, 17, 21), "f4", seed), dtype) for seed in range(count)]
    expected = in_float32(function, dtype, *arrays)
    laid_out = [LAYOUTS[layout](a) for a in arrays]
    out = LAYOUTS[layout](np.zeros_like(arrays[0]))
    assert function(*laid_out, out=out) is out
    assert equal_bits(rounded(out, "f4"), rounded(expected, "f4"))
    assert function(*laid_out, out=laid_out[-1]) is laid_out[-1]
    assert equal_bits(rounded(laid_out[-1], "f4"), rounded(expected, "f4"))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_reference_is_near(name: str, dtype: Any) -> None:
    """The reference rounds a float64 result: at most a unit in the last place away."""
    function, count = OPERATIONS[name]
    arrays = [rounded(numbers((2, 9, 11), "f4", seed, scale=1.0), dtype) for seed in range(count)]
    with il.use_backend("reference"):
        expected = function(*arrays)
    assert expected.dtype == dtype
    unit = float(ml_dtypes.finfo(dtype).eps)
    np.testing.assert_allclose(
        rounded(function(*arrays), "f8"), rounded(expected, "f8"), rtol=unit, atol=unit * 1e-3
    )


def test_threads(restore_threads: None) -> None:
    x = rounded(numbers((1003, 257), "f4"), np.float16)
    results = []
    for threads in (1, 2, 5):
        il.set_num_threads(threads)
        results.append((il.gelu(x), il.softmax(x)))
    for gelu, softmax in results[1:]:
        assert equal_bits(gelu, results[0][0]) and equal_bits(softmax, results[0][1])
