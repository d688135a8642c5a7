"""How the reference computes: in float64, rounded once at the end.

That makes it slow and simple, and close enough to the exact result to judge a float32 kernel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["in_float64", "loss_dtype", "reduce_losses", "round_to"]


def round_to(values: Any, dtype: DTypeLike) -> NDArray:
    """Return a new C-ordered array of `values` rounded to `dtype` (overflow gives inf, quietly)."""
    with np.errstate(all="ignore"):
        return np.array(values, dtype=dtype, order="C")


def loss_dtype(dtype: DTypeLike) -> np.dtype:
    """Type of a loss over arrays of `dtype`: the compute type, float64 or else float32."""
    return np.dtype(np.float64 if np.dtype(dtype) == np.float64 else np.float32)


def reduce_losses(losses: NDArray, count: Any, reduction: str) -> tuple[NDArray, Any]:
    """Reduce losses, and say what each one's gradient is to be multiplied by.

    `count` is what "mean" divides by: the number of losses, or the sum of their weights. Where it
    is 0 the mean is 0 / 0 = NaN, as in PyTorch.
    """
    if reduction in ("mean", "batchmean"):
        return np.divide(losses.sum(), count), np.divide(1.0, count)
    return (losses if reduction == "none" else losses.sum()), 1.0


def in_float64(function: Callable[..., Any]) -> Callable[..., NDArray]:
    """Let `function` be written for float64 alone.

    Every array argument reaches it as float64, NumPy's floating-point warnings are off (NaN and
    infinity are results, not accidents), and its result is rounded to the type of the first array.
    """

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> NDArray:
        def widen(value: Any) -> Any:
            return value.astype(np.float64) if isinstance(value, np.ndarray) else value

        arrays = [v for v in (*args, *kwargs.values()) if isinstance(v, np.ndarray)]
        with np.errstate(all="ignore"):
            result = function(
                *(widen(v) for v in args), **{name: widen(v) for name, v in kwargs.items()}
            )
        return round_to(result, arrays[0].dtype)

    return wrapper
