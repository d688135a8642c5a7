"""prelu: the rectified linear unit whose slope for negative inputs is learned."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ._precision import in_float64, round_to

__all__ = ["prelu", "prelu_backward"]


def _slopes(weight: NDArray, x: NDArray) -> NDArray:
    """The slopes, of a shape that broadcasts against x."""
    return weight.reshape(()) if weight.size == 1 else weight.reshape(-1, *[1] * (x.ndim - 2))


@in_float64
def prelu(x: NDArray, weight: NDArray) -> NDArray:
    """Rectified linear unit with a learned slope for negative inputs.

    Formula: ``y = x where x > 0, else weight * x``, with one weight, or one for each index of
    axis 1.

    Source: K. He, X. Zhang, S. Ren and J. Sun, "Delving deep into rectifiers", arXiv:1502.01852.
    """
    return np.where(x > 0.0, x, _slopes(weight, x) * x)


def prelu_backward(dy: NDArray, x: NDArray, weight: NDArray) -> tuple[NDArray, NDArray]:
    """Return dx and dweight.

    Formula: ``dx = dy where x > 0, else weight * dy``, and dweight is the sum of ``dy * x``
    over the elements that a weight serves and where x is not above 0.
    """
    wide_dy, wide_x, slopes = (a.astype(np.float64, order="C") for a in (dy, x, weight))
    with np.errstate(all="ignore"):
        dx = np.where(wide_x > 0.0, wide_dy, _slopes(slopes, x) * wide_dy)
        terms = np.where(wide_x > 0.0, 0.0, wide_dy * wide_x)
        others = None if weight.size == 1 else tuple(d for d in range(x.ndim) if d != 1)
        dweight = terms.sum(axis=others).reshape(weight.shape)
    return round_to(dx, x.dtype), round_to(dweight, weight.dtype)
