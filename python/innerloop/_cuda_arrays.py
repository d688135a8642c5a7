"""What `innerloop._cuda` needs of Python: fresh arrays, and those of libraries not lent in C."""

from __future__ import annotations

from typing import Any

from ._arrays import CUDA_DEVICES, library_of, plain

_LEGACY_STREAM = 1  # the legacy default stream, in DLPack and in __cuda_array_interface__


def _current_stream(value: Any, device: int) -> int:
    """The stream that the array's library works on now, where it has such a thing."""
    cuda: Any = getattr(library_of(value), "cuda", None)
    if hasattr(cuda, "current_stream"):  # PyTorch
        return cuda.current_stream(device).cuda_stream or _LEGACY_STREAM
    if hasattr(cuda, "get_current_stream"):  # CuPy
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
    make, library = _maker(value, "empty"), library_of(value)
    kind = getattr(library, dtype, None)
    if kind is None:
        raise TypeError(f"{type(value).__module__} has no dtype {dtype} for a result")
    if hasattr(value.device, "__enter__"):  # CuPy's devices are contexts, and empty takes none
        with value.device:
            return make(tuple(shape), dtype=kind)
    return make(tuple(shape), dtype=kind, device=value.device)
