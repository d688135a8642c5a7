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
from innerloop.reference import GATED, LOSSES
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
    for name in ("dropout", "dropout_backward"):
        yield name, partial(getattr(il, name), p=0.3, seed=5, offset=6), 1


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


# What takes arrays of several shapes: a function of them by name, and their shapes.
LABELS = np.arange(12) % 7
LABELS[3] = -100


def others() -> Iterator[tuple[str, Operation, dict[str, tuple[int, ...]]]]:
    for name in GATED:
        for axis in (0, 1, 2):
            half = [2 * (d + 1) if d == axis else d + 2 for d in range(3)]
            small = tuple(n // 2 if d == axis else n for d, n in enumerate(half))
            yield f"{name} {axis}", partial(getattr(il, name), axis=axis), {"x": tuple(half)}
            shapes = {"dy": small, "x": tuple(half)}
            backward = partial(getattr(il, f"{name}_backward"), axis=axis)
            yield f"{name}_backward {axis}", backward, shapes
    for slopes in ((), (1,), (5,)):
        yield f"prelu {slopes}", il.prelu, {"x": (300, 5, 7), "weight": slopes}
        shapes = {"dy": (300, 5, 7), "x": (300, 5, 7), "weight": slopes}
        yield f"prelu_backward {slopes}", il.prelu_backward, shapes
    yield "dropout", partial(il.dropout, p=0.3, seed=5, offset=7), {"x": (40, 77)}
    yield "dropout_backward", partial(il.dropout_backward, p=0.3, seed=5), {"dy": (40, 77)}
    for n in (3, 77, 5003):
        shapes = {"x": (60, n), "weight": (n,)}
        yield f"rms_norm {n}", partial(il.rms_norm, return_saved=True), shapes
        shapes = shapes | {"bias": (n,)}
        yield f"layer_norm {n}", partial(il.layer_norm, return_saved=True), shapes
        yield f"layer_norm_backward {n}", layer_norm_backward, {"dy": (60, n), **shapes}
        shapes = {"dy": (60, n), "x": (60, n), "weight": (n,)}
        yield f"rms_norm_backward {n}", rms_norm_backward, shapes
    for shape in ((40, 6), (5, 6, 3), (5, 6, 4, 9)):
        shapes = {"x": shape, "weight": (6,), "bias": (6,)}
        for training in (True, False):
            norm = partial(batch_norm, training=training)
            yield f"batch_norm {shape} {training}", norm, {"dy": shape, **shapes}
    for reduction in ("mean", "sum", "none"):
        graded = {"reduction": reduction, "return_grad": True, "grad_scale": 0.5}
        for name, loss in LOSSES.items():
            shapes = {"pred": (9, 331), "target": (9, 331), "sample_weight": (9, 331)}
            shapes |= {loss.array: (331,)} if loss.array else {}
            yield f"{name} {reduction}", partial(getattr(il, name), **graded), shapes
        shapes = {"logits": (12, 7), "weight": (7,), "sample_weight": (12,)}
        label = partial(il.softmax_cross_entropy, target=LABELS, z_loss=0.1, **graded)
        yield f"softmax_cross_entropy {reduction} labels", label, shapes
        shapes = {"logits": (3, 5000, 4), "target": (3, 5000, 4), "weight": (5000,)}
        soft = partial(il.softmax_cross_entropy, label_smoothing=0.1, **graded)
        yield f"softmax_cross_entropy {reduction} probabilities", soft, shapes
        shapes = {"log_probs": (12, 7), "weight": (7,), "sample_weight": (12,)}
        yield f"nll_loss {reduction}", partial(il.nll_loss, target=LABELS, **graded), shapes


def layer_norm_backward(dy: Any, x: Any, weight: Any, bias: Any) -> Any:
    _, saved = il.layer_norm(x, weight, bias, return_saved=True)
    return il.layer_norm_backward(dy, x, saved, weight)


def rms_norm_backward(dy: Any, x: Any, weight: Any) -> Any:
    _, saved = il.rms_norm(x, weight, return_saved=True)
    return il.rms_norm_backward(dy, x, saved, weight)


def batch_norm(dy: Any, x: Any, weight: Any, bias: Any, training: bool) -> Any:
    mean, var = np.zeros(6, "f4"), np.ones(6, "f4")
    y, saved = il.batch_norm(x, mean, var, weight, bias, training=training, return_saved=True)
    gradients = il.batch_norm_backward(dy, x, saved, weight, training=training)
    return (y, mean, var, saved, *gradients)


OTHERS = {name: (function, shapes) for name, function, shapes in others()}


def arrays_of(shapes: dict[str, tuple[int, ...]], dtype: Any) -> dict[str, np.ndarray]:
    arrays = {n: np.asarray(numbers(s, "f4", i)) for i, (n, s) in enumerate(shapes.items())}
    for name in ("pred", "target", "sample_weight", "weight"):  # of any sign nowhere
        if name in arrays and ("pred" in arrays or name != "weight"):
            arrays[name] = np.abs(arrays[name]) % 1
    return {n: np.asarray(rounded(a, dtype)) for n, a in arrays.items()}


def pairs(got: Any, expected: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Result by result."""
    a, b = (r if isinstance(r, tuple) else (r,) for r in (got, expected))
    return [(np.asarray(x), np.asarray(y)) for x, y in zip(a, b, strict=True)]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", OTHERS)
def test_others_are_float32_rounded_once(isa: str, name: str, dtype: Any) -> None:
    function, shapes = OTHERS[name]
    arrays = arrays_of(shapes, dtype)
    got = function(**arrays)
    expected = function(**{n: a.astype("f4") for n, a in arrays.items()})
    for result, wide in pairs(got, expected):
        assert result.dtype in (dtype, np.float32)  # sums and statistics are not rounded
        assert equal_bits(rounded(result, "f4"), rounded(rounded(wide, result.dtype), "f4"))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", OTHERS)
def test_layouts_of_others(isa: str, name: str, layout: str) -> None:
    function, shapes = OTHERS[name]
    arrays = arrays_of(shapes, np.float16)
    expected = function(**arrays)
    got = function(**{n: LAYOUTS[layout](a) if a.ndim else a for n, a in arrays.items()})
    for a, b in pairs(got, expected):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", OTHERS)
def test_reference_of_others_is_near(name: str, dtype: Any) -> None:
    function, shapes = OTHERS[name]
    arrays = arrays_of(shapes, dtype)
    got = function(**arrays)
    with il.use_backend("reference"):
        expected = function(**arrays)
    unit = float(ml_dtypes.finfo(dtype).eps)
    for a, b in pairs(got, expected):
        assert a.dtype == b.dtype and a.shape == b.shape
        wide = b.astype("f8")
        scale = np.abs(wide[np.isfinite(wide)]).max(initial=0)
        np.testing.assert_allclose(a.astype("f8"), wide, rtol=2 * unit, atol=unit * scale / 8)


@pytest.mark.parametrize("dtype", HALVES)
def test_weights_of_losses_may_be_float32(target: str, dtype: Any) -> None:
    x, t = (rounded(np.abs(numbers((6, 5), "f4", i)) % 1, dtype) for i in range(2))
    label = np.arange(6) % 5
    calls: list[tuple[Operation, tuple[Any, ...], dict[str, tuple[int, ...]]]] = [
        (
            il.binary_cross_entropy_with_logits,
            (x, t),
            {"pos_weight": (5,), "sample_weight": (6, 5)},
        ),
        (il.mse_loss, (x, t), {"sample_weight": (6, 5)}),
        (il.nll_loss, (x, label), {"weight": (5,), "sample_weight": (6,)}),
        (il.softmax_cross_entropy, (x, label), {"weight": (5,), "sample_weight": (6,)}),
    ]
    for function, arrays, shapes in calls:
        half = {n: rounded(np.abs(numbers(s, "f4", 7)), dtype) for n, s in shapes.items()}
        wide = {n: rounded(a, "f4") for n, a in half.items()}
        for a, b in pairs(
            function(*arrays, **half, return_grad=True), function(*arrays, **wide, return_grad=True)
        ):
            np.testing.assert_array_equal(a, b)
