"""softmax and log_softmax along an axis, and their derivatives."""

from __future__ import annotations

from typing import Any

from . import _core

__all__ = ["log_softmax", "log_softmax_backward", "softmax", "softmax_backward"]


def softmax(x: Any, axis: int = -1, *, out: Any = None) -> Any:
    """Return the exponentials of x, normalised to sum 1 along an axis.

    Formula: ``y = exp(x) / sum(exp(x))``. A row that holds NaN or +inf, or nothing but -inf, gives
    NaN; a -inf beside finite elements gives 0.

    Source: J. Bridle, "Probabilistic interpretation of feedforward classification network outputs",
    Neurocomputing, NATO ASI Series F68, 1990.

    Parameters
    ----------
    x : array of any shape, float32, float64, bfloat16 or float16
    axis : int, default -1
    out : array of x's shape and dtype, optional
        Where to write the result; may be `x`.

    Returns
    -------
    array of x's shape and dtype

    Raises
    ------
    TypeError
        If an argument is not an array, or not of these dtypes.
    ValueError
        If x has no such axis, or `out` has another shape, is read-only, or overlaps x without
        being it.
    """
    return _core.softmax_forward("softmax", x, axis, out)


def log_softmax(x: Any, axis: int = -1, *, out: Any = None) -> Any:
    """Return the logarithm of softmax, without forming the quotient.

    Formula: ``y = x - max(x) - log(sum(exp(x - max(x))))``.

    Parameters
    ----------
    x : array of any shape, float32, float64, bfloat16 or float16
    axis : int, default -1
    out : array of x's shape and dtype, optional
        Where to write the result; may be `x`.

    Returns
    -------
    array of x's shape and dtype

    Raises
    ------
    TypeError, ValueError
        As `softmax`.
    """
    return _core.softmax_forward("log_softmax", x, axis, out)


def softmax_backward(dy: Any, y: Any, axis: int = -1, *, out: Any = None) -> Any:
    """Return the gradient of softmax with respect to its input.

    Formula: ``dx = y * (dy - sum(dy * y))``, where ``y = softmax(x, axis)``.

    Parameters
    ----------
    dy : array of any shape, float32, float64, bfloat16 or float16
        Gradient with respect to the output.
    y : array of dy's shape and dtype
        The output of the forward pass.
    axis : int, default -1
    out : array of dy's shape and dtype, optional
        Where to write the result; may be either input.

    Returns
    -------
    array of dy's shape and dtype

    Raises
    ------
    TypeError, ValueError
        As `softmax`; also if the inputs' shapes or dtypes differ.
    """
    return _core.softmax_backward("softmax", dy, y, axis, out)


def log_softmax_backward(dy: Any, y: Any, axis: int = -1, *, out: Any = None) -> Any:
    """Return the gradient of log_softmax with respect to its input.

    Formula: ``dx = dy - exp(y) * sum(dy)``, where ``y = log_softmax(x, axis)``.

    Parameters
    ----------
    dy : array of any shape, float32, float64, bfloat16 or float16
        Gradient with respect to the output.
    y : array of dy's shape and dtype
        The output of the forward pass.
    axis : int, default -1
    out : array of dy's shape and dtype, optional
        Where to write the result; may be either input.

    Returns
    -------
    array of dy's shape and dtype

    Raises
    ------
    TypeError, ValueError
        As `softmax`; also if the inputs' shapes or dtypes differ.
    """
    return _core.softmax_backward("log_softmax", dy, y, axis, out)
