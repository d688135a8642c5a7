"""The reference's dense layer against PyTorch, and at the edges."""

import itertools

import numpy as np
import pytest
from reference_cases import FLOATS, close, random, torch_activation

from innerloop import reference
from innerloop.reference import ACTIVATIONS

pytestmark = pytest.mark.usefixtures("no_numpy_warnings")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("lead", [(), (7,), (2, 3)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", [None, *ACTIVATIONS])
def test_linear_is_torchs(torch, name, bias, lead, dtype):
    x, w = random(*lead, 5, dtype=dtype), random(5, 4, dtype=dtype, seed=1)
    b = random(4, dtype=dtype, seed=2) if bias else None
    dy = random(*lead, 4, dtype=dtype, seed=3)
    tx, tw = torch.tensor(x, requires_grad=True), torch.tensor(w, requires_grad=True)
    tb = torch.tensor(b if bias else np.zeros(4, dtype), requires_grad=True)
    ty = torch_activation(torch, name or "identity")(tx @ tw + tb)
    ty.backward(torch.tensor(dy))

    y, saved = reference.linear(x, w, b, activation=name, return_saved=True)
    np.testing.assert_array_equal(y, reference.linear(x, w, b, activation=name))
    expected = (ty, tx.grad, tw.grad, tb.grad)
    gradients = reference.linear_backward(dy, x, w, saved, activation=name)
    for actual, want in zip((y, *gradients), expected, strict=True):
        assert actual.dtype == dtype and actual.shape == tuple(want.shape)
        tolerance = 1e-5 if dtype == np.float32 else 1e-12
        if name == "hardsigmoid":  # torch's 1 / 6 is a float32, even for float64
            tolerance = max(tolerance, 1e-7)
        np.testing.assert_allclose(actual, want.detach().numpy(), tolerance, tolerance)


def test_linear_saves_what_the_derivative_needs():
    x, w = random(3, 5), random(5, 4)
    for name, act in ACTIVATIONS.items():
        y, saved = reference.linear(x, w, activation=name, return_saved=True)
        if name == "identity":
            assert saved is None
        else:
            np.testing.assert_array_equal(saved, y if act.saves_output else x @ w)


def test_linear_passes_the_activations_parameters_on():
    x, w = random(3, 5), random(5, 4)
    y, saved = reference.linear(
        x, w, activation="leaky_relu", negative_slope=0.5, return_saved=True
    )
    close(y, reference.leaky_relu(x @ w, 0.5))
    _, _, db = reference.linear_backward(
        np.ones((3, 4)), x, w, saved, activation="leaky_relu", negative_slope=0.5
    )
    close(db, np.where(x @ w > 0, 1.0, 0.5).sum(0))


@pytest.mark.parametrize("sizes", [s for s in itertools.product((0, 2), repeat=3) if 0 in s])
@pytest.mark.parametrize("name", ["identity", "relu", "silu"])
def test_linear_of_no_elements(sizes, name):
    m, k, n = sizes
    x, w, b = np.ones((m, k)), np.ones((k, n)), np.full(n, 3.0)
    y, saved = reference.linear(x, w, b, activation=name, return_saved=True)
    close(y, ACTIVATIONS[name].forward(np.broadcast_to(b, (m, n))))  # K = 0: the bias alone
    dx, dw, db = reference.linear_backward(np.ones((m, n)), x, w, saved, activation=name)
    assert (dx.shape, dw.shape, db.shape) == ((m, k), (k, n), (n,))
    if m == 0:
        assert not dw.any() and not db.any()
