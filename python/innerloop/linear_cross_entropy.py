"""The last layer of a classifier and its loss in one call, without the logits in memory."""

from __future__ import annotations

from typing import Any

from . import _core

__all__ = ["linear_cross_entropy"]


def linear_cross_entropy(
    x: Any,
    w: Any,
    target: Any,
    b: Any = None,
    *,
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
    return_grad: bool = False,
    grad_scale: float = 1.0,
    out: tuple[Any, Any, Any] | None = None,
) -> Any:
    """Cross-entropy of softmax(x @ w + b) against class labels or class probabilities.

    Formula: ``softmax_cross_entropy(linear(x, w, b), target)`` over the last axis, and its
    gradients as of `linear_backward`; in float32 and float64 with the same bits. The logits are
    made, turned into their gradient and used up a few rows at a time, so that beyond inputs and
    gradients a call takes at most 64 MB, whatever the number of rows and classes.

    Parameters
    ----------
    x : array, shape (..., K), float32, float64, bfloat16 or float16
        Any strides.
    w : array, shape (K, C), dtype of x
        Any strides: of a weight stored as (C, K), pass ``weight.T``.
    target : array
        Class labels: any integer dtype, the shape of x without its last axis. Or class
        probabilities: dtype of x, shape (..., C).
    b : array, shape (C,), dtype of x, optional
    weight : array, shape (C,), dtype of x or of the loss, optional
        A weight for each class.
    sample_weight : array, the shape of x without its last axis, dtype as weight, optional
        A weight for each row.
    ignore_index, label_smoothing, z_loss, reduction, grad_scale
        As in `softmax_cross_entropy`.
    return_grad : bool, default False
        Return also the gradients of the reduced loss (of the sum, for "none").
    out : tuple (dx, dw, db) of arrays or None, optional
        Where to write each gradient, in any layout; None for a fresh array. They may not overlap
        one another or an input. Needs `return_grad`.

    Returns
    -------
    loss : scalar or array, dtype of x, or float32 for half precision
        0-d, or of the shape of x without its last axis for ``reduction="none"``.
    dx : array, shape (..., K)
    dw : array, shape (K, C)
    db : array, shape (C,), or None without `b`
        The three as a tuple, if `return_grad`.

    Raises
    ------
    TypeError
        If an argument is not an array, or has the wrong dtype.
    ValueError
        If shapes do not fit, a parameter is out of its range or NaN, `out` comes without
        `return_grad`, or an array of it is read-only or overlaps another.
    IndexError
        If a label is neither in [0, C) nor `ignore_index`. Nothing has been written then.
    """
    return _core.linear_cross_entropy(
        x,
        w,
        target,
        b,
        weight,
        sample_weight,
        ignore_index,
        label_smoothing,
        z_loss,
        reduction,
        return_grad,
        grad_scale,
        out,
    )
