"""What the tests share: layouts of one array, and the ISAs that promise equal bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

import innerloop as il
from innerloop import _core

DTYPES = ["float32", "float64"]


def fma_isas() -> list[str]:
    """Instruction sets with fused multiply-add: their results are the same bits."""
    names = []
    for name in il.isas():
        with il.use_isa(name):
            if _core.has_fma():
                names.append(name)
    return names


def _strided(a: np.ndarray) -> np.ndarray:
    big = np.zeros([2 * n for n in a.shape], a.dtype)
    view = big[tuple(slice(None, None, 2) for _ in a.shape)]
    view[...] = a
    return view


def _reversed(a: np.ndarray) -> np.ndarray:
    every = (slice(None, None, -1),) * a.ndim
    return a[every].copy()[every]


def _misaligned(a: np.ndarray, offset: int = 1) -> np.ndarray:
    raw = np.zeros(a.nbytes + 64, np.uint8)
    view = raw[offset : offset + a.nbytes].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def _field(a: np.ndarray) -> np.ndarray:
    records = np.zeros(a.shape, np.dtype([("tag", "i1"), ("value", a.dtype)]))
    records["value"] = a
    return records["value"]


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "C": lambda a: np.array(a, order="C"),
    "F": lambda a: np.array(a, order="F"),
    "strided": _strided,
    "reversed": _reversed,
    "misaligned": _misaligned,
    "field": _field,
}
"""Each returns the same values in another, writeable place in memory."""


def equal_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays hold the same bits, any NaN being equal to any other."""
    return (
        a.shape == b.shape
        and a.dtype == b.dtype
        and bool(np.all((a == b) & (np.signbit(a) == np.signbit(b)) | np.isnan(a) & np.isnan(b)))
    )


def numbers(
    shape: int | tuple[int, ...], dtype: str, seed: int = 0, scale: float = 3.0
) -> np.ndarray:
    """Normal numbers of standard deviation `scale`, the same for the same seed."""
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(dtype)


def sizes_around(width: int) -> Iterator[int]:
    """Sizes on both sides of a vector's width and of its multiples."""
    yield from sorted({0, 1, width - 1, width, width + 1, 2 * width - 1, 4 * width + 3})


def special_rows(n: int, dtype: str) -> np.ndarray:
    """Rows with infinities, NaN and huge numbers at the start, the end and everywhere."""
    rows = []
    for value in (np.inf, -np.inf, np.nan, 1e30, -1e30, 88.0, 1e-40):
        for place in (slice(0, 1), slice(n - 1, n), slice(None), slice(0, n - 1)):
            row = numbers(n, dtype)
            row[place] = value
            rows.append(row)
    return np.array(rows)
