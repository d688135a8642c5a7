"""The dense layer: a matrix product with its bias and activation, and its gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._precision import round_to
from .dropout import dropout as drop
from .registry import ACTIVATIONS

__all__ = ["linear", "linear_backward"]


def linear(
    x: NDArray,
    w: NDArray,
    b: NDArray | None = None,
    *,
    activation: str | None = None,
    return_saved: bool = False,
    dropout: float = 0.0,
    seed: int = 0,
    offset: int = 0,
    **params: float,
) -> Any:
    """Dense layer.

    Formula: ``y = dropout(act(z))``, where ``z = x @ w + b``.

    Parameters
    ----------
    x : array, shape (..., K)
    w : array, shape (K, N)
    b : array, shape (N,), optional
    activation : str, optional
        The name of one of `ACTIVATIONS`; None is the identity.
    return_saved : bool, default False
        Return also what `linear_backward` needs.
    dropout, seed, offset
        As given to `dropout`, which is left out where the probability is 0.
    **params : float
        The activation's parameters.

    Returns
    -------
    y : array, shape (..., N)
    saved : array, shape (..., N), or None
        If `return_saved`. None for the identity, act(z) if the activation's derivative can be had
        from its output, else the pre-activation z.
    """
    act = ACTIVATIONS[activation or "identity"]
    with np.errstate(all="ignore"):
        z = x.astype(np.float64) @ w.astype(np.float64)
        if b is not None:
            z = z + b
    a = round_to(act.forward(z, **params), x.dtype)
    y = drop(a, dropout, seed=seed, offset=offset) if dropout > 0 else a
    if not return_saved:
        return y
    if act.name == "identity":
        return y, None
    return y, a if act.saves_output else round_to(z, x.dtype)


def linear_backward(
    dy: NDArray,
    x: NDArray,
    w: NDArray,
    saved: NDArray | None = None,
    *,
    activation: str | None = None,
    dropout: float = 0.0,
    seed: int = 0,
    offset: int = 0,
    **params: float,
) -> tuple[NDArray, NDArray, NDArray]:
    """Gradients of `linear`.

    Formula: ``dz = dropout_backward(dy) * act'(z)``, ``dx = dz @ w.T``, ``dw = x.T @ dz``,
    ``db = sum of dz's rows``, where the leading axes of x and dy are taken together as rows.

    Source: D. Rumelhart, G. Hinton and R. Williams, "Learning representations by back-propagating
    errors", Nature 323, 1986.

    Parameters
    ----------
    dy : array, shape (..., N)
        Gradient of the layer's output.
    x : array, shape (..., K)
    w : array, shape (K, N)
    saved : array, shape (..., N), or None
        From ``linear(..., return_saved=True)``.
    activation, dropout, seed, offset, **params
        As given to `linear`.

    Returns
    -------
    dx : array, shape (..., K)
    dw : array, shape (K, N)
    db : array, shape (N,)
    """
    act = ACTIVATIONS[activation or "identity"]
    k, n = w.shape
    rows = math.prod(dy.shape[:-1])  # not -1: reshape cannot infer a size beside a zero
    if dropout > 0:
        dy = drop(dy, dropout, seed=seed, offset=offset)
    dz = dy.astype(np.float64)
    if act.saves_output:
        dz = act.backward(dz, None, y=saved, **params)
    else:
        dz = act.backward(dz, saved, **params)
    dz = dz.reshape(rows, n)
    with np.errstate(all="ignore"):
        dx = (dz @ w.astype(np.float64).T).reshape(x.shape)
        dw = x.astype(np.float64).reshape(rows, k).T @ dz
        db = dz.sum(axis=0)
    return round_to(dx, x.dtype), round_to(dw, w.dtype), round_to(db, w.dtype)
