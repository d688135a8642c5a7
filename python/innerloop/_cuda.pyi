"""The kernels for CUDA devices, absent unless built: called by `innerloop._core`."""

from typing import Any

kernels: Any

def status() -> str: ...
