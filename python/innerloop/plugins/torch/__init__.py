"""innerloop for PyTorch."""

from . import ops as ops

__all__ = ["ops"]
