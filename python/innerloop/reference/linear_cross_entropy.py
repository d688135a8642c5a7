"""Softmax cross-entropy of a linear layer's output, as the composition that it is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._precision import loss_dtype, round_to
from .linear import linear, linear_backward
from .losses import softmax_cross_entropy

__all__ = ["linear_cross_entropy"]


def linear_cross_entropy(
    x: NDArray,
    w: NDArray,
    target: NDArray,
    b: NDArray | None = None,
    *,
    weight: NDArray | None = None,
    sample_weight: NDArray | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
    return_grad: bool = False,
    grad_scale: float = 1.0,
) -> Any:
    """Cross-entropy of softmax(x @ w + b) against class labels or class probabilities.

    Formula: ``softmax_cross_entropy(linear(x, w, b), target)`` over the last axis, in float64
    throughout, and its gradients as of `linear_backward`.

    Parameters
    ----------
    x : array, shape (..., K)
    w : array, shape (K, C)
    target : array
        Class labels, the shape of x without its last axis; or probabilities, shape (..., C).
    b : array, shape (C,), optional
    weight : array, shape (C,), optional
        A weight for each class.
    sample_weight : array, the shape of x without its last axis, optional
        A weight for each row.
    ignore_index, label_smoothing, z_loss, reduction, grad_scale
        As in `softmax_cross_entropy`.
    return_grad : bool, default False
        Return also the gradients.

    Returns
    -------
    loss : array
        0-d, or the shape of x without its last axis for ``reduction="none"``.
    gradients : tuple (dx, dw, db)
        If `return_grad`; db is None without `b`.
    """

    def wide(a: Any) -> Any:
        return None if a is None or a.dtype.kind in "iu" else a.astype(np.float64)

    logits = linear(wide(x), wide(w), wide(b))
    loss, dlogits = softmax_cross_entropy(
        logits,
        target if target.dtype.kind in "iu" else wide(target),
        weight=wide(weight),
        sample_weight=wide(sample_weight),
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        reduction=reduction,
        axis=-1,
        return_grad=True,
        grad_scale=grad_scale,
    )
    loss = round_to(loss, loss_dtype(x.dtype))
    if not return_grad:
        return loss
    dx, dw, db = linear_backward(dlogits, wide(x), wide(w))
    rounded = (round_to(dx, x.dtype), round_to(dw, w.dtype))
    return loss, (*rounded, None if b is None else round_to(db, w.dtype))
