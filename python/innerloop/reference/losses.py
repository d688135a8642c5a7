"""Losses of a row of classes, with their gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._precision import loss_dtype, reduce_losses, round_to
from .activations import _shifted, log_softmax

__all__ = ["nll_loss", "softmax_cross_entropy"]


def softmax_cross_entropy(
    logits: NDArray,
    target: NDArray,
    *,
    weight: NDArray | None = None,
    sample_weight: NDArray | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
    axis: int = 1,
    return_grad: bool = False,
    grad_scale: float = 1.0,
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
    logits : array
        The classes lie along `axis`; every other position is a row.
    target : array
        Class labels: integers, shape of logits without `axis`. Or class probabilities: floating
        point, shape of logits.
    weight : array, shape (C,), optional
        A weight for each class.
    sample_weight : array, shape of logits without `axis`, optional
        A weight for each row.
    ignore_index : int, default -100
        Rows with this label have loss 0 and gradient 0, whatever they hold.
    label_smoothing : float, default 0.0
        Share of the target that is spread evenly over the classes, in [0, 1].
    z_loss : float, default 0.0
        Weight of the squared logarithm of the softmax's normaliser: finite, at least 0.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean over labels divides by the sum of the weights of the rows that are not ignored,
        ``weight[label] * sample_weight``; over probabilities, by the sum of the sample weights, or
        the number of rows without them.
    axis : int, default 1
        The class axis; 1 means 0 for 1-D logits.
    return_grad : bool, default False
        Return also the gradient.
    grad_scale : float, default 1.0
        Multiplies the gradient.

    Returns
    -------
    loss : array
        0-d, or the shape of logits without `axis` for ``reduction="none"``.
    dlogits : array, shape of logits
        If `return_grad`: the gradient of the reduced loss (of the sum, for "none").
    """
    axis = 0 if logits.ndim == 1 else axis % logits.ndim
    by_class_last = np.moveaxis(logits, axis, -1).astype(np.float64)
    rows, classes = math.prod(by_class_last.shape[:-1]), by_class_last.shape[-1]
    z = by_class_last.reshape(rows, classes)
    weights = np.ones(classes) if weight is None else weight.astype(np.float64)
    samples = np.ones(rows) if sample_weight is None else sample_weight.astype(np.float64).ravel()
    even = label_smoothing / max(classes, 1)

    with np.errstate(all="ignore"):
        log_p = log_softmax(z)
        if target.dtype.kind in "iu":
            labels = target.astype(np.int64).reshape(rows)
            is_label = labels[:, None] == np.arange(classes)
            ignored = labels == ignore_index
            # Chosen with `where`, not multiplied by 0 and 1: log_p may be -inf in other classes.
            losses = -(1.0 - label_smoothing) * np.where(is_label, weights * log_p, 0.0).sum(-1)
            if label_smoothing > 0.0:
                losses -= even * (weights * log_p).sum(-1)
            q = weights * (np.where(is_label, 1.0 - label_smoothing, 0.0) + even)
            row_weight = samples * np.where(is_label, weights, 0.0).sum(-1)
            count = np.where(ignored, 0.0, row_weight).sum()
        else:
            t = np.moveaxis(target, axis, -1).astype(np.float64).reshape(rows, classes)
            q = weights * ((1.0 - label_smoothing) * t + even)
            losses = -(q * log_p).sum(-1)
            ignored = np.zeros(rows, bool)
            row_weight = samples
            count = samples.sum() if classes else 0  # PyTorch: the mean of no logits is NaN
        losses *= samples
        if z_loss and classes:
            lse = np.log(np.exp(_shifted(z, -1)).sum(-1)) + z.max(-1)
            losses += z_loss * row_weight * lse**2
        losses = np.where(ignored, 0.0, losses)
        loss, scale = reduce_losses(losses, count, reduction)
        if reduction == "none":
            loss = loss.reshape(by_class_last.shape[:-1])
        loss = round_to(loss, loss_dtype(logits.dtype))
        if not return_grad:
            return loss

        p = np.exp(log_p)
        dz = (p * q.sum(-1, keepdims=True) - q) * samples[:, None]
        if z_loss and classes:
            dz += p * (2.0 * z_loss * row_weight * lse)[:, None]
        dz *= scale * grad_scale
        dz = np.where(ignored[:, None], 0.0, dz).reshape(by_class_last.shape)
        return loss, round_to(np.moveaxis(dz, -1, axis), logits.dtype)


def nll_loss(
    log_probs: NDArray,
    target: NDArray,
    *,
    weight: NDArray | None = None,
    sample_weight: NDArray | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    axis: int = 1,
    return_grad: bool = False,
    grad_scale: float = 1.0,
) -> Any:
    """Negative log-likelihood of class labels, given the classes' log-probabilities.

    Formula: ``-weight[label] * sample_weight * log_probs[label]`` for each row; the gradient is
    ``-weight[label] * sample_weight`` at the label, and 0 elsewhere.

    Source: as `torch.nn.functional.nll_loss`.

    Parameters
    ----------
    log_probs : array
        The classes lie along `axis`; every other position is a row.
    target : array of integers, shape of log_probs without `axis`
        Class labels.
    weight : array, shape (C,), optional
        A weight for each class.
    sample_weight : array, shape of target, optional
        A weight for each row.
    ignore_index : int, default -100
        Rows with this label have loss 0 and gradient 0, whatever they hold.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean divides by the sum of the weights of the rows that are not ignored.
    axis : int, default 1
        The class axis; 1 means 0 for 1-D `log_probs`.
    return_grad : bool, default False
    grad_scale : float, default 1.0

    Returns
    -------
    loss : array
        0-d, or the shape of `target` for ``reduction="none"``.
    gradient : array, shape of log_probs
        If `return_grad`: of the reduced loss (of the sum, for "none"), times `grad_scale`.
    """
    axis = 0 if log_probs.ndim == 1 else axis % log_probs.ndim
    x = np.moveaxis(log_probs, axis, -1).astype(np.float64)
    classes = np.arange(x.shape[-1])
    labels = target.astype(np.int64)
    is_label = (labels[..., None] == classes) & (labels != ignore_index)[..., None]
    weights = np.ones(len(classes)) if weight is None else weight.astype(np.float64)
    samples = np.ones(1) if sample_weight is None else sample_weight.astype(np.float64)[..., None]
    with np.errstate(all="ignore"):
        w = np.where(is_label, weights * samples, 0.0)
        losses = -np.where(is_label, w * x, 0.0).sum(-1)
        loss, scale = reduce_losses(losses, w.sum(), reduction)
        gradient = np.where(is_label, -w * (scale * grad_scale), 0.0)
    loss = round_to(loss, loss_dtype(log_probs.dtype))
    if not return_grad:
        return loss
    return loss, round_to(np.moveaxis(gradient, -1, axis), log_probs.dtype)
