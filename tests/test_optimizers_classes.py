"""The optimizers' classes: their states, state_dict and hyperparameters between steps."""

from __future__ import annotations

import copy
import io
import itertools

import numpy as np
import pytest
from optimizer_cases import CASES, DTYPES, LOOPS, NAMES, random, read_only, same_bits

import innerloop as il
from innerloop.reference import OPTIMIZERS


def run_class(optimizer, steps, first=1):
    for step in range(first, first + steps):
        optimizer.step(
            [random(p.shape, p.dtype, 10 * step + i) for i, p in enumerate(optimizer.params)]
        )


def fresh_params(dtype=np.float32):
    return [random((4, 7), dtype, 1), random(5, dtype, 2), np.zeros(0, dtype)]


@pytest.mark.parametrize("backend", il.backends())
@pytest.mark.parametrize(("name", "options"), CASES)
def test_class_is_the_function(name, options, backend):
    entry = OPTIMIZERS[name]
    with il.use_backend(backend):
        optimizer = getattr(il, entry.class_name)(fresh_params(), **options)
        assert list(optimizer.state) == [f"{s}s" for s in entry.needed_states(**options)]
        run_class(optimizer, 3)
        params = fresh_params()
        states = {
            f"{s}s": [np.zeros_like(p) for p in params] for s in entry.needed_states(**options)
        }
        for step in (1, 2, 3):
            grads = [random(p.shape, p.dtype, 10 * step + i) for i, p in enumerate(params)]
            getattr(il, f"{name}_step")(params, grads, **states, step=step, **options)
    same_bits(optimizer.params, params)
    for plural, arrays in states.items():
        same_bits(optimizer.state[plural], arrays)
    assert optimizer.steps == 3


def flatten(d, prefix=""):
    """As somebody would to hand it to numpy.savez."""
    for key, value in d.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}/")
        elif isinstance(value, list):
            yield from ((f"{prefix}{key}/{i}", a) for i, a in enumerate(value))
        else:
            yield prefix + key, value


def through_a_file(state):
    file = io.BytesIO()
    np.savez(file, **dict(flatten(state)))
    file.seek(0)
    loaded = np.load(file)
    hyper = {k.split("/")[1]: loaded[k] for k in loaded if k.startswith("hyperparameters/")}
    arrays = {}
    for key in loaded:
        if key.startswith("state/"):
            arrays.setdefault(key.split("/")[1], []).append(loaded[key])
    return {"step": loaded["step"], "hyperparameters": hyper, "state": arrays}


@pytest.mark.parametrize("carry", [copy.deepcopy, through_a_file])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "options"), LOOPS)
def test_state_dict_round_trip_goes_on_identically(name, options, dtype, carry):
    made = getattr(il, OPTIMIZERS[name].class_name)
    one = made(fresh_params(dtype), lr=0.02, **options)
    run_class(one, 3)
    saved = carry(one.state_dict())
    two = made([p.copy() for p in one.params])
    run_class(two, 1)  # its own state is there, and replaced
    for p, q in zip(two.params, one.params, strict=True):
        p[...] = q
    kept = {s: [id(a) for a in arrays] for s, arrays in two.state.items()}
    two.load_state_dict(saved)
    assert all([id(a) for a in two.state[s]] == ids for s, ids in kept.items() if s in two.state)
    assert two.state_dict()["hyperparameters"] == one.state_dict()["hyperparameters"]
    run_class(one, 3, first=4)
    run_class(two, 3, first=4)
    same_bits(one.params, two.params)
    same_bits([*itertools.chain(*one.state.values())], [*itertools.chain(*two.state.values())])
    assert one.steps == two.steps == 6


def test_state_dict_is_a_copy():
    optimizer = il.Adam(np.ones(3), lr=0.1)
    saved = optimizer.state_dict()
    optimizer.step(np.ones(3))
    assert saved["step"] == 0 and (saved["state"]["exp_avgs"][0] == 0).all()


BAD_STATES = {
    "no dict": (lambda s: [], TypeError),
    "nothing": (lambda s: s.clear(), ValueError),
    "one more": (lambda s: s.update(more=1), ValueError),
    "step -1": (lambda s: s.update(step=-1), ValueError),
    "step 1.5": (lambda s: s.update(step=1.5), TypeError),
    "hyperparameters list": (lambda s: s.update(hyperparameters=[]), TypeError),
    "hyperparameter lacking": (lambda s: s["hyperparameters"].pop("eps"), ValueError),
    "hyperparameter of another": (lambda s: s["hyperparameters"].update(alpha=1.0), ValueError),
    "lr NaN": (lambda s: s["hyperparameters"].update(lr=np.nan), ValueError),
    "lr text": (lambda s: s["hyperparameters"].update(lr="x"), TypeError),
    "betas": (lambda s: s["hyperparameters"].update(betas=(0.9, 1.0)), ValueError),
    "state None": (lambda s: s.update(state=None), TypeError),
    "state lacking": (lambda s: s["state"].pop("exp_avg_sqs"), ValueError),
    "state of another": (lambda s: s["state"].update(grad_avgs=[]), ValueError),
    "no list": (lambda s: s["state"].update(exp_avg_sqs=np.zeros(5)), ValueError),
    "one array fewer": (lambda s: s["state"]["exp_avg_sqs"].pop(), ValueError),
    "no array": (lambda s: s["state"].update(exp_avg_sqs=[1, 2, 3]), TypeError),
    "shape": (
        lambda s: s["state"]["exp_avg_sqs"].__setitem__(1, np.zeros(4, np.float32)),
        ValueError,
    ),
    "dtype": (lambda s: s["state"]["exp_avg_sqs"].__setitem__(1, np.zeros(5)), TypeError),
}


@pytest.mark.parametrize("case", BAD_STATES)
def test_a_bad_state_dict_changes_nothing(case):
    optimizer = il.Adam(fresh_params(), lr=0.1)
    run_class(optimizer, 1)
    other = il.Adam(fresh_params(), lr=0.5)
    run_class(other, 2, first=5)
    bad = other.state_dict()
    spoil, error = BAD_STATES[case]
    replaced = spoil(bad)
    bad = replaced if case == "no dict" else bad
    before = optimizer.state_dict()
    with pytest.raises(error):
        optimizer.load_state_dict(bad)
    after = optimizer.state_dict()
    assert after["step"] == 1 and after["hyperparameters"] == before["hyperparameters"]
    for s, arrays in before["state"].items():
        same_bits(after["state"][s], arrays)


def test_hyperparameters_may_be_set_between_steps():
    p = np.ones(3)
    optimizer = il.SGD(p, 0.5)
    optimizer.step(np.ones(3))
    optimizer.lr = 0.25
    optimizer.step(np.ones(3))
    np.testing.assert_array_equal(p, 0.25)
    optimizer.lr = -1.0
    with pytest.raises(ValueError, match="lr"):
        optimizer.step(np.ones(3))
    assert optimizer.steps == 2 and (p == 0.25).all()
    with pytest.raises(AttributeError):
        optimizer.learning_rate = 1.0


def test_a_state_that_comes_to_be_needed():
    p = np.ones(3)
    optimizer = il.SGD(p, 0.5)
    optimizer.step(np.ones(3))
    assert optimizer.state == {}
    optimizer.momentum = np.nan
    with pytest.raises(ValueError, match="momentum"):
        optimizer.step(np.ones(3))
    assert optimizer.state == {}
    optimizer.momentum = 0.9
    optimizer.step(np.ones(3))
    np.testing.assert_array_equal(optimizer.state["momentum_buffers"][0], 1.0)


def test_a_failed_step_is_not_counted():
    optimizer = il.Adam([np.ones(3), np.ones(4)])
    with pytest.raises(ValueError, match="grads"):
        optimizer.step([np.ones(3)])
    with pytest.raises(ValueError, match=r"grads\[1\]"):
        optimizer.step([np.ones(3), np.ones(5)])
    assert optimizer.steps == 0 and all((p == 1).all() for p in optimizer.params)


@pytest.mark.parametrize("name", NAMES)
def test_class_refuses_bad_params(name):
    made = getattr(il, OPTIMIZERS[name].class_name)
    for bad, error in (
        ([], ValueError),
        (None, TypeError),
        ([None], TypeError),
        (np.ones(3, int), TypeError),
        ([np.ones(3), read_only(np.ones(3))], ValueError),
    ):
        with pytest.raises(error, match="params"):
            made(bad)
    with pytest.raises(TypeError):
        made(np.ones(3), nosuch=1)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_states_lie_well(order, dtype):
    param = np.ones((1100, 1001), dtype, order=order)
    states = [a for arrays in il.Adam(param).state.values() for a in arrays]
    for a in states:
        assert a.ctypes.data % 64 == 0 and a.strides == param.strides and not a.any()
    addresses = [param.ctypes.data, *(a.ctypes.data for a in states)]
    for a, b in itertools.combinations(addresses, 2):
        apart = (a - b) % (1 << 21)
        assert min(apart, (1 << 21) - apart) >= 1 << 16
    small = il.Adam([np.ones(3, dtype) for _ in range(5)])
    assert all(a.ctypes.data % 64 == 0 for arrays in small.state.values() for a in arrays)


def test_states_of_a_strided_parameter_are_dense():
    room = np.ones((6, 8), np.float32)
    optimizer = il.SGD(room[::2, 1:5], momentum=0.9)
    assert optimizer.state["momentum_buffers"][0].flags.c_contiguous
    optimizer.step(np.ones((3, 4), np.float32))
    assert (room[1::2] == 1).all() and (room[::2, 1:5] < 1).all()


def test_copy_and_repr():
    optimizer = il.Adam(np.ones(3), lr=0.5)
    optimizer.step(np.ones(3))
    other = copy.deepcopy(optimizer)
    optimizer.step(np.ones(3))
    assert other.steps == 1 and not np.array_equal(other.params[0], optimizer.params[0])
    assert repr(optimizer).startswith("Adam(") and "lr=0.5" in repr(optimizer)
