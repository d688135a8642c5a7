"""The optimizers: a ``<name>_step`` function and a class for each entry of the native list.

Their names, states, hyperparameters and docstrings come from the reference, their arithmetic and
the hyperparameters' ranges from ``csrc/rules/optimizers.h``; there is nothing to add here when an
optimizer is added there.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from . import _core
from ._arrays import to_numpy
from .reference import OPTIMIZERS
from .reference import Optimizer as _Entry

_ARRAYS = """
params : array or list of arrays, float32 or float64
    The parameters, of any shapes and strides. Written in place.
grads : array or list of arrays
    Their gradients: as many arrays, of the same shapes and dtypes.
"""
_STATE = """{name}s : array or list of arrays{optional}
    State `{name}`, of its parameter's shape and dtype: zeros before step 1.
    Written in place{needed}.
"""
_STEP = """step : int
    The number of this step, counting from 1.
"""
_RAISES = """
Returns
-------
None

Raises
------
TypeError
    If an argument is not an array, or not of float32 or float64, or of another dtype than its
    parameter; if a hyperparameter is not a number or `step` not an integer.
ValueError
    If numbers of arrays or shapes differ, an array that is written is read-only or shares memory
    with another, a state that is needed is not given, a hyperparameter lies outside its range, or
    `step` is below 1.

Notes
-----
One call is one parallel region over all the arrays; nothing is written unless all of them fit.
"""
_CLASS = """
Attributes
----------
{attributes} : as above
    May be set between steps, as a learning-rate schedule does; the next step checks them.
params : list of arrays
    As they were given.
steps : int
    How many steps have been made.
state : dict of str to list of arrays
    The states of each parameter, in its dtype. One that only comes to be needed later, such as
    when `momentum` is set, starts as zeros then.

Raises
------
TypeError
    If `params` is not an array or a list of arrays of float32 or float64, or a hyperparameter is
    not a number.
ValueError
    If a parameter array is read-only, or a hyperparameter lies outside its range.
"""

_STAGGERED = 1 << 22  # arrays of at least this many bytes
_SPACING = (1 << 16) + (1 << 10)
_PERIOD = 1 << 21


def _parts(entry: _Entry) -> tuple[str, str]:
    """Split the reference's docstring into its text and the hyperparameters' descriptions."""
    text, _, described = inspect.cleandoc(entry.function.__doc__ or "").partition(
        "\nParameters\n----------\n"
    )
    return text, described.rstrip() + "\n"


def _step_function(entry: _Entry) -> Any:
    """The public function of one optimizer, with its signature and docstring."""
    needed_count = sum(s not in entry.needs for s in entry.states)
    positional, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    plurals = [f"{s}s" for s in entry.states]
    arrays = ["params", "grads", *plurals]
    signature = inspect.Signature(
        [inspect.Parameter(a, positional) for a in arrays[: 2 + needed_count]]
        + [inspect.Parameter(a, positional, default=None) for a in arrays[2 + needed_count :]]
        + [inspect.Parameter("step", keyword)]
        + [inspect.Parameter(h, keyword, default=d) for h, d in entry.hyperparameters.items()]
    )
    takes = {"step", *entry.hyperparameters}

    def function(*args: Any, **kwargs: Any) -> None:
        if not (2 + needed_count <= len(args) <= len(arrays) and "step" in kwargs) or (
            not kwargs.keys() <= takes
        ):
            bound = signature.bind(*args, **kwargs).arguments
            args = tuple(bound.pop(a, None) for a in arrays)
            kwargs = bound
        step = kwargs.pop("step")
        states = (*args[2:], *(None,) * (len(arrays) - len(args)))
        _core.optimizer_step(entry.name, args[0], args[1], states, step, kwargs)

    text, described = _parts(entry)
    states = "".join(
        _STATE.format(
            name=s,
            optional=", optional" if s in entry.needs else "",
            needed=f"; needed where `{entry.needs[s]}` is not 0, else left alone"
            if s in entry.needs
            else "",
        )
        for s in entry.states
    )
    function.__doc__ = f"{text}\nParameters\n----------{_ARRAYS}{states}{_STEP}{described}{_RAISES}"
    function.__name__ = function.__qualname__ = f"{entry.name}_step"
    function.__signature__ = signature  # type: ignore[attr-defined]
    function.__module__ = __name__
    return function


def _zeros_beside(array: NDArray, number: int) -> NDArray:
    """Return zeros of `array`'s shape, dtype and axis order, 64-byte aligned: its state `number`.

    Large ones are placed so that the same element of the parameter and of each of its states lies
    at a different distance from a multiple of 2 MiB: arrays whose addresses differ by a large power
    of two are read at half the speed.
    """
    like = np.empty_like(array, subok=False)
    large = like.nbytes >= _STAGGERED
    raw = np.zeros(like.nbytes + (_PERIOD if large else 0) + 64, np.uint8)
    wanted = array.ctypes.data + (number + 1) * _SPACING & -64 if large else 0
    offset = (wanted - raw.ctypes.data) % (_PERIOD if large else 64)
    return np.ndarray(like.shape, like.dtype, raw.data, offset, like.strides)


class Optimizer:
    """What the classes of all optimizers share: their states, their steps and their state_dict."""

    __slots__ = ("params", "state", "steps")

    _entry: ClassVar[_Entry]

    params: list[Any]
    state: dict[str, list[NDArray]]
    steps: int

    def __init__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        bound = self.__signature__.bind(params, *args, **kwargs)  # type: ignore[attr-defined]
        bound.apply_defaults()
        del bound.arguments["params"]
        self.params = list(params) if isinstance(params, (list, tuple)) else [params]
        if not self.params:
            raise ValueError("params must hold at least one array, got an empty list")
        _core.optimizer_check(self._entry.name, bound.arguments, self.params)
        for name, value in bound.arguments.items():
            setattr(self, name, value)
        self.steps = 0
        self.state = {}
        self._allocate(self._needed(bound.arguments), self.state)

    def _hyperparameters(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._entry.hyperparameters}

    def _needed(self, hyperparameters: Mapping[str, Any]) -> list[str]:
        """The plural names of the states that a step with these needs."""
        return [f"{s}s" for s in self._entry.needed_states(**hyperparameters)]

    def _allocate(self, names: list[str], state: dict[str, list[NDArray]]) -> None:
        """Add zeros to `state` for those of `names` that it lacks."""
        order = [f"{s}s" for s in self._entry.states]
        for name in names:
            if name not in state:
                number = order.index(name)
                state[name] = [_zeros_beside(to_numpy(p, "params"), number) for p in self.params]

    def step(self, grads: Any) -> None:
        """Update the parameters, in place.

        Parameters
        ----------
        grads : array or list of arrays
            The gradient of each parameter, of its shape and dtype.

        Raises
        ------
        TypeError, ValueError
            As the function ``<name>_step``; nothing is changed then.
        """
        hyperparameters = self._hyperparameters()
        needed = self._needed(hyperparameters)
        if not all(name in self.state for name in needed):
            _core.optimizer_check(self._entry.name, hyperparameters, None)
            self._allocate(needed, self.state)
        states = tuple(self.state.get(f"{s}s") for s in self._entry.states)
        _core.optimizer_step(
            self._entry.name, self.params, grads, states, self.steps + 1, hyperparameters
        )
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """Return all that `load_state_dict` needs to go on from here, as copies.

        Returns
        -------
        dict
            ``"step"``: int; ``"hyperparameters"``: dict of numbers, bools and tuples of numbers;
            ``"state"``: dict of lists of NumPy arrays. The parameters are not part of it.
        """
        return {
            "step": self.steps,
            "hyperparameters": self._hyperparameters(),
            "state": {name: [a.copy() for a in arrays] for name, arrays in self.state.items()},
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, of an optimizer over parameters of the same shapes.

        Raises
        ------
        TypeError
            If a state is not an array of its parameter's dtype, a hyperparameter not a number or
            ``"step"`` not an integer.
        ValueError
            If entries are missing or unknown, shapes or numbers of arrays differ, or a number lies
            outside its range. Nothing is changed on any error.
        """
        entry = self._entry
        _same_names("state_dict", state_dict, {"step", "hyperparameters", "state"})
        steps = operator.index(state_dict["step"])
        if not 0 <= steps < 2**53:
            raise ValueError(f"step must lie in [0, 2**53), got {steps}")
        given = state_dict["hyperparameters"]
        _same_names("hyperparameters", given, set(entry.hyperparameters))
        hyperparameters = {
            name: _plain(given[name], default) for name, default in entry.hyperparameters.items()
        }
        _core.optimizer_check(entry.name, hyperparameters, None)
        needed = self._needed(hyperparameters)
        loaded = state_dict["state"]
        if not isinstance(loaded, Mapping):
            raise TypeError(f"state must be a dict, got {type(loaded).__name__}")
        unknown = set(loaded) - {f"{s}s" for s in entry.states}
        missing = set(needed) - set(loaded)
        if unknown or missing:
            got = ", ".join(map(str, loaded))
            raise ValueError(f"state must hold {', '.join(needed) or 'nothing'}, got {got}")
        new = {name: self._matching(name, arrays) for name, arrays in loaded.items()}
        state = {name: arrays for name, arrays in self.state.items() if name in new}
        self._allocate(list(new), state)
        for name, arrays in new.items():
            for old, array in zip(state[name], arrays, strict=True):
                np.copyto(old, array)
        for name, value in hyperparameters.items():
            setattr(self, name, value)
        self.state, self.steps = state, steps

    def _matching(self, name: str, arrays: Any) -> list[NDArray]:
        """The arrays of one loaded state, each found to be of its parameter's shape and dtype."""
        if not isinstance(arrays, (list, tuple)) or len(arrays) != len(self.params):
            got = f"{len(arrays)}" if isinstance(arrays, (list, tuple)) else type(arrays).__name__
            raise ValueError(f"{name} must be a list of {len(self.params)} arrays, got {got}")
        found = []
        for i, (array, param) in enumerate(zip(arrays, self.params, strict=True)):
            value, like = to_numpy(array, f"{name}[{i}]"), to_numpy(param, f"params[{i}]")
            if value.dtype != like.dtype:
                raise TypeError(f"{name}[{i}] must be {like.dtype}, got {value.dtype}")
            if value.shape != like.shape:
                raise ValueError(f"{name}[{i}] must have shape {like.shape}, got {value.shape}")
            found.append(value.copy())  # it may be a state that is about to be written
        return found

    def __repr__(self) -> str:
        values = ", ".join(f"{k}={v!r}" for k, v in self._hyperparameters().items())
        return f"{type(self).__name__}({len(self.params)} arrays, {values}, steps={self.steps})"


def _same_names(what: str, given: Mapping[str, Any], wanted: set[str]) -> None:
    if not isinstance(given, Mapping):
        raise TypeError(f"{what} must be a dict, got {type(given).__name__}")
    if set(given) != wanted:
        raise ValueError(f"{what} must hold {sorted(wanted)}, got {sorted(map(str, given))}")


def _plain(value: Any, default: Any) -> Any:
    """A hyperparameter that has been through a file, maybe as a 0-d array, as its own kind again.

    What does not fit is left as it is, for the checks to name.
    """
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return tuple(value) if isinstance(default, tuple) and isinstance(value, list) else value


def _class(entry: _Entry) -> type[Optimizer]:
    """The public class of one optimizer, with its signature and docstring."""
    positional, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    text, described = _parts(entry)
    params = _ARRAYS.partition("grads : ")[0]
    attributes = _CLASS.format(attributes=", ".join(entry.hyperparameters))
    return type(
        entry.class_name,
        (Optimizer,),
        {
            "__slots__": tuple(entry.hyperparameters),
            "__module__": __name__,
            "__doc__": f"{text}\nParameters\n----------{params}{described}{attributes}",
            "__signature__": inspect.Signature(
                [inspect.Parameter("params", positional)]
                + [
                    inspect.Parameter(h, positional if h == "lr" else keyword, default=d)
                    for h, d in entry.hyperparameters.items()
                ]
            ),
            "_entry": entry,
        },
    )


NAMES: tuple[str, ...] = tuple(name for name, _, _ in _core.optimizers())

__all__ = ["Optimizer"]

for _name in NAMES:
    _function, _made = _step_function(OPTIMIZERS[_name]), _class(OPTIMIZERS[_name])
    globals()[_function.__name__], globals()[_made.__name__] = _function, _made
    __all__ += [_function.__name__, _made.__name__]
