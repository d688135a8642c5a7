"""innerloop for PyTorch: operators, modules, and `accelerate` for models that are there."""

from . import modules as modules
from . import ops as ops

__all__ = ["modules", "ops"]
