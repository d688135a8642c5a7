"""`torch.optim`'s optimizers, each of whose steps is one native call over all parameters.

Each class is PyTorch's own but for its step: constructor, checks, hooks, parameter groups and the
layout of its state are inherited, from whichever PyTorch is installed. What a step does, and which
states and numbers it takes, comes from innerloop's registry of optimizers; so there is one
mechanism, `_Native`, and a class below is its entry's name and its PyTorch base.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from itertools import repeat
from operator import is_
from typing import Any, ClassVar

import torch
from torch._compile import _disable_dynamo
from torch.optim.optimizer import Optimizer, ParamsT

from ... import _core
from ..._optimizer_steps import parts
from ...reference import OPTIMIZERS
from ...reference import Optimizer as _Entry
from ...reference.optimizers import nadam_momentum, nadam_mu
from . import _optimizer_arrays as _arrays
from . import _optimizer_shards as _shards

_COUNTLESS = ("sgd", "lion")  # which keep no number of steps
_OURS_ALONE = ("l1", "bias_correction", "max_norm", "grad_scale")  # what no PyTorch group holds
_PRODUCT_ERROR = 1e-6  # of NAdam's product of momenta, which float32 and a formula agree on

_PARAMS = """params : iterable of torch.Tensor, of (name, torch.Tensor) or of dicts
    The parameters, on the CPU, of any shapes and strides, or where innerloop._cuda is built on a
    CUDA device, without gaps, float32, float64, bfloat16 or float16
    (whose states are then float32); or parameter groups, as in PyTorch.
"""
_TORCH_ALONE = {
    "decoupled_weight_decay": """decoupled_weight_decay : bool, default False
    Let weight_decay take ``lr * weight_decay * param`` off param instead: AdamW.
""",
    "foreach": """foreach : bool, optional
    Taken and kept for PyTorch's sake: every step is over all tensors at once.
""",
    "fused": """fused : bool, optional
    With True, a `torch.amp.GradScaler` leaves it to the step to divide the gradients by its scale,
    and they are not rewritten. The step itself is always fused.
""",
    "capturable": """capturable : bool, default False
    Taken and kept for PyTorch's sake. Steps are counted on the CPU: a CUDA graph would repeat one
    step's number, so that only the rules without one can be captured, SGD and Lion.
""",
    "differentiable": """differentiable : bool, default False
    Must be False: autograd cannot follow the step.
""",
}
_CLASS = """max_norm : float, optional
    Clip by the norm of all the gradients together, over all groups, as
    `torch.nn.utils.clip_grad_norm_` before the step would do; the gradients are read for it, not
    rewritten. It is no part of `state_dict`. With DTensors, as FSDP2's, the norm is that of all
    processes' parts, which then make every step together. Not for a `ZeroRedundancyOptimizer`,
    each process of which has other tensors: clip by PyTorch's function before its step.

Attributes
----------
max_norm : float or None
    As given; may be set between steps.
grad_norm : float or None
    The norm of the last step's gradients, where it had a `max_norm`.

Raises
------
TypeError, ValueError, RuntimeError
    As PyTorch's; also ValueError for a number outside the range that innerloop takes, and
    NotImplementedError for ``differentiable=True``. At a step, RuntimeError for sparse gradients,
    TypeError for tensors that are not real floating-point ones on the CPU, ValueError for
    parameters that share memory: nothing has been changed then.

Notes
-----
`state_dict` has PyTorch's layout, and goes on from one of `torch.optim`'s, as that does from this.
Parameters without a gradient are left alone, and each counts its own steps.
"""


def _described(entry: _Entry, base: type[Optimizer]) -> tuple[str, inspect.Signature]:
    """The docstring and the signature of a class: PyTorch's arguments and `max_norm`."""
    signature = inspect.signature(base)
    given = list(signature.parameters.values())
    keyword = inspect.Parameter("max_norm", inspect.Parameter.KEYWORD_ONLY, default=None)
    text, described = parts(entry)
    blocks = {b.partition(" ")[0]: b for b in re.split(r"(?m)^(?=\w+ : )", described) if b}
    blocks = _TORCH_ALONE | blocks
    own = "".join(blocks[p.name] for p in given[1:])
    doc = f"{text}\nParameters\n----------\n{_PARAMS}{own}{_CLASS}"
    keyword = keyword.replace(annotation="float | None")
    return doc, signature.replace(parameters=[*given, keyword])


class _Call:
    """What one native call takes."""

    def __init__(self, entry: _Entry) -> None:
        self.name = entry.name
        self.params: list[Any] = []
        self.grads: list[Any] = []
        self.states: list[list[Any]] = [[] for _ in entry.states]
        self.groups: list[tuple[int, int, dict[str, Any]]] = []

    def add(
        self, plan: _arrays.Plan, grads: list[Any], steps: list[int], numbers: dict[str, Any]
    ) -> None:
        """Add parameters, each of which is to make the step of its number."""
        columns = [plan.arrays, grads, *plan.states]
        for step in sorted(set(steps)):
            chosen = columns
            if steps.count(step) < len(steps):
                places = [i for i, its in enumerate(steps) if its == step]
                chosen = [[column[i] for i in places] for column in columns]
            self.groups.append((len(chosen[0]), step, numbers))
            for into, column in zip((self.params, self.grads, *self.states), chosen, strict=True):
                into += column

    def run(self, max_norm: float | None, grad_scale: float) -> float | None:
        states = tuple(self.states)
        arguments = (self.params, self.grads, states, self.groups, max_norm, grad_scale)
        return _core.optimizer_step(self.name, *arguments)


class _Native(Optimizer):
    """The step, and what it needs, of every class below."""

    _rule: ClassVar[str]

    max_norm: float | None
    grad_norm: float | None
    _plans: list[_arrays.Plan]  # of the last step, by group
    _incoming: list[list[dict[str, Any]]]  # the states that are being loaded, by group

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "_rule" in cls.__dict__:  # a user's own subclass describes itself
            described = _described(OPTIMIZERS[cls._rule], cls.__mro__[2])
            cls.__doc__, cls.__signature__ = described  # type: ignore[attr-defined]

    def __init__(
        self, params: ParamsT, *args: Any, max_norm: float | None = None, **kwargs: Any
    ) -> None:
        self._plans, self._incoming = [], []
        self.max_norm, self.grad_norm = max_norm, None
        super().__init__(params, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "max_norm": self.max_norm, "grad_norm": self.grad_norm}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._plans, self._incoming = [], self.__dict__.get("_incoming", [])
        super().__setstate__(state)
        for group, given in zip(self.param_groups, self._incoming, strict=False):
            for param, states in zip(group["params"], given, strict=True):
                if fine := _arrays.finer(states, param):
                    self.state[param].update(fine)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, as PyTorch's does; its numbers are checked for innerloop, too.

        Parameters
        ----------
        param_group : dict
            Tensors under "params", and any of the constructor's arguments but `max_norm`, which
            holds for all groups together.

        Raises
        ------
        TypeError, ValueError, NotImplementedError
            As the constructor; the optimizer is then as it was.
        """
        if isinstance(param_group, dict) and "max_norm" in param_group:
            raise ValueError(
                "a parameter group must not hold max_norm, which holds for all of them, and which "
                "a ZeroRedundancyOptimizer cannot hand on: clip before its step"
            )
        super().add_param_group(param_group)
        try:
            entry, numbers = self._numbers(self.param_groups[-1])
            _core.optimizer_check(entry.name, numbers, None, self.max_norm)
            for i, p in enumerate(self.param_groups[-1]["params"]):
                if not p.is_floating_point():
                    raise TypeError(f"params[{i}] must be of a real floating dtype, got {p.dtype}")
        except Exception:
            del self.param_groups[-1]
            raise

    def _numbers(self, group: dict[str, Any]) -> tuple[_Entry, dict[str, Any]]:
        """The rule that steps a group, and what it takes."""
        if group.get("differentiable"):
            raise NotImplementedError(
                "differentiable must be False, got True: autograd cannot follow innerloop's step"
            )
        rule = self._rule
        if rule == "adam" and group.get("decoupled_weight_decay"):
            rule = "adamw"
        entry = OPTIMIZERS[rule]
        numbers: dict[str, Any] = {}
        for name, default in entry.hyperparameters.items():
            if name in _OURS_ALONE:
                continue
            value = group.get(name, default)
            if isinstance(value, (tuple, list)):
                value = tuple([_arrays.as_number(v, name) for v in value])
            elif isinstance(default, bool):
                value = bool(value)
            else:
                value = _arrays.as_number(value, name)
            numbers[name] = value
        return entry, numbers

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update all parameters that have a gradient.

        Parameters
        ----------
        closure : callable, optional
            Called first, with gradients enabled: it computes them, and returns the loss.

        Returns
        -------
        object
            What `closure` returned, or None.
        """
        if torch.compiler.is_compiling():
            return self._step_uncompiled(closure)
        return self._step(closure)

    def _step(self, closure: Callable[[], Any] | None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # What a GradScaler sets for a step that does its part.
        found_inf, scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        if found_inf is None or not found_inf.item():
            with torch.no_grad():
                self._update(1.0 if scale is None else scale.item())
        return loss

    # Around every step, this would cost as much time as the step of a small network.
    _step_uncompiled = _disable_dynamo(_step)

    def _update(self, grad_scale: float) -> None:
        calls: dict[str, _Call] = {}
        plans: list[tuple[_arrays.Plan, list[Any], list[int], list[float]]] = []
        before = dict(enumerate(self._plans))
        for g, group in enumerate(self.param_groups):
            entry, numbers = self._numbers(group)
            params, grads = group["params"], [p.grad for p in group["params"]]
            if any(map(is_, grads, repeat(None))):
                params = [p for p, grad in zip(params, grads, strict=True) if grad is not None]
                grads = [grad for grad in grads if grad is not None]
            plan = self._plan(g, before.get(g), params, entry, numbers)
            grads = plan.shares(grads)
            arrays = plan.gradients(grads, type(self).__name__)
            steps = plan.next_steps()
            if self._rule not in _COUNTLESS and any(p.is_cuda for p in params[:1]):
                if torch.cuda.is_current_stream_capturing():
                    raise NotImplementedError(
                        f"{type(self).__name__} must not be captured in a CUDA graph, which would "
                        "repeat the number of one step"
                    )
            calls.setdefault(entry.name, _Call(entry)).add(plan, arrays, steps, numbers)
            plans.append((plan, grads, steps, self._products(plan, steps, numbers)))
        norms = None
        if self.max_norm is not None:
            params = [p for group in self.param_groups for p in group["params"]]
            if any(map(_shards.is_shared, params)):
                _core.optimizer_check(entry.name, numbers, None, self.max_norm, grad_scale)
                shares: dict[int, Any] = {}
                for plan, own, *_ in plans:
                    shares.update(zip([id(b.param) for b in plan.bounds], own, strict=True))
                norms = _shards.norms(params, shares)
        self._run([call for call in calls.values() if call.params], grad_scale, norms)
        for plan, _, steps, products in plans:
            plan.settle(self.state, steps, products)
        self._plans = [plan for plan, *_ in plans]

    def _plan(
        self,
        g: int,
        before: _arrays.Plan | None,
        params: list[Any],
        entry: _Entry,
        numbers: dict[str, Any],
    ) -> _arrays.Plan:
        """Group g's parameters, bound: as in the step before, as far as they have not changed."""
        names, state = self._names(entry, numbers), self.state
        if before is not None and before.holds(params, state, names):
            return before
        places = {id(p): i for i, p in enumerate(self.param_groups[g]["params"])}
        known = {} if before is None else {k: b for k, b in before.known.items() if k in places}
        fused, wide = self.param_groups[g].get("fused"), torch.get_default_dtype() == torch.float64
        scalars = torch.float64 if wide and not fused else torch.float32
        for param in params:
            bound, own = known.get(id(param)), state.get(param)
            if bound is None or not bound.fits(param, own, names):
                label = f"param_groups[{g}]['params'][{places[id(param)]}]"
                bound = _arrays.Bound(entry, param, own or {}, names, scalars, numbers, label)
                known[id(param)] = bound
        return _arrays.Plan([known[id(p)] for p in params], known, names, len(entry.states))

    def _names(self, entry: _Entry, numbers: dict[str, Any]) -> tuple[str | None, ...]:
        """PyTorch's names of the states that a step needs, None for one that it does not.

        In the rule's order, and then of what PyTorch counts.
        """
        needed = [s not in entry.needs or numbers[entry.needs[s]] for s in entry.states]
        names = zip(entry.states, needed, strict=True)
        own = [entry.torch_names.get(s, s) if is_needed else None for s, is_needed in names]
        if self._rule not in _COUNTLESS:
            own.append("step")
        return (*own, "mu_product") if self._rule == "nadam" else tuple(own)

    def _products(
        self, plan: _arrays.Plan, steps: list[int], numbers: dict[str, Any]
    ) -> list[float]:
        """What NAdam's products of momenta become; innerloop's kernel has them from a formula."""
        if self._rule != "nadam":
            return []
        beta1, decay = numbers["betas"][0], numbers["momentum_decay"]
        held = list(zip(plan.products(), steps, strict=True))
        become = {}
        for before, step in set(held):
            product = become[before, step] = before * nadam_mu(step, beta1, decay)
            if before <= _PRODUCT_ERROR:
                continue
            expected = nadam_momentum(step, beta1, decay)[1]
            if not abs(product - expected) <= _PRODUCT_ERROR:
                raise ValueError(
                    "betas and momentum_decay must be those of all the steps before, which "
                    f"innerloop's NAdam takes mu_product from: got {product:.7g} for step {step}, "
                    f"where it is {expected:.7g}"
                )
        return [become[key] for key in held]

    def _run(
        self, calls: list[_Call], grad_scale: float, norms: tuple[float, float] | None
    ) -> None:
        max_norm = self.max_norm
        if max_norm is not None and norms is not None:
            self.grad_norm = norms[0] / grad_scale
            for call in calls:
                clipped = _shards.clip(call.grads, norms, max_norm, grad_scale)
                call.grads = clipped[0]
                call.run(*clipped[1:])
            return
        if max_norm is not None and len(calls) > 1:
            raise ValueError(
                "max_norm must be None where decoupled_weight_decay differs between the parameter "
                f"groups, got {max_norm}"
            )
        self.grad_norm = None
        for call in calls:
            self.grad_norm = call.run(max_norm, grad_scale)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state, of this class or of `torch.optim`'s of the same name.

        Parameters
        ----------
        state_dict : dict
            As `state_dict` returned it, for parameters of the same shapes in equal groups. Tensors
            are taken over as they are where their dtypes allow it, as PyTorch does. Beside
            parameters of half precision, float32 states stay float32.

        Raises
        ------
        ValueError
            If the groups do not match.
        """

        def keep(_: Optimizer, given: dict[str, Any]) -> None:
            states = given["state"]
            self._incoming = [
                [states.get(number, {}) for number in group["params"]]
                for group in given["param_groups"]
            ]

        handle = self.register_load_state_dict_pre_hook(keep)  # behind the user's own
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
            self._incoming = []


class _LionBase(Optimizer):
    """What PyTorch would have: the arguments of its other optimizers."""

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize}
        flags = {"foreach": foreach, "differentiable": differentiable, "fused": fused}
        if fused and foreach:
            raise RuntimeError("fused and foreach must not both be True")
        super().__init__(params, defaults | flags)
        if fused:
            self._step_supports_amp_scaling = True


class SGD(_Native, torch.optim.SGD):
    _rule = "sgd"


class Adam(_Native, torch.optim.Adam):
    _rule = "adam"


class AdamW(_Native, torch.optim.AdamW):
    _rule = "adamw"


class RMSprop(_Native, torch.optim.RMSprop):
    _rule = "rmsprop"


class Adagrad(_Native, torch.optim.Adagrad):
    _rule = "adagrad"


class Adadelta(_Native, torch.optim.Adadelta):
    _rule = "adadelta"


class Adamax(_Native, torch.optim.Adamax):
    _rule = "adamax"


class NAdam(_Native, torch.optim.NAdam):
    _rule = "nadam"


class RAdam(_Native, torch.optim.RAdam):
    _rule = "radam"


class Lion(_Native, _LionBase):
    _rule = "lion"
