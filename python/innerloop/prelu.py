"""prelu: the rectified linear unit whose slope for negative inputs is learned."""

from __future__ import annotations

from typing import Any

from . import _core

__all__ = ["prelu", "prelu_backward"]


def prelu(x: Any, weight: Any, *, out: Any = None) -> Any:
    """Rectified linear unit with a learned slope for negative inputs.

    Formula: ``y = x where x > 0, else weight * x``, with one weight, or one for each channel.

    Source: K. He, X. Zhang, S. Ren and J. Sun, "Delving deep into rectifiers", arXiv:1502.01852.

    Parameters
    ----------
    x : array of any shape, float32, float64, bfloat16 or float16
    weight : array of x's dtype, shape (), (1,) or (C,)
        One slope, or one for each index of x's axis 1, which has length C.
    out : array of x's shape and dtype, optional
        Where to write the result; may be `x`.

    Returns
    -------
    array of x's shape and dtype

    Raises
    ------
    TypeError
        If an argument is not an array, not of a floating dtype, or of another dtype than x.
    ValueError
        If `weight` does not fit x, or `out` has another shape, is read-only, overlaps `weight`, or
        overlaps x without being it.
    """
    return _core.prelu_forward(x, weight, out)


def prelu_backward(
    dy: Any, x: Any, weight: Any, *, out: tuple[Any, Any] | None = None
) -> tuple[Any, Any]:
    """Gradients of `prelu`.

    Formula: ``dx = dy where x > 0, else weight * dy`` (weight at 0), and dweight is the sum of
    ``dy * x`` over the elements that a weight serves and where x is not above 0. The sum's order
    depends on the shape alone: threads and layout do not change a bit of it.

    Source: as `prelu`, section 2.1.

    Parameters
    ----------
    dy : array of any shape, float32, float64, bfloat16 or float16
        Gradient with respect to the output.
    x : array of dy's shape and dtype
        The input of the forward pass.
    weight : array of dy's dtype, shape (), (1,) or (C,)
        As given to `prelu`.
    out : tuple (dx, dweight) of arrays or None, optional
        Where to write each gradient, in any layout; None for a fresh array. dx may be `dy` or `x`;
        otherwise they may not overlap one another or an input.

    Returns
    -------
    dx : array of x's shape and dtype
    dweight : array of weight's shape and dtype

    Raises
    ------
    TypeError, ValueError
        As `prelu`; also if x is not as dy, or `out` is no such tuple.
    """
    return _core.prelu_backward(dy, x, weight, out)
