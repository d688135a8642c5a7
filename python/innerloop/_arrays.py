"""Arrays of other libraries, read in place as NumPy arrays, and results handed back to them."""

from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np

from . import _core

# Some of these lend their memory too, but nobody means a string or a scalar as an array.
_NOT_ARRAYS = (str, bytes, int, float, complex, list, tuple, dict, type(None), np.generic)


@functools.cache
def bfloat16_dtype() -> np.dtype:
    """Return the dtype of bfloat16 in NumPy arrays, which NumPy itself has not.

    That of ml_dtypes where it is installed; else a record of two bytes with the name `bfloat16`,
    enough to carry such an array from one library to another.
    """
    try:
        import ml_dtypes
    except ImportError:
        return np.dtype([("bfloat16", np.uint16)])
    return np.dtype(ml_dtypes.bfloat16)


CUDA_DEVICES = (2, 13)  # DLPack's kDLCUDA, kDLCUDAManaged


@functools.cache
def cuda_module() -> Any:
    """Return `innerloop._cuda`, or None where it was not built."""
    try:
        from . import _cuda
    except ImportError:
        return None
    return _cuda


def library_of(value: Any) -> Any:
    """Return the package, as it is imported, that an array's type comes from; None if it is not."""
    return sys.modules.get(type(value).__module__.partition(".")[0])


def is_on_cuda(value: Any) -> bool:
    """Whether an array says that it lies on a CUDA device."""
    try:
        if hasattr(value, "__dlpack_device__"):
            return value.__dlpack_device__()[0] in CUDA_DEVICES
        return hasattr(value, "__cuda_array_interface__")
    except Exception:
        return False


def plain(value: Any, name: str) -> Any:
    """Return `value` as an array that no autograd follows; TypeError where it is none."""
    if isinstance(value, _NOT_ARRAYS):
        raise TypeError(f"{name} must be an array, got {type(value).__name__}")
    if getattr(value, "requires_grad", False) is True:
        if getattr(library_of(value), "is_grad_enabled", lambda: True)():
            raise TypeError(
                f"{name} must be an array that no autograd follows, got a tensor that requires "
                "grad: use innerloop.plugins.torch, whose functions are differentiable, or pass "
                f"{name}.detach()"
            )
        value = value.detach()
    if callable(getattr(value, "is_neg", None)) and value.is_neg() is True:
        raise TypeError(  # a view of PyTorch's whose memory holds the negated numbers
            f"{name} must be an array as it lies in memory, got a negated view: call resolve_neg()"
        )
    return value


def to_numpy(value: Any, name: str) -> np.ndarray:
    """Return a NumPy array over `value`'s own memory.

    Takes DLPack, the buffer protocol and ``__array_interface__``; never copies.
    Raises TypeError, naming the argument, for whatever is no array.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must be an array without a mask, got a MaskedArray")
    if isinstance(value, np.ndarray):  # a subclass, such as memmap
        return value.view(np.ndarray)
    value = plain(value, name)
    try:
        if hasattr(value, "__dlpack__"):
            return _core.from_dlpack(value, bfloat16_dtype())
        if hasattr(value, "__array_interface__"):
            return np.array(value, copy=False)
        return np.asarray(memoryview(value))
    except Exception as error:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        kind += f" of {value.dtype}" if hasattr(value, "dtype") else ""
        text = f"{name} must be an array that can be read in place on the CPU, got {kind}: {error}"
        if is_on_cuda(value) and cuda_module() is not None:
            text += "; arrays of CUDA devices go together, to what innerloop._cuda has a kernel for"
        raise TypeError(text) from error


def from_numpy(array: np.ndarray, like: Any) -> Any:
    """Return `array` as an array of `like`'s library, over the same memory where that can be."""
    library = library_of(like)
    if library is None or library is np:
        return array
    if type(like).__module__.startswith("jax"):
        library = sys.modules["jax"].numpy
    convert = getattr(library, "from_dlpack", None)
    if convert is None:
        return array
    return convert(_core.Lent(array, True) if array.dtype == bfloat16_dtype() else array)


def copy_into(out: np.ndarray, values: Any) -> None:
    """Write what the reference returned, rounded to `out`'s dtype."""
    with np.errstate(all="ignore"):
        np.copyto(out, values, casting="unsafe")


def shares_memory(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays have a byte in common; True where that is too hard to tell."""
    try:
        return np.shares_memory(a, b, max_work=100_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True
