"""il.MLP trains: an epoch is the loop that it stands for."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import numpy as np
import pytest
from mlp_cases import (
    CLASSES,
    ORDER,
    PAIRS,
    data,
    network,
    same,
    state_of,
    train_by_gradients,
    twins,
)

import innerloop as il
from innerloop import schedules

NAMES = ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam"]
NAMES += ["Lion"]
OPTIONS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "nesterov": True},
    "Adam": {"amsgrad": True, "weight_decay": 0.01},
    "RMSprop": {"momentum": 0.5, "centered": True},
}


def test_every_optimizer_is_tested():
    assert {type(o).__name__ for o in (getattr(il, n)([np.ones(1)]) for n in NAMES)} == {
        c.__name__ for c in vars(il).values() if inspect.isclass(c) and issubclass(c, il.Optimizer)
    } - {"Optimizer"}


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [("float64", None)] + [("float32", s) for s in (None, "float32", "bfloat16", "uint8")],
)
@pytest.mark.parametrize("name", NAMES)
def test_an_epoch_is_the_loop_over_gradients(name, dtype, stored, isa):
    """The same bits, of weights, states and loss."""
    x, y, weights = data(dtype=dtype)
    mlp, optimizer, other, theirs = twins(
        network(dtype=dtype, dropout=[0.2, 0.1], l2=0.01),
        lambda p: getattr(il, name)(p, state_dtype=stored, **OPTIONS.get(name, {})),
    )
    for _ in range(3):
        loss = mlp.fit_epoch(x, y, optimizer, 8, sample_weight=weights, order=ORDER)
        assert loss == train_by_gradients(other, theirs, x, y, ORDER, 8, weights)
    same(mlp.parameters, other.parameters)
    same(state_of(optimizer), state_of(theirs))
    assert optimizer.steps == theirs.steps == mlp.batches == 21
    assert mlp.epochs == 3 and mlp.optimizer is optimizer


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stored", [None, "bfloat16", "uint8"])
def test_an_epoch_is_that_of_the_reference(name, stored, isa):
    dtype = "float32" if stored else "float64"
    x, y, _ = data(dtype=dtype)
    mlp, optimizer, other, theirs = twins(
        network(dtype=dtype, dropout=0.2, l1=0.001),
        lambda p: getattr(il, name)(p, state_dtype=stored, **OPTIONS.get(name, {})),
    )
    losses = [mlp.fit_epoch(x, y, optimizer, 16) for _ in range(2)]
    with il.use_backend("reference"):
        expected = [other.fit_epoch(x, y, theirs, 16) for _ in range(2)]
    # With rounded states, one that falls on the other side is a step of another size.
    tolerance = {None: 1e-9, "bfloat16": 2e-3, "uint8": 1e-2}[stored]
    np.testing.assert_allclose(losses, expected, rtol=tolerance)
    for p, q in zip(mlp.parameters, other.parameters, strict=True):
        np.testing.assert_allclose(p, q, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("loss", "output"), PAIRS)
def test_an_epoch_is_the_loop_over_public_functions(loss, output, dtype, isa):
    """linear, the loss, linear_backward and a step: the same bits."""
    x, y, _ = data(loss, dtype=dtype)
    mlp, optimizer, other, theirs = twins(
        network(loss, output_activation=output, dtype=dtype, dropout=0.3),
        lambda p: il.Adam(p, lr=0.01),
    )
    mlp.fit_epoch(x, y, optimizer, 8, order=ORDER)
    depth = len(other.weights)
    for b, rows in enumerate(ORDER[i : i + 8] for i in range(0, 50, 8)):
        inputs, saved, given = [x[rows]], [], []
        for i, (name, params) in enumerate(other.activations):
            given.append({"activation": name, "seed": other.seed, "offset": b * depth + i})
            given[-1] |= {"dropout": other.dropout[i], **params}
            h, s = il.linear(
                inputs[-1], other.weights[i], other.biases[i], return_saved=True, **given[-1]
            )
            inputs.append(h)
            saved.append(s)
        scale = 1 / len(rows) * (1 if loss == CLASSES else 1 / 3)
        _, dy = getattr(il, loss)(
            inputs.pop(), y[rows], reduction="sum", return_grad=True, grad_scale=scale
        )
        gradients: list[np.ndarray] = []
        for i in reversed(range(depth)):
            dy, dw, db = il.linear_backward(dy, inputs[i], other.weights[i], saved[i], **given[i])
            gradients[:0] = [dw, db]
        theirs.step(gradients)
    same(mlp.parameters, other.parameters)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", [CLASSES, "mse_loss", "binary_cross_entropy_with_logits"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"lr": 0.1, "momentum": 0.9}),
        ("Adam", {"lr": 0.01}),
        ("AdamW", {"lr": 0.01, "weight_decay": 0.1}),
    ],
)
def test_training_is_that_of_pytorch(torch, dtype, loss, name, options):
    x, y, _ = data(loss, dtype=dtype)
    mlp = network(loss, dtype=dtype)
    layers: list[Any] = []
    for w, b, act in zip(
        mlp.weights, mlp.biases, [torch.nn.GELU(), torch.nn.Tanh(), None], strict=True
    ):
        layer = torch.nn.Linear(*w.shape, dtype=getattr(torch, dtype))
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(w.T.copy()))
            layer.bias.copy_(torch.from_numpy(b.copy()))
        layers += [layer] if act is None else [layer, act]
    model = torch.nn.Sequential(*layers)
    function = {
        CLASSES: torch.nn.functional.cross_entropy,
        "mse_loss": torch.nn.functional.mse_loss,
    }.get(loss, torch.nn.functional.binary_cross_entropy_with_logits)
    theirs = getattr(torch.optim, name)(model.parameters(), **options)
    ours = getattr(il, name)(mlp.parameters, **options)
    for _ in range(3):
        got, total = mlp.fit_epoch(x, y, ours, 8, order=ORDER), 0.0
        for rows in (ORDER[i : i + 8] for i in range(0, 50, 8)):
            value = function(model(torch.from_numpy(x[rows])), torch.from_numpy(y[rows]))
            theirs.zero_grad()
            value.backward()
            theirs.step()
            total += float(value.detach()) * len(rows)
        tolerance = 1e-4 if dtype == "float32" else 1e-10
        assert got == pytest.approx(total / 50, rel=tolerance)
    for w, layer in zip(mlp.weights, layers[::2], strict=True):
        np.testing.assert_allclose(w, layer.weight.detach().numpy().T, rtol=0, atol=tolerance)


def test_shuffled_rows_are_gathered_rows(target):
    x, y, weights = data("mse_loss")
    for make in (lambda a: a, np.asfortranarray, lambda a: np.repeat(a, 2, axis=-1)[..., ::2]):
        results = []
        for gathered in (True, False):
            mlp = network("mse_loss", dropout=0.2)
            rows = [make(a[ORDER] if gathered else a) for a in (x, y)]
            w = weights[ORDER] if gathered else weights
            given = {"shuffle": False} if gathered else {"order": ORDER}
            loss = mlp.fit_epoch(*rows, "adam", 8, sample_weight=w, **given)
            results.append((loss, mlp.parameters))
        assert results[0][0] == results[1][0]
        same(results[0][1], results[1][1])


def test_shuffles_are_a_function_of_seed_and_epoch(target):
    x, y, _ = data()
    one, two, other = network(), network(), network(seed=4)
    for a, b in zip(other.parameters, one.parameters, strict=True):
        a[...] = b
    losses = [m.fit_epoch(x, y, "sgd", 8) for m in (one, two, other)]
    assert losses[0] == losses[1] != losses[2]
    same(one.parameters, two.parameters)


@pytest.mark.parametrize("batch", [1, 7, 50, 51, 2**50])
def test_sizes_of_batches(batch, target):
    x, y, _ = data()
    mlp, optimizer, other, theirs = twins(network(), lambda p: il.SGD(p, lr=0.1))
    mlp.fit_epoch(x, y, optimizer, batch, order=ORDER)
    train_by_gradients(other, theirs, x, y, ORDER, min(batch, 50))
    same(mlp.parameters, other.parameters)
    assert mlp.batches == -(-50 // min(batch, 50))


def test_an_order_may_be_longer_than_the_data(target):
    x, y, _ = data(rows=5)
    order = [*range(5), *range(5), 4, 4]
    mlp, optimizer, other, theirs = twins(network(), lambda p: il.SGD(p, lr=0.1))
    mlp.fit_epoch(x, y, optimizer, 8, order=order)
    train_by_gradients(other, theirs, x, y, order, 8)
    same(mlp.parameters, other.parameters)
    assert mlp.batches == 2


CHANGING: dict[str, dict[str, Any]] = {
    "cosine": {"lr": schedules.cosine(0.1, 30)},
    "warmup": {"lr": schedules.warmup(schedules.exponential(0.1, 0.9), 5)},
    "function": {"lr": lambda step: 0.1 / step, "weight_decay": lambda step: 0.01 * (step % 2)},
    "norm": {"lr": 0.1, "max_norm": 0.01},
    "norm that changes": {"lr": 0.1, "max_norm": lambda step: 0.5 / step},
    "norm that ends": {"lr": 0.1, "max_norm": lambda step: 0.05 if step < 10 else None},
    "scale": {"lr": 0.1, "grad_scale": lambda step: float(step)},
    "momentum in mid-epoch": {"lr": 0.1, "momentum": lambda step: 0.9 * (step > 9)},
    "momentum by turns": {"lr": 0.1, "momentum": lambda step: 0.9 * (step % 3 > 0)},
    "l1 and maximize": {"lr": 0.01, "l1": lambda step: 0.1 / step, "maximize": True},
    "direction": {"lr": 0.01, "maximize": lambda step: step % 4 == 0},
}


@pytest.mark.parametrize("case", CHANGING)
def test_numbers_that_change_from_step_to_step(case, target):
    x, y, _ = data()
    mlp, optimizer, other, theirs = twins(network(), lambda p: il.SGD(p, **CHANGING[case]))
    for _ in range(3):
        loss = mlp.fit_epoch(x, y, optimizer, 8, order=ORDER)
        assert loss == train_by_gradients(other, theirs, x, y, ORDER, 8)
        assert optimizer.grad_norm == theirs.grad_norm
    same(mlp.parameters, other.parameters)
    same(state_of(optimizer), state_of(theirs))
    assert optimizer.steps == 21


def test_functions_of_groups_and_of_pairs(target):
    """Each group's own, some of them none."""

    def groups(p: Any) -> Any:
        first = {"params": p[4:], "betas": lambda step: (0.9 - 0.1 / step, 0.99), "eps": 1e-3}
        return il.Adam([first, {"params": p[1]}, {"params": p[0], "lr": lambda step: 0.1 / step}])

    x, y, _ = data()
    mlp, optimizer, other, theirs = twins(network(), groups)
    for _ in range(2):
        mlp.fit_epoch(x, y, optimizer, 8, order=ORDER)
        train_by_gradients(other, theirs, x, y, ORDER, 8)
    same(mlp.parameters, other.parameters)
    same(state_of(optimizer), state_of(theirs))


@pytest.mark.parametrize("late", [0.5, (0.9,), (0.9, 1.0), (0.9, "x")])
def test_a_pair_that_is_none_later_on_is_refused_at_once(late, isa):
    x, y, _ = data()
    mlp = network()
    before = [p.copy() for p in mlp.parameters]
    optimizer = il.Adam(mlp.parameters, betas=lambda step: (0.9, 0.99) if step < 5 else late)
    with pytest.raises((ValueError, TypeError), match="beta"):
        mlp.fit_epoch(x, y, optimizer, 8)
    same(mlp.parameters, before)
    assert optimizer.steps == 0


def test_a_number_out_of_range_later_on_is_refused_at_once(isa):
    x, y, _ = data()
    mlp = network()
    before = [p.copy() for p in mlp.parameters]
    optimizer = il.SGD(mlp.parameters, lr=lambda step: 0.1 if step < 5 else -1.0)
    with pytest.raises(ValueError, match="lr"):
        mlp.fit_epoch(x, y, optimizer, 8)
    same(mlp.parameters, before)
    assert optimizer.steps == 0


def test_parameter_groups_and_parts(target):
    x, y, _ = data()

    def groups(p: Any) -> Any:
        return il.Adam([{"params": p[4:], "lr": 0.1}, {"params": p[0], "weight_decay": 0.1}])

    mlp, optimizer, other, theirs = twins(network(), groups)
    before = [p.copy() for p in mlp.parameters]
    mlp.fit_epoch(x, y, optimizer, 8, order=ORDER)
    train_by_gradients(other, theirs, x, y, ORDER, 8)
    same(mlp.parameters, other.parameters)
    same(mlp.parameters[1:4], before[1:4])
    assert (mlp.parameters[0] != before[0]).any() and (mlp.parameters[5] != before[5]).any()


def test_weights_may_be_written_in_between(target):
    x, y, _ = data()
    mlp = network()
    mlp.fit_epoch(x, y, "sgd", 8)
    for p in mlp.parameters:
        p *= 0
    np.testing.assert_array_equal(mlp.forward(x), np.zeros((50, 3), np.float32))


def test_which_optimizer():
    x, y, _ = data()
    mlp = network()
    mlp.fit_epoch(x, y)
    adam = mlp.optimizer
    assert isinstance(adam, il.Adam) and adam.steps == 2
    mlp.fit_epoch(x, y, "adam")
    assert mlp.optimizer is adam and adam.steps == 4
    mlp.fit_epoch(x, y, "lion")
    assert isinstance(mlp.optimizer, il.Lion)
    mlp.fit_epoch(x, y, adam)
    mlp.fit_epoch(x, y)
    assert mlp.optimizer is adam and adam.steps == 8


BAD: list[tuple[dict[str, Any], type, str]] = [
    ({"optimizer": "nope"}, ValueError, "optimizer must be one of"),
    ({"optimizer": 5}, TypeError, "optimizer must be one, or its name"),
    ({"optimizer": il.SGD([np.ones(3)])}, ValueError, r"params\[0\] is not"),
    ({"batch_size": 0}, ValueError, "batch_size"),
    ({"batch_size": -1}, ValueError, "batch_size"),
    ({"batch_size": 2.0}, TypeError, "batch_size"),
    ({"shuffle": 1}, TypeError, "shuffle"),
]
ONLY_EPOCH: list[tuple[dict[str, Any], type, str]] = [
    ({"order": [0, 50]}, IndexError, "order must hold indices of the 50 rows of X, got 50"),
    ({"order": [0, -1]}, IndexError, "got -1"),
    ({"order": np.array([2**64 - 1], np.uint64)}, IndexError, "order"),
    ({"order": np.zeros(0, int)}, ValueError, "at least one row"),
    ({"order": [0.5]}, TypeError, "order"),
    ({"order": [[1]]}, TypeError, "order"),
    ({"order": [True]}, TypeError, "order"),
]
ONLY_FIT: list[tuple[dict[str, Any], type, str]] = [
    ({"epochs": -1}, ValueError, "epochs"),
    ({"epochs": 1.5}, TypeError, "epochs"),
    ({"patience": 0}, ValueError, "patience"),
    ({"min_delta": -1}, ValueError, "min_delta"),
    ({"callback": 5}, TypeError, "callback"),
    ({"progress": 1}, TypeError, "progress"),
    ({"restore_best": None}, TypeError, "restore_best"),
    ({"min_delta": float("nan")}, ValueError, "min_delta"),
    ({"validation": 0.0}, ValueError, "validation"),
    ({"validation": 1}, ValueError, "validation"),
    ({"validation": "a"}, TypeError, "validation"),
    ({"validation": (np.ones((2, 6)),)}, ValueError, "validation"),
    ({"validation": (np.ones((2, 6)), [0, 3])}, IndexError, "y must hold"),
    ({"validation": (np.ones((2, 5)), [0, 1])}, ValueError, "X must have"),
    ({"validation": 0.99}, ValueError, "leaves class"),
]


@pytest.mark.parametrize(
    ("call", "given", "error", "text"),
    [("fit_epoch", *c) for c in BAD + ONLY_EPOCH] + [("fit", *c) for c in BAD + ONLY_FIT],
)
def test_bad_arguments_change_nothing(call, given, error, text, target):
    x, y, _ = data()
    mlp = network()
    before = [p.copy() for p in mlp.parameters]
    with pytest.raises(error, match=text):
        getattr(mlp, call)(x, y, **given)
    same(mlp.parameters, before)
    assert mlp.epochs == mlp.batches == 0


def test_an_optimizer_whose_parameters_were_replaced(target):
    x, y, _ = data()
    mlp = network()
    optimizer = il.SGD(mlp.parameters)
    optimizer.param_groups[0]["params"][1] = np.zeros(9, np.float32)
    with pytest.raises(ValueError, match=r"params\[1\] is not"):
        mlp.fit_epoch(x, y, optimizer)


def test_a_refused_prediction_ends_the_epoch_between_two_batches(isa):
    """binary_cross_entropy of numbers outside [0, 1]."""
    x, y, _ = data("binary_cross_entropy")
    mlp = network("binary_cross_entropy")
    for p in mlp.parameters:
        p[...] = 0
    mlp.biases[-1][...] = 0.5
    other = copy.deepcopy(mlp)
    optimizer = il.SGD(mlp.parameters, lr=0.9)  # leads out of [0, 1] soon
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        mlp.fit_epoch(x, y, optimizer, 1, order=np.tile(ORDER, 20))
    assert 0 < optimizer.steps == mlp.batches < 1000
    theirs = il.SGD(other.parameters, lr=0.9)
    other.fit_epoch(x, y, theirs, 1, order=np.tile(ORDER, 20)[: mlp.batches])
    same(mlp.parameters, other.parameters)
