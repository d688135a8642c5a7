"""softmax and log_softmax, forward and backward, over ISA x dtype x axis x layout."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import innerloop as il
from innerloop import reference
from support import DTYPES, LAYOUTS, equal_bits, fma_isas, numbers, special_rows

NAMES = ["softmax", "log_softmax"]
# A few ULP of the largest terms: the native arithmetic is the dtype's own, the reference's float64.
TOLERANCE = {"float32": {"rtol": 4e-6, "atol": 3e-6}, "float64": {"rtol": 1e-13, "atol": 1e-14}}
# Around 16 lanes, and around the blocks of 2048 in which a long row is read.
LENGTHS = [
    0,
    1,
    2,
    3,
    7,
    8,
    9,
    10,
    15,
    16,
    17,
    31,
    32,
    33,
    47,
    49,
    100,
    2047,
    2048,
    2049,
    2063,
    4097,
]
INF, NAN = np.inf, np.nan


def functions(name: str) -> tuple[Callable, Callable]:
    return getattr(il, name), getattr(il, f"{name}_backward")


def wants(name: str) -> tuple[Callable, Callable]:
    return getattr(reference, name), getattr(reference, f"{name}_backward")


def same(target: str, a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two results agree as promised: in every bit, but for the reference in float64's."""
    if target == "reference":
        return a.shape == b.shape and np.allclose(a, b, rtol=1e-6, atol=1e-12, equal_nan=True)
    return equal_bits(a, b)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_lengths(target: str, name: str, dtype: str, length: int) -> None:
    forward, backward = functions(name)
    want_forward, want_backward = wants(name)
    x, dy = numbers((3, length), dtype), numbers((3, length), dtype, seed=1)
    y = forward(x)
    assert y.dtype == x.dtype and y.shape == x.shape
    np.testing.assert_allclose(y, want_forward(x), **TOLERANCE[dtype])
    dx, want = backward(dy, y), want_backward(dy, y)
    scale = max(1.0, np.abs(want).max(initial=0.0))
    np.testing.assert_allclose(dx / scale, want / scale, **TOLERANCE[dtype])
    for r in range(3):  # a row alone has the bits that it has in a batch
        assert same(target, forward(x[r]), y[r]) and same(target, backward(dy[r], y[r]), dx[r])


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -2, -4])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_axes(target: str, name: str, dtype: str, axis: int) -> None:
    forward, backward = functions(name)
    x, dy = numbers((2, 5, 19, 6), dtype), numbers((2, 5, 19, 6), dtype, seed=1)
    y = forward(x, axis)
    np.testing.assert_allclose(y, wants(name)[0](x, axis), **TOLERANCE[dtype])
    last = forward(np.ascontiguousarray(np.moveaxis(x, axis, -1)))
    assert same(target, y, np.moveaxis(last, -1, axis))
    dx = backward(dy, y, axis=axis)
    there = backward(np.moveaxis(dy, axis, -1).copy(), last)
    assert same(target, dx, np.moveaxis(there, -1, axis))
    np.testing.assert_allclose(dx, wants(name)[1](dy, y, axis), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_layouts_hold_the_same_bits(target: str, name: str, dtype: str, layout: str) -> None:
    forward, backward = functions(name)
    place = LAYOUTS[layout]
    for shape in ((3, 5, 37), (21, 18, 2)):
        x, dy = numbers(shape, dtype), numbers(shape, dtype, seed=1)
        for axis in range(3):
            y = forward(x, axis)
            dx = backward(dy, y, axis)
            assert same(target, forward(place(x), axis), y)
            out = place(np.full_like(x, 7))
            assert forward(x, axis, out=out) is out and same(target, out, y)
            inout = place(x)
            assert forward(inout, axis, out=inout) is inout and same(target, inout, y)
            assert same(target, backward(place(dy), y, axis), dx)
            gradient = place(dy)
            backward(gradient, place(y), axis, out=gradient)
            assert same(target, gradient, dx)
            gradient = place(y)
            backward(dy, gradient, axis, out=gradient)
            assert same(target, gradient, dx)


def test_broadcast_inputs(target: str) -> None:
    x = np.broadcast_to(numbers((1, 19), "float32"), (23, 19))
    for axis in (0, 1):
        assert same(target, il.softmax(x, axis), il.softmax(x.copy(), axis))
        assert same(target, il.softmax_backward(x, x, axis), il.softmax_backward(x.copy(), x, axis))


@pytest.mark.parametrize("n", [1, 2, 10, 16, 17, 40, 2049, 5000])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_special_rows(target: str, name: str, dtype: str, n: int) -> None:
    x = special_rows(n, dtype)
    np.testing.assert_allclose(functions(name)[0](x), wants(name)[0](x), **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_maximum_that_comes_late(target: str, name: str, dtype: str) -> None:
    """Each block may raise the maximum, by much or little; the first may be masked out whole."""
    x = np.stack(
        [
            np.linspace(-500, 500, 9001),
            np.linspace(-2, 2, 9001),
            np.where(np.arange(9001) < 5000, -INF, 0.0),
            np.where(np.arange(9001) == 9000, 300.0, 0.0),
            np.where(np.arange(9001) % 2048 == 2047, np.arange(9001.0), -1e4),
        ]
    ).astype(dtype)
    want = wants(name)[0](x)
    np.testing.assert_allclose(functions(name)[0](x), want, **TOLERANCE[dtype])
    inout = x.copy()
    functions(name)[0](inout, out=inout)
    np.testing.assert_allclose(inout, want, **TOLERANCE[dtype])


@pytest.mark.parametrize("shape", [(257, 1003), (7, 40_000), (100_003, 10), (1000, 3, 50)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_same_bits_for_any_threads_and_isa(
    name: str, dtype: str, shape: tuple[int, ...], restore_threads: None
) -> None:
    forward, backward = functions(name)
    x, dy = numbers(shape, dtype), numbers(shape, dtype, seed=1)
    want = None
    for isa in fma_isas():
        for threads in (1, 2, 3, 7):
            il.set_num_threads(threads)
            with il.use_isa(isa):
                y = forward(x, 1)
                dx = backward(dy, y, 1)
            want = want or (y, dx)
            assert equal_bits(y, want[0]) and equal_bits(dx, want[1])


@pytest.mark.parametrize("name", NAMES)
def test_derivative_by_finite_differences(target: str, name: str) -> None:
    forward, backward = functions(name)
    x, dy, h = numbers((4, 21), "float64"), numbers((4, 21), "float64", seed=1), 1e-6
    dx = backward(dy, forward(x))
    for c in range(21):
        up, down = x.copy(), x.copy()
        up[:, c] += h
        down[:, c] -= h
        slope = ((forward(up) - forward(down)) * dy).sum(-1) / (2 * h)
        np.testing.assert_allclose(dx[:, c], slope, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_beside_torch(target: str, name: str, dtype: str, axis: int) -> None:
    torch = pytest.importorskip("torch")
    x, dy = numbers((6, 40, 17), dtype), numbers((6, 40, 17), dtype, seed=1)
    t = torch.tensor(x, requires_grad=True)
    ty = getattr(torch, name)(t, axis)
    ty.backward(torch.tensor(dy))
    forward, backward = functions(name)
    y = forward(x, axis)
    np.testing.assert_allclose(y, ty.detach().numpy(), **TOLERANCE[dtype])
    np.testing.assert_allclose(backward(dy, y, axis), t.grad.numpy(), rtol=1e-4, atol=1e-5)
    theirs = forward(t.detach(), axis)
    assert isinstance(theirs, torch.Tensor) and same(target, theirs.numpy(), y)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 3), (1,), (2, 0, 3)])
@pytest.mark.parametrize("name", NAMES)
def test_few_elements(target: str, name: str, shape: tuple[int, ...]) -> None:
    forward, backward = functions(name)
    x = np.ones(shape)
    y = forward(x)
    np.testing.assert_array_equal(y, wants(name)[0](x))
    np.testing.assert_array_equal(backward(x, y), wants(name)[1](x, y))


X = np.ones((3, 4), "float32")
READ_ONLY = np.ones((3, 4), "float32")
READ_ONLY.flags.writeable = False
BIG = np.ones((4, 4), "float32")
BAD = {
    "a list": (TypeError, "x", lambda: il.softmax([1.0, 2.0])),
    "integers": (TypeError, "x", lambda: il.softmax(np.arange(3))),
    "of integers": (TypeError, "x", lambda: il.log_softmax(X.astype("i2"))),
    "big-endian": (TypeError, "x", lambda: il.softmax(X.astype(">f4"))),
    "axis 2 of 2": (ValueError, "axis", lambda: il.softmax(X, 2)),
    "axis -3 of 2": (ValueError, "axis", lambda: il.softmax_backward(X, X, -3)),
    "axis 1 of a scalar": (ValueError, "axis", lambda: il.softmax(np.array(1.0), 1)),
    "no integer axis": (TypeError, "axis", lambda: il.softmax(X, 1.0)),
    "huge axis": (ValueError, "axis", lambda: il.softmax(X, 1 << 70)),
    "out of another shape": (ValueError, "out", lambda: il.softmax(X, out=np.empty((4, 3), "f4"))),
    "out of another dtype": (TypeError, "out", lambda: il.softmax(X, out=np.empty((3, 4)))),
    "out read-only": (ValueError, "out", lambda: il.softmax(X, out=READ_ONLY)),
    "out overlapping x": (ValueError, "overlap", lambda: il.softmax(BIG[1:], out=BIG[:3])),
    "out over itself": (
        ValueError,
        "out",
        lambda: il.softmax(X, out=np.lib.stride_tricks.as_strided(BIG, (3, 4), (0, 4))),
    ),
    "y of another shape": (ValueError, "y", lambda: il.softmax_backward(X, X[:2])),
    "y of another dtype": (TypeError, "y", lambda: il.softmax_backward(X, X.astype("f8"))),
    "dy of integers": (TypeError, "dy", lambda: il.log_softmax_backward(X.astype("i4"), X)),
    "dx overlapping y": (
        ValueError,
        "overlap",
        lambda: il.softmax_backward(X, BIG[1:], out=BIG[:3]),
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_and_nothing_written(target: str, case: str) -> None:
    error, words, call = BAD[case]
    with pytest.raises(error, match=words):
        call()
    assert (X == 1).all() and (READ_ONLY == 1).all() and (BIG == 1).all()
