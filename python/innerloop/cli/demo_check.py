"""The demo's first step, held against the NumPy reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import innerloop as il

# Of the largest element of an array. float32 sums of up to 256 products are right to about 1e-6.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Difference:
    """How far one array is from the reference's."""

    name: str
    absolute: float
    relative: float  # to the reference's largest element


def difference(name: str, actual: Any, expected: Any) -> Difference:
    """Compare two arrays, or two numbers. A NaN in either is an infinite difference."""
    wide = np.asarray(expected, np.float64)
    gap = np.abs(np.asarray(actual, np.float64) - wide).max(initial=0.0)
    gap = float(gap) if np.isfinite(gap) else np.inf
    largest = float(np.abs(wide).max(initial=0.0))
    return Difference(name, gap, gap / largest if largest else gap)


def first_step_differences(network: il.MLP, x: NDArray, target: NDArray) -> list[Difference]:
    """Return how far a network's loss and gradients are from the reference's, over a batch."""
    loss, gradients = network.gradients(x, target)
    layers = [
        il.reference.mlp.Layer(w, b, name, parameters)
        for w, b, (name, parameters) in zip(
            network.weights, network.biases, network.activations, strict=True
        )
    ]
    objective = il.reference.mlp.Objective(network.loss)
    expected_loss, expected = il.reference.mlp.loss_and_gradients(layers, objective, x, target)
    names = [f"d{'wb'[i % 2]}{i // 2 + 1}" for i in range(len(expected))]
    return [
        difference("loss", loss, expected_loss),
        *map(difference, names, gradients, expected),
    ]
