"""Modules over the operators: PyTorch's names, arguments, initialisation and ``state_dict``.

Each is a subclass of its namesake in `torch.nn` and differs from it in `forward` alone, so that it
loads the other's checkpoints, starts from the same weights for the same seed, and passes for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ...reference import ACTIVATIONS
from . import ops
from ._operator import DEVICES

__all__ = [
    "CrossEntropyLoss",
    "Dropout",
    "LayerNorm",
    "Linear",
    "LinearCrossEntropyLoss",
    "PReLU",
    "RMSNorm",
    "Sequential",
]


class Linear(nn.Linear):
    """Dense layer with its activation and dropout in the same pass; see `ops.linear`.

    Parameters
    ----------
    in_features, out_features, bias, device, dtype
        As in `torch.nn.Linear`, with its initialisation.
    activation : str, optional
        Such as ``"gelu"``; `innerloop.activations.NAMES` lists them.
    dropout : float, default 0.0
        Probability that an element of the output is dropped in training. The seed is drawn from
        PyTorch's generator at each call.
    **params : float
        The activation's parameters, such as ``negative_slope``.

    Raises
    ------
    TypeError, ValueError
        If there is no such activation or parameter of it, or `dropout` is out of [0, 1].
    """

    # Of a layer that `accelerate` made of PyTorch's, whose constructor knows none of them.
    activation: str | None = None
    dropout = 0.0
    params: dict[str, Any] = {}  # noqa: RUF012

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        activation: str | None = None,
        dropout: float = 0.0,
        **params: float,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        ops.check_activation(activation, params)
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout must lie in [0, 1], got {dropout}")
        self.activation, self.dropout, self.params = activation, dropout, params

    def forward(self, x: Tensor) -> Tensor:
        return ops.linear(
            x,
            self.weight,
            self.bias,
            activation=self.activation,
            dropout=self.dropout if self.training else 0.0,
            **self.params,
        )

    def extra_repr(self) -> str:
        fused = {"activation": self.activation, **self.params, "dropout": self.dropout or None}
        said = [f"{name}={value!r}" for name, value in fused.items() if value is not None]
        return ", ".join([super().extra_repr(), *said])


def _activation_module(name: str, peer: type[nn.Module]) -> type[nn.Module]:
    """The module of an activation: a subclass of PyTorch's, which holds the parameters."""

    def forward(self: Any, x: Tensor) -> Tensor:
        if getattr(self, "inplace", False):  # x itself is to be written: PyTorch's own kernel
            return peer.forward(self, x)
        called, parameters = activation_of(self)
        return ops.activation(x, called, **parameters)

    made = type(peer.__name__, (peer,), {"forward": forward})
    made.__module__ = __name__
    made.__doc__ = (
        f"`torch.nn.{peer.__name__}` over ``torch.ops.innerloop.{name}``.\n\n"
        "With ``inplace=True``, where it can be given, it is PyTorch's own."
    )
    return made


_PEERS = {name.lower(): name for name in dir(nn) if name[0].isupper()}
ACTIVATION_PEERS: dict[type[nn.Module], str] = {
    getattr(nn, _PEERS[key]): name
    for name in ACTIVATIONS
    if (key := name.replace("_", "")) in _PEERS and name != "identity"
}
"""PyTorch's classes of activations, and what the activation is called here."""

ACTIVATION_MODULES = {
    peer: _activation_module(name, peer) for peer, name in ACTIVATION_PEERS.items()
}
for _peer, _module in ACTIVATION_MODULES.items():
    globals()[_peer.__name__] = _module
    __all__ += [_peer.__name__]


def activation_of(module: Any) -> tuple[str, dict[str, float]]:
    """What the activation of one of PyTorch's modules, or of ours, is called here; its numbers."""
    kind = type(module)
    name = ACTIVATION_PEERS[kind if kind in ACTIVATION_PEERS else kind.__mro__[1]]
    approximate = vars(module).get("approximate", "none")  # a module takes long to say it has none
    if approximate != "none":
        name = f"{name}_{approximate}"
    return name, {p: getattr(module, p) for p in ACTIVATIONS[name].parameters}


class PReLU(nn.PReLU):
    """`torch.nn.PReLU` over ``torch.ops.innerloop.prelu``."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.prelu(x, self.weight)


def _mixed(x: Any, weight: Tensor | None) -> bool:
    """Whether dtypes differ: PyTorch's own norms take half precision beside float32 weights, and
    say what they do not take. Under autocast ours cast."""
    return (
        weight is not None
        and isinstance(x, Tensor)
        and x.dtype != weight.dtype
        and not any(map(torch.is_autocast_enabled, DEVICES))
    )


class LayerNorm(nn.LayerNorm):
    """`torch.nn.LayerNorm` over ``torch.ops.innerloop.layer_norm``, where dtypes agree."""

    def forward(self, x: Tensor) -> Tensor:
        if _mixed(x, self.weight):
            return super().forward(x)
        return ops.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.RMSNorm):
    """`torch.nn.RMSNorm` over ``torch.ops.innerloop.rms_norm``, where dtypes agree."""

    def forward(self, x: Tensor) -> Tensor:
        if _mixed(x, self.weight):
            return super().forward(x)
        return ops.rms_norm(x, self.normalized_shape, self.weight, self.eps)


class Dropout(nn.Dropout):
    """`torch.nn.Dropout` by innerloop's counter-based random numbers.

    The seed is drawn from PyTorch's generator at each call, so `torch.manual_seed` makes a run
    repeatable; the mask is another than PyTorch's. With ``inplace=True`` it is PyTorch's own.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.inplace:
            return super().forward(x)
        return ops.dropout(x, self.p) if self.training and self.p > 0 else x


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """`torch.nn.CrossEntropyLoss`, whose forward pass makes the gradient too.

    Probabilities as targets are not differentiated. The loss of half precision is float32.

    Parameters
    ----------
    weight, size_average, ignore_index, reduce, reduction, label_smoothing
        As in `torch.nn.CrossEntropyLoss`.
    z_loss : float, default 0.0
        As in `innerloop.softmax_cross_entropy`.
    """

    z_loss = 0.0  # of a loss that `accelerate` made of PyTorch's

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.z_loss = z_loss

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return ops.softmax_cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
            reduction=self.reduction,
        )


class LinearCrossEntropyLoss(nn.Module):
    """A last layer and the cross-entropy of its logits, which are never all in memory.

    The arguments and the ``state_dict`` are those of `torch.nn.LinearCrossEntropyLoss`, which
    PyTorch has since 2.13.

    Parameters
    ----------
    in_features, num_classes : int
    bias : bool, default False
        Of the layer, which is ``self.linear``, a `torch.nn.Linear`.
    device, dtype : optional
        Of the layer.
    reduction : {"mean", "sum", "none"}, default "mean"
    weight : Tensor, shape (num_classes,), optional
        A weight for each class.
    ignore_index : int, optional
        None is -100.
    label_smoothing, z_loss : float, default 0.0
        As in `innerloop.softmax_cross_entropy`.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        bias: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_features, self.num_classes = in_features, num_classes
        self.linear = nn.Linear(in_features, num_classes, bias, device, dtype)
        self.register_buffer("weight", weight)
        self.weight: Tensor | None
        self.reduction, self.ignore_index = reduction, ignore_index
        self.label_smoothing, self.z_loss = label_smoothing, z_loss

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return ops.linear_cross_entropy(
            input,
            self.linear.weight,
            target,
            self.linear.bias,
            class_weight=self.weight,
            ignore_index=-100 if self.ignore_index is None else self.ignore_index,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        names = ("reduction", "ignore_index", "label_smoothing", "z_loss")
        said = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"in_features={self.in_features}, num_classes={self.num_classes}, {said}"


def has_hooks(module: nn.Module) -> bool:
    """Whether someone looks at the module's input or output, or has put a forward into it."""
    m: Any = module
    return bool(
        m._forward_hooks
        or m._forward_pre_hooks
        or m._backward_hooks
        or m._backward_pre_hooks
        or "forward" in m.__dict__
    )


def fused_runs(modules: Iterable[Any]) -> list[list[Any]]:
    """Consecutive modules that are one call: a layer with its activation, its dropout, or both.

    The layer is one without an activation or dropout of its own; none has a hook.
    """
    rest = list(modules)
    runs, at = [], 0
    while at < len(rest):
        run = [rest[at]]
        at += 1
        first = run[0]
        if type(first) is Linear and not (first.activation or first.dropout or has_hooks(first)):
            for kinds in (_FUSED_ACTIVATIONS, (Dropout,)):
                if at < len(rest) and type(rest[at]) in kinds and not has_hooks(rest[at]):
                    run.append(rest[at])
                    at += 1
        runs.append(run)
    return runs


_FUSED_ACTIVATIONS = tuple(ACTIVATION_MODULES.values())


class Sequential(nn.Sequential):
    """`torch.nn.Sequential` that runs a `Linear`, its activation and its `Dropout` as one call.

    Its modules stay what and where they are, so each can be indexed, replaced, hooked or called
    alone; those with hooks are called alone. Where hooks are set for all modules, nothing is fused.
    """

    def forward(self, input: Any) -> Any:
        modules = self._modules.values()
        if torch.nn.modules.module._has_any_global_hook():
            runs = [[m] for m in modules]
        else:
            runs = fused_runs(modules)
        for run in runs:
            input = run[0](input) if len(run) == 1 else self._run(input, *run)
        return input

    @staticmethod
    def _run(x: Tensor, layer: Any, *rest: Any) -> Tensor:
        name, dropout = None, 0.0
        parameters: dict[str, Any] = {}
        for module in rest:
            if isinstance(module, nn.Dropout):
                dropout = module.p if module.training else 0.0
            else:
                name, parameters = activation_of(module)
        return ops.linear(
            x, layer.weight, layer.bias, activation=name, dropout=dropout, **parameters
        )
