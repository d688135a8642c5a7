"""Optimizers beside torch.optim in float64: see properties.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optimizer_cases import Problem
from properties import NONEMPTY, Case, check, largest, quick, tensor, torch

from innerloop.reference import OPTIMIZERS
from support import LAYOUTS

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@contextmanager
def doubles() -> Iterator[None]:
    """PyTorch keeps NAdam's product of momenta in the default dtype."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


RANGED = {
    "lr": (1e-4, 0.1),
    "eps": (1e-8, 1e-2),
    "alpha": (0.8, 0.99),  # with a short memory the variance of `centered` is all rounding
    "momentum": (0.0, 0.95),
    "dampening": (0.0, 0.9),
    "weight_decay": (0.0, 0.3),
    "lr_decay": (0.0, 0.3),
    "rho": (0.3, 0.99),
    "momentum_decay": (1e-3, 0.1),
    "initial_accumulator_value": (0.0, 1.0),
    "l1": (0.0, 0.1),
    "max_norm": (0.1, 30.0),
    "grad_scale": (0.25, 64.0),
}
OURS = ("l1", "max_norm", "grad_scale")  # which PyTorch has no option for
TORCH_OPTIMIZERS = [n for n, entry in OPTIMIZERS.items() if hasattr(torch.optim, entry.class_name)]


def hyperparameters(case: Case, name: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for h, default in OPTIMIZERS[name].hyperparameters.items():
        if h == "bias_correction" or (h != "lr" and not case.draw(st.booleans())):
            continue
        if isinstance(default, bool):
            options[h] = not default
        elif h == "betas":
            options[h] = (case.number(0, 0.95), case.number(0.3, 0.999))
        else:
            options[h] = case.number(*RANGED[h])
    if options.get("nesterov"):
        options |= {"momentum": max(options.get("momentum", 0.0), 0.1), "dampening": 0.0}
    return options


def torch_steps(problem: Problem, options: dict[str, Any]) -> list[Any]:
    """Parameters and states in float64, stepped by torch.optim with the gradients prepared."""
    tensors = [tensor(p) for p in problem.params]
    theirs = {h: v for h, v in options.items() if h not in OURS}
    optimizer = getattr(torch.optim, problem.entry.class_name)(tensors, **theirs)
    sign = -1 if options.get("maximize") else 1
    for step in range(1, problem.last(None) + 1):
        for t, g in zip(tensors, problem.grads(step), strict=True):
            t.grad = tensor(g, False) / options.get("grad_scale", 1.0)
        if "max_norm" in options:
            torch.nn.utils.clip_grad_norm_(tensors, options["max_norm"])
        for t in tensors:
            t.grad += sign * options.get("l1", 0.0) * torch.sign(t.detach())
        optimizer.step()
    names = [problem.entry.torch_names.get(s, s) for s in problem.states]
    return [*tensors, *(optimizer.state[t][s] for s in names for t in tensors)]


@pytest.mark.parametrize("name", TORCH_OPTIMIZERS)
@settings(quick, max_examples=20)
@given(data=st.data())
def test_optimizers(name: str, data: st.DataObject) -> None:
    """Three steps, or the seven that RAdam takes to be rectified."""
    case = Case(data, [np.float32, np.float64])
    options = hyperparameters(case, name)
    shapes = [case.shape((1, 3), NONEMPTY) for _ in range(case.draw(st.integers(1, 3)))]
    place = LAYOUTS[case.draw(st.sampled_from(sorted(LAYOUTS)))]
    seed = case.draw(st.integers(1, 1000))
    problem = Problem(name, options, case.dtype, shapes, seed)
    with doubles():
        want = torch_steps(problem, options)
    count = len(problem.params)
    scales = [1.0] * count + [largest(w.detach()) for w in want[count:]]
    check(lambda: tuple(problem.native(None, place)), want, scales)
