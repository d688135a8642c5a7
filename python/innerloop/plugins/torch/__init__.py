"""innerloop for PyTorch: operators, modules, and `accelerate` for models that are there."""

from . import modules as modules
from . import ops as ops
from .accelerate import Report as Report
from .accelerate import accelerate as accelerate
from .accelerate import restore as restore

__all__ = ["Report", "accelerate", "modules", "ops", "restore"]
