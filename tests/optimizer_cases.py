"""What the tests of the optimizers share: which cases there are, and how one is run.

It grows with the list: an optimizer that is added to it is tested with its defaults, its optional
states and each hyperparameter's variations, with nothing to add here.
"""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest

import innerloop as il
from innerloop import _core
from innerloop.reference import OPTIMIZERS, gradients

NAMES = [name for name, _, _ in _core.optimizers()]
DTYPES = [np.float32, np.float64]
ISAS = il.isas()
STEPS = {"radam": 7}  # by which each of a rule's ways has been gone; else 3
TOLERANCE = {np.float32: 4e-6, np.float64: 1e-13}

VALUES = {  # for hyperparameters of these names; an optimizer may have others
    "momentum": 0.9,
    "dampening": 0.3,
    "weight_decay": 0.1,
    "alpha": 0.5,
    "eps": 1e-3,
    "betas": (0.5, 0.7),
    "rho": 0.5,
    "lr_decay": 0.1,
    "momentum_decay": 0.1,
    "initial_accumulator_value": 0.5,
}
COMMON = {"maximize": True, "l1": 0.05, "max_norm": 0.5, "grad_scale": 8.0}  # which all have


def options_of(name):
    """Hyperparameters worth a test: defaults, each alone, each with a flag, all together."""
    entry = OPTIMIZERS[name]
    values = {
        h: (not d if isinstance(d, bool) else VALUES[h])
        for h, d in entry.hyperparameters.items()
        if h not in COMMON and (isinstance(d, bool) or h in VALUES)
    }
    chosen: list[dict] = [{}]
    for size in (1, 2, len(values)):
        for names in itertools.combinations(values, size):
            if size == 2 and not any(isinstance(values[h], bool) for h in names):
                continue
            chosen.append({h: values[h] for h in names})
            chosen.append({h: values[h] for h in names if h != "dampening"})
            chosen.append({h: values[h] for h in names if h != "nesterov"})
    chosen += [COMMON, *({h: v} for h, v in COMMON.items()), values | COMMON]
    accepted: list[dict] = []
    for options in chosen:
        numbers = {h: v for h, v in options.items() if h not in ("max_norm", "grad_scale")}
        try:
            _core.optimizer_check(name, numbers, None)
        except ValueError:
            continue
        if options not in accepted:
            accepted.append(options)
    return accepted


CASES = [
    pytest.param(name, options, id=f"{name}-{'-'.join(options) or 'defaults'}")
    for name in NAMES
    for options in options_of(name)
]
# The fewest that reach every loop: one case for each set of states that a step can use.
LOOPS = []
for _case in CASES:
    _key = (_case.values[0], OPTIMIZERS[_case.values[0]].needed_states(**_case.values[1]))
    if _key not in [key for key, _ in LOOPS]:
        LOOPS.append((_key, _case))
LOOPS = [case for _, case in LOOPS]


def random(shape, dtype, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


class Problem:
    """Parameters and states, stepped with the same gradients by whoever is asked."""

    def __init__(self, name, options, dtype, sizes, seed=1):
        self.entry = OPTIMIZERS[name]
        self.options = options
        self.states = self.entry.needed_states(**options)
        self.params = [random(n, dtype, seed + i) for i, n in enumerate(sizes)]
        values = self.entry.hyperparameters | options
        starts = {
            s: values[self.entry.starts.get(s)] for s in self.states if s in self.entry.starts
        }
        self.state = {s: [np.full(n, starts.get(s, 0), dtype) for n in sizes] for s in self.states}
        self.dtype = dtype

    def grads(self, step):
        return [random(p.shape, p.dtype, 1000 * step + i) for i, p in enumerate(self.params)]

    def arrays(self):
        return [*self.params, *itertools.chain(*self.state.values())]

    def native(self, steps=None, place=lambda a: a):
        """Step with the public function, with every array copied to where `place` puts it."""
        params = [place(p) for p in self.params]
        state = {f"{s}s": [place(a) for a in arrays] for s, arrays in self.state.items()}
        step_function = getattr(il, f"{self.entry.name}_step")
        for step in range(1, self.last(steps) + 1):
            grads = [place(g) for g in self.grads(step)]
            before = copy.deepcopy(grads)
            assert step_function(params, grads, **state, step=step, **self.options) is None
            for a, b in zip(grads, before, strict=True):
                np.testing.assert_array_equal(a, b)
        return [*params, *itertools.chain(*state.values())]

    def last(self, steps):
        return STEPS.get(self.entry.name, 3) if steps is None else steps

    def reference(self, steps=None):
        for step in range(1, self.last(steps) + 1):
            grads = self.grads(step)
            norm = gradients.grad_norm(grads) / self.options.get("grad_scale", 1.0)
            for i, (param, grad) in enumerate(zip(self.params, grads, strict=True)):
                states = {s: self.state[s][i] for s in self.states}
                self.entry.function(param, grad, **states, step=step, norm=norm, **self.options)
        return self.arrays()


def run_class(optimizer, steps, first=1):
    for step in range(first, first + steps):
        optimizer.step(
            [random(p.shape, p.dtype, 10 * step + i) for i, p in enumerate(optimizer.params)]
        )


def fresh_params(dtype=np.float32):
    return [random((4, 7), dtype, 1), random(5, dtype, 2), np.zeros(0, dtype)]


def same_bits(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        np.testing.assert_array_equal(
            np.ascontiguousarray(x).view(np.uint8), np.ascontiguousarray(y).view(np.uint8)
        )


def close(got, expected, dtype):
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, TOLERANCE[dtype], TOLERANCE[dtype])


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a
