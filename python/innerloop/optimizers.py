"""The optimizers: a ``<name>_step`` function and a class for each entry of the native list.

Their names, states, hyperparameters and docstrings come from the reference, their arithmetic and
the hyperparameters' ranges from ``csrc/rules/optimizers.h``; there is nothing to add here when an
optimizer is added there.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from numpy.typing import NDArray

from . import _core
from . import _optimizer_state as _state
from . import _optimizer_steps as _steps
from ._numbers import word64 as _word64
from ._optimizer_storage import Storage as _Storage
from .reference import OPTIMIZERS
from .reference import Optimizer as _Entry

_PARAMS = """
params : array or list of arrays, or list of dicts
    The parameters, float32, float64, bfloat16 or float16, of any shapes and strides. Written in
    place. Dicts are
    parameter groups: each holds its arrays under "params" and any of the hyperparameters below,
    but for `max_norm` and `grad_scale`, which hold for all groups together.
"""
_CLASS = """
state_dtype : None, "float32", "bfloat16" or "uint8"
    What the states are kept in: float32, and float64 beside float64 params, unless given.
    "bfloat16" halves their memory and its traffic. "uint8" is a saving of memory, not of time:
    codes of three bits of mantissa relative to the largest of 256 elements. Both are rounded
    stochastically, so that small changes are not lost.
master : None, "float32" or "split"
    Of params of half precision, which alone lose changes below half a unit in the last place: keep
    a float32 copy that is stepped in their place; or, of bfloat16, only the 16 bits that are
    missing to one, in int16.
seed : int, default 0
    Of the stochastic rounding, whose random bits depend on it, the step and the element's place.

Any of the hyperparameters may be a function of the step's number, counting from 1, such as those
of `innerloop.schedules`: each step calls it for its value, and so do construction and `state_dict`,
for the next step's.

Attributes
----------
{attributes} : as above
    May be set between steps; the next step checks them. With several groups, setting one sets it
    in all of them, and reading one that differs between them raises AttributeError.
param_groups : list of dicts
    One for each group: "params", a list of arrays, and the hyperparameters by name. May be changed
    between steps.
params : list of arrays
    Those of all groups, in order.
steps : int
    How many steps have been made.
grad_norm : float, an array of no axes on the params' CUDA device, or None
    The norm of the last step's gradients, where it had a `max_norm`.
state : dict of str to list
    The states of each parameter, or None where its group needs none. One that only comes to be
    needed later, such as when `momentum` is set, is made then. With 8-bit states also
    ``<name>s_scales``, and with a master ``masters``.

Raises
------
TypeError
    If `params` is not an array or a list of floating-point arrays, a hyperparameter is not
    a number, or a group holds one that this optimizer does not have.
ValueError
    If a parameter array is read-only or shares memory with another, or a hyperparameter lies
    outside its range.
"""
_OF_ALL = ("max_norm", "grad_scale")  # hyperparameters that no group has
_STORED = {"state_dtype": None, "master": None, "seed": 0}


def clip_grad_norm(grads: Any, max_norm: float) -> Any:
    """Clip gradients, in place, by the norm of all their elements together.

    They are multiplied by ``min(1, max_norm / (norm + 1e-6))``, as
    `torch.nn.utils.clip_grad_norm_` does, and not touched where that is 1. The `max_norm` of an
    optimizer does the same without writing them.

    Source: R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural
    networks", ICML 2013.

    Parameters
    ----------
    grads : array or list of arrays, float32, float64, bfloat16 or float16
        The gradients, of any shapes and strides. Written in place.
    max_norm : float
        At least 0, and infinity is allowed.

    Returns
    -------
    float, or on a CUDA device an array of no axes there
        Their norm before, in double precision: the square root of the sum of their squares. NaN or
        infinite where one of them is, and with a NaN norm all of them become NaN.

    Raises
    ------
    TypeError
        If `grads` is not an array or a list of floating-point arrays, or `max_norm` not a
        number.
    ValueError
        If a gradient is read-only or shares memory with another, or `max_norm` is below 0 or NaN.
    """
    return _core.clip_grad_norm(grads, max_norm)


class Optimizer:
    """What the classes of all optimizers share: their states, their steps and their state_dict."""

    __slots__ = (
        *("_storage", "grad_norm", "grad_scale", "max_norm", "param_groups", "seed", "state"),
        "steps",
    )

    _entry: ClassVar[_Entry]
    _plurals: ClassVar[dict[str, str]]  # of the states' names

    grad_norm: Any
    grad_scale: Any
    max_norm: Any
    param_groups: list[dict[str, Any]]
    seed: int
    state: dict[str, list[Any]]
    steps: int

    def __init__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        bound = self.__signature__.bind(params, *args, **kwargs)  # type: ignore[attr-defined]
        bound.apply_defaults()
        del bound.arguments["params"]
        self.steps, self.grad_norm, self.state = 0, None, {}
        for name in _OF_ALL:
            setattr(self, name, bound.arguments.pop(name))
        self._storage = _Storage(bound.arguments.pop("state_dtype"), bound.arguments.pop("master"))
        self.seed = _word64(bound.arguments.pop("seed"), "seed")
        self.param_groups = self._groups(params, bound.arguments)
        if not self.params:
            raise ValueError("params must hold at least one array, got an empty list")
        numbers = self._numbers(1)
        self._check(numbers, self.params)
        self._storage.check(self.params)
        self._allocate(numbers, self.state)

    @property
    def state_dtype(self) -> str | None:
        """What the states are kept in, as given."""
        return self._storage.state_dtype

    @property
    def master(self) -> str | None:
        """What copy of the parameters is kept, as given."""
        return self._storage.master

    def _groups(self, params: Any, defaults: Mapping[str, Any]) -> list[dict[str, Any]]:
        if isinstance(params, Mapping):
            raise TypeError("params must be an array, or a list of arrays or of dicts, got a dict")
        listed = list(params) if isinstance(params, (list, tuple)) else [params]
        if not any(isinstance(item, Mapping) for item in listed):
            return [{"params": listed, **defaults}]
        groups = []
        for i, given in enumerate(listed):
            if not isinstance(given, Mapping):
                raise TypeError(
                    f"params must be arrays or dicts, not both, got {type(given).__name__} at {i}"
                )
            if "params" not in given:
                raise ValueError(f"params[{i}] must hold 'params', got {sorted(map(str, given))}")
            group = {**defaults, **given}
            arrays = given["params"]
            group["params"] = list(arrays) if isinstance(arrays, (list, tuple)) else [arrays]
            groups.append(group)
        return groups

    @property
    def params(self) -> list[Any]:
        """Every group's arrays, in order."""
        if len(self.param_groups) == 1:
            return self.param_groups[0]["params"]
        return [p for group in self.param_groups for p in group["params"]]

    def _numbers(self, step: int) -> list[dict[str, Any]]:
        """The hyperparameters of each group at a step."""
        numbers = []
        for group in self.param_groups:
            values = group.copy()
            del values["params"]
            for name, value in values.items():
                if callable(value):
                    values[name] = value(step)
            numbers.append(values)
        return numbers

    def _own(self) -> list[str]:
        """The hyperparameters of a group."""
        return [name for name in self._entry.hyperparameters if name not in _OF_ALL]

    def _check(
        self,
        numbers: list[dict[str, Any]],
        params: Any = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        max_norm, grad_scale = self._options(1)
        if options is not None:
            max_norm, grad_scale = options["max_norm"], options["grad_scale"]
        own = self._own()
        for values in numbers:
            for name in values:
                if name not in own:
                    why = " for all of them" if name in _OF_ALL else ""
                    raise TypeError(
                        f"a parameter group takes params, {', '.join(own)}, got {name!r}"
                        f"{', which holds' + why if why else ''}"
                    )
            if len(values) != len(own):
                lacking = ", ".join(name for name in own if name not in values)
                raise ValueError(f"a parameter group must hold {lacking}, got none")
            _core.optimizer_check(self._entry.name, values, params, max_norm, grad_scale)

    def _options(self, step: int) -> tuple[Any, Any]:
        """max_norm and grad_scale at a step."""
        max_norm, grad_scale = self.max_norm, self.grad_scale
        return (
            max_norm(step) if callable(max_norm) else max_norm,
            grad_scale(step) if callable(grad_scale) else grad_scale,
        )

    def _needed(self, numbers: Mapping[str, Any]) -> list[str]:
        """What `state` must hold for a step with these: plural names of states, and more."""
        states = [self._plurals[s] for s in self._entry.needed_states(**numbers)]
        return states + self._storage.beside(states)

    def _lacks(self, numbers: list[dict[str, Any]]) -> bool:
        """Whether a state that a step with these needs is yet to be made."""
        needs, start = self._entry.needs, 0
        for values, group in zip(numbers, self.param_groups, strict=True):
            end = start + len(group["params"])
            for state, plural in self._plurals.items():
                if state in needs and not values.get(needs[state]):
                    continue
                held = self.state.get(plural)
                if held is None or len(held) < end or (start < end and held[start] is None):
                    return True
            start = end
        return False

    def _allocate(
        self,
        numbers: list[dict[str, Any]],
        state: dict[str, list[Any]],
        more: Iterable[tuple[str, int]] = (),
    ) -> None:
        """Make those states that `state` lacks for a step with these, and `more`."""
        params, starts = self.params, {f"{s}s": v for s, v in self._entry.starts.items()}
        starts |= {f"{s}_scales": v for s, v in starts.items()}
        order = list(self._plurals.values())

        def make(name: str, i: int, start: Any) -> None:
            held = state.setdefault(name, [None] * len(params))
            if held[i] is None:
                number = order.index(name) if name in order else len(order)
                held[i] = self._storage.make(name, params[i], number, start)

        first = 0
        for values, group in zip(numbers, self.param_groups, strict=True):
            for name in self._needed(values):
                for i in range(first, first + len(group["params"])):
                    make(name, i, values[starts[name]] if name in starts else 0)
            first += len(group["params"])
        for name, i in more:
            make(name, i, 0)

    def step(self, grads: Any) -> None:
        """Update the parameters, in place.

        Parameters
        ----------
        grads : array or list of arrays
            The gradient of each parameter, of its shape and dtype, or float32 beside half
            precision: one list over all groups.

        Raises
        ------
        TypeError, ValueError
            As the function ``<name>_step``; nothing is changed then.
        """
        self.grad_norm = _core.optimizer_step(*self._arguments(grads))
        self.steps += 1

    def _arguments(self, grads: Any) -> tuple[Any, ...]:
        """What the native step takes for the next one, with its states made."""
        step = self.steps + 1
        numbers = self._numbers(step)
        max_norm, grad_scale = self._options(step)
        if self._lacks(numbers):
            self._check(numbers, options={"max_norm": max_norm, "grad_scale": grad_scale})
            self._allocate(numbers, self.state)
        groups = [
            (len(group["params"]), step, values)
            for group, values in zip(self.param_groups, numbers, strict=True)
        ]
        states = tuple([self.state.get(plural) for plural in self._plurals.values()])
        stored = None
        if self.state_dtype == "uint8":
            stored = tuple([self.state.get(f"{p}_scales") for p in self._plurals.values()])
        return (
            *(self._entry.name, self.params, grads, states, groups, max_norm, grad_scale),
            *(self.state.get("masters"), stored, self.seed),
        )

    def _numbers_of(self, steps: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """The numbers of the next step, and what functions give of those after it.

        Each a tuple of the groups', max_norm and grad_scale; of later steps lists, by name, of what
        a function gives, as more would cost time that a small network's batch feels.
        """
        first = self.steps + 1
        after = range(first + 1, first + steps)

        def later(value: Any) -> list[Any] | None:
            return list(map(value, after)) if callable(value) else None

        groups = [
            {k: later(v) for k, v in group.items() if callable(v)} for group in self.param_groups
        ]
        return (
            (self._numbers(first), *self._options(first)),
            (groups, later(self.max_norm), later(self.grad_scale)),
        )

    def state_dict(self) -> dict[str, NDArray]:
        """Return all that `load_state_dict` needs to go on from here, as copies.

        Returns
        -------
        dict of str to numpy.ndarray
            Flat, and numbers as arrays of no axes, so that ``numpy.savez(file, **d)`` and
            ``safetensors.numpy.save_file(d, file)`` take it as it is: ``"step"``;
            ``"grad_scale"``; ``"max_norm"``, unless None; ``"param_groups.<g>.params"``, how many
            arrays group g holds; ``"param_groups.<g>.<hyperparameter>"``;
            ``"state.<name>s.<i>"``, a state of parameter i. Of a function of the step it holds
            the value of the next one. The parameters are not part of it.
        """
        return _state.save(self)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a state, of an optimizer over parameters of the same shapes in equal groups.

        Parameters
        ----------
        state_dict : mapping
            What `state_dict` returned, maybe by way of a file; or the state_dict of the
            `torch.optim` optimizer of the same name, with tensors on the CPU, whose hyperparameters
            are taken over, too. A hyperparameter that is a function of the step stays one.

        Raises
        ------
        TypeError
            If a state is not an array of its parameter's dtype, a hyperparameter not a number or
            ``"step"`` not an integer.
        ValueError
            If entries are missing or unknown, shapes or numbers of arrays differ, or a number lies
            outside its range. Nothing is changed on any error.

        Notes
        -----
        PyTorch counts each parameter's steps; here they must be equal. Its SGD counts none: with
        momentum buffers, one step is taken to have been made (`steps` may be set afterwards).
        """
        _state.load(self, state_dict)

    def torch_state_dict(self) -> dict[str, Any]:
        """Return the state for the `torch.optim` optimizer of the same name to load, as copies.

        Returns
        -------
        dict
            PyTorch's layout, with tensors where the parameters are tensors, else NumPy arrays.

        Raises
        ------
        ValueError
            If an option is in use that PyTorch's optimizers do not have: `l1`, or
            ``bias_correction=False``. `max_norm` and `grad_scale` are left out.
        """
        return _state.save_torch(self)

    def __repr__(self) -> str:
        shown = {k: v for k, v in self.param_groups[0].items() if k != "params"}
        values = ", ".join(f"{k}={v!r}" for k, v in shown.items())
        more = len(self.param_groups) - 1
        values += f", and {more} more groups" if more else ""
        return f"{type(self).__name__}({len(self.params)} arrays, {values}, steps={self.steps})"


def _of_groups(name: str) -> property:
    """The attribute for a hyperparameter of the parameter groups."""

    def get(self: Optimizer) -> Any:
        value = self.param_groups[0][name]
        if any(group[name] is not value and group[name] != value for group in self.param_groups):
            raise AttributeError(f"{name} differs between the parameter groups: see param_groups")
        return value

    def put(self: Optimizer, value: Any) -> None:
        for group in self.param_groups:
            group[name] = value

    return property(get, put)


def _class(entry: _Entry) -> type[Optimizer]:
    """The public class of one optimizer, with its signature and docstring."""
    positional, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    text, described = _steps.parts(entry)
    attributes = _CLASS.format(attributes=", ".join(entry.hyperparameters))
    return type(
        entry.class_name,
        (Optimizer,),
        {
            "__slots__": (),
            "__module__": __name__,
            "__doc__": f"{text}\nParameters\n----------{_PARAMS}{described}{attributes}",
            "__signature__": inspect.Signature(
                [inspect.Parameter("params", positional)]
                + [
                    inspect.Parameter(h, positional if h == "lr" else keyword, default=d)
                    for h, d in entry.hyperparameters.items()
                ]
                + [inspect.Parameter(o, keyword, default=d) for o, d in _STORED.items()]
            ),
            "_entry": entry,
            "_plurals": {s: f"{s}s" for s in entry.states},
            **{h: _of_groups(h) for h in entry.hyperparameters if h not in _OF_ALL},
        },
    )


NAMES: tuple[str, ...] = tuple(name for name, _, _ in _core.optimizers())

__all__ = ["Optimizer", "clip_grad_norm"]

for _name in NAMES:
    _function, _made = _steps.step_function(OPTIMIZERS[_name]), _class(OPTIMIZERS[_name])
    globals()[_function.__name__], globals()[_made.__name__] = _function, _made
    __all__ += [_function.__name__, _made.__name__]
