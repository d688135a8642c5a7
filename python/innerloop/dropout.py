"""Dropout by counter-based random numbers: no generator, no stored mask."""

from __future__ import annotations

from typing import Any

from . import _core

__all__ = ["dropout", "dropout_backward"]


def dropout(x: Any, p: float, *, seed: int, offset: int = 0, out: Any = None) -> Any:
    """Set elements to 0 with probability p, and divide the others by 1 - p.

    Formula: ``y = x * (1 / (1 - p))`` where the element is kept, 0 where it is dropped, whatever x
    holds there (NaN and infinity, too). Element i, in C order of x's shape, is dropped where word
    ``i % 4`` of block ``i // 4`` of Philox4x32-10 is below ``p * 2**32``, with the key `seed` and
    the counter (block, offset). So the mask is a function of shape, p, seed and offset alone: the
    same for every dtype, layout, backend, instruction set and number of threads. ``p=0`` keeps
    every element as it is, ``p=1`` gives zeros; between, p is rounded up to a multiple of 2**-32.

    Sources: N. Srivastava et al., "Dropout: a simple way to prevent neural networks from
    overfitting", JMLR 15, 2014; J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
    SC 2011.

    Parameters
    ----------
    x : array of any shape, float32, float64, bfloat16 or float16
    p : float
        Probability of being dropped, in [0, 1].
    seed : int
        In [0, 2**64). Other seeds give independent masks.
    offset : int, default 0
        In [0, 2**64). Other offsets give independent masks, too: count steps or layers with it.
    out : array of x's shape and dtype, optional
        Where to write the result; may be `x`.

    Returns
    -------
    array of x's shape and dtype

    Raises
    ------
    TypeError
        If x is not an array of a floating dtype, `out` has another, p is not a number, or `seed` or
        `offset` is not an integer.
    ValueError
        If p, `seed` or `offset` is out of its range, or `out` has another shape, is read-only, or
        overlaps x without being it.
    """
    return _core.dropout_forward(x, p, seed, offset, out)


def dropout_backward(dy: Any, p: float, *, seed: int, offset: int = 0, out: Any = None) -> Any:
    """Return the gradient of dropout with respect to its input; the mask is made anew.

    Formula: ``dx = dy * (1 / (1 - p))`` where the element was kept, else 0.

    Parameters
    ----------
    dy : array of any shape, float32, float64, bfloat16 or float16
        Gradient with respect to the output.
    p, seed, offset
        As given to `dropout`.
    out : array of dy's shape and dtype, optional
        Where to write the result; may be `dy`.

    Returns
    -------
    array of dy's shape and dtype

    Raises
    ------
    TypeError, ValueError
        As `dropout`.
    """
    return _core.dropout_backward(dy, p, seed, offset, out)
