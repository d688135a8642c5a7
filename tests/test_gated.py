"""The gated pairs of the list and their gradients, over ISA x dtype x shape x axis x layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import innerloop as il
from innerloop.reference import GATED
from support import DTYPES, LAYOUTS, equal_bits, fma_isas, numbers, sizes_around

NAMES = il.gated.NAMES
TOLERANCE = {"float32": {"rtol": 1e-5, "atol": 1e-5}, "float64": {"rtol": 1e-12, "atol": 1e-13}}


def functions(name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    return getattr(il, name), getattr(il, f"{name}_backward")


def arrays(shape: tuple[int, ...], axis: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """x of this shape, and dy of half of it."""
    half = list(shape)
    half[axis] //= 2
    return numbers(shape, dtype), numbers(tuple(half), dtype, seed=1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [*sizes_around(4), *sizes_around(16), 1003])
def test_sizes(target: str, name: str, dtype: str, size: int) -> None:
    forward, backward = functions(name)
    entry = GATED[name]
    for shape, axis in (((2 * size,), 0), ((3, 2 * size), -1), ((4, size), 0)):
        x, dy = arrays(shape, axis, dtype)
        y, dx = forward(x, axis), backward(dy, x, axis)
        assert y.dtype == dx.dtype == x.dtype and y.shape == dy.shape and dx.shape == x.shape
        np.testing.assert_allclose(y, entry.forward(x, axis), **TOLERANCE[dtype])
        np.testing.assert_allclose(dx, entry.backward(dy, x, axis), **TOLERANCE[dtype])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_pair_is_its_activation(target: str, name: str, dtype: str) -> None:
    """The gate is the stated half, through just the activation of that name."""
    forward, backward = functions(name)
    entry = GATED[name]
    x, dy = arrays((5, 38), 1, dtype)
    halves = x[:, :19], x[:, 19:]
    gate, value = halves if entry.gate_is_first else halves[::-1]
    act = il.activation(gate, entry.activation)
    want = act * value
    dgate = il.activation_backward(dy * value, gate, entry.activation)
    parts = (dgate, dy * act) if entry.gate_is_first else (dy * act, dgate)
    np.testing.assert_allclose(forward(x), want, rtol=1e-6)
    np.testing.assert_allclose(backward(dy, x), np.concatenate(parts, 1), rtol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts_hold_the_same_bits(
    target: str, name: str, dtype: str, axis: int, layout: str
) -> None:
    forward, backward = functions(name)
    x, dy = arrays((4, 6, 38), axis, dtype)
    y, dx = forward(x, axis), backward(dy, x, axis)
    place = LAYOUTS[layout]
    assert equal_bits(forward(place(x), axis), y)
    out = place(np.full_like(y, 7))
    assert forward(x, axis, out=out) is out and equal_bits(out, y)
    assert equal_bits(backward(place(dy), place(x), axis), dx)
    out = place(np.full_like(x, 7))
    assert backward(dy, place(x), axis, out=out) is out and equal_bits(out, dx)
    last = np.moveaxis(forward(np.moveaxis(x, axis, -1)), -1, axis)
    assert equal_bits(last, y)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_for_any_threads_and_isa(name: str, dtype: str, restore_threads: None) -> None:
    forward, backward = functions(name)
    x, dy = arrays((100, 2006), 1, dtype)
    results = []
    for isa in fma_isas():
        for threads in (1, 2, 3, 7):
            il.set_num_threads(threads)
            with il.use_isa(isa):
                results.append((forward(x), backward(dy, x)))
    for y, dx in results[1:]:
        assert equal_bits(y, results[0][0]) and equal_bits(dx, results[0][1])


@pytest.mark.parametrize("name", NAMES)
def test_derivative_by_finite_differences(target: str, name: str) -> None:
    forward, backward = functions(name)
    x, dy = arrays((3, 20), 1, "float64")
    dx, h = backward(dy, x), 1e-6
    for i in range(20):
        step = np.zeros(20)
        step[i] = h
        numeric = ((forward(x + step) - forward(x - step)) * dy).sum(1) / (2 * h)
        np.testing.assert_allclose(dx[:, i], numeric, rtol=1e-6, atol=1e-8)


def torch_peer(torch: Any, name: str) -> Callable[[Any, int], Any] | None:
    functional = torch.nn.functional
    if name == "glu":
        return functional.glu
    gate = {"swiglu": functional.silu, "geglu": functional.gelu}.get(name)
    if gate is None:
        return None

    def pair(x: Any, axis: int) -> Any:
        a, b = x.chunk(2, axis)
        return gate(a) * b

    return pair


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_beside_torch(target: str, name: str, dtype: str, axis: int) -> None:
    torch = pytest.importorskip("torch")
    peer = torch_peer(torch, name)
    if peer is None:
        pytest.skip(f"torch has no {name}")
    x, dy = arrays((6, 8, 50), axis, dtype)
    x.flat[:4] = [0, 50, -50, np.nan]
    tx = torch.tensor(x, requires_grad=True)
    ty = peer(tx, axis)
    ty.backward(torch.tensor(dy))
    forward, backward = functions(name)
    np.testing.assert_allclose(forward(x, axis), ty.detach().numpy(), **TOLERANCE[dtype])
    np.testing.assert_allclose(backward(dy, x, axis), tx.grad.numpy(), **TOLERANCE[dtype])


@pytest.mark.parametrize("name", NAMES)
def test_special_values_at_every_position(isa: str, name: str) -> None:
    """The vector's body and its tail treat infinities, NaN and subnormals alike."""
    forward, backward = functions(name)
    for n in (1, 4, 8, 16, 35):
        for value in (0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, 100.0, -100.0):
            x, dy = np.full(2 * n, value, "f4"), np.full(n, 0.5, "f4")
            y, dx = forward(x), backward(dy, x)
            assert equal_bits(y, np.full_like(y, y[0]))
            assert equal_bits(dx[:n], np.full(n, dx[0])) and equal_bits(dx[n:], np.full(n, dx[n]))
            np.testing.assert_allclose(y, GATED[name].forward(x), rtol=3e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_large_output_is_written_around_the_caches(isa: str, name: str) -> None:
    x = np.tile(numbers(1_000_003, "float32"), 24)[: 2 * 11_500_001]  # of odd lengths
    y = getattr(il, name)(x)
    for part in (slice(0, 999), slice(-999, None), slice(7_000_000, 7_000_999)):
        pair = np.concatenate([x[: y.size][part], x[y.size :][part]])
        assert equal_bits(y[part], getattr(il, name)(pair))


@pytest.mark.parametrize("name", NAMES)
def test_empty(target: str, name: str) -> None:
    forward, backward = functions(name)
    for shape, axis, half in (((0,), 0, (0,)), ((3, 0), 1, (3, 0)), ((0, 4), 1, (0, 2))):
        x = np.empty(shape, "f4")
        y = forward(x, axis)
        assert y.shape == half and backward(y, x, axis).shape == shape


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_random_shapes(data: st.DataObject) -> None:
    shape = list(data.draw(st.lists(st.integers(0, 15), min_size=1, max_size=4)))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    shape[axis] *= 2
    name, dtype = data.draw(st.sampled_from(NAMES)), data.draw(st.sampled_from(DTYPES))
    x, dy = arrays(tuple(shape), axis, dtype)
    order = data.draw(st.permutations(range(len(shape))))
    moved = x.transpose(order).copy().transpose(np.argsort(order))
    forward, backward = functions(name)
    assert equal_bits(forward(moved, axis), forward(x, axis))
    assert equal_bits(backward(dy, moved, axis), backward(dy, x, axis))
    np.testing.assert_allclose(
        backward(dy, x, axis), GATED[name].backward(dy, x, axis), **TOLERANCE[dtype]
    )
