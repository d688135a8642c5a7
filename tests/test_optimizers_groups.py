"""Parameter groups, hyperparameters that are functions of the step, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from optimizer_cases import DTYPES, LOOPS, NAMES, fresh_params, random, run_class, same_bits

import innerloop as il
from innerloop.reference import OPTIMIZERS


@pytest.mark.parametrize("backend", il.backends())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "options"), LOOPS)
def test_groups_are_optimizers_of_their_own(name, options, dtype, backend):
    made = getattr(il, OPTIMIZERS[name].class_name)
    first = fresh_params(dtype)
    second = [random(9, dtype, 5), random((3, 2), dtype, 6)]
    copies = [a.copy() for a in first], [a.copy() for a in second]
    with il.use_backend(backend):
        both = made([{"params": first, **options, "lr": 0.5}, {"params": second}], lr=0.01)
        apart = made(copies[0], lr=0.5, **options), made(copies[1], lr=0.01)
        for step in (1, 2, 3):
            grads = [random(p.shape, dtype, 10 * step + i) for i, p in enumerate(both.params)]
            both.step(grads)
            apart[0].step(grads[:3])
            apart[1].step(grads[3:])
    same_bits(both.params, [*copies[0], *copies[1]])
    for s in OPTIMIZERS[name].states:
        held = both.state.get(f"{s}s", [None] * 5)
        for part, alone in ((held[:3], apart[0]), (held[3:], apart[1])):
            if f"{s}s" in alone.state:
                same_bits(part, alone.state[f"{s}s"])
            else:
                assert part == [None] * len(part)


def test_groups_are_torchs():
    torch = pytest.importorskip("torch")
    tensors = [torch.tensor(random(5, np.float32, i), requires_grad=True) for i in range(4)]
    params = [t.detach().numpy().copy() for t in tensors]
    layout = [
        {"lr": 0.1, "momentum": 0.9},
        {"weight_decay": 0.1, "maximize": True},
        {"momentum": 0.5, "nesterov": True},
    ]
    parts = [slice(0, 1), slice(1, 3), slice(3, 4)]
    theirs = torch.optim.SGD(
        [{"params": tensors[part], **g} for part, g in zip(parts, layout, strict=True)], lr=0.01
    )
    ours = il.SGD([{"params": params[p], **g} for p, g in zip(parts, layout, strict=True)], lr=0.01)
    for step in range(4):
        for i, t in enumerate(tensors):
            t.grad = torch.tensor(random(5, np.float32, 10 * step + i))
        theirs.step()
        ours.step([t.grad.numpy() for t in tensors])
    for p, t in zip(params, tensors, strict=True):
        np.testing.assert_allclose(p, t.detach().numpy(), 1e-6, 1e-6)


def test_groups_may_be_changed_between_steps():
    a, b = np.zeros(3), np.zeros(3)
    optimizer = il.SGD([{"params": a}, {"params": b, "lr": 2.0}], 1.0)
    assert [g["lr"] for g in optimizer.param_groups] == [1.0, 2.0]
    with pytest.raises(AttributeError, match="lr differs"):
        _ = optimizer.lr
    assert optimizer.momentum == 0.0
    optimizer.step([np.ones(3), np.ones(3)])
    optimizer.param_groups[0]["lr"] = 3.0
    optimizer.param_groups[1]["momentum"] = 0.5
    optimizer.step([np.ones(3), np.ones(3)])
    assert (a == -4).all() and (b == -4).all()
    assert optimizer.state["momentum_buffers"][0] is None
    optimizer.lr = 1.0
    optimizer.step([np.ones(3), np.ones(3)])
    assert (a == -5).all()
    optimizer.param_groups[1]["lr"] = np.nan
    for wrong in ({"lr": np.nan}, {"learning_rate": 1.0}, {"max_norm": 1.0}):
        optimizer.param_groups[1].update(wrong)
        before = [a.copy(), b.copy()]
        with pytest.raises((ValueError, TypeError)):
            optimizer.step([np.ones(3), np.ones(3)])
        same_bits([a, b], before)
        optimizer.param_groups[1] = {**optimizer.param_groups[0], "params": [b]}
    assert optimizer.steps == 3


def test_an_empty_group_and_empty_arrays():
    a = np.ones(3)
    optimizer = il.Adam(
        [{"params": []}, {"params": [np.zeros(0), a]}, {"params": ()}], amsgrad=True
    )
    optimizer.step([np.zeros(0), np.ones(3)])
    assert (a < 1).all()
    optimizer.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_a_schedule_is_called_with_each_steps_number(name):
    seen = []

    def schedule(step):
        seen.append(step)
        return 0.1 / step

    made = getattr(il, OPTIMIZERS[name].class_name)
    one, two = made(fresh_params(), lr=schedule), made(fresh_params(), lr=0.1)
    assert callable(one.lr) and "lr=" in repr(one)
    seen.clear()
    for step in (1, 2, 3):
        two.lr = 0.1 / step
        run_class(one, 1, first=step)
        run_class(two, 1, first=step)
    assert seen == [1, 2, 3]
    same_bits(one.params, two.params)


def test_other_numbers_may_be_schedules_too():
    p = np.ones(3)
    optimizer = il.SGD(
        [{"params": p, "momentum": lambda step: 0.5 * (step > 1)}],
        lr=lambda step: np.float64(1.0),
        max_norm=lambda step: 1e9,
        grad_scale=lambda step: float(step),
    )
    optimizer.step(np.ones(3))
    assert (p == 0).all() and optimizer.state == {}
    optimizer.step(np.full(3, 2.0))
    assert (p == -1).all() and "momentum_buffers" in optimizer.state


def test_a_schedule_that_fails_changes_nothing():
    p = np.ones(3)
    optimizer = il.Adam(p, lr=lambda step: 1.0 if step == 1 else -1.0)
    optimizer.step(np.ones(3))
    before = p.copy()
    with pytest.raises(ValueError, match="lr must lie in"):
        optimizer.step(np.ones(3))
    optimizer.lr = lambda step: 1 / 0
    with pytest.raises(ZeroDivisionError):
        optimizer.step(np.ones(3))
    optimizer.lr = lambda step: "fast"
    with pytest.raises(TypeError, match="lr must be a number"):
        optimizer.step(np.ones(3))
    assert optimizer.steps == 1
    same_bits([p], [before])


A, B = np.ones(3), np.ones(4)
REFUSED = {
    "the same twice": (lambda: il.SGD([A, A]), ValueError, r"params\[0\].*params\[1\]"),
    "in two groups": (
        lambda: il.SGD([{"params": [B, A]}, {"params": A}]),
        ValueError,
        r"params\[1\].*params\[2\]",
    ),
    "overlapping": (lambda: il.SGD([B[:3], B[1:]]), ValueError, r"params\[0\].*params\[1\]"),
    "no params": (lambda: il.SGD([{"lr": 1.0}]), ValueError, "params"),
    "all empty": (lambda: il.SGD([{"params": []}]), ValueError, "params must hold at least one"),
    "mixed": (lambda: il.SGD([{"params": A}, B]), TypeError, "arrays or dicts"),
    "a dict alone": (lambda: il.SGD({"params": A}), TypeError, "params"),
    "unknown": (lambda: il.SGD([{"params": A, "betas": 1}]), TypeError, "betas"),
    "max_norm": (lambda: il.SGD([{"params": A, "max_norm": 1}]), TypeError, "max_norm"),
    "grad_scale": (lambda: il.SGD([{"params": A, "grad_scale": 1}]), TypeError, "grad_scale"),
    "second group's lr": (
        lambda: il.SGD([{"params": A}, {"params": B, "lr": -1}]),
        ValueError,
        "lr must lie in",
    ),
    "a group's array": (lambda: il.SGD([{"params": [1.0]}]), TypeError, r"params\[0\]"),
    "a schedule's value": (lambda: il.SGD(A, lr=lambda step: np.nan), ValueError, "lr"),
    "a schedule of a flag": (lambda: il.SGD(A, nesterov=lambda step: 2), ValueError, "nesterov"),
}
for _h, _bad in {
    "max_norm": (-1.0, np.nan, "x", (1.0,)),
    "grad_scale": (0.0, -1.0, np.nan, np.inf, 1e39, None, "x"),
    "l1": (-1.0, np.nan, np.inf, None, "x"),
    "maximize": (2, 0.5, np.nan, None, "x"),
}.items():
    for _v in _bad:
        _error = TypeError if isinstance(_v, (str, tuple, type(None))) else ValueError
        REFUSED[f"{_h} {_v}"] = (lambda h=_h, v=_v: il.Adam(A, **{h: v}), _error, _h)
        REFUSED[f"step, {_h} {_v}"] = (
            lambda h=_h, v=_v: il.lion_step(A, B[:3], np.zeros(3), step=1, **{h: v}),
            _error,
            _h,
        )
for _name, _values in {
    "adagrad": {"lr_decay": -0.1, "initial_accumulator_value": -1.0, "eps": -1e-10},
    "adadelta": {"rho": 1.1, "eps": np.nan},
    "adamax": {"betas": (0.9, 1.0)},
    "nadam": {"momentum_decay": -1e-3, "decoupled_weight_decay": 3},
    "radam": {"betas": (1.0, 0.9), "weight_decay": np.inf},
    "lion": {"betas": (0.9, -0.1), "lr": -1.0},
    "adam": {"amsgrad": 0.5},
}.items():
    for _h, _v in _values.items():
        _call = lambda n=_name, h=_h, v=_v: getattr(il, OPTIMIZERS[n].class_name)(A, **{h: v})  # noqa: E731
        REFUSED[f"{_name} {_h}"] = (_call, ValueError, _h.rstrip("s"))
for _case, _grads in {
    "twice": [A, A],
    "overlapping": [B[1:], B[:2]],
}.items():
    _call = lambda g=_grads: il.clip_grad_norm(g, 1.0)  # noqa: E731
    REFUSED[f"clip {_case}"] = (_call, ValueError, r"grads\[0\].*grads\[1\]")


@pytest.mark.parametrize("case", REFUSED)
def test_refused(target, case):
    call, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        call()
    assert (A == 1).all() and (B == 1).all()
