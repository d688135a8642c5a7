"""The reference's activations against PyTorch, finite differences and mpmath, and at the edges."""

import inspect

import numpy as np
import pytest
from reference_cases import FLOATS, INF, NAN, close, random, torch_activation

from innerloop import reference
from innerloop.reference import ACTIVATIONS

pytestmark = pytest.mark.usefixtures("no_numpy_warnings")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_is_torchs(torch, name, dtype):
    act = ACTIVATIONS[name]
    x = np.concatenate([random(500, dtype=dtype) * 4, np.array([0.0, -0.0, NAN], dtype)])
    dy = random(x.size, dtype=dtype, seed=1)
    tx = torch.tensor(x, requires_grad=True)
    ty = torch_activation(torch, name)(tx)
    ty.backward(torch.tensor(dy))
    y = act.forward(x)
    close(y, ty.detach().numpy(), dtype)
    want = tx.grad.numpy()
    if name == "hardsigmoid":  # torch's 1 / 6 is a float32, even for float64
        want = (want.astype(np.float64) / np.float32(1 / 6) / 6).astype(dtype)
    close(act.backward(dy, x), want, dtype)
    if act.saves_output:
        close(act.backward(dy, None, y=y), want, dtype)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_at_infinity_is_torchs(torch, name):
    x = np.array([INF, -INF, 100.0, -100.0])
    tx = torch.tensor(x, requires_grad=True)
    ty = torch_activation(torch, name)(tx)
    ty.sum().backward()
    y, want = ty.detach().numpy(), tx.grad.numpy()
    if name in ("mish", "softsign"):  # the limit is kept, where torch multiplies infinity by 0
        assert np.isnan(want[:2]).all()
        want[:2] = (1, 0) if name == "mish" else 0
    if name == "mish":
        y[1] = 0
    if name == "hardsigmoid":
        want /= np.float32(1 / 6) * 6.0
    close(ACTIVATIONS[name].forward(x), y)
    close(ACTIVATIONS[name].backward(np.ones(4), x), want)


@pytest.mark.parametrize("slope", [0.0, 0.3, -0.5, 2.0])
def test_leaky_relu_slopes(torch, slope):
    x = random(50)
    tx = torch.tensor(x, requires_grad=True)
    ty = torch.nn.functional.leaky_relu(tx, slope)
    ty.sum().backward()
    close(reference.leaky_relu(x, slope), ty.detach().numpy())
    close(reference.leaky_relu(x, negative_slope=slope), ty.detach().numpy())
    close(reference.leaky_relu_backward(np.ones(50), x, slope), tx.grad.numpy())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_derivative_by_finite_differences(name):
    act, h = ACTIVATIONS[name], 1e-5
    x = np.linspace(-5.9, 5.9, 1000)  # holds none of the kinks: 0, 3, -3, 6
    numeric = (act.forward(x + h) - act.forward(x - h)) / (2 * h)
    np.testing.assert_allclose(act.backward(np.ones_like(x), x), numeric, rtol=1e-8, atol=1e-9)


# name -> values at -30, -10 and 3, by mpmath with 40 digits
EXACT = {
    "sigmoid": (9.35762296883929895e-14, 4.53978687024343945e-5, 0.952574126822433219),
    "tanh": (-1.0, -0.999999995877692764, 0.995054753686730451),
    "gelu": (-1.47201417814445612e-196, -7.61985302416052607e-23, 2.99595030590510972),
    "silu": (-2.80728689065178969e-12, -4.53978687024343945e-4, 2.85772238046729966),
    "sigmoid_backward": (9.3576229688384233e-14, 4.5395807735951671e-5, 0.0451766597309121326),
    "tanh_backward": (3.50260430507860814e-26, 8.24461445576739737e-9, 0.00986603716544019127),
    "gelu_backward": (-4.41603169070849437e-195, -7.61840009646481409e-22, 1.01194564720418393),
}


@pytest.mark.parametrize("name", EXACT)
def test_tails_keep_their_digits(name):
    x = np.array([-30.0, -10.0, 3.0])
    args = (np.ones(3), x) if name.endswith("_backward") else (x,)
    np.testing.assert_allclose(getattr(reference, name)(*args), EXACT[name], rtol=2e-13)
    single = getattr(reference, name)(*(a.astype(np.float32) for a in args))
    with np.errstate(under="ignore"):
        np.testing.assert_array_max_ulp(single, np.array(EXACT[name], np.float32), 0)


def test_gelu_tanh_tail_and_huge_inputs():
    close(
        reference.gelu_tanh(np.array([-3.0, 3.0])), [-0.00363739208177301884, 2.99636260791822698]
    )
    np.testing.assert_allclose(
        reference.gelu_tanh(np.array(-10.0)), -1.20409234820980599e-37, 1e-13
    )
    x = np.array([1e200, -1e200])  # PyTorch: NaN, since x**2 overflows; the limit is kept here
    close(reference.gelu_tanh_backward(np.ones(2), x), [1.0, 0.0])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_float32_is_float64_rounded(name):
    x = random(200, dtype=np.float32)
    act = ACTIVATIONS[name]
    wide = x.astype(np.float64)
    np.testing.assert_array_equal(act.forward(x), act.forward(wide).astype(np.float32))
    np.testing.assert_array_equal(act.backward(x, x), act.backward(wide, wide).astype(np.float32))


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (2, 3)])
def test_activation_shapes_and_fresh_results(name, shape):
    act = ACTIVATIONS[name]
    x = np.asarray(random(*shape, dtype=np.float32))
    for result in (act.forward(x), act.backward(x, x)):
        assert result.shape == shape and result.dtype == np.float32
        assert not np.shares_memory(result, x)
    x = random(6, 8)[::2, ::-3].T
    np.testing.assert_array_equal(act.forward(x), act.forward(x.copy()))
    assert act.forward(x).flags.c_contiguous


def test_activation_registry():
    assert list(ACTIVATIONS)[:4] == ["identity", "relu", "leaky_relu", "sigmoid"]
    assert ACTIVATIONS["leaky_relu"].parameters == {"negative_slope": 0.01}
    assert {n for n, a in ACTIVATIONS.items() if a.saves_output} == {
        *("relu", "relu6", "selu", "celu", "sigmoid", "tanh")
    }
    for name, act in ACTIVATIONS.items():
        assert getattr(reference, name) is act.forward
        assert getattr(reference, f"{name}_backward") is act.backward
        parameters = inspect.signature(act.backward).parameters
        expected = ["dy", "x", *act.parameters] + ["y"] * act.saves_output
        assert list(parameters) == expected
        assert act.forward.__doc__ and "Formula" in act.forward.__doc__
