"""innerloop: fused kernels for the inner loop of neural-network training.

Arrays may be of any library that shares memory through DLPack, the buffer protocol or
``__array_interface__``; results come back in the caller's own. See ``docs/design.md``.
"""

from . import _core as _core  # first: it refuses, with an ImportError, a CPU that it cannot run on
from . import activations as activations
from . import dropout as _dropout  # the functions of their names are public, not the modules
from . import gated as gated
from . import linear as _linear
from . import linear_cross_entropy as _linear_cross_entropy
from . import losses as losses
from . import mlp as mlp
from . import norms as norms
from . import optimizers as optimizers
from . import prelu as _prelu
from . import reference as reference
from . import runtime as runtime
from . import schedules as schedules
from . import softmax as _softmax
from .activations import *  # noqa: F403
from .dropout import *  # noqa: F403
from .gated import *  # noqa: F403
from .linear import *  # noqa: F403
from .linear_cross_entropy import *  # noqa: F403
from .losses import *  # noqa: F403
from .mlp import *  # noqa: F403
from .norms import *  # noqa: F403
from .optimizers import *  # noqa: F403
from .prelu import *  # noqa: F403
from .runtime import *  # noqa: F403
from .softmax import *  # noqa: F403

__version__ = "0.1.0"  # as in pyproject.toml: tests/test_list.py compares

__all__ = [
    *activations.__all__,
    *_dropout.__all__,
    *gated.__all__,
    *_linear.__all__,
    *_linear_cross_entropy.__all__,
    *losses.__all__,
    *mlp.__all__,
    *norms.__all__,
    *optimizers.__all__,
    *_prelu.__all__,
    *runtime.__all__,
    *_softmax.__all__,
]

try:
    from . import _threadpoolctl as _threadpoolctl
except ImportError:  # threadpoolctl is not installed
    pass
