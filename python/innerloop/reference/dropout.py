"""Dropout, and the random numbers that it is made of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ._precision import round_to

__all__ = ["dropout", "dropout_backward", "philox"]

_WORD = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def philox(seed: int, offset: int, block: int, n: int) -> NDArray:
    """Return n 32-bit words of Philox4x32-10, four a block, from a block on.

    The key is the two words of `seed`, the low one first, the counter those of the block's number
    and of `offset`.

    Source: J. Salmon, M. Moraes, R. Dror and D. Shaw, "Parallel random numbers: as easy as 1, 2,
    3", SC 2011, section 4.3.
    """
    blocks = (np.arange(-(-n // 4), dtype=np.uint64) + np.uint64(block)).astype(np.uint64)
    c0, c1 = blocks & _WORD, blocks >> _32
    c2 = np.full_like(c0, offset & 0xFFFFFFFF)
    c3 = np.full_like(c0, offset >> 32)
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        p0 = np.uint64(0xD2511F53) * c0  # below 2^64, as both factors are below 2^32
        p1 = np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (
            (p1 >> _32) ^ c1 ^ np.uint64(k0),
            p1 & _WORD,
            (p0 >> _32) ^ c3 ^ np.uint64(k1),
            p0 & _WORD,
        )
        k0 = (k0 + 0x9E3779B9) & 0xFFFFFFFF  # the golden ratio
        k1 = (k1 + 0xBB67AE85) & 0xFFFFFFFF  # the square root of 3, less 1
    return np.stack([c0, c1, c2, c3], axis=-1).reshape(-1)[:n].astype(np.uint32)


def dropout(x: NDArray, p: float, *, seed: int, offset: int = 0) -> NDArray:
    """Set elements to 0 with probability p, and divide the others by 1 - p.

    Formula: ``y = x / (1 - p)`` where ``word >= p * 2**32`` as integers, else 0, whatever x holds.
    Element i, in C order, has word ``i % 4`` of block ``i // 4``.

    Source: N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever and R. Salakhutdinov, "Dropout: a
    simple way to prevent neural networks from overfitting", JMLR 15, 2014.
    """
    words = philox(seed, offset, 0, x.size).reshape(x.shape)
    kept = words.astype(np.float64) >= p * 2.0**32  # both exact
    with np.errstate(all="ignore"):
        scaled = x.astype(np.float64) * np.divide(1.0, 1.0 - p)
    return round_to(np.where(kept, scaled, 0.0), x.dtype)


def dropout_backward(dy: NDArray, p: float, *, seed: int, offset: int = 0) -> NDArray:
    """Gradient of dropout: dropout of dy, by the same words."""
    return dropout(dy, p, seed=seed, offset=offset)
