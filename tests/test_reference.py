"""The NumPy reference against PyTorch, against finite differences, and at the edges."""

import inspect
import itertools

import numpy as np
import pytest

from innerloop import reference
from innerloop.reference import ACTIVATIONS, OPTIMIZERS

FLOATS = [np.float32, np.float64]
INF, NAN = np.inf, np.nan


@pytest.fixture(autouse=True)
def no_numpy_warnings():
    """The reference must not let a floating-point warning out, whatever the caller's settings."""
    with np.errstate(all="raise"):
        yield


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def random(*shape, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def close(actual, expected, dtype=np.float64):
    """Same shape and type, and equal up to the rounding of `dtype`; NaN equals NaN."""
    expected = np.asarray(expected)
    assert isinstance(actual, np.ndarray)
    assert actual.shape == expected.shape
    assert actual.dtype == dtype
    assert actual.flags.c_contiguous
    tolerance = 2e-6 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


# --- activations ---------------------------------------------------------------------------------


def torch_activation(torch, name, **params):
    f = torch.nn.functional
    return {
        "identity": lambda x: x * 1.0,
        "relu": f.relu,
        "leaky_relu": lambda x: f.leaky_relu(x, **params),
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "gelu": f.gelu,
        "gelu_tanh": lambda x: f.gelu(x, approximate="tanh"),
        "silu": f.silu,
    }.get(name) or getattr(f, name)


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


# --- softmax -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_is_torchs(torch, name, axis, dtype):
    x, dy = random(4, 5, 6, dtype=dtype) * 10, random(4, 5, 6, dtype=dtype, seed=1)
    tx = torch.tensor(x, requires_grad=True)
    ty = getattr(torch, name)(tx, axis)
    ty.backward(torch.tensor(dy))
    y = getattr(reference, name)(x, axis=axis)
    close(y, ty.detach().numpy(), dtype)
    dx = getattr(reference, f"{name}_backward")(dy, y, axis=axis)
    np.testing.assert_allclose(dx, tx.grad.numpy(), rtol=1e-4 if dtype == np.float32 else 1e-10,
                               atol=1e-6)  # fmt: skip


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_of_special_rows(torch, name):
    x = np.array([[INF, 0, 1], [-INF, 0, 1], [-INF] * 3, [NAN, 0, 1], [1e300, -1e300, 0]])
    close(getattr(reference, name)(x), getattr(torch, name)(torch.tensor(x), 1).numpy())


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 3), (1,)])
def test_softmax_shapes(torch, name, shape):
    x = np.zeros(shape)
    y = getattr(reference, name)(x)
    close(y, getattr(torch, name)(torch.tensor(x), -1).numpy())
    assert getattr(reference, f"{name}_backward")(x, y).shape == shape


# --- linear --------------------------------------------------------------------------------------


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


# --- softmax_cross_entropy -----------------------------------------------------------------------


def torch_cross_entropy(torch, logits, target, weight=None, **options):
    z = torch.tensor(logits, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(
        z, torch.tensor(target), None if weight is None else torch.tensor(weight), **options
    )
    if loss.requires_grad:
        loss.sum().backward()
    return loss.detach().numpy(), z.grad.numpy()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(6,), (5, 6), (4, 6, 3), (2, 6, 3, 2)])
@pytest.mark.parametrize("kind", ["labels", "ignored", "probabilities"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_is_torchs(torch, dtype, shape, kind, reduction, smoothing, weighted):
    rng = np.random.default_rng(7)
    axis = min(1, len(shape) - 1)
    logits = (rng.standard_normal(shape) * 3).astype(dtype)
    if kind == "probabilities":
        target = rng.random(shape)
        target = (target / target.sum(axis, keepdims=True)).astype(dtype)
    else:
        target = rng.integers(0, 6, shape[:axis] + shape[axis + 1 :])
    options = {"reduction": reduction, "label_smoothing": smoothing}
    if kind == "ignored":
        options["ignore_index"] = 2
        target = np.asarray(target)
        if target.size > 1:  # at least one row that counts, one that does not
            target.flat[:2] = (2, 3)
    weight = rng.random(6).astype(dtype) + dtype(0.1) if weighted else None
    want, want_grad = torch_cross_entropy(torch, logits, target, weight, **options)

    loss = reference.softmax_cross_entropy(logits, target, weight=weight, **options)
    close(loss, want, dtype)
    again, grad = reference.softmax_cross_entropy(
        logits, target, weight=weight, return_grad=True, grad_scale=-2.5, **options
    )
    np.testing.assert_array_equal(again, loss)
    close(grad, -2.5 * want_grad, dtype)


@pytest.mark.parametrize("axis", [0, 2, -1])
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_cross_entropy_axis(axis, kind):
    logits = random(4, 6, 3).transpose(2, 0, 1)  # strided, too
    there = np.moveaxis(logits, axis, 1)
    if kind == "labels":
        labels = there.shape[:1] + there.shape[2:]
        target = there_target = np.random.default_rng(1).integers(0, there.shape[1], labels)
    else:
        target = reference.softmax(logits, axis=axis)
        there_target = np.moveaxis(target, axis, 1)
    loss, grad = reference.softmax_cross_entropy(logits, target, axis=axis, return_grad=True)
    want, want_grad = reference.softmax_cross_entropy(there, there_target, return_grad=True)
    close(loss, want)
    close(grad, np.moveaxis(want_grad, 1, axis))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_ignored_rows_count_for_nothing(reduction, smoothing):
    logits, target = random(4, 3), np.array([0, -100, 2, -100], np.int32)
    logits[1], logits[3] = NAN, INF
    options = {"reduction": reduction, "label_smoothing": smoothing, "return_grad": True}
    loss, grad = reference.softmax_cross_entropy(logits, target, **options)
    kept, kept_grad = reference.softmax_cross_entropy(logits[::2], target[::2], **options)
    np.testing.assert_array_equal(grad[::2], kept_grad)
    np.testing.assert_array_equal(grad[1::2], 0.0)
    if reduction == "none":
        np.testing.assert_array_equal(loss, [kept[0], 0.0, kept[1], 0.0])
    else:
        np.testing.assert_array_equal(loss, kept)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("rows", [0, 3])
def test_no_rows_that_count(torch, reduction, smoothing, rows):
    logits, target = random(rows, 4), np.full(rows, -100)
    options = {"reduction": reduction, "label_smoothing": smoothing}
    want, _ = torch_cross_entropy(torch, logits, target, **options)
    loss, grad = reference.softmax_cross_entropy(logits, target, return_grad=True, **options)
    close(loss, want)  # NaN for "mean", else 0
    close(grad, np.zeros_like(logits))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0), (2, 4, 0)])
def test_probabilities_of_no_elements(torch, shape, reduction):
    logits = np.zeros(shape)
    want, _ = torch_cross_entropy(torch, logits, logits, reduction=reduction)
    loss, grad = reference.softmax_cross_entropy(
        logits, logits, reduction=reduction, return_grad=True
    )
    close(loss, want)
    assert grad.shape == shape


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_special_logits_are_torchs(torch, kind, smoothing):
    logits = np.array(
        [[-INF, 0, 1], [0, -INF, 1], [-INF, -INF, -INF], [INF, 0, 1], [NAN, 0, 1], [0, 1e300, 1]]
    )
    target = np.array([1, 1, 0, 0, 1, 0])
    if kind == "probabilities":
        target = np.eye(3)[target]
    options = {"reduction": "none", "label_smoothing": smoothing}
    want, want_grad = torch_cross_entropy(torch, logits, target, **options)
    loss, grad = reference.softmax_cross_entropy(logits, target, return_grad=True, **options)
    close(loss, want)
    close(grad, want_grad)


def test_masked_class_costs_nothing():
    loss, grad = reference.softmax_cross_entropy(
        np.array([[-INF, 0.0, 0.0]]), np.array([1]), return_grad=True
    )
    close(loss, np.log(2.0))
    close(grad, [[0.0, -0.5, 0.5]])


def test_weights_of_zero_are_torchs(torch):
    logits, weight = random(3, 4), np.array([0.0, 0.0, 1.0, 2.0])
    for target in (np.array([0, 1, 0]), np.array([0, 1, 2])):
        want, want_grad = torch_cross_entropy(torch, logits, target, weight)
        loss, grad = reference.softmax_cross_entropy(
            logits, target, weight=weight, return_grad=True
        )
        close(loss, want)
        close(grad, want_grad)


@pytest.mark.parametrize("label_type", [np.int8, np.uint8, np.int32, np.int64, np.uint64])
def test_label_types(label_type):
    logits = random(3, 4)
    want = reference.softmax_cross_entropy(logits, np.array([3, 0, 1]))
    close(reference.softmax_cross_entropy(logits, np.array([3, 0, 1], label_type)), want)


def test_loss_of_half_logits_is_float32():
    loss, grad = reference.softmax_cross_entropy(
        random(3, 4, dtype=np.float16), np.array([3, 0, 1]), return_grad=True
    )
    assert loss.dtype == np.float32 and grad.dtype == np.float16


# --- optimizers ----------------------------------------------------------------------------------

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
