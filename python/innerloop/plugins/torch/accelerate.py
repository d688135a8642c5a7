"""Make the modules of a model that is there innerloop's, and make them PyTorch's again.

A module's class is changed and nothing else: the object stays where it is and keeps its parameters,
buffers, mode and place in the ``state_dict``, so that optimizers, tied weights and references to it
know no difference. What is fused is fused as a Sequential runs its modules.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from . import modules
from ._operator import DEVICES, FLOATING

__all__ = ["Report", "accelerate", "restore"]

_OURS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: modules.Linear,
    nn.LayerNorm: modules.LayerNorm,
    nn.RMSNorm: modules.RMSNorm,
    nn.PReLU: modules.PReLU,
    nn.Dropout: modules.Dropout,
    nn.CrossEntropyLoss: modules.CrossEntropyLoss,
    nn.Sequential: modules.Sequential,
    **modules.ACTIVATION_MODULES,
}
_MARK = "_innerloop_was"  # in a module that was changed: its class before


@dataclass
class Report:
    """What `accelerate` did.

    Attributes
    ----------
    changed : dict of str to str
        The modules that are innerloop's now, by name, and what each was.
    fused : dict of str to str
        The modules that run as one call, by the first one's name, and what the call is.
    kept : dict of str to str
        The modules that might have been changed and were not, and why.
    """

    changed: dict[str, str] = field(default_factory=dict)
    fused: dict[str, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = []
        for title, entries in (
            ("changed", self.changed),
            ("fused", self.fused),
            ("kept as they are", self.kept),
        ):
            count = f"{len(entries)} module{'' if len(entries) == 1 else 's'}"
            lines.append(f"{title}: {count if title != 'fused' else len(entries)}")
            width = max((len(name) for name in entries), default=0)
            lines += [f"  {name:{width}}  {text}" for name, text in entries.items()]
        return "\n".join(lines)


def _reason_to_keep(module: nn.Module, peer: type[nn.Module]) -> str | None:
    """Why a module that is one of PyTorch's `peer` is left alone, or None."""
    if type(module) is not peer:
        return f"{type(module).__name__} is a subclass of {peer.__name__}"
    if "forward" in vars(module):
        return "it has a forward of its own"
    if modules.has_hooks(module):
        return "it has hooks"
    if getattr(module, "_compiled_call_impl", None) is not None:
        return "it is compiled already"
    tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    for tensor in tensors:
        if tensor.layout != torch.strided:
            return f"it holds a tensor of layout {tensor.layout}"
        if tensor.device.type not in DEVICES:
            return f"it holds a tensor on {tensor.device}"
        if tensor.dtype not in FLOATING:
            return f"it holds a tensor of {tensor.dtype}"
        if type(tensor) not in (torch.Tensor, nn.Parameter):
            return f"it holds a {type(tensor).__name__}"
    for name in ("weight", "bias"):  # such as weight_norm makes of a parameter
        if isinstance(vars(module).get(name), torch.Tensor):
            return f"its {name} is computed from other parameters"
    return None


def accelerate(model: nn.Module) -> Report:
    """Let innerloop's kernels run the modules of a model, in place.

    `torch.nn`'s Linear, LayerNorm, RMSNorm, Dropout, CrossEntropyLoss and activations become those
    of `innerloop.plugins.torch.modules`; in a Sequential, a Linear runs as one call with the
    activation, the dropout or both that follow it. Modules with hooks, parametrised, quantised,
    lazy or subclassed ones, and those that hold other tensors than dense floating ones on the CPU,
    stay as they are. Parameters are the same objects and the keys of ``state_dict`` the same keys,
    so optimizers go on.

    What is different afterwards: masks of dropout are others than PyTorch's for the same seed, the
    loss of half-precision logits is float32, and double backward is refused.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    Report
        What was changed, fused and kept; `print` it.

    Raises
    ------
    TypeError
        If `model` is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    report = Report()
    for name, module in model.named_modules():
        name = name or "(model)"
        peer = next((p for p in _OURS if isinstance(module, p)), None)
        if peer is None or isinstance(module, _OURS[peer]):
            continue
        reason = _reason_to_keep(module, peer)
        if reason is not None:
            if peer is not nn.Sequential:  # one that is not runs its modules one by one
                report.kept[name] = reason
            continue
        vars(module)[_MARK] = peer
        module.__class__ = _OURS[peer]
        if peer is not nn.Sequential:
            report.changed[name] = peer.__name__
    for name, module in model.named_modules():
        if type(module) is modules.Sequential:
            names = iter(module._modules)
            for run in modules.fused_runs(module._modules.values()):
                first, *_ = (next(names) for _ in run)
                if len(run) > 1:
                    place = f"{name}.{first}" if name else first
                    report.fused[place] = " + ".join(type(m).__name__ for m in run)
    return report


def restore(model: nn.Module) -> list[str]:
    """Undo what `accelerate` did: every module is again of the class that it had.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    list of str
        The names of the modules that were changed back.

    Raises
    ------
    TypeError
        If `model` is no module.
    RuntimeError
        If the class of an accelerated module has been changed since, as parametrisations do.
        Nothing has been changed back then.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    marked: list[tuple[str, nn.Module, Any]] = [
        (name or "(model)", module, vars(module)[_MARK])
        for name, module in model.named_modules()
        if _MARK in vars(module)
    ]
    for name, module, was in marked:
        if type(module) is not _OURS[was]:
            raise RuntimeError(
                f"model's module {name} has become a {type(module).__name__} since accelerate: "
                "undo that first"
            )
    for _, module, was in marked:
        module.__class__ = was
        del vars(module)[_MARK]
    return [name for name, _, _ in marked]
