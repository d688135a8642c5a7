"""Arrays of other libraries, read in place as NumPy arrays, and results handed back to them."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

# Some of these lend their memory too, but nobody means a string or a scalar as an array.
_NOT_ARRAYS = (str, bytes, int, float, complex, list, tuple, dict, type(None), np.generic)


def to_numpy(value: Any, name: str) -> np.ndarray:
    """Return a NumPy array over `value`'s own memory.

    Takes DLPack, the buffer protocol and ``__array_interface__``; never copies.
    Raises TypeError, naming the argument, for whatever is no array.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must be an array without a mask, got a MaskedArray")
    if isinstance(value, np.ndarray):  # a subclass, such as memmap
        return value.view(np.ndarray)
    if isinstance(value, _NOT_ARRAYS):
        raise TypeError(f"{name} must be an array, got {type(value).__name__}")
    try:
        if hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
        if hasattr(value, "__array_interface__"):
            return np.array(value, copy=False)
        return np.asarray(memoryview(value))
    except Exception as error:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        kind += f" of {value.dtype}" if hasattr(value, "dtype") else ""
        raise TypeError(
            f"{name} must be an array that can be read in place on the CPU, got {kind}: {error}"
        ) from error


def from_numpy(array: np.ndarray, like: Any) -> Any:
    """Return `array` as an array of `like`'s library, over the same memory where that can be."""
    library = sys.modules.get(type(like).__module__.partition(".")[0])
    if library is None or library is np:
        return array
    if type(like).__module__.startswith("jax"):
        library = sys.modules["jax"].numpy
    convert = getattr(library, "from_dlpack", None)
    return array if convert is None else convert(array)


def shares_memory(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays have a byte in common; True where that is too hard to tell."""
    try:
        return np.shares_memory(a, b, max_work=100_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True
