"""il.MLP.fit: epochs, which stop when they should."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from mlp_cases import data, network, same, twins

import innerloop as il
from innerloop import schedules


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
