"""Losses that compare two arrays element by element.

To add one, write here its loss and its slope, nothing else:

    @elementwise_loss()
    def name(pred, target, parameter=default):
        return loss, slope

where slope is the derivative of the loss by `pred`. The signature gives the parameters and their
defaults (None: a third array, which broadcasts to the others), its docstring is the public one.
Weights and reductions are the decorator's business. Values at kinks and
limits are PyTorch's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .registry import LOSSES as LOSSES
from .registry import elementwise_loss

Pair = tuple[NDArray, NDArray]


@elementwise_loss()
def mse_loss(pred: NDArray, target: NDArray) -> Pair:
    """Squared error.

    Formula: ``(pred - target)**2``.
    """
    d = pred - target
    return d**2, 2.0 * d


def _sign(x: NDArray) -> NDArray:
    """1, -1, or 0; 0 for NaN."""
    return (x > 0.0).astype(np.float64) - (x < 0.0)


@elementwise_loss()
def l1_loss(pred: NDArray, target: NDArray) -> Pair:
    """Absolute error.

    Formula: ``|pred - target|``; its gradient at 0 is 0.
    """
    d = pred - target
    return np.abs(d), _sign(d)


@elementwise_loss()
def smooth_l1_loss(pred: NDArray, target: NDArray, beta: float = 1.0) -> Pair:
    """Absolute error, squared near 0.

    Formula: ``d**2 / (2 * beta) where |d| < beta, else |d| - beta / 2``, with
    ``d = pred - target`` and `beta` at least 0; ``beta=0`` is `l1_loss`.

    Source: R. Girshick, "Fast R-CNN", ICCV 2015, equation 3.
    """
    d = pred - target
    if beta == 0.0:
        return np.abs(d), _sign(d)
    far = np.abs(d) >= beta
    return (
        np.where(far, np.abs(d) - beta / 2.0, d * d / (2.0 * beta)),
        np.where(far, _sign(d), d / beta),
    )


@elementwise_loss()
def huber_loss(pred: NDArray, target: NDArray, delta: float = 1.0) -> Pair:
    """Squared error, linear beyond a distance.

    Formula: ``d**2 / 2 where |d| < delta, else delta * (|d| - delta / 2)``, with
    ``d = pred - target`` and `delta` above 0.

    Source: P. Huber, "Robust estimation of a location parameter", Annals of Mathematical
    Statistics 35, 1964.
    """
    d = pred - target
    far = np.abs(d) >= delta
    return (
        np.where(far, delta * (np.abs(d) - delta / 2.0), d * d / 2.0),
        np.where(far, delta * _sign(d), d),
    )


@elementwise_loss()
def binary_cross_entropy(pred: NDArray, target: NDArray) -> Pair:
    """Cross-entropy of probabilities of one of two classes.

    Formula: ``-(target * log(pred) + (1 - target) * log(1 - pred))``, logarithms being -100 at
    least; the gradient is ``(pred - target) / max(pred * (1 - pred), 1e-12)``. `pred` must lie in
    [0, 1]; `target` is not checked for its range.

    Source: as `torch.nn.functional.binary_cross_entropy`.
    """
    log_pred = np.maximum(np.log(pred), -100.0)
    log_rest = np.maximum(np.log1p(-pred), -100.0)
    loss = -(target * log_pred + (1.0 - target) * log_rest)
    return loss, (pred - target) / np.maximum(pred * (1.0 - pred), 1e-12)


@elementwise_loss()
def binary_cross_entropy_with_logits(
    pred: NDArray, target: NDArray, pos_weight: NDArray | None = None
) -> Pair:
    """Cross-entropy of sigmoid(pred), of one of two classes, without forming the sigmoid.

    Formula: ``-(pos_weight * target * log(s) + (1 - target) * log(1 - s))``, where
    ``s = 1 / (1 + exp(-pred))``; `pos_weight` weighs the positive class, and broadcasts to
    `target`. The gradient is ``(1 + (pos_weight - 1) * target) * s - pos_weight * target``.

    Source: as `torch.nn.functional.binary_cross_entropy_with_logits`.
    """
    p = 1.0 if pos_weight is None else pos_weight
    # -log(s) = log(1 + exp(-pred)) and -log(1 - s) = pred - log(s), without overflow.
    minus_log_s = np.maximum(-pred, 0.0) + np.log1p(np.exp(-np.abs(pred)))
    s = np.where(pred >= 0.0, 1.0, np.exp(-np.abs(pred))) / (1.0 + np.exp(-np.abs(pred)))
    w = 1.0 + (p - 1.0) * target
    return (1.0 - target) * pred + w * minus_log_s, w * s - p * target


@elementwise_loss(batchmean=True)
def kl_div(pred: NDArray, target: NDArray, log_target: bool = False) -> Pair:
    """Terms of the Kullback-Leibler divergence of `target` from `pred`, given as logarithms.

    Formula: ``target * (log(target) - pred)``, 0 * log(0) being 0; where `log_target` says that
    `target` holds logarithms too, ``exp(target) * (target - pred)``.

    Source: S. Kullback and R. Leibler, "On information and sufficiency", Annals of Mathematical
    Statistics 22, 1951; otherwise as `torch.nn.functional.kl_div`.
    """
    if log_target:
        return np.exp(target) * (target - pred), -np.exp(target)
    t_log_t = np.where(target == 0.0, 0.0, target * np.log(target))
    return t_log_t - target * pred, -target


@elementwise_loss()
def poisson_nll_loss(
    pred: NDArray, target: NDArray, log_input: bool = True, full: bool = False, eps: float = 1e-8
) -> Pair:
    """Negative log-likelihood of counts from a Poisson distribution.

    Formula: ``exp(pred) - target * pred``, the mean being ``exp(pred)``; without `log_input` it is
    `pred` itself, ``pred - target * log(pred + eps)``. Left out is ``log(target!)``, unless `full`
    adds Stirling's ``target * log(target) - target + log(2 * pi * target) / 2`` where target > 1.

    Source: as `torch.nn.functional.poisson_nll_loss`.
    """
    if log_input:
        loss, slope = np.exp(pred) - target * pred, np.exp(pred) - target
    else:
        loss = pred - target * np.log(pred + eps)
        slope = 1.0 - target / (pred + eps)
    if full:
        stirling = target * np.log(target) - target + 0.5 * np.log(2.0 * np.pi * target)
        loss = loss + np.where(target > 1.0, stirling, 0.0)
    return loss, slope
