"""A library of arrays on CUDA device 0, where `innerloop._cuda` is the emulated one.

Each array ends where a page begins that nobody may touch, and begins as NaNs: a kernel that goes
past the end crashes, and `numpy()` raises where one wrote beside the array.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ml_dtypes
import numpy as np
from test_arrays import Versioned, capsule_of

from innerloop._arrays import cuda_module

float32, float64, float16 = np.dtype("f4"), np.dtype("f8"), np.dtype("f2")
bfloat16 = np.dtype(ml_dtypes.bfloat16)
int8, int16, int32, int64 = (np.dtype(f"i{n}") for n in (1, 2, 4, 8))
uint8, uint16, uint32, uint64 = (np.dtype(f"u{n}") for n in (1, 2, 4, 8))

_CODES = {"i": 0, "u": 1, "f": 2, "V": 4, "b": 6}  # DLPack's, of NumPy's kinds; V: bfloat16's


@functools.cache
def memory() -> Any:
    """Return the emulated device's C functions; None where `innerloop._cuda` is no emulator."""
    module = cuda_module()
    library = None if module is None else ctypes.CDLL(module.__file__)
    if not hasattr(library, "emulator_allocate"):
        return None
    size, pointer = ctypes.c_size_t, ctypes.c_void_p
    for name, result, *arguments in (
        ("allocate", pointer, size, size),
        ("release", ctypes.c_bool, pointer),
        ("holds", ctypes.c_bool, pointer),
        ("array_count", ctypes.c_int64),
        ("fail_after", None, ctypes.c_int64),
        ("launch_count", ctypes.c_int64),
    ):
        function = getattr(library, f"emulator_{name}")
        function.restype, function.argtypes = result, arguments
    return library


@contextmanager
def failing_allocations(after: int = 0) -> Iterator[None]:
    """Let so many allocations on the device succeed, and no more, these arrays' among them."""
    memory().emulator_fail_after(after)
    try:
        yield
    finally:
        memory().emulator_fail_after(-1)


class _Block:
    """Memory of the device."""

    def __init__(self, size: int, alignment: int) -> None:
        self.release = memory().emulator_release
        self.address = memory().emulator_allocate(size, alignment)
        if self.address is None:
            raise MemoryError("the emulated device has no more memory")
        self.size = size

    def __del__(self) -> None:
        if self.address is not None and not self.release(self.address):
            raise AssertionError("something was written beside an array")


class DeviceArray:
    """Elements of a block of the device's memory; strides are in bytes."""

    device = "cuda:0"

    def __init__(
        self, block: _Block, offset: int, shape: tuple[int, ...], strides: Any, dtype: Any
    ) -> None:
        self.block, self.offset, self.shape, self.strides = block, offset, shape, tuple(strides)
        self.dtype = np.dtype(dtype)
        item = self.dtype.itemsize
        self.managed = managed = Versioned(major=1)  # as long as the array, which a call holds
        tensor, axes = managed.tensor, ctypes.c_int64 * len(shape)
        tensor.data, tensor.device_type, tensor.ndim = self.address, 2, len(shape)
        tensor.code, tensor.bits, tensor.lanes = _CODES[self.dtype.kind], 8 * item, 1
        tensor.shape, tensor.strides = axes(*shape), axes(*(n // item for n in self.strides))

    @property
    def address(self) -> int:
        """Of the first element."""
        return self.block.address + self.offset

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)

    def __dlpack__(self, *, stream: Any = None, max_version: Any = None, **_: Any) -> Any:
        return capsule_of(self.managed)

    def _view(self) -> np.ndarray:
        if not memory().emulator_holds(self.block.address):
            raise AssertionError("something was written beside the array")
        raw = (ctypes.c_char * self.block.size).from_address(self.block.address)
        return np.ndarray(self.shape, self.dtype, raw, self.offset, self.strides)

    def numpy(self) -> np.ndarray:
        """Return a copy on the host."""
        return self._view().copy()

    get = numpy  # as CuPy has it

    def __setitem__(self, index: Any, values: Any) -> None:
        self._view()[index] = values._view() if isinstance(values, DeviceArray) else values

    def set(self, values: Any) -> DeviceArray:
        """Copy from the host into the array."""
        self._view()[...] = values
        return self

    def __getitem__(self, index: Any) -> DeviceArray:
        """Return a view of basic slices."""
        view = self._view()[index]
        offset = view.__array_interface__["data"][0] - self.block.address
        return DeviceArray(self.block, offset, view.shape, view.strides, self.dtype)

    @property
    def T(self) -> DeviceArray:
        """The view with its axes in the opposite order."""
        args = self.shape[::-1], self.strides[::-1], self.dtype
        return DeviceArray(self.block, self.offset, *args)


class WithInterface:
    """A DeviceArray that is lent by `__cuda_array_interface__` alone."""

    def __init__(self, array: DeviceArray, **given: Any) -> None:
        self.array = array
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "strides": array.strides,
            "typestr": array.dtype.str,
            "data": (array.address, False),
            "version": 3,
            **given,
        }


def empty(
    shape: Any, dtype: Any = float32, device: Any = None, *, offset: int = 0, order: Any = None
) -> DeviceArray:
    """Return a fresh array in C order, `offset` elements from a multiple of 16 bytes.

    `order` is that of the axes from the outermost in memory to the innermost. With an offset of -1
    the array ends where nobody may read, even if that is no multiple of 16 bytes from its begin.
    """
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    item = np.dtype(dtype).itemsize
    strides, step = [0] * len(shape), item
    for axis in reversed(range(len(shape)) if order is None else order):
        strides[axis] = step
        step *= max(shape[axis], 1)
    size, begin = math.prod(shape) * item, max(offset, 0) * item
    block = _Block(begin + size, item if offset < 0 else 16)
    return DeviceArray(block, begin, shape, strides, dtype)


def empty_like(array: DeviceArray, dtype: Any = None) -> DeviceArray:
    """Return a fresh array of the same shape and order of axes."""
    order = sorted(range(len(array.shape)), key=lambda axis: -array.strides[axis])
    return empty(array.shape, dtype or array.dtype, order=order)


def full_like(array: DeviceArray, value: float, dtype: Any = None) -> DeviceArray:
    """Return a fresh array of the same shape and order of axes, filled."""
    return empty_like(array, dtype).set(value)


def asarray(values: Any, dtype: Any = None, **placed: Any) -> DeviceArray:
    """Return a copy of what NumPy makes an array of, placed as `empty` places it."""
    host = np.asarray(values, dtype)
    return empty(host.shape, host.dtype, **placed).set(host)
