"""Every activation of the list, forward and backward, over ISA x dtype x size x layout."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import innerloop as il
from innerloop.reference import ACTIVATIONS
from support import DTYPES, LAYOUTS, equal_bits, fma_isas, numbers, sizes_around

NAMES = il.activations.NAMES
# A few ULP: the native arithmetic is the dtype's own, the reference's is float64 rounded once.
TOLERANCE = {"float32": {"rtol": 3e-6, "atol": 1e-6}, "float64": {"rtol": 1e-12, "atol": 1e-14}}
SPECIAL = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 100.0, -100.0, 1e30, -1e30]


def functions(name: str) -> tuple[Callable, Callable]:
    return getattr(il, name), getattr(il, f"{name}_backward")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [*sizes_around(4), *sizes_around(16), 1003])
def test_sizes(target: str, name: str, dtype: str, size: int) -> None:
    forward, backward = functions(name)
    x, dy = numbers(size, dtype), numbers(size, dtype, seed=1)
    y = forward(x)
    assert y.dtype == x.dtype and y.shape == x.shape
    np.testing.assert_allclose(y, ACTIVATIONS[name].forward(x), **TOLERANCE[dtype])
    dx = ACTIVATIONS[name].backward(dy, x)
    np.testing.assert_allclose(backward(dy, x), dx, **TOLERANCE[dtype])
    np.testing.assert_allclose(backward(dy, x, y=y), dx, **TOLERANCE[dtype])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts_hold_the_same_bits(target: str, name: str, dtype: str, layout: str) -> None:
    forward, backward = functions(name)
    x, dy = numbers((3, 5, 37), dtype), numbers((3, 5, 37), dtype, seed=1)
    y, dx = forward(x), backward(dy, x)
    place = LAYOUTS[layout]
    assert equal_bits(forward(place(x)), y)
    out = place(np.full_like(x, 7))
    assert forward(place(x), out=out) is out and equal_bits(out, y)
    inout = place(x)
    forward(inout, out=inout)
    assert equal_bits(inout, y)
    assert equal_bits(backward(place(dy), x), dx)
    gradient = place(dy)
    backward(gradient, place(x), out=gradient)
    assert equal_bits(gradient, dx)
    transposed = forward(place(x).transpose(2, 0, 1))
    assert equal_bits(transposed, y.transpose(2, 0, 1))


@pytest.mark.parametrize("name", NAMES)
def test_broadcast_inputs(target: str, name: str) -> None:
    x = np.broadcast_to(numbers((1, 19), "float32"), (23, 19))
    forward, backward = functions(name)
    assert equal_bits(forward(x), forward(x.copy()))
    assert equal_bits(backward(x, x.T.copy().T), backward(x.copy(), x.copy()))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_special_values_at_every_position(isa: str, name: str, dtype: str) -> None:
    """The vector's body and its tail treat infinities, NaN and subnormals alike."""
    forward, backward = functions(name)
    for n in (1, 4, 8, 16, 35):
        for value in SPECIAL:
            x = np.full(n, value, dtype)
            y, dx = forward(x), backward(np.full(n, 0.5, dtype), x)
            assert equal_bits(y, np.full(n, y[0])) and equal_bits(dx, np.full(n, dx[0]))
            want = ACTIVATIONS[name].forward(x)
            np.testing.assert_allclose(y, want, **TOLERANCE[dtype])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_for_any_threads_and_isa(name: str, dtype: str, restore_threads: None) -> None:
    forward, backward = functions(name)
    x, dy = numbers(100_003, dtype), numbers(100_003, dtype, seed=1)
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
    x = numbers(200, "float64")
    for kink in (-3, 0, 3, 6):
        x = x[abs(x - kink) > 1e-3]
    forward, backward = functions(name)
    h = 1e-6
    slope = (forward(x + h) - forward(x - h)) / (2 * h)
    np.testing.assert_allclose(backward(np.full_like(x, 2), x), 2 * slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_beside_torch(target: str, name: str, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    peer = {
        "gelu_tanh": lambda t: functional.gelu(t, approximate="tanh"),
        "identity": lambda t: t * 1,
    }
    function = peer.get(name) or getattr(torch, name, None) or getattr(functional, name, None)
    if function is None:
        pytest.skip(f"torch has no {name}")
    x = numbers(1000, dtype)
    x[:7] = [0, np.inf, -np.inf, np.nan, 50, -50, 1e-3]
    t = torch.tensor(x, requires_grad=True)
    y = function(t)
    forward, backward = functions(name)
    tolerance = dict(TOLERANCE[dtype])
    if name == "gelu_tanh" and dtype == "float32":
        tolerance["atol"] = 1e-5  # torch's 1 + tanh(u) cancels for negative x: 7% off at -3.5
    if name == "hardsigmoid":
        tolerance["rtol"] = 1e-7  # torch's 1 / 6 is a float32, even for float64
    if name == "softplus":
        tolerance["atol"] = max(tolerance["atol"], 1e-13)
    want = y.detach().numpy()
    if name == "mish":
        want[x == -np.inf] = 0  # torch: NaN
    np.testing.assert_allclose(forward(x), want, **tolerance)
    dy = numbers(1000, dtype, seed=1)
    y.backward(torch.tensor(dy))
    finite = np.isfinite(x)
    np.testing.assert_allclose(backward(dy, x)[finite], t.grad.numpy()[finite], **tolerance)


def test_large_output_is_written_around_the_caches(isa: str) -> None:
    x = numbers(1_000_003, "float32")
    big = np.tile(x, 12)[3:]  # larger than a last-level cache, and at an odd address
    assert equal_bits(il.relu(big), np.maximum(big, 0))
    assert equal_bits(il.relu(big, out=big), np.maximum(np.tile(x, 12)[3:], 0))


@pytest.mark.parametrize("slope", [0.0, 0.2, -0.5, 2.0])
def test_parameters(target: str, slope: float) -> None:
    x = numbers(50, "float64")
    want = np.where(x > 0, x, slope * x)
    for y in (
        il.leaky_relu(x, slope),
        il.leaky_relu(x, negative_slope=slope),
        il.activation(x, "leaky_relu", negative_slope=slope),
    ):
        np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(
        il.leaky_relu_backward(x, x, slope), np.where(x > 0, x, slope * x)
    )


KNOTS = {"hardsigmoid": [-3, 3], "hardswish": [-3, 3], "relu6": [0, 6], "softplus": [20, 10]}


@pytest.mark.parametrize("name", ["elu", "selu", "celu", "leaky_relu", "relu", *KNOTS])
@pytest.mark.parametrize("dtype", DTYPES)
def test_knots_are_torchs(target: str, name: str, dtype: str) -> None:
    """Derivatives at the knots, and a rounding error to either side of them."""
    torch = pytest.importorskip("torch")
    knots = np.array([*KNOTS.get(name, []), 0.0, -0.0], dtype)
    x = np.concatenate([knots, np.nextafter(knots, np.inf), np.nextafter(knots, -np.inf)])
    x = np.concatenate([x, [np.nan]]).astype(dtype)
    t = torch.tensor(x, requires_grad=True)
    y = getattr(torch.nn.functional, name)(t)
    y.backward(torch.full_like(t, 1.5))
    forward, backward = functions(name)
    np.testing.assert_allclose(forward(x), y.detach().numpy(), rtol=1e-6, atol=1e-44)
    np.testing.assert_allclose(backward(np.full_like(x, 1.5), x), t.grad.numpy(), rtol=1e-6)
    if ACTIVATIONS[name].saves_output:
        dx = backward(np.full_like(x, 1.5), None, y=forward(x))
        np.testing.assert_allclose(dx, t.grad.numpy(), rtol=1e-6)


NUMBERS = [
    *(("elu", {"alpha": a}) for a in (0.0, 0.5, -0.5, 3.0)),
    *(("celu", {"alpha": a}) for a in (0.125, 0.5, 3.0, 64.0)),
    *(("softplus", {"beta": b, "threshold": t}) for b in (0.125, 2.0) for t in (20.0, -1.0, 1.0)),
    *(("leaky_relu", {"negative_slope": s}) for s in (0.0, -0.5, 2.0)),
]


@pytest.mark.parametrize(("name", "options"), NUMBERS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_parameters_are_torchs(
    target: str, name: str, options: dict[str, float], dtype: str
) -> None:
    torch = pytest.importorskip("torch")
    x, dy = numbers(300, dtype, scale=10), numbers(300, dtype, seed=1)
    t = torch.tensor(x, requires_grad=True)
    y = getattr(torch.nn.functional, name)(t, **options)
    y.backward(torch.tensor(dy))
    forward, backward = functions(name)
    np.testing.assert_allclose(forward(x, **options), y.detach().numpy(), **TOLERANCE[dtype])
    want = t.grad.numpy()
    np.testing.assert_allclose(backward(dy, x, **options), want, **TOLERANCE[dtype])
    if ACTIVATIONS[name].saves_output:
        got = backward(dy, None, *options.values(), y=forward(x, **options))
        np.testing.assert_allclose(got, want, **TOLERANCE[dtype])
    linear, saved = il.linear(
        x.reshape(30, 10), np.eye(10, dtype=dtype), activation=name, return_saved=True, **options
    )
    assert equal_bits(linear.reshape(-1), forward(x, **options))
    _, _, db = il.linear_backward(
        *(dy.reshape(30, 10), x.reshape(30, 10), np.eye(10, dtype=dtype), saved),
        activation=name,
        **options,
    )
    np.testing.assert_allclose(db, want.reshape(30, 10).sum(0), rtol=1e-4, atol=1e-4)


def test_parameters_at_their_limits(target: str) -> None:
    """What the range takes gives no NaN, in float32 too."""
    x = np.array([-5, -1, -1e-30, 0, 1e-30, 1, 5], "f4")
    for limit in (1.1754943508222875e-38, 3.4028234663852886e38):
        for y in (
            il.celu(x, limit),
            il.celu_backward(x, x, limit),
            il.softplus_backward(x, x, limit),
            il.elu(x, limit),
        ):
            assert not np.isnan(y).any()
    np.testing.assert_array_equal(il.softplus(x, threshold=np.inf), il.softplus(x))
    np.testing.assert_array_equal(il.softplus(x, threshold=-np.inf), x)
    assert il.softplus(np.float32([1000]), threshold=1e9) == 1000  # torch: exp overflows


def test_mish_and_softsign_far_out(target: str) -> None:
    """At infinity they keep their limits, where PyTorch multiplies infinity by 0."""
    x = np.array([-np.inf, -1e30, 1e30, np.inf])
    one = np.ones(4)
    np.testing.assert_array_equal(il.mish(x), [0, 0, 1e30, np.inf])
    np.testing.assert_array_equal(il.mish_backward(one, x), [0, 0, 1, 1])
    np.testing.assert_array_equal(il.softsign_backward(one, x)[[0, 3]], [0, 0])
    np.testing.assert_allclose(il.softsign_backward(one[:2], np.array([1e8, -1e8])), 1e-16)


def test_zero_dimensions_and_scalars(target: str) -> None:
    assert il.relu(np.empty((0, 3), "f4")).shape == (0, 3)
    assert il.relu(np.array(-2.0)).shape == ()
    assert il.gelu_backward(np.empty((2, 0)), np.empty((2, 0))).shape == (2, 0)
