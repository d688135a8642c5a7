"""What calls on CUDA devices need of Python: fresh arrays, and those of libraries not lent in C."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._arrays import CUDA_DEVICES, bfloat16_dtype, library_of, plain

_LEGACY_STREAM = 1  # the legacy default stream, in DLPack and in __cuda_array_interface__


def _current_stream(value: Any, device: int) -> int:
    """The stream that the array's library works on now, where it has such a thing."""
    cuda: Any = getattr(library_of(value), "cuda", None)
    if hasattr(cuda, "current_stream"):  # PyTorch
        return cuda.current_stream(device).cuda_stream or _LEGACY_STREAM
    if hasattr(cuda, "get_current_stream"):  # CuPy
        with cuda.Device(device):
            return cuda.get_current_stream().ptr or _LEGACY_STREAM
    return _LEGACY_STREAM


def lend(value: Any, name: str) -> tuple[Any, Any, int | None, bool]:
    """Return (owner, DLPack capsule or interface, stream, whether writing is allowed if unsaid).

    The interface is ``__cuda_array_interface__``'s as (letter, bytes, address, shape, strides in
    bytes or None). The stream is where the array may be used without waiting; None: on any.
    """
    value = plain(value, name)
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    interface: Any = getattr(value, "__cuda_array_interface__", None)
    writeable = interface is not None and not interface["data"][1]
    if hasattr(value, "__dlpack__"):
        place, device = value.__dlpack_device__()
        if place not in CUDA_DEVICES:
            raise TypeError(
                f"{name} must lie on a CUDA device, as others of this call do, got {kind} on the "
                f"device of DLPack's type {place}"
            )
        stream = _current_stream(value, device)
        try:
            capsule = value.__dlpack__(stream=stream, max_version=(1, 1))
        except TypeError:  # of a library that knows an older form of the protocol
            capsule = value.__dlpack__(stream=stream)
        return value, capsule, stream, writeable
    if interface is None:
        raise TypeError(
            f"{name} must lie on a CUDA device, as others of this call do, got {kind}, which has "
            "neither __dlpack__ nor __cuda_array_interface__"
        )
    if interface.get("mask") is not None:
        raise TypeError(f"{name} must be an array without a mask, got {kind}")
    order, letter, size = interface["typestr"][0], interface["typestr"][1], interface["typestr"][2:]
    if order == ">" and size != "1":
        raise TypeError(f"{name} must be an array of a native dtype, got {interface['typestr']!r}")
    strides = interface.get("strides")
    fields = letter, int(size), interface["data"][0], tuple(interface["shape"]), strides
    return value, fields, interface.get("stream"), writeable


def _maker(value: Any, name: str) -> Any:
    make = getattr(library_of(value), name, None)
    if make is None:
        raise TypeError(
            f"out must be given for arrays of {type(value).__module__}, which has no {name}"
        )
    return make


def empty_like(value: Any) -> Any:
    """Return a fresh array of `value`'s library, dtype, shape, order and device."""
    return _maker(value, "empty_like")(value)


def empty(value: Any, dtype: str, shape: list[int]) -> Any:
    """Return a fresh array of `value`'s library and device, in C order."""
    return _on_device_of(value, "empty", tuple(shape), dtype=_dtype(value, dtype))


def _dtype(value: Any, name: str) -> Any:
    """The dtype of this name, of `value`'s library."""
    dtype = getattr(library_of(value), name, None)
    if dtype is None:
        raise TypeError(f"{type(value).__module__} has no dtype {name} for a result")
    return dtype


def _on_device_of(value: Any, name: str, *args: Any, **options: Any) -> Any:
    """Call a function of `value`'s library that makes an array."""
    make = _maker(value, name)
    if hasattr(value.device, "__enter__"):  # CuPy's devices are contexts, and no arguments
        with value.device:
            return make(*args, **options)
    return make(*args, device=value.device, **options)


def dtype_of(value: Any) -> np.dtype:
    """Return NumPy's dtype of the same name."""
    name = str(value.dtype).rpartition(".")[2]
    return bfloat16_dtype() if name == "bfloat16" else np.dtype(name)


def filled_like(value: Any, dtype: str, start: float) -> Any:
    """Return a fresh array of `value`'s shape, order and device, every element `start`."""
    return _maker(value, "full_like")(value, start, dtype=_dtype(value, dtype))


def widened(value: Any) -> Any:
    """Return a copy in float32."""
    made = filled_like(value, "float32", 0.0)
    made[...] = value
    return made


def copy(value: Any) -> Any:
    """Return a copy on the same device."""
    made = empty_like(value)
    made[...] = value
    return made


def to_host(value: Any, name: str) -> NDArray:
    """Return a copy of float32 or float64 in NumPy."""
    if hasattr(value, "get"):  # CuPy
        return value.get()
    if hasattr(value, "cpu"):  # PyTorch
        return value.detach().cpu().numpy()
    raise TypeError(f"{name}: {type(value).__module__} has neither get nor cpu to copy an array by")


def write(value: Any, array: NDArray) -> None:
    """Write a NumPy array's numbers into one of a device."""
    value[...] = _on_device_of(value, "asarray", array)
