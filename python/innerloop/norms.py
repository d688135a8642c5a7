"""Normalisation of rows and of channels, and its gradients."""

from __future__ import annotations

from typing import Any

from . import _core

__all__ = [
    "batch_norm",
    "batch_norm_backward",
    "layer_norm",
    "layer_norm_backward",
    "rms_norm",
    "rms_norm_backward",
]


def layer_norm(
    x: Any,
    weight: Any = None,
    bias: Any = None,
    *,
    eps: float = 1e-5,
    out: Any = None,
    return_saved: bool = False,
) -> Any:
    """Normalise each row, along the last axis, to mean 0 and variance 1.

    Formula: ``y = (x - mean) / sqrt(var + eps) * weight + bias``, var being the mean squared
    deviation, taken in a second pass over the row, so that a large mean costs no digits.

    Source: J. Ba, J. Kiros and G. Hinton, "Layer normalization", arXiv:1607.06450, 2016.

    Parameters
    ----------
    x : array, shape (..., D), float32, float64, bfloat16 or float16
    weight, bias : array, shape (D,), dtype of x, optional
        1 and 0 without.
    eps : float, default 1e-5
        Not negative. With 0, a row of equal elements gives NaN.
    out : array of x's shape and dtype, optional
        Where to write y; may be `x`.
    return_saved : bool, default False
        Return also what `layer_norm_backward` needs.

    Returns
    -------
    y : array of x's shape and dtype
    saved : array, shape (2, rows), float32, or float64 for float64
        If `return_saved`: mean and ``1 / sqrt(var + eps)`` of each row; NaN where rows are empty.

    Raises
    ------
    TypeError
        If an argument is not an array of a floating dtype, or of another than x.
    ValueError
        If x has no axis, shapes do not fit, eps is negative or NaN, or `out` is read-only or
        overlaps an input without being x.
    """
    return _core.row_norm_forward("layer_norm", x, weight, bias, eps, out, return_saved)


def layer_norm_backward(
    dy: Any,
    x: Any,
    saved: Any,
    weight: Any = None,
    *,
    bias: bool | None = None,
    out: tuple[Any, Any, Any] | None = None,
) -> tuple[Any, Any, Any]:
    """Gradients of layer_norm.

    Formula: with ``xhat = (x - mean) * rstd`` and ``g = dy * weight``,
    ``dx = rstd * (g - mean(g) - xhat * mean(g * xhat))``, ``dweight = sum(dy * xhat)`` and
    ``dbias = sum(dy)`` over the rows.

    Parameters
    ----------
    dy : array, shape (..., D), float32, float64, bfloat16 or float16
        Gradient with respect to the output.
    x : array of dy's shape and dtype
    saved : array, shape (2, rows)
        From ``layer_norm(..., return_saved=True)``.
    weight : array, shape (D,), optional
        As given to `layer_norm`.
    bias : bool, optional
        Whether there is a bias; by default, if there is a weight.
    out : tuple (dx, dweight, dbias) of arrays or None, optional
        Where to write each gradient; None for a fresh array. dx may be `dy` or `x`.

    Returns
    -------
    dx : array of x's shape and dtype
    dweight : array, shape (D,), or None without a weight
    dbias : array, shape (D,), or None without a bias

    Raises
    ------
    TypeError
        If an argument is not an array of a floating dtype, or of another than dy; or `out` is no
        tuple of three.
    ValueError
        If shapes do not fit, `out` has an array for what there is not, or an array of it is
        read-only or overlaps another.
    """
    dx, dweight, dbias = _core.row_norm_backward("layer_norm", dy, x, saved, weight, bias, out)
    return dx, dweight, dbias


def rms_norm(
    x: Any, weight: Any = None, *, eps: float = 1e-5, out: Any = None, return_saved: bool = False
) -> Any:
    """Divide each row, along the last axis, by its root mean square.

    Formula: ``y = x / sqrt(mean(x**2) + eps) * weight``.

    Source: B. Zhang and R. Sennrich, "Root mean square layer normalization", NeurIPS 2019.

    Parameters
    ----------
    x : array, shape (..., D), float32, float64, bfloat16 or float16
    weight : array, shape (D,), dtype of x, optional
        1 without.
    eps : float, default 1e-5
        Not negative. With 0, a row of zeros gives NaN.
    out : array of x's shape and dtype, optional
        Where to write y; may be `x`.
    return_saved : bool, default False
        Return also what `rms_norm_backward` needs.

    Returns
    -------
    y : array of x's shape and dtype
    saved : array, shape (rows,), float32, or float64 for float64
        If `return_saved`: ``1 / sqrt(mean(x**2) + eps)`` of each row; NaN where rows are empty.

    Raises
    ------
    TypeError, ValueError
        As `layer_norm`.
    """
    return _core.row_norm_forward("rms_norm", x, weight, None, eps, out, return_saved)


def rms_norm_backward(
    dy: Any, x: Any, saved: Any, weight: Any = None, *, out: tuple[Any, Any] | None = None
) -> tuple[Any, Any]:
    """Gradients of rms_norm.

    Formula: with ``xhat = x * rstd`` and ``g = dy * weight``, ``dx = rstd * (g - xhat * mean(g *
    xhat))`` and ``dweight = sum(dy * xhat)`` over the rows.

    Parameters
    ----------
    dy : array, shape (..., D), float32, float64, bfloat16 or float16
        Gradient with respect to the output.
    x : array of dy's shape and dtype
    saved : array, shape (rows,)
        From ``rms_norm(..., return_saved=True)``.
    weight : array, shape (D,), optional
        As given to `rms_norm`.
    out : tuple (dx, dweight) of arrays or None, optional
        Where to write each gradient; None for a fresh array. dx may be `dy` or `x`.

    Returns
    -------
    dx : array of x's shape and dtype
    dweight : array, shape (D,), or None without a weight

    Raises
    ------
    TypeError, ValueError
        As `layer_norm_backward`.
    """
    dx, dweight = _core.row_norm_backward("rms_norm", dy, x, saved, weight, False, out)
    return dx, dweight


def batch_norm(
    x: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    out: Any = None,
    return_saved: bool = False,
) -> Any:
    """Normalise each channel to mean 0 and variance 1.

    Formula: ``y = (x - mean) / sqrt(var + eps) * weight + bias``, with mean and var of the batch in
    training, var being the mean squared deviation; else the running ones. In training these are
    updated in place: ``running = (1 - momentum) * running + momentum * now``, where the variance
    now is the sum of squared deviations divided by one less than their number.

    Source: S. Ioffe and C. Szegedy, "Batch normalization: accelerating deep network training by
    reducing internal covariate shift", ICML 2015; otherwise as `torch.nn.functional.batch_norm`.

    Parameters
    ----------
    x : array, shape (N, C, ...), float32, float64, bfloat16 or float16
        Channels lie along axis 1.
    running_mean, running_var : array, shape (C,), float32, or float64 for float64, or None
        Written in training, where each may be None; an empty batch leaves them as they are.
    weight, bias : array, shape (C,), dtype of x, optional
        1 and 0 without.
    training : bool, default False
    momentum : float, default 0.1
        The share that the batch has in the new running statistics, in [0, 1].
    eps : float, default 1e-5
        Not negative.
    out : array of x's shape and dtype, optional
        Where to write y; may be `x`.
    return_saved : bool, default False
        Return also what `batch_norm_backward` needs.

    Returns
    -------
    y : array of x's shape and dtype
    saved : array, shape (2, C), float32, or float64 for float64
        If `return_saved`: mean and ``1 / sqrt(var + eps)`` of each channel.

    Raises
    ------
    TypeError
        If an argument is not an array of a floating dtype, or of another than stated; or running
        statistics are missing where training is False.
    ValueError
        If x has fewer than two axes or, in training, one value a channel; if shapes do not fit, eps
        is negative, momentum out of range, or an output is read-only or overlaps another array
        (`out` may be x).
    """
    return _core.batch_norm_forward(
        x, running_mean, running_var, weight, bias, training, momentum, eps, out, return_saved
    )


def batch_norm_backward(
    dy: Any,
    x: Any,
    saved: Any,
    weight: Any = None,
    *,
    training: bool = False,
    bias: bool | None = None,
    out: tuple[Any, Any, Any] | None = None,
) -> tuple[Any, Any, Any]:
    """Gradients of batch_norm.

    Formula: as `layer_norm_backward`, with channels in the place of rows, in training; else
    ``dx = dy * weight * rstd``, as mean and rstd are constants.

    Parameters
    ----------
    dy : array, shape (N, C, ...), float32, float64, bfloat16 or float16
        Gradient with respect to the output.
    x : array of dy's shape and dtype
    saved : array, shape (2, C)
        From ``batch_norm(..., return_saved=True)``.
    weight : array, shape (C,), optional
        As given to `batch_norm`.
    training : bool, default False
        As given to `batch_norm`.
    bias : bool, optional
        Whether there is a bias; by default, if there is a weight.
    out : tuple (dx, dweight, dbias) of arrays or None, optional
        Where to write each gradient; None for a fresh array. dx may be `dy` or `x`.

    Returns
    -------
    dx : array of x's shape and dtype
    dweight : array, shape (C,), or None without a weight
    dbias : array, shape (C,), or None without a bias

    Raises
    ------
    TypeError, ValueError
        As `layer_norm_backward`.
    """
    return _core.batch_norm_backward(dy, x, saved, weight, training, bias, out)
