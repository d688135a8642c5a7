"""Parameters, their gradients and states as the NumPy arrays that the native step takes.

To see a tensor as an array takes longer than to step a small one, so those of parameters and states
are kept for as long as their tensors lie where they lay; and what is asked of each of a thousand
tensors in every step is asked by `map`, which takes a fraction of a loop's time.
"""

from __future__ import annotations

from operator import is_
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.autograd.graph import increment_version

from ..._arrays import to_numpy
from ..._optimizer_storage import Storage
from ...reference import Optimizer as Entry
from ...reference.optimizers import nadam_momentum
from ._optimizer_shards import local, local_gradient

_HALVES = (torch.bfloat16, torch.float16)
_STORAGE = Storage(None, None)


def _array(tensor: Any, label: str) -> Any:
    """A tensor's memory as the native step takes it: itself, on a CUDA device."""
    return tensor.detach() if tensor.is_cuda else to_numpy(tensor.detach(), label)


def _dtype(value: Any) -> torch.dtype | None:
    return value.dtype if isinstance(value, torch.Tensor) else None


class Bound:
    """A parameter with its states.

    Attributes
    ----------
    array : NDArray
        The parameter.
    place, strides : int, tuple of int
        Where its tensor lay.
    kept : list of (str, torch.Tensor, int)
        Its states' names, tensors and where they lay.
    states : list of NDArray or None
        By the order of the native rule; None where a step does not need it.
    step, product : NDArray or None
        Of no axes: PyTorch's count of the steps that were made, and NAdam's product of momenta.
    lacks_states : bool
        Whether this is the first step that a state has a part in, as SGD asks.
    distributed : bool
        Whether other processes hold parts of the parameter.
    is_numpy : bool
        Whether the parameter's dtype is one of NumPy's own.
    """

    step: NDArray | None
    product: NDArray | None

    __slots__ = (
        *("_fresh", "_names", "array", "distributed", "is_numpy", "kept", "label"),
        *("lacks_states", "param", "place", "product", "states", "step", "strides"),
    )

    def __init__(
        self,
        entry: Entry,
        param: Any,
        state: dict[str, Any],
        names: tuple[str | None, ...],
        scalars: torch.dtype,
        numbers: dict[str, Any],
        label: str,
    ) -> None:
        mine = local(param)
        if mine.is_complex():
            raise TypeError(f"{label} must be of a real dtype, got {mine.dtype}")
        self.param, self._names, self.label = param, names, label
        self.array = _array(mine, label)
        self.distributed = mine is not param
        self.place = mine.data_ptr()
        self.strides = mine.stride()
        self.is_numpy = mine.dtype not in _HALVES or mine.dtype is torch.float16
        self._fresh: dict[str, Any] = {}
        self.kept: list[tuple[str, Any, int]] = []
        own = names[: len(entry.states)]
        self.lacks_states = all(state.get(name) is None for name in own if name)
        self.step = self.product = None
        if "step" in names:
            self.step = self._scalar(state.get("step"), "step", 0.0, scalars)
            if "mu_product" in names:
                self.product = self._product(self.step, state.get("mu_product"), numbers, scalars)
        self.states: list[NDArray | None] = []
        for number, (ours, name) in enumerate(zip(entry.states, own, strict=True)):
            if name is None:
                self.states.append(None)
                continue
            start = numbers[entry.starts[ours]] if ours in entry.starts else 0.0
            held = state.get(name)
            if held is None:
                held = self._fresh[name] = self._make(f"{ours}s", number, start, mine)
            elif _dtype(held) in _HALVES and mine.dtype in _HALVES:
                held = self._fresh[name] = held.float()  # as PyTorch keeps it
            self.states.append(self._keep(name, held))

    def _make(self, plural: str, number: int, start: float, mine: Any) -> Any:
        if self.distributed or mine.is_cuda:
            wide = torch.float32 if mine.dtype in _HALVES else mine.dtype
            return torch.full_like(self.param, start, dtype=wide, requires_grad=False)
        return torch.from_numpy(_STORAGE.make(plural, self.array, number, start))

    def _product(
        self, step: NDArray, held: Any, numbers: dict[str, Any], scalars: torch.dtype
    ) -> NDArray:
        """NAdam's product of momenta, which PyTorch rounds to half precision where it loads it."""
        made, beta1 = int(step), numbers["betas"][0]
        so_far = nadam_momentum(made, beta1, numbers["momentum_decay"])[1]
        rounded = _dtype(held) in _HALVES
        return self._scalar(None if rounded else held, "mu_product", so_far, scalars)

    def _scalar(self, held: Any, name: str, start: float, dtype: torch.dtype) -> NDArray:
        if held is None:
            held = self._fresh[name] = torch.tensor(start, dtype=dtype)
        if isinstance(held, torch.Tensor) and held.is_cuda:
            raise NotImplementedError(
                f"{name} of {self.label} must be on the CPU, where innerloop counts steps, got it "
                f"on {held.device}: load it from an optimizer without capturable and fused"
            )
        array = self._keep(name, held)
        if array.size != 1:
            raise ValueError(f"{name} of {self.label} must be one number, got shape {array.shape}")
        return array.reshape(())

    def _keep(self, name: str, held: Any) -> NDArray:
        label = f"{name} of {self.label}"
        if not isinstance(held, torch.Tensor):
            raise TypeError(f"{label} must be a tensor, got {type(held).__name__}")
        mine = local(held)
        array = _array(mine, label)
        self.kept.append((name, held, mine.data_ptr()))
        return array

    def fits(self, param: Any, state: dict[str, Any] | None, names: tuple[str | None, ...]) -> bool:
        """Whether nothing has been put in these tensors' places, nor moved."""
        if param is not self.param or names != self._names:
            return False
        mine = local(param)
        if self.place != mine.data_ptr() or self.strides != mine.stride():
            return False
        held = state or {}
        return all(
            is_(held.get(name), tensor) and local(tensor).data_ptr() == place
            for name, tensor, place in self.kept
        )

    def take_fresh(self, state: dict[Any, dict[str, Any]]) -> None:
        """Let the optimizer's state have what was made here, once a step has been made with it."""
        if self._fresh:
            state[self.param].update(self._fresh)
            self._fresh = {}
        self.lacks_states = False


class Plan:
    """The parameters of a group that have gradients, bound, as the native step takes them.

    Attributes
    ----------
    arrays : list of NDArray
        The parameters.
    states : list of lists of NDArray or None
        For each state of the native rule.
    distributed : bool
        Whether other processes hold parts of a parameter.
    bounds : list of Bound
    known : dict
        By the parameter's id, those that had no gradient this time, too.
    """

    __slots__ = (
        *("_counts", "_dicts", "_is_numpy", "_keys", "_kept", "_kept_places", "_names", "_owned"),
        *("_params", "_places", "_products", "_settled", "_strides"),
        *("arrays", "bounds", "distributed", "known", "states"),
    )

    def __init__(
        self, bounds: list[Bound], known: dict[int, Bound], names: tuple[str | None, ...], n: int
    ) -> None:
        self.bounds, self.known, self._names = bounds, known, names
        self._params = [b.param for b in bounds]
        self.arrays = [b.array for b in bounds]
        self.states = [[b.states[i] for b in bounds] for i in range(n)]
        self.distributed = any(b.distributed for b in bounds)
        self._is_numpy = all(b.is_numpy for b in bounds)
        self._counts = [b.step for b in bounds if b.step is not None]
        self._products = [b.product for b in bounds if b.product is not None]
        self._settled = False

    def next_steps(self) -> list[int]:
        """The number of each parameter's step to come; without a count, 1 or a later one."""
        if not self._counts:
            return [1 if b.lacks_states else 2 for b in self.bounds]
        return [int(count) + 1 for count in map(np.ndarray.item, self._counts)]

    def products(self) -> list[float]:
        """NAdam's products of momenta so far."""
        return [float(product) for product in self._products]

    def settle(
        self, state: dict[Any, dict[str, Any]], steps: list[int], products: list[float]
    ) -> None:
        """Note that these steps have been made, to these products of momenta.

        The optimizer gets the states that were made for them, and autograd learns that the
        parameters have changed: it refuses to go back through older ones.
        """
        try:
            increment_version(self._params)
        except TypeError:  # an older PyTorch takes one at a time
            for param in self._params:
                increment_version(param)
        for count, step in zip(self._counts, steps, strict=False):  # there may be no counts
            count[...] = step
        for product, value in zip(self._products, products, strict=True):
            product[...] = value
        if self._settled:
            return
        self._settled = True
        for b in self.bounds:
            b.take_fresh(state)
        self._places = [b.place for b in self.bounds]
        self._strides = [b.strides for b in self.bounds]
        self._owned = [state.get(p) for p in self._params]
        pairs = zip(self._owned, self.bounds, strict=True)
        kept = [(own, *k) for own, b in pairs if own is not None for k in b.kept]
        self._dicts, self._keys = [k[0] for k in kept], [k[1] for k in kept]
        self._kept, self._kept_places = [k[2] for k in kept], [k[3] for k in kept]

    def holds(
        self, params: list[Any], state: dict[Any, dict[str, Any]], names: tuple[str | None, ...]
    ) -> bool:
        """Whether it is of these parameters, and their tensors and states' lie where they lay."""
        if not (
            self._names == names
            and len(params) == len(self._params)
            and all(map(is_, params, self._params))
            and all(map(is_, map(state.get, params), self._owned))
            and all(map(is_, map(dict.get, self._dicts, self._keys), self._kept))
        ):
            return False
        mine, kept = params, self._kept
        if self.distributed:
            mine, kept = list(map(local, params)), list(map(local, kept))
        return (
            list(map(torch.Tensor.data_ptr, mine)) == self._places
            and list(map(torch.Tensor.stride, mine)) == self._strides
            and list(map(torch.Tensor.data_ptr, kept)) == self._kept_places
        )

    def shares(self, grads: list[Any]) -> list[Any]:
        """What this process holds of the gradients, to go with what it holds of the parameters."""
        if not self.distributed:
            return grads
        pairs = zip(self.bounds, grads, strict=True)
        return [local_gradient(b.param, grad, b.label) for b, grad in pairs]

    def gradients(self, grads: list[Any], owner: str) -> list[NDArray]:
        """The gradients' arrays; RuntimeError, as of `torch.optim`, where one is sparse."""
        if self._is_numpy:
            try:
                return list(map(torch.Tensor.numpy, grads))
            except (RuntimeError, TypeError):
                pass  # sparse or followed by autograd: what takes more than one call
        arrays = []
        for b, grad in zip(self.bounds, grads, strict=True):
            if grad.layout is not torch.strided:
                raise RuntimeError(
                    f"{owner} does not support sparse gradients, got one of layout {grad.layout} "
                    f"for {b.label}"
                )
            written = grad.detach().resolve_neg()  # autograd leaves a negation as a mere flag
            arrays.append(_array(written, f"the gradient of {b.label}"))
        return arrays


def finer(states: dict[str, Any], param: Any) -> dict[str, Any]:
    """Those of a parameter's loaded states that PyTorch would round to its half precision."""
    if param.dtype not in _HALVES:
        return {}
    return {k: v.to(param.device) for k, v in states.items() if _dtype(v) is torch.float32}


def as_number(value: Any, name: str) -> Any:
    """A hyperparameter that may be a tensor of one element, as a number."""
    if not isinstance(value, torch.Tensor):
        return value
    if value.numel() != 1:
        raise ValueError(f"Tensor {name} must be 1-element, got shape {tuple(value.shape)}")
    return value.item()
