"""How an optimizer's class keeps what it keeps: states of fewer bits, and masters of half params.

Beside the states themselves, an optimizer's `state` then holds ``<name>s_scales``, one float32 for
each 256 codes of an 8-bit state, and ``masters``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core, _cuda_arrays
from ._arrays import bfloat16_dtype, is_on_cuda, to_numpy

STATE_DTYPES = ("float32", "bfloat16", "uint8")
MASTERS = ("float32", "split")
_BLOCK = 256  # codes of a scale

_STAGGERED = 1 << 22  # arrays of at least this many bytes
_SPACING = (1 << 16) + (1 << 10)
_PERIOD = 1 << 21


def _zeros_beside(array: NDArray, number: int, dtype: np.dtype, order: Any = "K") -> NDArray:
    """Return zeros of `array`'s shape and axis order, 64-byte aligned: its state `number`.

    Large ones are placed so that the same element of the parameter and of each of its states lies
    at a different distance from a multiple of 2 MiB: arrays whose addresses differ by a large power
    of two are read at half the speed.
    """
    like = np.empty_like(array, dtype, order, subok=False)
    large = like.nbytes >= _STAGGERED
    raw = np.zeros(like.nbytes + (_PERIOD if large else 0) + 64, np.uint8)
    wanted = array.ctypes.data + (number + 1) * _SPACING & -64 if large else 0
    offset = (wanted - raw.ctypes.data) % (_PERIOD if large else 64)
    return np.ndarray(like.shape, like.dtype, raw.data, offset, like.strides)


def plain(array: NDArray) -> NDArray:
    """Return a view of a dtype that every NumPy knows: bfloat16 as its bits, uint16."""
    return array.view(np.uint16) if array.dtype == bfloat16_dtype() else array


def _bfloat16_bits(values: Any) -> NDArray:
    return _core.split(np.ascontiguousarray(values, np.float32))[0]


def _widened(half: NDArray) -> NDArray:
    """The float32 of float16 or bfloat16, which may be a dtype that NumPy cannot compute with."""
    if half.dtype == np.float16:
        return half.astype(np.float32)
    bits = np.ascontiguousarray(plain(half))
    return _core.join(bits, np.zeros(bits.shape, np.int16))


def described(param: Any, label: str) -> NDArray:
    """Return a NumPy array of the dtype and shape of a parameter: itself, if it is on the CPU."""
    if not is_on_cuda(param):
        return to_numpy(param, label)
    return np.broadcast_to(np.zeros((), _cuda_arrays.dtype_of(param)), tuple(param.shape))


def on_host(value: Any, label: str) -> NDArray:
    """Return a state as a NumPy array: a copy of one that lies on a device."""
    return _cuda_arrays.to_host(value, label) if is_on_cuda(value) else to_numpy(value, label)


def write(held: Any, array: NDArray) -> None:
    """Write numbers into a state, wherever it lies."""
    if is_on_cuda(held):
        _cuda_arrays.write(held, array)
    else:
        np.copyto(plain(held), array)


@dataclass(frozen=True)
class Storage:
    """What a class was told of it."""

    state_dtype: str | None
    master: str | None

    def check(self, params: Iterable[Any]) -> None:
        """Raise ValueError where params cannot be kept so."""
        if self.state_dtype not in (None, *STATE_DTYPES):
            raise ValueError(
                f"state_dtype must be None or one of {', '.join(STATE_DTYPES)}, "
                f"got {self.state_dtype!r}"
            )
        if self.master not in (None, *MASTERS):
            raise ValueError(
                f"master must be None or one of {', '.join(MASTERS)}, got {self.master!r}"
            )
        takes = {"float32": (np.float16, bfloat16_dtype()), "split": (bfloat16_dtype(),)}
        for i, param in enumerate(params):
            dtype = described(param, f"params[{i}]").dtype
            if is_on_cuda(param) and (self.state_dtype or self.master == "split"):
                raise ValueError(
                    "state_dtype must be None and master None or 'float32' for params on a CUDA "
                    f"device, got {self.state_dtype!r} and {self.master!r}"
                )
            if dtype == np.float64 and self.state_dtype is not None:
                raise ValueError(
                    f"state_dtype must be None for params of float64, got {self.state_dtype!r}"
                )
            if self.master and dtype not in takes[self.master]:
                kind = "half precision" if self.master == "float32" else "bfloat16"
                raise ValueError(
                    f"master {self.master!r} is for params of {kind}, got {dtype} at {i}"
                )

    def beside(self, states: list[str]) -> list[str]:
        """The names under which more is kept beside these states."""
        scales = [f"{s}_scales" for s in states] if self.state_dtype == "uint8" else []
        return scales + (["masters"] if self.master else [])

    def dtype(self, name: str, param: NDArray) -> np.dtype:
        """Of what is kept under a name for a parameter."""
        if name == "masters":
            return np.dtype(np.int16 if self.master == "split" else np.float32)
        if param.dtype == np.float64:
            return param.dtype
        if self.state_dtype == "bfloat16":
            return bfloat16_dtype()
        codes = self.state_dtype == "uint8" and not name.endswith("_scales")
        return np.dtype(np.uint8 if codes else np.float32)

    def shape(self, name: str, param: NDArray) -> tuple[int, ...]:
        """Of what is kept under a name for a parameter."""
        return ((param.size + _BLOCK - 1) // _BLOCK,) if name.endswith("_scales") else param.shape

    def make(self, name: str, param: Any, number: int, start: float) -> Any:
        """Return what a parameter starts with: the state `number`, filled with `start`."""
        if is_on_cuda(param):
            if name == "masters":
                return _cuda_arrays.widened(param)
            return _cuda_arrays.filled_like(
                param, self.dtype(name, described(param, "params")).name, start
            )
        param = to_numpy(param, "params")
        dtype = self.dtype(name, param)
        if name.endswith("_scales"):
            return np.full(self.shape(name, param), start, dtype)
        made = _zeros_beside(param, number, dtype, "C" if dtype.itemsize < 4 else "K")
        if name == "masters":
            if self.master == "float32":
                made[...] = _widened(param)
        elif start:
            if dtype == np.uint8:
                made[...] = 255  # the code of 1, times a scale of `start`
            else:
                plain(made)[...] = _bfloat16_bits([start])[0] if dtype.itemsize == 2 else start
        return made

    def loaded(self, name: str, value: NDArray, param: NDArray, label: str) -> NDArray:
        """Return a copy of what was saved, or raise where it does not fit.

        Half precision becomes float32 where that is kept, and float32 is rounded to bfloat16.
        """
        dtype, shape = self.dtype(name, param), self.shape(name, param)
        halves = (np.dtype(np.float16), bfloat16_dtype())
        value = on_host(value, label)
        found = value.dtype
        if dtype == bfloat16_dtype():
            fits = found in (dtype, np.uint16, np.float32)
            value = _bfloat16_bits(value) if found == np.float32 else plain(value)
        elif dtype == np.float32 and found in halves and name != "masters":
            fits, value = True, _widened(value)
        else:
            fits = found == dtype
        if not fits:
            raise TypeError(f"{label} must be {dtype}, got {found}")
        if value.shape != shape:
            raise ValueError(f"{label} must have shape {shape}, got {value.shape}")
        return value.copy()
