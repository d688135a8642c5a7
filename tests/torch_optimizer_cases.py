"""What the tests of PyTorch's optimizers share: ours and theirs over equal parameters."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

torch = pytest.importorskip("torch")
import innerloop.plugins.torch as plugin  # noqa: E402

NAMES = ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam"]
# Of each, the options under which it has most to remember.
FULL: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.01, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.1},
    "Adam": {"lr": 0.01, "amsgrad": True, "weight_decay": 0.1},
    "AdamW": {"lr": 0.01, "amsgrad": True, "maximize": True},
    "RMSprop": {"lr": 1e-3, "centered": True, "momentum": 0.5, "alpha": 0.9},
    "Adagrad": {"lr_decay": 0.1, "initial_accumulator_value": 0.5},
    "Adadelta": {"weight_decay": 0.1},
    "Adamax": {"weight_decay": 0.1},
    "NAdam": {"momentum_decay": 0.01, "decoupled_weight_decay": True, "weight_decay": 0.1},
    "RAdam": {"lr": 0.01, "decoupled_weight_decay": True, "weight_decay": 0.1},
    "Lion": {"lr": 0.01, "weight_decay": 0.1},
}
SHAPES = ((3, 5), (7,), (), (2, 1, 4))
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-11}


@contextmanager
def scalars_of(dtype: Any) -> Iterator[None]:
    """PyTorch keeps steps and NAdam's products of momenta in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def parameters(dtype: Any = torch.float32, shapes: Any = SHAPES, seed: int = 0) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [torch.nn.Parameter(d.to(dtype)) for d in drawn]


def give_gradients(params: list[Any], step: int, without: Any = ()) -> None:
    """The same for the same step, but None for the parameters `without`."""
    generator = torch.Generator().manual_seed(1000 + step)
    for i, p in enumerate(params):
        drawn = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        p.grad = None if i in without else drawn.to(p.dtype)


class Run:
    """An optimizer over parameters of its own."""

    def __init__(self, kind: Any, params: list[Any] | None = None, **options: Any) -> None:
        self.params = parameters() if params is None else params
        self.optimizer = kind(self.params, **options)

    def steps(self, first: int, last: int, without: Any = None) -> Run:
        """Steps `first` to `last`; `without` gives the numbers that have no gradient in a step."""
        for step in range(first, last + 1):
            give_gradients(self.params, step, without(step) if without else ())
            self.optimizer.step()
        return self


def both(name: str, dtype: Any = torch.float32, **options: Any) -> tuple[Run, Run]:
    """Theirs and ours, of the same parameters."""
    kinds = (getattr(torch.optim, name), getattr(plugin, name))
    theirs, ours = [Run(k, parameters(dtype), **copy.deepcopy(options)) for k in kinds]
    return theirs, ours


def check_equal(theirs: Run, ours: Run) -> None:
    """Parameters and the whole state_dict agree to rounding, its names and dtypes exactly."""
    for want, have in zip(theirs.params, ours.params, strict=True):
        _close(have, want, TOLERANCE[want.dtype])
    want, have = theirs.optimizer.state_dict(), ours.optimizer.state_dict()
    assert have["param_groups"] == want["param_groups"]
    assert [list(g) for g in have["param_groups"]] == [list(g) for g in want["param_groups"]]
    assert sorted(have["state"]) == sorted(want["state"])
    for i, states in want["state"].items():
        assert sorted(have["state"][i]) == sorted(states)
        for key, value in states.items():
            held = have["state"][i][key]
            assert held.dtype == value.dtype and held.shape == value.shape, key
            _close(held, value, TOLERANCE[theirs.params[i].dtype])


def _close(have: Any, want: Any, tolerance: float) -> None:
    torch.testing.assert_close(have, want, rtol=tolerance, atol=tolerance)
