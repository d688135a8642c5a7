"""The libraries to compare with, set to the same number of threads, and a line for each absent one.

oneDNN and MKL are PyTorch's own product and bfloat16 kernels; NumPy's products are OpenBLAS's.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import machine

NAMES = ("numpy", "torch", "torch-compiled", "jax", "sklearn")
DEFAULT = ("numpy", "torch", "sklearn")  # the others compile, which takes a second or many a case

Calls = dict[str, Callable[[], Any]]


@dataclass
class Peers:
    """What is there of the peers that were asked for.

    Attributes
    ----------
    names : tuple of str
        Those asked for, of `NAMES`.
    threads : int
        How many each of them may use.
    torch, jax, sklearn : module or None
    bfloat16 : dtype or None
        That of ml_dtypes, where it is installed.
    absent : list of str
        A line for each that was asked for and is not there.
    """

    names: tuple[str, ...] = DEFAULT
    threads: int = 1
    torch: Any = None
    jax: Any = None
    sklearn: Any = None
    bfloat16: Any = None
    absent: list[str] = field(default_factory=list)

    @classmethod
    def find(cls, names: Iterable[str], threads: int) -> Peers:
        """Import the peers of these names."""
        found = cls(tuple(names), threads)
        if {"torch", "torch-compiled"} & set(found.names):
            found.torch = found._module("torch", "PyTorch")
        if found.torch is not None:
            found.torch.set_num_threads(threads)
        if "jax" in found.names:
            found.jax = found._module("jax", "JAX")
            if found.jax is not None and threads != machine.cpus():
                found.jax = None
                found.absent.append("JAX is left out: its threads are as many as processors")
        if "sklearn" in found.names:
            found.sklearn = found._module("sklearn", "scikit-learn")
        types = found._module("ml_dtypes", "ml_dtypes (for bfloat16)")
        found.bfloat16 = None if types is None else np.dtype(types.bfloat16)
        return found

    def _module(self, name: str, title: str) -> Any:
        if importlib.util.find_spec(name) is None:
            self.absent.append(f"{title} is not installed: no figures beside it")
            return None
        return importlib.import_module(name)

    def versions(self) -> dict[str, str | None]:
        """Return the peers' versions; None for those that are not there."""
        modules = {"torch": self.torch, "jax": self.jax, "sklearn": self.sklearn}
        return {name: None if m is None else m.__version__ for name, m in modules.items()}

    def keep(self, calls: Calls) -> None:
        """Drop the calls of peers that nobody asked for."""
        for name in set(calls) & set(NAMES) - set(self.names):
            del calls[name]

    def tensor(self, array: NDArray) -> Any:
        """Return PyTorch's tensor over the same memory, bfloat16 too."""
        if array.dtype == self.bfloat16:
            return self.torch.from_numpy(array.view(np.int16)).view(self.torch.bfloat16)
        return self.torch.from_numpy(array)

    def compiled(self, function: Callable[..., Any], *tensors: Any) -> Callable[..., Any] | None:
        """Return torch.compile's form of `function`; None where it is not wanted or fails."""
        if self.torch is None or "torch-compiled" not in self.names:
            return None
        self.torch._dynamo.reset()  # else it falls back to eager after eight functions
        made = self.torch.compile(function, dynamic=False)
        try:
            made(*tensors)
        except Exception as error:  # whatever its compiler or the system's says
            line = f"torch.compile failed: {type(error).__name__}"
            self.absent += [] if line in self.absent else [line]
            return None
        return made

    def jit(self, function: Callable[..., Any], *arrays: NDArray) -> Calls:
        """Return JAX's call of `function` over these arrays, which waits for its result."""
        if self.jax is None:
            return {}
        jitted, own = self.jax.jit(function), [self.jax.numpy.asarray(a) for a in arrays]
        return {"jax": lambda: self.jax.block_until_ready(jitted(*own))}


def numpy_threads(threads: int) -> contextlib.AbstractContextManager[Any]:
    """Limit the threads of NumPy's BLAS while in use, where threadpoolctl is installed."""
    if importlib.util.find_spec("threadpoolctl") is None:
        return contextlib.nullcontext()
    import threadpoolctl

    return threadpoolctl.threadpool_limits(threads, user_api="blas")
