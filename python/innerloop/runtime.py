"""Which instruction set, backend and threads serve the calls of this process."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from . import _core
from ._arrays import cuda_module

__all__ = [
    "backends",
    "cuda_checked",
    "cuda_tf32",
    "empty_cache",
    "get_num_threads",
    "info",
    "isas",
    "set_cache_limit",
    "set_cuda_checked",
    "set_cuda_tf32",
    "set_num_threads",
    "use_backend",
    "use_isa",
]

BACKENDS = ("cpu", "reference")


class _Restore:
    """What a setter returns: as a context manager, it puts the old value back at the end."""

    def __init__(self, setter: Any, old: str) -> None:
        self._setter, self._old = setter, old

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._setter(self._old)


def isas() -> list[str]:
    """Names of the instruction sets that this machine can run, lowest first."""
    return _core.isas()


def use_isa(name: str) -> _Restore:
    """Serve all later calls of this process with one instruction set.

    Parameters
    ----------
    name : str
        One of `isas`. The environment variable ``INNERLOOP_ISA`` sets the first choice.

    Returns
    -------
    context manager
        ``with use_isa("v3"): ...`` goes back to the former choice at its end.

    Raises
    ------
    ValueError
        If this machine cannot run it, or there is none of that name.
    """
    old = _core.isa()
    _core.use_isa(name)
    return _Restore(_core.use_isa, old)


def backends() -> list[str]:
    """Names of the backends: ``"cpu"``, and ``"reference"``, which is every kernel in NumPy."""
    return list(BACKENDS)


def use_backend(name: str) -> _Restore:
    """Serve all later calls of this process with one backend.

    Parameters
    ----------
    name : str
        One of `backends`. Every check of a call's arguments is the same for all of them.

    Returns
    -------
    context manager
        ``with use_backend("reference"): ...`` goes back to the former choice at its end.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    old = _core.backend()
    _core.use_reference(name == "reference")
    return _Restore(use_backend, old)


def set_num_threads(n: int) -> None:
    """Let each later call use up to `n` threads, the caller's among them.

    The first choice is ``INNERLOOP_NUM_THREADS``, ``OMP_NUM_THREADS``, or the cores that the
    process may run on. Results are the same bits for any number.

    Parameters
    ----------
    n : int
        At least 1; it may exceed the cores.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is below 1.
    """
    _core.set_num_threads(n)


def get_num_threads() -> int:
    """Return how many threads a call may use."""
    return _core.get_num_threads()


def set_cuda_tf32(allowed: bool) -> None:
    """Let products of float32 on CUDA devices read their factors with ten bits of fraction.

    So they run on tensor cores. Sums stay float32. The first choice is False.

    Parameters
    ----------
    allowed : bool

    Raises
    ------
    TypeError
        If `allowed` is not a boolean.
    """
    _core.set_cuda_tf32(allowed)


def cuda_tf32() -> bool:
    """Return whether `set_cuda_tf32` lets products of float32 be less precise."""
    return _core.cuda_tf32()


def set_cache_limit(bytes: int) -> None:
    """Bound the memory of freed outputs that is kept for the next ones; 0 keeps none.

    A fresh array of tens of MB costs more in page faults than the kernel that fills it, so results
    are made in the memory of earlier ones that have been freed. The first limit is a sixteenth of
    the machine's memory, or of what its cgroup allows. Memory above the limit is given back at
    once. ``info()`` tells the limit and what is kept.

    Parameters
    ----------
    bytes : int
        At least 0.

    Raises
    ------
    TypeError
        If `bytes` is not an integer.
    ValueError
        If it is negative or does not fit into 64 bits.
    """
    _core.set_buffer_cache_limit(bytes)


def empty_cache() -> None:
    """Give the memory of freed outputs that is kept for the next ones back to the system."""
    _core.buffer_cache_clear()


def cuda_checked() -> bool:
    """Whether calls on CUDA devices wait for their kernels: see `set_cuda_checked`."""
    return _core.cuda_checked()


def set_cuda_checked(checked: bool) -> None:
    """Let calls on CUDA devices wait for their kernels and raise what these find, or not.

    Nobody but the kernels reads class labels on a device. They take one that is no class for one
    to ignore, and the next call on the device raises the IndexError. With ``checked`` the call
    itself does. The first choice is ``INNERLOOP_CUDA_CHECKED``, which is on unless it is unset,
    empty or 0.

    Parameters
    ----------
    checked : bool

    Raises
    ------
    TypeError
        If `checked` is not a bool.
    """
    _core.set_cuda_checked(checked)


def _cuda_status() -> str:
    module = cuda_module()
    return module.status() if module is not None else "not built (innerloop._cuda is absent)"


def info() -> dict[str, Any]:
    """Return version, instruction sets, backend, threads, the buffer cache's fill and CUDA's state.

    Arrays of CUDA devices are served by the module `innerloop._cuda` where that was built:
    ``"cuda"`` tells whether, and which devices it finds. They choose it themselves, so it is not
    among `backends`.
    """
    from . import __version__

    return {
        "version": __version__,
        "isa": _core.isa(),
        "isas": _core.isas(),
        "backend": _core.backend(),
        "backends": backends(),
        "cuda": _cuda_status(),
        "num_threads": _core.get_num_threads(),
        "buffer_cache_bytes": _core.buffer_cache_held(),
        "buffer_cache_limit": _core.buffer_cache_limit(),
    }
