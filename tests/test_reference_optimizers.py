"""The reference's optimizers against PyTorch and the papers, and at the edges."""

import inspect
import itertools

import numpy as np
import pytest
from reference_cases import FLOATS, NAN, close, random

from innerloop import reference
from innerloop.reference import OPTIMIZERS

pytestmark = pytest.mark.usefixtures("no_numpy_warnings")


OPTIONS = {
    "sgd": {
        "momentum": [0.0, 0.9],
        "dampening": [0.0, 0.3],
        "weight_decay": [0.0, 0.1],
        "nesterov": [False, True],
        "maximize": [False, True],
    },
    "adam": {
        "betas": [(0.9, 0.999), (0.5, 0.7)],
        "eps": [1e-8, 1e-2],
        "weight_decay": [0.0, 0.1],
        "maximize": [False, True],
    },
    "rmsprop": {
        "alpha": [0.99, 0.5],
        "eps": [1e-8, 1e-2],
        "weight_decay": [0.0, 0.1],
        "momentum": [0.0, 0.9],
        "centered": [False, True],
        "maximize": [False, True],
    },
}
OPTIONS["adam"] |= {"amsgrad": [False, True]}
OPTIONS["adamw"] = OPTIONS["adam"]
OPTIONS["adagrad"] = {"lr_decay": [0.0, 0.1], "weight_decay": [0.0, 0.1], "eps": [1e-10, 1e-2]}
OPTIONS["adadelta"] = {"rho": [0.9, 0.5], "eps": [1e-6, 1e-2], "weight_decay": [0.0, 0.1]}
OPTIONS["adamax"] = {
    "betas": [(0.9, 0.999), (0.5, 0.7)],
    "eps": [1e-8, 1e-2],
    "weight_decay": [0.0, 0.1],
}
OPTIONS["radam"] = {**OPTIONS["adamax"], "decoupled_weight_decay": [False, True]}
OPTIONS["nadam"] = {**OPTIONS["radam"], "momentum_decay": [4e-3, 0.1]}


def cases():
    for name, options in OPTIONS.items():
        yield pytest.param(name, {}, id=f"{name}-defaults")
        for values in itertools.product(*options.values()):
            chosen = dict(zip(options, values, strict=True))
            if chosen.get("nesterov") and (chosen["dampening"] or not chosen["momentum"]):
                continue  # torch refuses it
            yield pytest.param(name, chosen, id=f"{name}-{'-'.join(map(str, values))}")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("name", "options"), list(cases()))
def test_optimizer_is_torchs(torch, name, options, dtype):
    optimizer = OPTIMIZERS[name]
    param = random(7, 5, dtype=dtype)
    tparam = torch.tensor(param, requires_grad=True)
    theirs = getattr(torch.optim, optimizer.class_name)([tparam], **options)
    states = {s: np.zeros_like(param) for s in optimizer.needed_states(**options)}
    for step in range(1, 9):  # RAdam's sixth is its first that is rectified
        grad = random(7, 5, dtype=dtype, seed=step)
        tparam.grad = torch.tensor(grad)
        theirs.step()
        before = grad.copy()
        assert optimizer.function(param, grad, **states, step=step, **options) is None
        np.testing.assert_array_equal(grad, before)
    # torch keeps NAdam's product of momenta in float32
    tolerance = 2e-5 if dtype == np.float32 else 1e-7 if name == "nadam" else 1e-11
    np.testing.assert_allclose(param, tparam.detach().numpy(), tolerance, tolerance)
    kept = theirs.state[tparam]
    for state, value in states.items():
        value_of = kept[optimizer.torch_names.get(state, state)]
        np.testing.assert_allclose(value, value_of.numpy(), tolerance, tolerance)


def test_optimizer_signatures_are_torchs(torch):
    for optimizer in OPTIMIZERS.values():
        if not hasattr(torch.optim, optimizer.class_name):
            continue
        theirs = inspect.signature(getattr(torch.optim, optimizer.class_name)).parameters
        for name, default in optimizer.hyperparameters.items():
            if name not in ("bias_correction", "l1", "max_norm", "grad_scale"):
                assert theirs[name].default == default, (optimizer.name, name)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_registry(name):
    optimizer = OPTIMIZERS[name]
    signature = list(inspect.signature(optimizer.function).parameters)
    expected = ["param", "grad", *optimizer.states, "step", *optimizer.hyperparameters]
    assert signature == expected
    assert set(optimizer.needs) <= set(optimizer.states)
    assert set(optimizer.needs.values()) <= set(optimizer.hyperparameters)
    assert getattr(reference, name) is optimizer.function
    for hyperparameter in optimizer.hyperparameters:
        assert f"\n{hyperparameter} : " in inspect.getdoc(optimizer.function)


def test_needed_states():
    assert OPTIMIZERS["sgd"].needed_states() == ()
    assert OPTIMIZERS["sgd"].needed_states(momentum=0.9) == ("momentum_buffer",)
    assert OPTIMIZERS["adam"].needed_states() == ("exp_avg", "exp_avg_sq")
    assert OPTIMIZERS["rmsprop"].needed_states() == ("square_avg",)
    assert OPTIMIZERS["rmsprop"].needed_states(centered=True, momentum=0.5) == (
        "square_avg", "grad_avg", "momentum_buffer",
    )  # fmt: skip
    assert OPTIMIZERS["adam"].needed_states(amsgrad=True)[2] == "max_exp_avg_sq"


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lion_is_the_papers(weight_decay):
    """Chen et al. 2023, Algorithm 2, with its names."""
    param, m = random(50, seed=1), np.zeros(50)
    theta, momentum = param.copy(), m.copy()
    eta, beta1, beta2 = 0.03, 0.8, 0.95
    for step in range(1, 6):
        g = random(50, seed=10 + step)
        c = beta1 * momentum + (1 - beta1) * g
        theta = theta - eta * (np.sign(c) + weight_decay * theta)
        momentum = beta2 * momentum + (1 - beta2) * g
        reference.lion(
            param, g, m, step=step, lr=eta, betas=(beta1, beta2), weight_decay=weight_decay
        )
    close(param, theta)
    close(m, momentum)


def test_nadams_product_of_momenta():
    for beta1, decay in ((0.9, 4e-3), (0.99, 10.0), (0.5, 0.0)):
        mu = [beta1 * (1 - 0.5 * 0.96 ** (t * decay)) for t in range(1, 51)]
        got = reference.optimizers.nadam_momentum(50, beta1, decay)
        np.testing.assert_allclose(got, (mu[-1], np.prod(mu)), 1e-12)
    assert reference.optimizers.nadam_momentum(2**53, 0.9, 1.0)[1] == 0.0


def test_gradients_are_prepared_in_order():
    """Unscaled, clipped, negated, and then the L1 penalty."""
    param, grad = np.array([1.0, -1.0, 0.0]), np.array([30.0, 40.0, 0.0])
    got = reference.gradients.prepare(
        param, grad, grad_scale=10.0, max_norm=1.0, maximize=True, l1=0.5
    )
    np.testing.assert_allclose(got, [-0.6 + 0.5, -0.8 - 0.5, 0.0], atol=1e-6)
    norm = reference.gradients.grad_norm([np.array([3e200]), np.array([[4e200]])])
    assert norm == pytest.approx(5e200)
    assert reference.gradients.grad_norm([]) == 0.0


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("shape", [(), (0,), (4, 6)])
def test_optimizer_writes_in_place_at_any_strides(name, shape):
    optimizer = OPTIMIZERS[name]
    options = {"momentum": 0.9} if "momentum" in optimizer.hyperparameters else {}
    options |= {"centered": True} if "centered" in optimizer.hyperparameters else {}
    grad = np.asarray(random(*shape))
    plain = [np.zeros(shape) for _ in range(1 + len(optimizer.states))]
    strided = [np.zeros((*shape[::-1], 2))[..., 0].T for _ in plain]
    optimizer.function(plain[0], grad, *plain[1:], step=1, **options)
    optimizer.function(strided[0], grad, *strided[1:], step=1, **options)
    for a, b in zip(plain, strided, strict=True):
        np.testing.assert_array_equal(a, b)
    assert plain[0].size == 0 or plain[0].any()


def test_sgd_does_not_read_the_buffer_at_step_1():
    param, grad, buffer = np.ones(3), np.arange(3.0), np.full(3, NAN)
    reference.sgd(param, grad, buffer, step=1, lr=0.5, momentum=0.9, dampening=0.5)
    np.testing.assert_array_equal(buffer, grad)
    np.testing.assert_array_equal(param, 1 - 0.5 * grad)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_without_bias_correction(name):
    param, grad = np.zeros(3), np.array([1.0, -2.0, 3.0])
    m, v = np.zeros(3), np.zeros(3)
    OPTIMIZERS[name].function(param, grad, m, v, step=1, lr=0.1, eps=0.0, bias_correction=False)
    close(m, 0.1 * grad)
    close(v, 0.001 * grad**2)
    close(param, -0.1 * m / np.sqrt(v))
