"""bfloat16 and float16 in the dense layer: float32's results over the widened arrays, rounded once.

That makes an exact oracle of the float32 kernels, which tests/test_linear.py holds to the bit.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import innerloop as il
from support import LAYOUTS, equal_bits, numbers

HALVES = [np.float16, ml_dtypes.bfloat16]
# Few rows, one column, tile edges, and a k and a batch that are split into blocks.
SIZES = [(1, 70, 33), (3, 40, 70), (6, 1100, 30), (40, 530, 37), (33, 20, 1), (130, 40, 17)]
SIZES += [(5, 0, 3), (0, 4, 3), (70, 2100, 90), (2100, 12, 20)]
# Saved is the input, the output, nothing.
ACTIVATIONS = [None, "gelu", "sigmoid"]


def rounded(a: np.ndarray | None, dtype: Any) -> np.ndarray | None:
    with np.errstate(all="ignore"):
        return None if a is None else a.astype(dtype)


def wide(a: np.ndarray | None) -> np.ndarray | None:
    return rounded(a, np.float32)


def same(a: np.ndarray | None, b: np.ndarray | None) -> None:
    assert (a is None) == (b is None)
    if a is not None and b is not None:
        assert a.dtype == b.dtype and equal_bits(wide(a), wide(b))


def layer(m: int, k: int, n: int, dtype: Any) -> tuple[Any, ...]:
    arrays = [numbers(s, "float32", i, 1.0) for i, s in enumerate([(m, k), (k, n), n, (m, n)])]
    arrays[1] /= max(k, 1) ** 0.5
    return tuple(rounded(a, dtype) for a in arrays)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("stored", ["C", "F", "packed"])
@pytest.mark.parametrize("dtype", HALVES)
def test_the_bits_of_float32_rounded_once(
    isa: str, dtype: Any, stored: str, activation: str | None
) -> None:
    for m, k, n in SIZES:
        x, w, b, dy = layer(m, k, n, dtype)
        given = il.pack(w) if stored == "packed" else np.array(w, order=stored)
        for bias in (b, None):
            y, saved = il.linear(x, given, bias, activation=activation, return_saved=True)
            y_, saved_ = il.linear(
                wide(x), wide(w), wide(bias), activation=activation, return_saved=True
            )
            same(y, rounded(y_, dtype))
            same(saved, rounded(saved_, dtype))
        gradients = il.linear_backward(dy, x, given, saved, activation=activation)
        want = il.linear_backward(wide(dy), wide(x), wide(w), wide(saved), activation=activation)
        for gradient, expected in zip(gradients, want, strict=True):
            same(gradient, rounded(expected, dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", HALVES)
def test_layouts(isa: str, dtype: Any, layout: str) -> None:
    place = LAYOUTS[layout]
    for m, k, n in ((6, 1100, 37), (70, 20, 33), (1, 9, 40)):
        x, w, b, dy = layer(m, k, n, dtype)
        y, saved = il.linear(x, w, b, activation="gelu", return_saved=True)
        out = place(np.zeros_like(y))
        assert il.linear(place(x), place(w), place(b), activation="gelu", out=out) is out
        same(out, y)
        want = il.linear_backward(dy, x, w, saved, activation="gelu")
        outs = tuple(place(np.zeros_like(g)) for g in want)
        placed = (place(dy), place(x), place(w), place(saved))
        got = il.linear_backward(*placed, activation="gelu", out=outs)
        for g, o, e in zip(got, outs, want, strict=True):
            assert g is o
            same(g, e)


@pytest.mark.parametrize("dtype", HALVES)
def test_threads_hold_the_same_bits(restore_threads: None, dtype: Any) -> None:
    x, w, b, dy = layer(150, 1100, 260, dtype)
    results = []
    for threads in (1, 2, 3, 5):
        il.set_num_threads(threads)
        results.append((il.linear(x, w, b), *il.linear_backward(dy, x, w)))
    for other in results[1:]:
        for a, e in zip(other, results[0], strict=True):
            same(a, e)


@pytest.mark.parametrize("dtype", HALVES)
def test_packed_weights(isa: str, dtype: Any) -> None:
    _, w, _, _ = layer(1, 37, 21, dtype)
    packed = il.pack(w)
    assert packed.shape == (37, 21) and packed.dtype == w.dtype
    same(packed.unpack(), w)
    with pytest.raises(TypeError, match="w must have the dtype of x"):
        il.linear(np.ones((2, 37), "f4"), packed)


@pytest.mark.parametrize("dtype", HALVES)
def test_beside_the_reference(target: str, dtype: Any) -> None:
    x, w, b, dy = layer(9, 300, 20, dtype)
    y, saved = il.linear(x, w, b, activation="gelu", return_saved=True)
    step = float(ml_dtypes.finfo(dtype).eps)
    got = (y, *il.linear_backward(dy, x, w, saved, activation="gelu"))
    z = wide(x).astype("f8") @ wide(w) + wide(b)
    np.testing.assert_allclose(wide(y), il.gelu(z), rtol=step, atol=step / 8)
    want = il.linear_backward(*(wide(a).astype("f8") for a in (dy, x, w, saved)), activation="gelu")
    for a, e in zip(got[1:], want, strict=True):
        np.testing.assert_allclose(wide(a), e, rtol=step, atol=step / 4)


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_beside_torch(isa: str, name: str) -> None:
    torch = pytest.importorskip("torch")
    dtype = getattr(torch, name)
    generator = torch.Generator().manual_seed(0)
    x, stored, b = (
        torch.randn(*s, generator=generator).to(dtype) for s in ((30, 64), (20, 64), (20,))
    )
    y = il.linear(x, stored.T, b)
    assert isinstance(y, torch.Tensor) and y.dtype == dtype
    want = torch.nn.functional.linear(x.double(), stored.double(), b.double())
    torch.testing.assert_close(y.double(), want, rtol=torch.finfo(dtype).eps, atol=1e-2)
    _, dw, _ = il.linear_backward(y, x, stored.T)
    torch.testing.assert_close(
        dw.double(), x.double().T @ y.double(), rtol=torch.finfo(dtype).eps, atol=1e-1
    )
