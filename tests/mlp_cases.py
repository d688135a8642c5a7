"""What the tests of il.MLP share: losses with the outputs that fit them, data, and plain loops."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

import innerloop as il
from innerloop.reference import LOSSES

CLASSES = "softmax_cross_entropy"
# Each loss beside the output activations that fit it; a loss that is added is tested with these.
OUTPUTS = {
    CLASSES: ("identity",),
    "binary_cross_entropy": ("sigmoid", "hardsigmoid"),
    "binary_cross_entropy_with_logits": ("identity",),
    "mse_loss": ("identity", "tanh", "sigmoid", "relu", "gelu"),
}
PAIRS = [
    (loss, output)
    for loss in (CLASSES, *LOSSES)
    for output in OUTPUTS.get(loss, ("identity", "softplus"))
]
SIZES = [6, 9, 5, 3]
ORDER = np.random.default_rng(7).permutation(50)


def data(loss: str = CLASSES, rows: int = 50, dtype: str = "float32", seed: int = 0) -> Any:
    """X, y and sample weights; the targets of numbers lie in (0, 1)."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, SIZES[0])).astype(dtype)
    if loss == CLASSES:
        y = rng.integers(0, SIZES[-1], rows)
    else:
        y = rng.uniform(0.05, 0.95, (rows, SIZES[-1])).astype(dtype)
    return x, y, rng.uniform(0.5, 2.0, rows).astype(dtype)


def network(loss: str = CLASSES, **given: Any) -> il.MLP:
    given = {"activation": ["gelu", "tanh"], "seed": 3} | given
    made = il.MLP(SIZES, loss=loss, **given)
    for i, b in enumerate(made.biases):
        b[...] = np.random.default_rng(i).normal(size=b.shape) / 4
    return made


def batches(order: Any, size: int) -> list[np.ndarray]:
    return [np.asarray(order)[i : i + size] for i in range(0, len(order), size)]


def train_by_gradients(
    mlp: il.MLP, optimizer: Any, x: Any, y: Any, order: Any, size: int, weights: Any = None
) -> float:
    """An epoch as a Python loop over `gradients` and `step`."""
    total, parameters = 0.0, mlp.parameters
    places = [next(i for i, p in enumerate(parameters) if p is q) for q in optimizer.params]
    for rows in batches(order, size):
        loss, gradients = mlp.gradients(
            *(x[rows], y[rows]),
            sample_weight=None if weights is None else weights[rows],
            dropout_offset=mlp.batches * len(mlp.weights),
        )
        optimizer.step([gradients[i] for i in places])
        mlp.batches += 1
        total += loss * len(rows)
    return total / len(order)


def twins(mlp: il.MLP, make: Any) -> tuple[Any, Any, Any, Any]:
    """A network and a copy, each with its optimizer."""
    other = copy.deepcopy(mlp)
    return mlp, make(mlp.parameters), other, make(other.parameters)


def same(a: Any, b: Any) -> None:
    """Two lists of arrays hold the same bits."""
    assert len(a) == len(b)
    for p, q in zip(a, b, strict=True):
        assert p.dtype == q.dtype
        np.testing.assert_array_equal(p, q)


def state_of(optimizer: Any) -> list[np.ndarray]:
    return [np.asarray(v) for v in optimizer.state_dict().values()]
