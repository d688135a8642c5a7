"""What every optimizer does to its gradients first: unscale, clip by norm, maximize, L1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def grad_norm(grads: Sequence[NDArray]) -> float:
    """Return the 2-norm of all elements of some gradients together, scaled against overflow."""
    wide = [g.astype(np.float64) for g in grads if g.size]
    with np.errstate(all="ignore"):
        largest = float(np.max([np.max(np.abs(g)) for g in wide], initial=0.0))
        if largest == 0.0 or not np.isfinite(largest):
            return largest
        unit = 2.0 ** np.floor(np.log2(largest))
        return float(unit * np.sqrt(sum(np.sum(np.square(g / unit)) for g in wide)))


def clip_coefficient(norm: float, max_norm: float) -> float:
    """Return what gradients of this norm are multiplied by, as `torch.nn.utils.clip_grad_norm_`."""
    return float(np.minimum(1.0, np.float64(max_norm) / (norm + 1e-6)))


def clip(grad: NDArray, norm: float, max_norm: float) -> None:
    """Clip one of the gradients of this norm, in place."""
    with np.errstate(all="ignore"):
        grad[...] = grad.astype(np.float64) * clip_coefficient(norm, max_norm)


def prepare(
    param: NDArray,
    grad: NDArray,
    norm: float | None = None,
    *,
    maximize: bool = False,
    l1: float = 0.0,
    max_norm: float | None = None,
    grad_scale: float = 1.0,
) -> NDArray:
    """Return the gradient as an optimizer gets it: unscaled, clipped, negated, with the L1 penalty.

    `norm` is that of all gradients of the call, this one's if not given.

    Parameters
    ----------
    maximize : bool, default False
        Step up the gradient instead of down.
    l1 : float, default 0.0
        L1 penalty: ``l1 * sign(param)`` is added to the gradient.
    max_norm : float, optional
        Clip the gradients: multiply them by ``min(1, max_norm / (norm + 1e-6))``, `norm` being the
        2-norm of all gradients of the call together, as `torch.nn.utils.clip_grad_norm_` does.
        They are read for it, not rewritten. A NaN among them makes all NaN.
    grad_scale : float, default 1.0
        What the loss was scaled by: gradients are divided by it before anything else.
    """
    g = grad / grad_scale
    if max_norm is not None:
        norm = grad_norm([g]) if norm is None else norm
        with np.errstate(all="ignore"):
            g = g * clip_coefficient(norm, max_norm)
    if maximize:
        g = -g
    return g + l1 * np.sign(param) if l1 else g
