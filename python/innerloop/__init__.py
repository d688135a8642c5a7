"""innerloop: fused kernels for the inner loop of neural-network training.

Arrays may be of any library that shares memory through DLPack, the buffer protocol or
``__array_interface__``; results come back in the caller's own. See ``docs/design.md``.
"""

from . import _core as _core  # first: it refuses, with an ImportError, a CPU that it cannot run on
from . import activations as activations
from . import reference as reference
from .activations import *  # noqa: F403
from .linear import *  # noqa: F403
from .runtime import *  # noqa: F403

__version__ = "0.1.0"
