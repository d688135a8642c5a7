"""prelu and its gradients, over ISA x dtype x shape x layout, beside PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import innerloop as il
from innerloop import reference
from support import DTYPES, LAYOUTS, equal_bits, fma_isas, numbers, sizes_around

TOLERANCE = {"float32": {"rtol": 2e-5, "atol": 1e-5}, "float64": {"rtol": 1e-12, "atol": 1e-12}}
# x, weight: one slope and one a channel; vectors, images, channels side by side or far apart, none.
SHAPES = [
    ((), ()),
    ((7,), (1,)),
    ((0,), (1,)),
    ((1003,), ()),
    ((5, 3), (3,)),
    ((40, 17), (17,)),
    ((2500, 33), (33,)),
    ((3, 1, 5), (1,)),
    ((2, 5, 1100), (5,)),
    ((3, 20, 7, 11), (20,)),
    ((2, 3, 4), ()),
    ((0, 3), (3,)),
    ((3, 0), (0,)),
    ((2, 3, 0), (3,)),
]


def arrays(x: tuple[int, ...], weight: tuple[int, ...], dtype: str) -> tuple[np.ndarray, ...]:
    """dy, x and weight."""
    w = np.asarray(numbers(weight, dtype, seed=2, scale=0.5))
    return np.asarray(numbers(x, dtype, seed=1)), np.asarray(numbers(x, dtype)), w


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "slopes"), SHAPES)
def test_shapes(target: str, shape: tuple[int, ...], slopes: tuple[int, ...], dtype: str) -> None:
    dy, x, w = arrays(shape, slopes, dtype)
    y = il.prelu(x, w)
    assert y.shape == x.shape and y.dtype == x.dtype
    np.testing.assert_allclose(y, reference.prelu(x, w), **TOLERANCE[dtype])
    dx, dw = il.prelu_backward(dy, x, w)
    assert dx.shape == x.shape and dw.shape == w.shape and dx.dtype == dw.dtype == x.dtype
    want = reference.prelu_backward(dy, x, w)
    np.testing.assert_allclose(dx, want[0], **TOLERANCE[dtype])
    np.testing.assert_allclose(dw, want[1], **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [*sizes_around(8), *sizes_around(16), 1023, 1024, 1025])
def test_sizes(target: str, size: int, dtype: str) -> None:
    for shape, slopes in (((size,), (1,)), ((3, size), (size,)), ((3, 2, size), (2,))):
        dy, x, w = arrays(shape, slopes, dtype)
        want = reference.prelu_backward(dy, x, w)
        np.testing.assert_allclose(il.prelu(x, w), reference.prelu(x, w), **TOLERANCE[dtype])
        for got, expected in zip(il.prelu_backward(dy, x, w), want, strict=True):
            np.testing.assert_allclose(got, expected, **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("slopes", [(1,), (18,)])
def test_layouts_hold_the_same_bits(
    target: str, layout: str, slopes: tuple[int, ...], dtype: str
) -> None:
    dy, x, w = arrays((5, 18, 61), slopes, dtype)
    place = LAYOUTS[layout]
    y, (dx, dw) = il.prelu(x, w), il.prelu_backward(dy, x, w)
    assert equal_bits(il.prelu(place(x), place(w)), y)
    out = place(np.full_like(x, 7))
    assert il.prelu(place(x), place(w), out=out) is out and equal_bits(out, y)
    inout = place(x)
    il.prelu(inout, w, out=inout)
    assert equal_bits(inout, y)

    into = place(np.full_like(x, 7)), place(np.full_like(w, 7))
    got = il.prelu_backward(place(dy), x, place(w), out=into)
    assert got[0] is into[0] and got[1] is into[1]
    assert equal_bits(got[0], dx) and equal_bits(got[1], dw)
    far = np.moveaxis(place(np.moveaxis(x, 1, -1)), -1, 1)  # channels last in memory
    got = il.prelu_backward(place(dy), far, w)
    assert equal_bits(got[0], dx) and equal_bits(got[1], dw)
    for over in ("dy", "x"):
        given = {"dy": place(dy), "x": place(x)}
        got = il.prelu_backward(**given, weight=w, out=(given[over], None))
        assert got[0] is given[over] and equal_bits(got[0], dx) and equal_bits(got[1], dw)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "slopes"),
    [((100_003,), (1,)), ((3001, 37), (37,)), ((4, 3, 9001), (3,)), ((4, 3, 9001), ())],
)
def test_same_bits_for_any_threads_and_isa(
    shape: tuple[int, ...], slopes: tuple[int, ...], dtype: str, restore_threads: None
) -> None:
    dy, x, w = arrays(shape, slopes, dtype)
    results: list[Any] = []
    for isa in fma_isas():
        for threads in (1, 2, 3, 7):
            il.set_num_threads(threads)
            with il.use_isa(isa):
                results.append((il.prelu(x, w), *il.prelu_backward(dy, x, w)))
    for result in results[1:]:
        assert all(map(equal_bits, result, results[0]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "slopes"), [s for s in SHAPES if 0 not in s[0]])
def test_beside_torch(
    target: str, shape: tuple[int, ...], slopes: tuple[int, ...], dtype: str
) -> None:
    torch = pytest.importorskip("torch")
    dy, x, w = arrays(shape, slopes, dtype)
    if x.size > 20:
        x.flat[:6] = [0, -0.0, np.inf, np.nan, 50, -50]
    tx, tw = torch.tensor(x, requires_grad=True), torch.tensor(w, requires_grad=True)
    ty = torch.nn.functional.prelu(tx, tw)
    ty.backward(torch.tensor(dy))
    np.testing.assert_allclose(il.prelu(x, w), ty.detach().numpy(), **TOLERANCE[dtype])
    dx, dw = il.prelu_backward(dy, x, w)
    np.testing.assert_allclose(dx, tx.grad.numpy(), **TOLERANCE[dtype])
    tolerance = TOLERANCE[dtype] if x.size < 10_000 else {"rtol": 1e-3, "atol": 1e-3}
    np.testing.assert_allclose(dw, tw.grad.numpy(), **tolerance)


def test_finite_differences(target: str) -> None:
    dy, x, w = arrays((6, 4, 5), (4,), "float64")
    dx, dw = il.prelu_backward(dy, x, w)
    h = 1e-6
    slope = (il.prelu(x + h, w) - il.prelu(x - h, w)) / (2 * h)
    np.testing.assert_allclose(dx, dy * slope, rtol=1e-6, atol=1e-8)
    for c in range(4):
        step = np.zeros(4)
        step[c] = h
        numeric = ((il.prelu(x, w + step) - il.prelu(x, w - step)) * dy).sum() / (2 * h)
        np.testing.assert_allclose(dw[c], numeric, rtol=1e-6)


def test_a_long_sum_keeps_its_digits(isa: str) -> None:
    n = 2_000_003
    x, dy = np.full(n, -1, "f4"), np.full(n, 0.1, "f4")
    _, dw = il.prelu_backward(dy, x, np.ones(1, "f4"))
    np.testing.assert_allclose(dw[0], -n * float(np.float32(0.1)), rtol=2e-6)


def test_broadcast_inputs(target: str) -> None:
    dy, x, w = arrays((1, 19), (19,), "float32")
    wide, w_wide = np.broadcast_to(x, (23, 19)), np.broadcast_to(w[:1], (19,))
    dy = np.broadcast_to(dy, (23, 19))
    assert equal_bits(il.prelu(wide, w_wide), il.prelu(wide.copy(), w_wide.copy()))
    got = il.prelu_backward(dy, wide, w_wide)
    assert all(map(equal_bits, got, il.prelu_backward(dy.copy(), wide.copy(), w_wide.copy())))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_random_shapes(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(0, 23), min_size=1, max_size=4)))
    channels = len(shape) > 1 and data.draw(st.booleans())
    slopes = (shape[1],) if channels else data.draw(st.sampled_from([(), (1,)]))
    dtype = data.draw(st.sampled_from(DTYPES))
    dy, x, w = arrays(shape, slopes, dtype)
    order = data.draw(st.permutations(range(len(shape))))
    moved = x.transpose(order).copy().transpose(np.argsort(order))
    results = il.prelu(moved, w), *il.prelu_backward(dy, moved, w)
    assert all(map(equal_bits, results, (il.prelu(x, w), *il.prelu_backward(dy, x, w))))
    want = reference.prelu(x, w), *reference.prelu_backward(dy, x, w)
    for got, expected in zip(results[:2], want[:2], strict=True):
        np.testing.assert_allclose(got, expected, **TOLERANCE[dtype])
    rounding = np.finfo(dtype).eps * float(np.abs(dy * x).sum())
    np.testing.assert_allclose(results[2], want[2], rtol=0, atol=rounding)
