"""Losses: the value and, where asked for, its gradient from one pass over memory."""

from __future__ import annotations

from typing import Any

from . import _core

__all__ = ["softmax_cross_entropy"]


def softmax_cross_entropy(
    logits: Any,
    target: Any,
    *,
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
    axis: int = 1,
    return_grad: bool = False,
    grad_scale: float = 1.0,
    out: Any = None,
) -> Any:
    """Cross-entropy of softmax(logits) against class labels or class probabilities.

    Formula: a row z of C logits with target probabilities t has the loss
    ``-sum(q * log_softmax(z))``, where ``q = weight * ((1 - label_smoothing) * t +
    label_smoothing / C)``, and the gradient ``softmax(z) * sum(q) - q``. A label is the t that is
    1 at its class and 0 elsewhere. `z_loss` adds ``z_loss * lse**2``, weighted as the row is, where
    ``lse = log(sum(exp(z)))``, and to the gradient ``2 * z_loss * lse * softmax(z)``. The row's
    weight is that of its label times its sample weight, and multiplies both parts.

    Source: C. Szegedy et al., "Rethinking the Inception architecture for computer vision",
    CVPR 2016, section 7 (label smoothing); A. Chowdhery et al., "PaLM: scaling language modeling
    with pathways", arXiv:2204.02311, section 5 (z_loss); otherwise as
    `torch.nn.functional.cross_entropy`.

    Parameters
    ----------
    logits : array, float32 or float64, of one axis or more
        The classes lie along `axis`; every other position is a row.
    target : array
        Class labels: any integer dtype, shape of logits without `axis`. Or class probabilities:
        dtype and shape of logits; they are not checked for their range.
    weight : array, shape (C,), dtype of logits, optional
        A weight for each class.
    sample_weight : array, shape of logits without `axis`, dtype of logits, optional
        A weight for each row. Any number: one of 0 still lets NaN through, as 0 * NaN does;
        `ignore_index` does not.
    ignore_index : int, default -100
        Rows with this label have loss 0 and gradient 0, whatever they hold.
    label_smoothing : float, default 0.0
        Share of the target that is spread evenly over the classes, in [0, 1].
    z_loss : float, default 0.0
        Weight of the squared logarithm of the softmax's normaliser: finite, at least 0.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean over labels divides by the sum of the weights of the rows that are not ignored,
        ``weight[label] * sample_weight``; over probabilities, by the sum of the sample weights, or
        the number of rows without them. Where that is 0, as with no rows or all of them ignored,
        the mean is NaN.
    axis : int, default 1
        The class axis; 1 means 0 for 1-D logits.
    return_grad : bool, default False
        Return also the gradient of the reduced loss (of the sum, for "none").
    grad_scale : float, default 1.0
        Multiplies the gradient.
    out : array of logits' shape and dtype, optional
        Where to write the gradient; may be `logits`. Needs `return_grad`.

    Returns
    -------
    loss : scalar or array, dtype of logits
        0-d, or of the shape of logits without `axis` for ``reduction="none"``.
    dlogits : array of logits' shape and dtype
        If `return_grad`.

    Raises
    ------
    TypeError
        If an argument is not an array, or has the wrong dtype.
    ValueError
        If shapes do not fit, a parameter is out of its range or NaN, `out` comes without
        `return_grad`, is read-only, overlaps `target` or a weight, or overlaps `logits` without
        being them.
    IndexError
        If a label is neither in [0, C) nor `ignore_index`. Nothing has been written then.
    """
    return _core.softmax_cross_entropy(
        logits,
        target,
        weight,
        sample_weight,
        ignore_index,
        label_smoothing,
        z_loss,
        reduction,
        axis,
        return_grad,
        grad_scale,
        out,
    )
