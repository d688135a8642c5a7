"""The demo's first step, held against the NumPy reference."""

from __future__ import annotations

from collections.abc import Callable
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


def first_step_differences(
    step: Callable[..., tuple[float, list[NDArray]]],
    parameters: list[NDArray],
    x: NDArray,
    target: NDArray,
) -> list[Difference]:
    """Return how far innerloop's loss and gradients are from the reference's.

    Parameters
    ----------
    step : callable
        ``step(library, parameters, x, target) -> (loss, gradients)``. The reference is called
        directly: a package of its own that never calls the native code.
    parameters : list of arrays
        Weights and biases, by turns.
    x, target : array
        A batch.
    """
    loss, gradients = step(il, parameters, x, target)
    expected_loss, expected = step(il.reference, parameters, x, target)
    names = [f"d{'wb'[i % 2]}{i // 2 + 1}" for i in range(len(expected))]
    return [
        difference("loss", loss, expected_loss),
        *map(difference, names, gradients, expected),
    ]
