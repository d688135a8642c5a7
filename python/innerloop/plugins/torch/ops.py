"""Operators for tensors, differentiable: functions, each of them over ``torch.ops.innerloop``.

Weights lie as in PyTorch, (N, K). The arithmetic is innerloop's, gradients come from its fused
backward kernels. Tensors must be on the CPU, or where innerloop._cuda is built on one CUDA device.
Every operator has a kernel for fake tensors, so that `torch.compile` and `torch.export` take it.
"""

from __future__ import annotations

from ._activations import activation, check_activation
from ._linear import linear
from ._losses import linear_cross_entropy, softmax_cross_entropy
from ._norms import layer_norm, prelu, rms_norm
from ._random import dropout

__all__ = [
    "activation",
    "check_activation",
    "dropout",
    "layer_norm",
    "linear",
    "linear_cross_entropy",
    "prelu",
    "rms_norm",
    "softmax_cross_entropy",
]
