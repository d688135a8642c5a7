"""il.MLP among threads and instruction sets: the same bits for any of them; Ctrl-C; the GIL."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
from mlp_cases import ORDER, data, network, same, state_of, twins

import innerloop as il
from support import fma_isas


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
