"""How `innerloop.MLP` trains: an epoch, and epochs until they no longer help."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import _core, optimizers, reference
from . import _numbers as numbers
from ._arrays import to_numpy

if TYPE_CHECKING:
    from .mlp import MLP

History = dict[str, list[float]]


@dataclass
class Pace:
    """How many threads train batches of one size, and by what they were chosen.

    Attributes
    ----------
    threads : int
        0 before the first choice: all.
    seconds : tuple of float
        The fastest batch so far on one thread, and on all.
    epochs : int
        Trained since. After 1, 2, 4, 8 and each further 16 the choice is made again, as another
        process, or another library's threads that still spin, may have been in the way.
    """

    threads: int = 0
    seconds: tuple[float, float] = (math.inf, math.inf)
    epochs: int = 0

    def is_due(self, begins: bool) -> bool:
        """Whether to judge anew, at an epoch's beginning."""
        self.epochs += begins
        again = self.epochs & (self.epochs - 1) == 0 or self.epochs % 16 == 0
        return self.threads == 0 or (begins and again)


def optimizer_of(network: MLP, wanted: Any) -> optimizers.Optimizer:
    """The optimizer to go on with, which is over the network's own arrays."""
    if wanted is None:
        wanted = "adam" if network.optimizer is None else network.optimizer
    if isinstance(wanted, str):
        classes = {name: entry.class_name for name, entry in reference.OPTIMIZERS.items()}
        cls = getattr(optimizers, classes[numbers.one_of(*classes)(wanted, "optimizer")])
        goes_on = type(network.optimizer) is cls
        wanted = network.optimizer if goes_on else cls(network.parameters)
    if not isinstance(wanted, optimizers.Optimizer):
        raise TypeError(f"optimizer must be one, or its name, got {type(wanted).__name__}")
    own = {id(p) for p in network.parameters}
    for i, param in enumerate(wanted.params):
        if id(param) not in own:
            raise ValueError(f"optimizer must be over the network's parameters, params[{i}] is not")
    network.optimizer = wanted
    return wanted


def order_of(network: MLP, rows: int, shuffle: bool, given: Any) -> NDArray[np.int64] | None:
    """The rows of an epoch; None: as they come."""
    if given is None:
        if not shuffle:
            return None
        key = np.array([network.seed, network.epochs], np.uint64)  # of a number: 12 us more
        return np.random.Generator(np.random.Philox(key=key)).permutation(rows)
    listed = isinstance(given, (list, tuple, range))
    # A copy, which nobody changes while it is in use.
    order = np.array(given if listed else to_numpy(given, "order"), order="C")
    if order.dtype.kind not in "iu" or order.ndim != 1:
        raise TypeError(f"order must be one axis of integers, got {order.dtype}, {order.shape}")
    if not len(order):
        raise ValueError("order must name at least one row, got none")
    bad = order[(order < 0) | (order >= rows)]
    if len(bad):
        raise IndexError(f"order must hold indices of the {rows} rows of X, got {bad[0]}")
    return order.astype(np.int64, copy=False)


Data = tuple[NDArray, NDArray, NDArray | None]  # X, targets, weights of the rows


def _some(data: Data, rows: Any) -> Data:
    x, target, weights = data
    return x[rows], target[rows], None if weights is None else weights[rows]


def _count(data: Data, order: NDArray[np.int64] | None) -> int:
    return len(data[0]) if order is None else len(order)


def epoch(
    network: MLP,
    optimizer: optimizers.Optimizer,
    x: NDArray,
    target: NDArray,
    weights: NDArray | None,
    order: NDArray[np.int64] | None,
    batch: int,
) -> float:
    """Train on the rows of `order`, or all of them; return the mean of their batches' losses."""
    if network._gradients is None:
        network._gradients = [np.empty_like(p) for p in network.parameters]
    places = {id(p): i for i, p in enumerate(network.parameters)}
    stepped = [network._gradients[places[id(p)]] for p in optimizer.params]
    data: Data = (x, target, weights)
    rows = _count(data, order)
    if _core.backend() == "reference":
        network._network.check_labels(target)  # of all batches, before the first is learnt from
        return _by_reference(network, optimizer, stepped, data, order, batch) / rows
    done, total = 0, 0.0
    while done < rows:  # again where a step's numbers use other states than those before
        rest = data if order is not None else _some(data, slice(done, None))
        some = None if order is None else order[done:]
        loss, count = _natively(network, optimizer, stepped, rest, some, batch, done == 0)
        total += loss
        done += count
    return total / rows


def _natively(
    network: MLP,
    optimizer: optimizers.Optimizer,
    stepped: list[NDArray],
    data: Data,
    order: NDArray[np.int64] | None,
    batch: int,
    begins: bool,
) -> tuple[float, int]:
    """Train in one call; return the sum of loss * rows, and the rows that it came to."""
    private: Any = optimizer  # whose methods in underscores the stubs leave out
    following = private._numbers_of(-(-_count(data, order) // batch))
    pace = network._paces.setdefault(batch, Pace())
    judges = network.n_threads is None and pace.is_due(begins)
    report: list[tuple[float, int, int, float | None, int, tuple[float, float]]] = []
    try:
        network._network.epoch(
            *(*data, order, batch, network._gradients, private._arguments(stepped)),
            *(following, network.batches * len(network.weights)),
            *((network.n_threads or pace.threads, judges, pace.seconds), report),
        )
    finally:  # Ctrl-C may come between a call and what would be made of its result
        if report:
            loss, count, steps, optimizer.grad_norm, threads, pace.seconds = report[0]
            optimizer.steps += steps
            network.batches += steps
            pace.threads = threads or pace.threads
    return loss, count


def _by_reference(
    network: MLP,
    optimizer: optimizers.Optimizer,
    stepped: list[NDArray],
    data: Data,
    order: NDArray[np.int64] | None,
    batch: int,
) -> float:
    """Train batch by batch; return the sum of loss * rows."""
    total, rows = 0.0, _count(data, order)
    for begin in range(0, rows, batch):
        at = slice(begin, min(begin + batch, rows))
        offset = network.batches * len(network.weights)
        some = _some(data, at if order is None else order[at])
        total += network._loss(*some, network._gradients, offset) * (at.stop - begin)
        optimizer.step(stepped)
        network.batches += 1
    return total


def _split(network: MLP, target: NDArray, share: float) -> tuple[NDArray, NDArray]:
    """Indices to train on and to judge by: of labels, of each class its share."""
    if not 0.0 < share < 1.0:
        raise ValueError(f"validation must lie in (0, 1), got {share!r}")
    rng = np.random.default_rng([network.seed, 1])
    groups, train = [np.arange(len(target))], []
    judge: list[NDArray] = []
    if target.ndim == 1:
        labels = np.unique(target)
        groups = [np.flatnonzero(target == label) for label in labels[labels != -100]]
        train = [np.flatnonzero(target == -100)]  # ignored
    for group in groups:
        mixed = rng.permutation(group)
        held = max(round(share * len(mixed)), 1)
        if held >= len(mixed):
            what = f"class {target[group[0]]}" if target.ndim == 1 else "training"
            raise ValueError(f"validation={share} leaves {what} no rows, of {len(mixed)}")
        judge.append(mixed[:held])
        train.append(mixed[held:])
    if not judge:
        raise ValueError(f"validation={share} needs rows with labels, got none")
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(judge))


def _judged(network: MLP, validation: Any, data: Data) -> tuple[NDArray | None, Data | None]:
    """Which rows to train on (None: all), and what to judge by."""
    if validation is None:
        return None, None
    if isinstance(validation, tuple):
        if len(validation) != 2:
            raise ValueError(f"validation must be (X, y), got a tuple of {len(validation)}")
        others = network._data(*validation, None)
        network._network.check_labels(others[1])
        return None, others
    train, judge = _split(network, data[1], numbers.number(validation, "validation"))
    return train, _some(data, judge)


def fit(
    network: MLP,
    X: Any,
    y: Any,
    optimizer: Any,
    batch_size: int,
    epochs: int,
    sample_weight: Any,
    shuffle: bool,
    validation: Any,
    patience: int | None,
    min_delta: float,
    restore_best: bool,
    callback: Callable[[int, dict[str, float]], Any] | None,
    progress: bool,
) -> History:
    """Do as `MLP.fit` says."""
    data = network._data(X, y, sample_weight)
    epochs = numbers.count(epochs, "epochs")
    shuffle = numbers.boolean(shuffle, "shuffle")
    progress = numbers.boolean(progress, "progress")
    restore_best = numbers.boolean(restore_best, "restore_best")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be a function, got {callback!r}")
    batch_size = numbers.steps(batch_size, "batch_size")
    min_delta = numbers.not_negative(min_delta, "min_delta")
    if patience is not None:
        patience = numbers.steps(patience, "patience")
    train, judge = _judged(network, validation, data)
    chosen = optimizer_of(network, optimizer)
    values = [v for g in chosen.param_groups for k, v in g.items() if k != "params"]
    values += [chosen.max_norm, chosen.grad_scale]
    schedules = {id(v): v for v in values if hasattr(v, "update")}.values()  # each once
    history: History = {}
    best, since = np.inf, 0
    kept: list[NDArray] = []
    count = len(data[0]) if train is None else len(train)
    with _bar(epochs, progress) as show:
        for number in range(epochs):
            order = order_of(network, count, shuffle, None)
            if train is not None:
                order = train if order is None else train[order]
            record = {"loss": epoch(network, chosen, *data, order, min(batch_size, count))}
            network.epochs += 1
            if judge is not None:
                record["val_loss"] = network._loss(*judge, None, None)
                if judge[1].ndim == 1:
                    counted = judge[1] != -100
                    right: NDArray = (network.predict(judge[0]) == judge[1])[counted]
                    record["val_accuracy"] = float(right.mean()) if len(right) else np.nan
            for name, value in record.items():
                history.setdefault(name, []).append(value)
            show(record)
            judged = record.get("val_loss", record["loss"])
            for schedule in schedules:
                schedule.update(judged)
            if judged < best - min_delta:
                best, since = judged, 0
                if patience is not None and restore_best:
                    kept = [p.copy() for p in network.parameters]
            else:
                since += 1
            stops = False if callback is None else callback(number, dict(record))
            if (isinstance(stops, (bool, np.bool_)) and stops) or since == patience:
                break
    for to, saved in zip(network.parameters, kept, strict=False):
        to[...] = saved
    return history


@contextlib.contextmanager
def _bar(epochs: int, wanted: bool) -> Any:
    """A function that shows each epoch's record."""
    if not wanted:
        yield lambda record: None
        return
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    except ImportError as error:
        raise ImportError("progress=True needs the package rich: pip install rich") from error
    columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}")
    with Progress(*columns) as bar:
        task = bar.add_task("", total=epochs, text="")

        def show(record: dict[str, float]) -> None:
            bar.update(task, advance=1, text=", ".join(f"{k} {v:.4f}" for k, v in record.items()))

        yield show
