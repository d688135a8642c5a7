"""An optimizer's state as plain arrays, its own way and PyTorch's: written, checked, taken over."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _cuda_arrays
from ._arrays import from_numpy, is_on_cuda
from ._numbers import count, word64
from ._optimizer_storage import described, on_host, plain, write
from .reference import OPTIMIZERS
from .reference.optimizers import nadam_momentum

_GROUP, _STATE = "param_groups.", "state."
_OURS_ALONE = ("l1", "bias_correction")  # hyperparameters that PyTorch's optimizers do not have


@dataclass
class _Loaded:
    """A state_dict, read but not yet checked against the optimizer."""

    steps: int
    groups: list[dict[str, Any]]  # the hyperparameters of each
    options: dict[str, Any]  # those of all groups
    state: dict[str, dict[int, Any]]  # by plural name and the parameter's number
    seed: int


def save(optimizer: Any) -> dict[str, NDArray]:
    """Return an optimizer's whole state, flat."""
    step = optimizer.steps + 1
    max_norm, grad_scale = optimizer._options(step)
    saved = {"step": np.array(optimizer.steps, np.int64), "grad_scale": np.array(float(grad_scale))}
    if max_norm is not None:
        saved["max_norm"] = np.array(float(max_norm))
    numbers = optimizer._numbers(step)
    for g, (group, values) in enumerate(zip(optimizer.param_groups, numbers, strict=True)):
        saved[f"{_GROUP}{g}.params"] = np.array(len(group["params"]), np.int64)
        for name, value in values.items():
            kind = np.bool_ if isinstance(value, (bool, np.bool_)) else np.float64
            saved[f"{_GROUP}{g}.{name}"] = np.array(value, kind)
    for name, arrays in optimizer.state.items():
        for i, array in enumerate(arrays):
            if array is not None:
                saved[f"{_STATE}{name}.{i}"] = plain(on_host(array, name)).copy()
    if optimizer.state_dtype in ("bfloat16", "uint8"):
        saved["seed"] = np.array(optimizer.seed, np.uint64)
    return saved


def load(optimizer: Any, state_dict: Mapping[str, Any]) -> None:
    """Check a state_dict of either kind, then take it over."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict must be a dict, got {type(state_dict).__name__}")
    read = _read_torch if set(state_dict) == {"state", "param_groups"} else _read
    loaded = read(optimizer, state_dict)
    if not 0 <= loaded.steps < 2**53:
        raise ValueError(f"step must lie in [0, 2**53), got {loaded.steps}")
    optimizer._check(loaded.groups, options=loaded.options)
    copies = _matching(optimizer, loaded)
    state: dict[str, list[Any]] = {}
    for name in loaded.state:
        state[name] = [
            old if i in loaded.state[name] else None for i, old in enumerate(_held(optimizer, name))
        ]
    optimizer._allocate(loaded.groups, state, [(n, i) for n, some in copies.items() for i in some])
    # From here on nothing fails.
    for name, arrays in copies.items():
        for i, array in arrays.items():
            write(state[name][i], array)
    for group, values in zip(optimizer.param_groups, loaded.groups, strict=True):
        group.update((k, v) for k, v in values.items() if not callable(group[k]))
    for name, value in loaded.options.items():
        if not callable(getattr(optimizer, name)):
            setattr(optimizer, name, value)
    optimizer.seed = loaded.seed
    optimizer.state, optimizer.steps, optimizer.grad_norm = state, loaded.steps, None


def _held(optimizer: Any, name: str) -> list[Any]:
    return optimizer.state.get(name, [None] * len(optimizer.params))


def _plain(value: Any) -> Any:
    """A number that has been through a file or is a tensor, as a number again; lists as tuples.

    What does not fit is left as it is, for the checks to name.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    return tuple(_plain(v) for v in value) if isinstance(value, (list, tuple)) else value


def _read(optimizer: Any, state_dict: Mapping[str, Any]) -> _Loaded:
    """Read what `save` returned."""
    entry = optimizer._entry
    plurals = [f"{s}s" for s in entry.states]
    plurals += optimizer._storage.beside(plurals)
    seed = optimizer.seed
    counts = [len(group["params"]) for group in optimizer.param_groups]
    groups: list[dict[str, Any]] = [{} for _ in counts]
    state: dict[str, dict[int, Any]] = {}
    options: dict[str, Any] = {"max_norm": None}
    lacking = {"step", "grad_scale", *(f"{_GROUP}{g}.params" for g in range(len(counts)))}
    lacking |= {f"{_GROUP}{g}.{h}" for g in range(len(counts)) for h in optimizer._own()}
    for key in state_dict:
        parts = str(key).split(".")
        if key in lacking:
            lacking.remove(key)
        if key == "step":
            continue
        if key == "seed":
            seed = word64(_plain(state_dict[key]), "seed")
        elif key in ("grad_scale", "max_norm"):
            options[key] = _plain(state_dict[key])
        elif len(parts) == 3 and parts[0] == "state" and parts[1] in plurals:
            number = int(parts[2]) if parts[2].isdecimal() else -1
            if not 0 <= number < sum(counts):
                raise ValueError(f"{key} must be the state of one of {sum(counts)} parameters")
            state.setdefault(parts[1], {})[number] = state_dict[key]
        elif key in _names_of_groups(optimizer):
            g, name = int(parts[1]), parts[2]
            value = _plain(state_dict[key])
            if name != "params":
                groups[g][name] = value
            elif value != counts[g]:
                raise ValueError(f"{key} must be {counts[g]}, got {value}")
        else:
            raise ValueError(f"state_dict holds {key!r}, which {type(optimizer).__name__} does not")
    if lacking:
        raise ValueError(f"state_dict must hold {', '.join(sorted(lacking))}, got none")
    return _Loaded(count(state_dict["step"], "step"), groups, options, state, seed)


def _names_of_groups(optimizer: Any) -> set[str]:
    every = ("params", *optimizer._own())
    return {f"{_GROUP}{g}.{h}" for g in range(len(optimizer.param_groups)) for h in every}


def _read_torch(optimizer: Any, state_dict: Mapping[str, Any]) -> _Loaded:
    """Read the state_dict of the `torch.optim` optimizer of the same name."""
    entry, kind = optimizer._entry, type(optimizer).__name__
    given, held = state_dict["param_groups"], state_dict["state"]
    if not isinstance(held, Mapping) or not all(isinstance(s, Mapping) for s in held.values()):
        raise TypeError("state must be a dict of dicts, as PyTorch's is, got something else")
    if not isinstance(given, (list, tuple)) or not all(isinstance(g, Mapping) for g in given):
        raise TypeError("param_groups must be a list of dicts, as PyTorch's is, got something else")
    if not all(isinstance(group.get("params"), (list, tuple)) for group in given):
        raise TypeError("param_groups must each hold a list 'params', got none")
    counts = [len(group["params"]) for group in optimizer.param_groups]
    theirs = [len(group["params"]) for group in given]
    if theirs != counts:
        raise ValueError(f"param_groups must hold {counts} parameters, got {theirs}")
    current = optimizer._numbers(optimizer.steps + 1)
    others = {h for other in OPTIMIZERS.values() for h in other.hyperparameters}
    groups = []
    for g, (group, own) in enumerate(zip(given, current, strict=True)):
        decoupled = group.get("decoupled_weight_decay")
        if "decoupled_weight_decay" not in own and bool(decoupled) and kind != "AdamW":
            raise ValueError(
                f"param_groups[{g}] has decoupled_weight_decay, which is AdamW, not Adam"
            )
        if kind == "AdamW" and decoupled is False:
            raise ValueError(f"param_groups[{g}] has no decoupled_weight_decay: that is Adam")
        foreign = (group.keys() & others) - own.keys() - {"decoupled_weight_decay"}
        if foreign:
            raise ValueError(f"param_groups[{g}] holds {min(foreign)!r}, which {kind} does not")
        lacking = own.keys() - group.keys() - set(_OURS_ALONE)
        if lacking:
            raise ValueError(f"param_groups[{g}] must hold {', '.join(sorted(lacking))}, got none")
        groups.append({name: _plain(group.get(name, value)) for name, value in own.items()})
    names = {entry.torch_names.get(s, s): f"{s}s" for s in entry.states}
    state: dict[str, dict[int, Any]] = {}
    steps = set()
    numbers = [number for group in given for number in group["params"]]
    for i, number in enumerate(numbers):
        kept = state_dict["state"].get(number, {})
        for name, value in kept.items():
            if name == "step":
                steps.add(_number_of_steps(_plain(value)))
            elif name in names:
                if value is not None:
                    state.setdefault(names[name], {})[i] = value
            elif name != "mu_product":  # NAdam's, which follows from the step
                raise ValueError(f"state[{number}] holds {name!r}, which {kind} does not")
        if "step" not in kept and "step" in next(iter(state_dict["state"].values()), {}):
            steps.add(0.0)
    if len(steps) > 1:
        raise ValueError(f"all parameters must have made as many steps, got {sorted(steps)}")
    made = steps.pop() if steps else float(bool(state))  # torch's SGD counts none
    options = dict(zip(("max_norm", "grad_scale"), optimizer._options(int(made) + 1), strict=True))
    return _Loaded(int(made), groups, options, state, optimizer.seed)


def _number_of_steps(value: Any) -> float:
    if not isinstance(value, (int, float)) or not math.isfinite(value) or value != int(value):
        raise ValueError(f"step must be an integer, got {value!r}")
    return float(value)


def save_torch(optimizer: Any) -> dict[str, Any]:
    """Return an optimizer's state as `torch.optim` lays it out."""
    entry, steps, params = optimizer._entry, optimizer.steps, optimizer.params
    names = {f"{s}s": entry.torch_names.get(s, s) for s in entry.states}
    if optimizer.master or optimizer.state_dtype == "uint8":
        raise ValueError("PyTorch's optimizers have neither masters nor 8-bit states")
    numbers = optimizer._numbers(steps + 1)
    state: dict[int, dict[str, Any]] = {}
    groups: list[dict[str, Any]] = []
    first = 0
    for group, values in zip(optimizer.param_groups, numbers, strict=True):
        if values["l1"] or not values.get("bias_correction", True):
            raise ValueError("PyTorch's optimizers have neither l1 nor bias_correction=False")
        members = list(range(first, first + len(group["params"])))
        first += len(members)
        kept = {k: v for k, v in values.items() if k not in _OURS_ALONE}
        if entry.class_name in ("Adam", "AdamW"):
            kept["decoupled_weight_decay"] = entry.class_name == "AdamW"
        groups.append({**kept, "params": members})
        for i in members if steps else ():
            own: dict[str, Any] = (
                {} if entry.class_name == "SGD" else {"step": np.array(steps, np.float32)}
            )
            if entry.class_name == "NAdam":
                product = nadam_momentum(steps, values["betas"][0], values["momentum_decay"])[1]
                own["mu_product"] = np.array(product, np.float32)
            for name, arrays in optimizer.state.items():
                if arrays[i] is not None:
                    own[names[name]] = _copy(arrays[i])
            state[i] = {
                name: array if is_on_cuda(array) else from_numpy(array, params[i])
                for name, array in own.items()
            }
    return {"state": state, "param_groups": groups}


def _copy(array: Any) -> Any:
    return _cuda_arrays.copy(array) if is_on_cuda(array) else array.copy()


def _matching(optimizer: Any, loaded: _Loaded) -> dict[str, dict[int, NDArray]]:
    """Copies of the loaded states, found to be complete and to fit their parameters."""
    params, first = optimizer.params, 0
    found: dict[str, dict[int, NDArray]] = {name: {} for name in loaded.state}
    if loaded.steps > 0 or loaded.state:
        for group, values in zip(optimizer.param_groups, loaded.groups, strict=True):
            for name in optimizer._needed(values):
                for i in range(first, first + len(group["params"])):
                    if i not in loaded.state.get(name, {}):
                        raise ValueError(f"state_dict must hold {_STATE}{name}.{i}, got none")
            first += len(group["params"])
    for name, arrays in loaded.state.items():
        for i, array in arrays.items():
            label = f"{_STATE}{name}.{i}"
            param = described(params[i], f"params[{i}]")
            # A copy: it may be a state that is about to be written.
            found[name][i] = optimizer._storage.loaded(name, array, param, label)
    return found
