"""Tensors that several processes hold parts of: one's own share, and what all shares are together.

DTensors are known by their methods: to import `torch.distributed` takes time, and it is not in
every build of PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...reference.gradients import clip_coefficient

_PLAIN = (torch.Tensor, torch.nn.Parameter)
_MOST = float(np.finfo(np.float32).max)  # of grad_scale


def is_shared(tensor: Any) -> bool:
    """Whether it is a DTensor."""
    return type(tensor) not in _PLAIN and hasattr(tensor, "to_local")


def local(tensor: Any) -> Any:
    """What a tensor holds in this process: a DTensor's own share, of any other all of it.

    To be called where no gradients are followed, as it would be.
    """
    if not is_shared(tensor):
        return tensor
    mine = tensor.to_local()
    return mine.wait() if hasattr(mine, "wait") else mine  # it may still be under way


def local_gradient(param: Any, grad: Any, label: str) -> Any:
    """The share of a gradient that belongs to this process' share of the parameter."""
    if is_shared(param) != is_shared(grad):
        kinds = [type(t).__name__ for t in (grad, param)]
        raise TypeError(
            f"the gradient of {label} must be a DTensor where the parameter is one, and only "
            f"there, got a {kinds[0]} for a {kinds[1]}"
        )
    if is_shared(param):
        if grad.device_mesh != param.device_mesh:
            raise ValueError(
                f"the gradient of {label} must be on the parameter's device mesh, "
                f"{param.device_mesh}, got one on {grad.device_mesh}"
            )
        if grad.placements != param.placements:  # such as sums that are still to be made
            grad = grad.redistribute(placements=param.placements)
    return local(grad)


def norms(params: Iterable[Any], shares: dict[int, Any]) -> tuple[float, float]:
    """The norm of all processes' gradients and of this one's; every process must ask for it.

    Parameters
    ----------
    params : iterable of torch.Tensor
        All, also those without a gradient: so all processes wait for the same sums.
    shares : dict of int to torch.Tensor
        By a parameter's id, this process' share of its gradient.
    """
    parts: dict[tuple[Any, ...], list[Any]] = {}
    for param in params:
        spread: tuple[Any, ...] = ()  # the mesh, and its axes along which the processes differ
        if is_shared(param):
            axes = enumerate(param.placements)
            spread = (param.device_mesh, *(i for i, p in axes if not p.is_replicate()))
        norms_of = parts.setdefault(spread, [])
        share = shares.get(id(param))
        if share is not None:  # innerloop's own function for a norm clips what it reads
            norms_of.append(torch.linalg.vector_norm(share.detach(), dtype=torch.float64))
    none = torch.zeros((), dtype=torch.float64)
    sums = {k: torch.stack([none, *v]).square().sum() for k, v in parts.items()}
    mine = math.sqrt(sum(map(float, sums.values())))
    for spread, total in sums.items():
        for axis in spread[1:]:
            torch.distributed.all_reduce(total, group=spread[0].get_group(axis))
    return math.sqrt(sum(map(float, sums.values()))), mine


def clip(
    grads: list[NDArray], norms: tuple[float, float], max_norm: float, grad_scale: float
) -> tuple[list[NDArray], float | None, float]:
    """What a native step takes to clip by the norm of all processes' gradients.

    Returns
    -------
    grads : list of NDArray
    max_norm : float or None
    grad_scale : float
    """
    total, mine = (norm / grad_scale for norm in norms)
    coefficient = clip_coefficient(total, max_norm)
    if math.isnan(coefficient):  # a gradient of another process was not finite
        return [_nans(g) for g in grads], None, grad_scale
    if coefficient == 0:
        return grads, 0.0, grad_scale
    if grad_scale / coefficient > _MOST:  # not through grad_scale, then
        return grads, coefficient * (mine + 1e-6), grad_scale
    return grads, None, grad_scale / coefficient


def _nans(like: NDArray) -> NDArray:
    if like.dtype.names:  # bfloat16 without ml_dtypes
        return np.full(like.shape, 0x7FC0, np.uint16).view(like.dtype)
    return np.full_like(like, math.nan)
