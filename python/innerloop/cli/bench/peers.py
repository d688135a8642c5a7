"""The libraries to compare with, set to the same number of threads."""

from __future__ import annotations

import contextlib
import importlib.util
from types import ModuleType
from typing import Any


def torch(threads: int) -> ModuleType | None:
    """Return PyTorch, or None where it is not installed."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    torch.set_num_threads(threads)
    return torch


def numpy_threads(threads: int) -> contextlib.AbstractContextManager[Any]:
    """Limit the threads of NumPy's BLAS while in use, where threadpoolctl is installed."""
    if importlib.util.find_spec("threadpoolctl") is None:
        return contextlib.nullcontext()
    import threadpoolctl

    return threadpoolctl.threadpool_limits(threads, user_api="blas")
