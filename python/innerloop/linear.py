"""The dense layer: a matrix product with its bias and activation in one call, and its gradients."""

from __future__ import annotations

from typing import Any

from . import _core
from ._core import PackedWeight

__all__ = ["PackedWeight", "linear", "linear_backward", "pack"]


def linear(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    activation: str | None = None,
    out: Any = None,
    return_saved: bool = False,
    dropout: float = 0.0,
    seed: int | None = None,
    offset: int = 0,
    **params: float,
) -> Any:
    """Dense layer.

    Formula: ``y = dropout(act(z))``, where ``z = x @ w + b``. Each element of ``x @ w`` is one
    chain of fused multiply-adds over K in order, so the result does not depend on the batch or on
    threads. Half precision accumulates in float32, and each result is rounded once.

    Parameters
    ----------
    x : array, shape (..., K), float32, float64, bfloat16 or float16
        Any strides; ``weight.T`` of a weight stored as (N, K) is read in place, too.
    w : array, shape (K, N), or PackedWeight
    b : array, shape (N,), optional
    activation : str, optional
        Such as ``"gelu"``; `innerloop.activations.NAMES` lists them. None is the identity.
    out : array, shape (..., N), optional
        Where to write y, in any layout; it may not overlap `x`, `w` or `b`.
    return_saved : bool, default False
        Return also what `linear_backward` needs.
    dropout : float, default 0.0
        Probability, in [0, 1], that an element of y is dropped: as `innerloop.dropout` of act(z),
        in the same bits, but without another pass over memory.
    seed : int, optional
        In [0, 2**64); needed where `dropout` is not 0.
    offset : int, default 0
        In [0, 2**64).
    **params : float
        The activation's parameters, such as ``negative_slope``.

    Returns
    -------
    y : array, shape (..., N)
    saved : array, shape (..., N), or None
        If `return_saved`. None for the identity; y itself, the same object, if the activation's
        derivative can be had from its output and nothing is dropped, act(z) if something may be;
        else the pre-activation z.

    Raises
    ------
    TypeError
        If an argument is not an array of a dtype named above, if their dtypes differ, or if the
        activation has no such parameter.
    ValueError
        If shapes do not fit, there is no activation of that name, or `out` is read-only or
        overlaps an input.
    """
    return _core.linear(x, w, b, activation, params, out, return_saved, dropout, seed, offset)


def linear_backward(
    dy: Any,
    x: Any,
    w: Any,
    saved: Any = None,
    *,
    activation: str | None = None,
    bias: bool = True,
    out: tuple[Any, Any, Any] | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    offset: int = 0,
    **params: float,
) -> tuple[Any, Any, Any]:
    """Gradients of `linear`.

    Formula: ``dz = dropout_backward(dy) * act'(z)``, ``dx = dz @ w.T``, ``dw = x.T @ dz``,
    ``db = sum of dz's rows``, where the leading axes of x and dy are taken together as rows.

    Source: D. Rumelhart, G. Hinton and R. Williams, "Learning representations by back-propagating
    errors", Nature 323, 1986.

    Parameters
    ----------
    dy : array, shape (..., N), float32, float64, bfloat16 or float16
        Gradient of the layer's output.
    x : array, shape (..., K)
    w : array, shape (K, N), or PackedWeight
    saved : array, shape (..., N), or None
        From ``linear(..., return_saved=True)``; needed by all but the identity.
    activation, dropout, seed, offset, **params
        As given to `linear`.
    bias : bool, default True
        Whether the layer has a bias.
    out : tuple (dx, dw, db) of arrays or None, optional
        Where to write each gradient, in any layout; None for a fresh array. They may not overlap
        one another or an input.

    Returns
    -------
    dx : array, shape (..., K)
    dw : array, shape (K, N)
    db : array, shape (N,), or None without a bias

    Raises
    ------
    TypeError
        If an argument is not an array of a dtype named above, if their dtypes differ, if `saved` is
        missing, or if the activation has no such parameter.
    ValueError
        If shapes do not fit, there is no activation of that name, or an array of `out` is
        read-only or overlaps another.
    """
    return _core.linear_backward(
        dy, x, w, saved, activation, params, bias, out, dropout, seed, offset, True
    )


def pack(w: Any) -> PackedWeight:
    """Lay a weight out for `linear`, once, where it serves many calls.

    The result is a copy: later changes of `w` do not show in it. It works with every instruction
    set and in `linear_backward`; a layout that was not asked for before is made when it is.

    Parameters
    ----------
    w : array, shape (K, N), float32, float64, bfloat16 or float16

    Returns
    -------
    PackedWeight
        With ``shape``, ``dtype`` and ``unpack()``.

    Raises
    ------
    TypeError
        If `w` is not an array of a dtype named above.
    ValueError
        If it has not two axes.
    """
    return _core.pack(w)
