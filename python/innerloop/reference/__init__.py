"""Every kernel of innerloop in plain NumPy, written from its formula: the specification.

It is also a backend that always works. It never calls the native code, and knows nothing of the
rest of the package. Each function computes in float64 and rounds once to the input's type, which
is what the native kernels are judged against; nothing is checked here, the caller has done so.

`ACTIVATIONS` and `OPTIMIZERS` are the registries that the public names, the bindings and the tests
are held to.
"""

from . import activations as activations
from . import gradients as gradients
from . import losses as losses
from . import optimizers as optimizers
from .activations import log_softmax as log_softmax
from .activations import log_softmax_backward as log_softmax_backward
from .activations import softmax as softmax
from .activations import softmax_backward as softmax_backward
from .linear import linear as linear
from .linear import linear_backward as linear_backward
from .losses import softmax_cross_entropy as softmax_cross_entropy
from .registry import ACTIVATIONS as ACTIVATIONS
from .registry import OPTIMIZERS as OPTIMIZERS
from .registry import Activation as Activation
from .registry import Optimizer as Optimizer

# Every registered function under its own name, so that adding one touches one file.
for _entry in ACTIVATIONS.values():
    globals()[_entry.name] = _entry.forward
    globals()[f"{_entry.name}_backward"] = _entry.backward
for _optimizer in OPTIMIZERS.values():
    globals()[_optimizer.name] = _optimizer.function
