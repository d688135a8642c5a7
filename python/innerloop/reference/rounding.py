"""Numbers in fewer bits: stochastic rounding, 8-bit codes, and a float32 in two halves.

An optimizer's states may be kept so. Stochastic rounding goes up or down at random, with the odds
of the distance to each neighbour, so that many small updates are not lost on the way. Its random
bits are a function of a key and of the element's place: the same run gives the same numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK = 256
"""Elements that share a key and a scale."""

_MASK64 = 2**64 - 1


def _splitmix(z: int) -> int:
    """The output function of splitmix64.

    Source: G. Steele, D. Lea and C. Flood, "Fast splittable pseudorandom number generators",
    OOPSLA 2014.
    """
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK64
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK64
    return z ^ z >> 31


def next_key(key: int, value: int) -> int:
    """Return the key that follows from another and a number."""
    return _splitmix((key ^ value) + 0x9E3779B97F4A7C15 & _MASK64)


def rounding_key(seed: int, step: int, array: int) -> int:
    """Return the key of an array's states in a step."""
    return next_key(next_key(next_key(0, seed), step), array)


def state_key(key: int, state: int) -> int:
    """Return the key of one of an array's states, numbered in the optimizer's order."""
    return next_key(key, state)


def random_bits(n: int, key: int) -> NDArray:
    """Return n random uint32: for each block a key, for each number in it a hash of both.

    Source of the hash: the 32-bit finaliser of MurmurHash3, A. Appleby. An 8-bit code takes one of
    them, two elements of bfloat16 share one.
    """
    blocks = range((n + BLOCK - 1) // BLOCK)
    keys = [_splitmix(key + (b + 1) * 0x9E3779B97F4A7C15 & _MASK64) >> 32 for b in blocks]
    place = np.arange(n, dtype=np.uint64) % BLOCK
    h = np.repeat(np.array(keys, np.uint64), BLOCK)[:n] + place * 0x9E3779B9 & 0xFFFFFFFF
    h = (h ^ h >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    h = (h ^ h >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return (h ^ h >> 16).astype(np.uint32)


def random_halves(n: int, key: int) -> NDArray:
    """Return n random numbers of 16 bits: the lower and upper halves of a block's first hashes."""
    words = random_bits((n + BLOCK - 1) // BLOCK * BLOCK, key).reshape(-1, BLOCK)[:, : BLOCK // 2]
    return np.stack([words & 0xFFFF, words >> 16], axis=-1).reshape(-1)[:n]


def to_bfloat16(x: NDArray, key: int) -> NDArray:
    """Round float32 to the bits of bfloat16, as uint16, stochastically.

    Formula: with x between its neighbours a and b, b with the probability (x - a) / (b - a).
    """
    flat = np.ascontiguousarray(x, np.float32).reshape(-1)
    bits = flat.view(np.uint32).astype(np.uint64)
    rounded = bits + random_halves(flat.size, key)
    quiet = bits | 0x400000
    return (np.where(np.isnan(flat), quiet, rounded) >> 16).astype(np.uint16).reshape(x.shape)


def from_bfloat16(upper: NDArray) -> NDArray:
    """Return the float32 of bfloat16's bits."""
    return (upper.astype(np.uint32) << 16).view(np.float32)


def code_values(negatives: bool) -> NDArray:
    """Return what each of the 256 codes stands for, relative to its block's largest magnitude.

    Code 0 is 0; the others are the numbers with three bits of mantissa from 1 downward, 255 of
    them, or 127 and a sign in the highest bit where the state may be negative.
    """
    magnitudes = 127 if negatives else 255
    code = np.arange(magnitudes + 1)
    below = magnitudes - code  # steps of an eighth of a binade below 1
    exponent, eighths = -((below + 7) // 8), (-below) % 8
    value = np.where(code == 0, 0.0, np.ldexp(1 + eighths / 8, exponent)).astype(np.float32)
    return np.concatenate([value, -value]) if negatives else value


def to_8_bits(x: NDArray, negatives: bool, key: int) -> tuple[NDArray, NDArray]:
    """Quantize float32 block by block, stochastically; return the codes and the scales.

    The idea is that of T. Dettmers, M. Lewis, S. Shleifer and L. Zettlemoyer, "8-bit optimizers
    via block-wise quantization", ICLR 2022; the codes are those of `code_values`. A NaN makes
    its whole block NaN, an infinity becomes the largest float32. States that are never negative
    are divided by, so what lies between 0 and the least code goes up.
    """
    flat = np.ascontiguousarray(x, np.float32).reshape(-1)
    n, count = flat.size, (flat.size + BLOCK - 1) // BLOCK
    padded = np.zeros(count * BLOCK, np.float32)
    padded[:n] = np.abs(flat)
    with np.errstate(all="ignore"):
        scales = padded.reshape(count, BLOCK).max(axis=1, initial=0)
        scales = np.minimum(scales, np.finfo(np.float32).max)
        relative = np.abs(flat) / np.repeat(np.where(scales > 0, scales, np.float32(1)), BLOCK)[:n]
    grid = code_values(False)[1:] if not negatives else code_values(True)[1:128]
    grid = np.concatenate([np.zeros(1, np.float32), grid]).astype(np.float64)
    random = random_bits(n, key)
    low = np.clip(np.searchsorted(grid, relative, side="right") - 1, 0, grid.size - 1)
    high = np.minimum(low + 1, grid.size - 1)
    share = (relative - grid[low]) / np.where(high > low, grid[high] - grid[low], 1)
    # As many random bits as each interval has floats: 20 between two codes, 23 below the least.
    up = (random >> 12) + np.floor(share * 2**20) >= 2**20
    small = (random >> 9) < share * 2**23 if negatives else relative > 0
    up = np.where(low > 0, up, small)
    code = np.where(np.isnan(relative), grid.size - 1, np.where(up, high, low)).astype(np.uint8)
    if negatives:
        code |= np.signbit(flat).astype(np.uint8) << 7
    return code.reshape(x.shape), scales.astype(np.float32)


def from_8_bits(codes: NDArray, scales: NDArray, negatives: bool) -> NDArray:
    """Return the float32 values of codes and their blocks' scales."""
    with np.errstate(all="ignore"):
        flat = code_values(negatives)[codes.reshape(-1)] * np.repeat(scales, BLOCK)[: codes.size]
    return flat.reshape(codes.shape)


def split(x: NDArray) -> tuple[NDArray, NDArray]:
    """Split float32 into the bits of the nearest bfloat16 (uint16) and what is missing (int16).

    Formula: ``bits(x) = upper * 2**16 + lower``. Halves round away from zero.
    """
    bits = np.where(np.isnan(x), 0x7FC00000, np.asarray(x, np.float32).view(np.uint32)).astype(
        np.int64
    )
    upper = bits + 0x8000 >> 16
    return upper.astype(np.uint16), (bits - (upper << 16)).astype(np.int16)


def join(upper: NDArray, lower: NDArray) -> NDArray:
    """Return the float32 of two halves."""
    bits = np.asarray((upper.astype(np.int64) << 16) + lower)
    return np.asarray(bits & 0xFFFFFFFF, np.uint32).view(np.float32)
