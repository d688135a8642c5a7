"""Normalisation: layer_norm and rms_norm along the last axis, batch_norm along all but axis 1."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._precision import loss_dtype, round_to

__all__ = [
    "batch_norm",
    "batch_norm_backward",
    "layer_norm",
    "layer_norm_backward",
    "rms_norm",
    "rms_norm_backward",
]


def _wide(a: NDArray | None, otherwise: float) -> Any:
    return otherwise if a is None else a.astype(np.float64)


def _result(y: Any, saved: Any, x: NDArray, return_saved: bool) -> Any:
    y = round_to(y, x.dtype)
    return (y, round_to(saved, loss_dtype(x.dtype))) if return_saved else y


def _moments(x: NDArray, axes: int | tuple[int, ...]) -> tuple[NDArray, NDArray]:
    """Mean and mean squared deviation over axes, which are kept with length 1; NaN over nothing."""
    n = np.divide(x.size, np.mean(x, axis=axes, keepdims=True).size) if x.size else np.nan
    mean = x.sum(axis=axes, keepdims=True) / n
    return mean, ((x - mean) ** 2).sum(axis=axes, keepdims=True) / n


def layer_norm(
    x: NDArray,
    weight: NDArray | None = None,
    bias: NDArray | None = None,
    *,
    eps: float = 1e-5,
    return_saved: bool = False,
) -> Any:
    """Normalise each row, along the last axis, to mean 0 and variance 1.

    Formula: ``y = (x - mean) / sqrt(var + eps) * weight + bias``, var being the mean squared
    deviation.

    Source: J. Ba, J. Kiros and G. Hinton, "Layer normalization", arXiv:1607.06450, 2016.

    `saved`, of shape (2, rows), is mean and ``1 / sqrt(var + eps)``.
    """
    with np.errstate(all="ignore"):
        mean, var = _moments(x.astype(np.float64), -1)
        rstd = 1.0 / np.sqrt(var + eps)
        y = (x - mean) * rstd * _wide(weight, 1.0) + _wide(bias, 0.0)
    return _result(y, np.stack([mean.reshape(-1), rstd.reshape(-1)]), x, return_saved)


def rms_norm(
    x: NDArray, weight: NDArray | None = None, *, eps: float = 1e-5, return_saved: bool = False
) -> Any:
    """Divide each row, along the last axis, by its root mean square.

    Formula: ``y = x / sqrt(mean(x**2) + eps) * weight``.

    Source: B. Zhang and R. Sennrich, "Root mean square layer normalization", NeurIPS 2019.

    `saved`, of shape (rows,), is ``1 / sqrt(mean(x**2) + eps)``.
    """
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        length = x.shape[-1] if x.shape[-1] else np.nan
        rstd = 1.0 / np.sqrt((wide * wide).sum(axis=-1, keepdims=True) / length + eps)
        y = wide * rstd * _wide(weight, 1.0)
    return _result(y, rstd.reshape(-1), x, return_saved)


def _mean_over(values: NDArray, axes: Any, n: float) -> NDArray:
    return values.sum(axis=axes, keepdims=True) / n


def layer_norm_backward(
    dy: NDArray, x: NDArray, saved: NDArray, weight: NDArray | None = None
) -> tuple[NDArray, NDArray, NDArray]:
    """Gradients of layer_norm.

    Formula: with ``xhat = (x - mean) * rstd`` and ``g = dy * weight``,
    ``dx = rstd * (g - mean(g) - xhat * mean(g * xhat))``, ``dweight = sum(dy * xhat)`` and
    ``dbias = sum(dy)`` over the rows.
    """
    rows = (*x.shape[:-1], 1)
    mean, rstd = (s.astype(np.float64).reshape(rows) for s in saved)
    with np.errstate(all="ignore"):
        xhat = (x - mean) * rstd
        wide = dy.astype(np.float64)
        g = wide * _wide(weight, 1.0)
        n = x.shape[-1] or 1
        dx = rstd * (g - _mean_over(g, -1, n) - xhat * _mean_over(g * xhat, -1, n))
        others = tuple(range(x.ndim - 1))
        dweight, dbias = (wide * xhat).sum(axis=others), wide.sum(axis=others)
    return round_to(dx, x.dtype), round_to(dweight, x.dtype), round_to(dbias, x.dtype)


def rms_norm_backward(
    dy: NDArray, x: NDArray, saved: NDArray, weight: NDArray | None = None
) -> tuple[NDArray, NDArray]:
    """Gradients of rms_norm.

    Formula: with ``xhat = x * rstd`` and ``g = dy * weight``, ``dx = rstd * (g - xhat * mean(g *
    xhat))`` and ``dweight = sum(dy * xhat)`` over the rows.
    """
    rstd = saved.astype(np.float64).reshape(*x.shape[:-1], 1)
    with np.errstate(all="ignore"):
        xhat = x.astype(np.float64) * rstd
        wide = dy.astype(np.float64)
        g = wide * _wide(weight, 1.0)
        dx = rstd * (g - xhat * _mean_over(g * xhat, -1, x.shape[-1] or 1))
        dweight = (wide * xhat).sum(axis=tuple(range(x.ndim - 1)))
    return round_to(dx, x.dtype), round_to(dweight, x.dtype)


def _channel(values: Any, x: NDArray) -> Any:
    """Values of one a channel, to broadcast against x (N, C, ...)."""
    return values if np.ndim(values) == 0 else values.reshape(-1, *(1,) * (x.ndim - 2))


def batch_norm(
    x: NDArray,
    running_mean: NDArray | None,
    running_var: NDArray | None,
    weight: NDArray | None = None,
    bias: NDArray | None = None,
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    return_saved: bool = False,
) -> Any:
    """Normalise each channel, axis 1 of (N, C, ...), to mean 0 and variance 1.

    Formula: ``y = (x - mean) / sqrt(var + eps) * weight + bias``, with mean and var of the batch in
    training, var being the mean squared deviation; else the running ones. In training these are
    updated in place: ``running = (1 - momentum) * running + momentum * now``, where the variance
    now is the sum of squared deviations divided by one less than their number.

    Source: S. Ioffe and C. Szegedy, "Batch normalization", ICML 2015; otherwise as
    `torch.nn.functional.batch_norm`.

    `saved`, of shape (2, C), is mean and ``1 / sqrt(var + eps)``.
    """
    axes = (0, *range(2, x.ndim))
    with np.errstate(all="ignore"):
        if training:
            mean, var = (m.reshape(-1) for m in _moments(x.astype(np.float64), axes))
            n = x.size // x.shape[1] if x.size else 0
        else:
            mean, var = _wide(running_mean, 0.0), _wide(running_var, 1.0)
        rstd = 1.0 / np.sqrt(var + eps)
        y = (x - _channel(mean, x)) * _channel(rstd * _wide(weight, 1.0), x)
        y = y + _channel(_wide(bias, 0.0), x)
        if training and n > 0:
            for running, now in ((running_mean, mean), (running_var, var * (n / (n - 1)))):
                if running is not None:
                    running[...] = (1.0 - momentum) * running.astype(np.float64) + momentum * now
    return _result(y, np.stack([mean, rstd]), x, return_saved)


def batch_norm_backward(
    dy: NDArray,
    x: NDArray,
    saved: NDArray,
    weight: NDArray | None = None,
    *,
    training: bool = False,
) -> tuple[NDArray, NDArray, NDArray]:
    """Gradients of batch_norm.

    Formula: as `layer_norm_backward`, with channels in the place of rows, in training; else
    ``dx = dy * weight * rstd``, as mean and rstd are constants.
    """
    axes = (0, *range(2, x.ndim))
    mean, rstd = (_channel(s.astype(np.float64), x) for s in saved)
    with np.errstate(all="ignore"):
        xhat = (x - mean) * rstd
        wide = dy.astype(np.float64)
        g = wide * _channel(_wide(weight, 1.0), x)
        dx = g * rstd
        if training:
            n = x.size // x.shape[1] if x.size else 1
            dx = rstd * (g - _mean_over(g, axes, n) - xhat * _mean_over(g * xhat, axes, n))
        dweight, dbias = (wide * xhat).sum(axis=axes), wide.sum(axis=axes)
    return round_to(dx, x.dtype), round_to(dweight, x.dtype), round_to(dbias, x.dtype)
