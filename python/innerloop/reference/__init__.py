"""Every kernel of innerloop in plain NumPy, written from its formula: the specification.

It is also a backend that always works. It never calls the native code, and knows nothing of the
rest of the package. Each function computes in float64 and rounds once to the input's type, which
is what the native kernels are judged against; nothing is checked here, the caller has done so.

`ACTIVATIONS`, `GATED`, `LOSSES` and `OPTIMIZERS` are the registries that the public names, the
bindings and the tests are held to.
"""

from . import activations as activations
from . import elementwise_losses as elementwise_losses
from . import gated as gated
from . import gradients as gradients
from . import losses as losses
from . import mlp as mlp
from . import norms as norms
from . import optimizers as optimizers
from .activations import log_softmax as log_softmax
from .activations import log_softmax_backward as log_softmax_backward
from .activations import softmax as softmax
from .activations import softmax_backward as softmax_backward
from .dropout import dropout as dropout
from .dropout import dropout_backward as dropout_backward
from .dropout import philox as philox
from .gated import GATED as GATED
from .gated import GatedPair as GatedPair
from .linear import linear as linear
from .linear import linear_backward as linear_backward
from .linear_cross_entropy import linear_cross_entropy as linear_cross_entropy
from .losses import nll_loss as nll_loss
from .losses import softmax_cross_entropy as softmax_cross_entropy
from .norms import batch_norm as batch_norm
from .norms import batch_norm_backward as batch_norm_backward
from .norms import layer_norm as layer_norm
from .norms import layer_norm_backward as layer_norm_backward
from .norms import rms_norm as rms_norm
from .norms import rms_norm_backward as rms_norm_backward
from .prelu import prelu as prelu
from .prelu import prelu_backward as prelu_backward
from .registry import ACTIVATIONS as ACTIVATIONS
from .registry import LOSSES as LOSSES
from .registry import OPTIMIZERS as OPTIMIZERS
from .registry import Activation as Activation
from .registry import Loss as Loss
from .registry import Optimizer as Optimizer

# Every registered function under its own name, so that adding one touches one file.
for _entry in ACTIVATIONS.values():
    globals()[_entry.name] = _entry.forward
    globals()[f"{_entry.name}_backward"] = _entry.backward
for _loss in LOSSES.values():
    globals()[_loss.name] = _loss.function
for _pair in GATED.values():
    globals()[_pair.name] = _pair.forward
    globals()[f"{_pair.name}_backward"] = _pair.backward
for _optimizer in OPTIMIZERS.values():
    globals()[_optimizer.name] = _optimizer.function
