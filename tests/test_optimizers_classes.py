"""The optimizers' classes: their states, state_dict and hyperparameters between steps."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
from optimizer_cases import (
    CASES,
    DTYPES,
    NAMES,
    fresh_params,
    random,
    read_only,
    run_class,
    same_bits,
)

import innerloop as il
from innerloop.reference import OPTIMIZERS


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
            f"{s}s": [np.full_like(p, options.get(entry.starts.get(s), 0)) for p in params]
            for s in entry.needed_states(**options)
        }
        for step in (1, 2, 3):
            grads = [random(p.shape, p.dtype, 10 * step + i) for i, p in enumerate(params)]
            getattr(il, f"{name}_step")(params, grads, **states, step=step, **options)
    same_bits(optimizer.params, params)
    for plural, arrays in states.items():
        same_bits(optimizer.state[plural], arrays)
    assert optimizer.steps == 3


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
