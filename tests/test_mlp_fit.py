"""il.MLP trains: an epoch is the loop that it stands for, and epochs stop when they should."""

from __future__ import annotations

import contextlib
import copy
import inspect
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
from mlp_cases import (
    CLASSES,
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
from support import fma_isas

NAMES = ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam"]
NAMES += ["Lion"]
OPTIONS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "nesterov": True},
    "Adam": {"amsgrad": True, "weight_decay": 0.01},
    "RMSprop": {"momentum": 0.5, "centered": True},
}
ORDER = np.random.default_rng(7).permutation(50)


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


def wide(dtype: str = "float32", **given: Any) -> tuple[il.MLP, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((700, 64)).astype(dtype)
    return il.MLP([64, 256, 96, 10], "gelu", dtype=dtype, **given), x, rng.integers(0, 10, 700)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_any_number_of_threads_has_the_same_bits(dtype, restore_threads):
    il.set_num_threads(4)
    results = []
    for threads in (1, 2, 3, None, 2**33):
        for name in fma_isas():
            mlp, x, y = wide(dtype, n_threads=threads, dropout=0.2, l1=0.001, l2=0.001)
            with il.use_isa(name):
                losses = [mlp.fit_epoch(x, y, "adam", batch) for batch in (128, 32)]
            results.append((losses, mlp.parameters, threads))
    for losses, parameters, _ in results:
        assert losses == results[0][0]
        same(parameters, results[0][1])
    mlp, x, y = wide(dtype)
    mlp.fit_epoch(x, y, "adam", 32)
    assert mlp._paces[32].threads in (1, 4)  # chosen by measuring


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_have_the_same_bits_for_any_number_of_threads(dtype, restore_threads):
    results = []
    for threads in (1, 2, 5):
        il.set_num_threads(threads)
        mlp, x, y = wide(dtype, dropout=0.2, l1=0.001, l2=0.001)
        results.append((mlp.gradients(x, y, dropout_offset=3), mlp.evaluate(x, y), mlp.forward(x)))
    for (loss, gradients), value, logits in results[1:]:
        assert loss == results[0][0][0] and value == results[0][1]
        same([*gradients, logits], [*results[0][0][1], results[0][2]])


def test_the_instruction_set_may_change_between_epochs():
    one, x, y = wide()
    by_turns, *_ = wide()
    for name in fma_isas() * 2:
        with il.use_isa(name):
            by_turns.fit_epoch(x, y, "adam", 64)
        with il.use_isa(fma_isas()[0]):
            one.fit_epoch(x, y, "adam", 64)
    same(one.parameters, by_turns.parameters)


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


class Alarm(Exception):
    """What the tests' signal handler raises."""


@pytest.fixture
def alarm() -> Any:
    """Set an alarm, whose handler raises as that of Ctrl-C does."""
    if (
        not hasattr(signal, "setitimer")
        or threading.current_thread() is not threading.main_thread()
    ):
        pytest.skip("needs the main thread and a timer")

    def handler(*_: Any) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, handler)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_ctrl_c_stops_at_a_batch(alarm):
    """Long before the end, with everything at the same batch."""
    x, y, _ = data()
    order = np.tile(ORDER, 40_000)
    mlp, optimizer, other, theirs = twins(network(dropout=0.1), lambda p: il.Adam(p))
    alarm(0.4)
    with pytest.raises(Alarm):
        mlp.fit_epoch(x, y, optimizer, 2, order=order)
    assert 0 < optimizer.steps == mlp.batches < len(order) // 2
    assert mlp.epochs == 0
    other.fit_epoch(x, y, theirs, 2, order=order[: 2 * mlp.batches])
    same(mlp.parameters, other.parameters)
    same(state_of(optimizer), state_of(theirs))
    mlp.fit_epoch(x, y, optimizer, 2)  # and goes on


def test_ctrl_c_at_any_moment(alarm):
    """Between the native call and Python, too: an epoch here is over before it asks."""
    x, y, _ = data()
    order = np.tile(ORDER, 40)
    expected = {}  # weights by batches made
    mlp, optimizer, other, theirs = twins(network(), lambda p: il.SGD(p, lr=0.01))
    stopped = 0
    for attempt in range(60):
        try:
            alarm(0.0002 + attempt % 20 * 0.0004)
            for _ in range(100):
                mlp.fit_epoch(x, y, optimizer, 4, order=order)
        except Alarm:
            stopped += 1
        assert optimizer.steps == mlp.batches
        while theirs.steps + 500 <= optimizer.steps:
            other.fit_epoch(x, y, theirs, 4, order=order)
        if theirs.steps == optimizer.steps:  # it nearly always stops after a whole epoch
            same(mlp.parameters, other.parameters)
            expected[theirs.steps] = True
        else:
            rest = optimizer.steps - theirs.steps
            other.fit_epoch(x, y, theirs, 4, order=order[: 4 * rest])
            same(mlp.parameters, other.parameters)
            break
    assert stopped > 0 and expected


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads as Linux does")
def test_the_number_of_threads_is_kept_to():
    """In a process that has started none yet: every method starts those that it may."""
    code = """
import os, numpy as np, innerloop as il
il.set_num_threads(2)
x, y = np.ones((2048, 256), np.float32), np.zeros(2048, np.int64)
def started(n_threads):
    mlp = il.MLP([256, 256, 10], n_threads=n_threads)
    before = len(os.listdir("/proc/self/task"))
    for call in (mlp.forward, mlp.predict):
        call(x)
    mlp.gradients(x, y), mlp.evaluate(x, y), mlp.fit_epoch(x, y, batch_size=512)
    return len(os.listdir("/proc/self/task")) - before
print(started(1), started(2))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["0", "1"], done.stderr


def test_two_networks_in_two_threads():
    def train(seed: int) -> il.MLP:
        mlp, x, y = wide(seed=seed)
        mlp.fit(x, y, epochs=3, validation=0.2)
        return mlp

    alone = [train(seed).parameters for seed in range(4)]
    together: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda s=seed: together.update({s: train(s)})) for seed in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(4):
        same(together[seed].parameters, alone[seed])


def test_the_gil_is_released():
    """Python counts while an epoch lasts."""
    x, y, _ = data()
    mlp, seen = network(), []
    started, done = threading.Event(), threading.Event()

    def train() -> None:
        started.set()
        mlp.fit_epoch(x, y, "sgd", 4, order=np.tile(ORDER, 5000))
        done.set()

    thread = threading.Thread(target=train)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # nobody hands it over but the native call
    try:
        thread.start()
        started.wait()
        while not done.is_set():
            seen.append(mlp.biases[-1][0])
            done.wait(0.001)
    finally:
        sys.setswitchinterval(before)
        thread.join()
    assert len(set(seen)) > 1  # weights of different batches


@pytest.mark.parametrize("which", ["order", "y"])
def test_indices_that_change_while_they_are_in_use(which):
    """Whatever another thread does to them, nothing is read outside the data."""
    x, y, _ = data()
    order, stop, done = np.tile(ORDER, 4000), threading.Event(), 0
    given = {"order": order, "y": np.tile(y, 1)}
    good = given[which].copy()

    def disturb() -> None:
        while not stop.wait(0.003):
            given[which][:] = 2**40
            given[which][:] = good

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for _ in range(20):
            with contextlib.suppress(IndexError):
                network().fit_epoch(x, given["y"], "sgd", 50, order=order)
                done += 1
    finally:
        stop.set()
        thread.join()
    assert done > 0  # else all were refused before they began


def separable(rows: int = 240) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, 6)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.int64) + (x[:, 1] > 0)


def test_fit_learns(isa):
    x, y = separable()
    mlp = network()
    history = mlp.fit(x, y, optimizer=il.Adam(mlp.parameters, lr=0.02), epochs=30, validation=0.25)
    assert list(history) == ["loss", "val_loss", "val_accuracy"]
    assert [len(v) for v in history.values()] == [30] * 3 and mlp.epochs == 30
    assert history["loss"][-1] < 0.2 * history["loss"][0] and history["val_accuracy"][-1] > 0.9
    assert all(type(v) is float for values in history.values() for v in values)


def test_fit_is_epochs(target):
    x, y, weights = data()
    mlp, optimizer, other, theirs = twins(network(dropout=0.2), lambda p: il.Adam(p))
    history = mlp.fit(x, y, optimizer=optimizer, epochs=3, batch_size=8, sample_weight=weights)
    losses = [other.fit_epoch(x, y, theirs, 8, sample_weight=weights) for _ in range(3)]
    assert history == {"loss": losses}
    same(mlp.parameters, other.parameters)
    assert mlp.fit(x, y, epochs=0) == {}


def test_validation_share(target):
    """Of each class its share, not trained on; a row that is ignored is not judged by."""
    x, y = separable(200)
    y[5] = -100
    mlp = network()
    history = mlp.fit(x, y, epochs=1, validation=0.2)
    other = network()
    train, judge = il._mlp_fit._split(other, y, 0.2)
    assert not set(train) & set(judge) and len(train) + len(judge) == 200 and 5 in train
    for label in range(3):
        assert (y[judge] == label).sum() == round(0.2 * (y == label).sum())
    rng = np.random.Generator(np.random.Philox(key=other.seed))
    loss = other.fit_epoch(x, y, order=train[rng.permutation(len(train))])
    assert history["loss"] == [loss]
    same(mlp.parameters, other.parameters)
    assert history["val_loss"] == [other.evaluate(x[judge], y[judge])]
    assert history["val_accuracy"] == [float((other.predict(x[judge]) == y[judge]).mean())]

    x, y, weights = data("mse_loss")
    mlp = network("mse_loss")
    history = mlp.fit(x, y, epochs=2, validation=0.3, sample_weight=weights)
    _, judge = il._mlp_fit._split(mlp, y, 0.3)
    assert len(judge) == 15 and list(history) == ["loss", "val_loss"]
    value = mlp.evaluate(x[judge], y[judge], sample_weight=weights[judge])
    assert history["val_loss"][-1] == value


def test_validation_by_other_rows(target):
    x, y, _ = data()
    others, labels, _ = data(seed=1)
    labels[:10] = -100
    mlp = network()
    history = mlp.fit(x, y, epochs=2, validation=(others, labels))
    assert history["val_loss"][-1] == mlp.evaluate(others, labels)
    right = mlp.predict(others[10:]) == labels[10:]
    assert history["val_accuracy"][-1] == right.mean()


def test_a_class_that_a_split_leaves_out(target):
    x, y, _ = data()
    y[:] = 0
    y[3] = 1
    with pytest.raises(ValueError, match="leaves class 1 no rows, of 1"):
        network().fit(x, y, validation=0.2)
    with pytest.raises(ValueError, match="needs rows with labels"):
        network().fit(x, np.full(50, -100), validation=0.2)


def overfits() -> tuple[Any, ...]:
    x, y, _ = data(rows=20)
    others, labels, _ = data(rows=40, seed=1)
    mlp = network()
    return mlp, x, y, il.Adam(mlp.parameters, lr=0.05), (others, labels)


def test_patience_and_the_best_weights(isa):
    mlp, x, y, optimizer, judge = overfits()
    kept: list[Any] = []

    def keep(epoch: int, record: dict[str, float]) -> None:
        assert epoch == len(kept) and list(record) == ["loss", "val_loss", "val_accuracy"]
        kept.append([p.copy() for p in mlp.parameters])

    history = mlp.fit(
        *(x, y), optimizer=optimizer, epochs=500, validation=judge, patience=5, callback=keep
    )
    losses = history["val_loss"]
    best = int(np.argmin(losses))
    assert len(losses) == best + 6 < 500
    same(mlp.parameters, kept[best])
    assert mlp.evaluate(*judge) == min(losses)

    mlp, x, y, optimizer, judge = overfits()
    again = mlp.fit(
        *(x, y), optimizer=optimizer, epochs=500, validation=judge, patience=5, restore_best=False
    )
    assert again == history
    same(mlp.parameters, kept[-1])


def test_patience_without_validation_and_min_delta(isa):
    x, y, _ = data()
    mlp = network()
    optimizer = il.SGD(mlp.parameters, lr=1e-6)
    assert len(mlp.fit(x, y, optimizer=optimizer, patience=3, min_delta=0.5)["loss"]) == 4
    x[0] = np.nan  # never better
    history = network().fit(x, y, patience=2)
    assert len(history["loss"]) == 2 and np.isnan(history["loss"]).all()


@pytest.mark.parametrize("stop", [True, np.True_])
def test_a_callback_stops(stop, target):
    x, y, _ = data()
    mlp = network()
    history = mlp.fit(x, y, epochs=9, callback=lambda epoch, record: stop if epoch == 2 else None)
    assert len(history["loss"]) == mlp.epochs == 3
    history = mlp.fit(x, y, epochs=3, callback=lambda epoch, record: "no bool")
    assert len(history["loss"]) == 3


def test_a_callback_that_stops_at_the_best_epoch_keeps_it(isa):
    x, y = separable()
    mlp = network()
    weights: list[Any] = []

    def callback(epoch: int, record: dict[str, float]) -> bool:
        weights[:] = [p.copy() for p in mlp.parameters]
        return epoch == 4

    history = mlp.fit(x, y, epochs=9, patience=9, callback=callback)
    assert history["loss"][-1] == min(history["loss"])
    same(mlp.parameters, weights)


def test_a_callback_that_raises(isa):
    def callback(epoch: int, record: dict[str, float]) -> None:
        raise KeyError("mine")

    x, y, _ = data()
    mlp = network()
    with pytest.raises(KeyError, match="mine"):
        mlp.fit(x, y, callback=callback)
    assert mlp.epochs == 1


def test_schedules_are_told_the_loss(isa):
    told: list[float] = []

    class Plateau:
        def update(self, loss: float) -> None:
            told.append(loss)

        def __call__(self, step: int) -> float:
            return 0.1 / (1 + len(told))

    x, y, _ = data()
    mlp, rate = network(), Plateau()
    groups = [{"params": mlp.parameters[:2]}, {"params": mlp.parameters[2:]}]
    optimizer = il.SGD(groups, lr=rate)
    history = mlp.fit(x, y, optimizer=optimizer, epochs=4, validation=0.2)
    assert told == history["val_loss"]  # once an epoch, of two groups too

    mlp = network()
    rate = schedules.reduce_on_plateau(0.1, patience=0, factor=0.5, threshold=0.99)
    mlp.fit(x, y, optimizer=il.SGD(mlp.parameters, lr=rate), epochs=4)
    assert rate(1) < 0.1


def test_progress(capsys, isa):
    pytest.importorskip("rich")
    x, y, _ = data()
    network().fit(x, y, epochs=2, progress=True, validation=0.2)
    shown = capsys.readouterr().out
    assert "2/2" in shown and "val_loss" in shown
    network().fit(x, y, epochs=2)
    assert capsys.readouterr().out == ""


def test_progress_without_rich(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    x, y, _ = data()
    with pytest.raises(ImportError, match="pip install rich"):
        network().fit(x, y, progress=True)
