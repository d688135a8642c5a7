"""Activations, gated pairs and prelu beside PyTorch in float64: see properties.py."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from properties import (
    TORCHS,
    Case,
    F,
    check,
    eps,
    graded,
    largest,
    near_kink,
    parameters,
    quick,
    steepness,
    tensor,
)

import innerloop as il
from innerloop.reference import GATED

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def test_every_activation_of_torchs_is_here() -> None:
    assert {n for n in il.activations.NAMES if hasattr(F, n)} <= TORCHS.keys()


@pytest.mark.parametrize("name", TORCHS)
@settings(quick, max_examples=20)
@given(data=st.data())
def test_activations(name: str, data: st.DataObject) -> None:
    case = Case(data)
    params = parameters(case, name)
    shape = case.shape((0, 4))
    values = (case.rng.normal(size=shape) * 4).astype(case.dtype)
    values = np.where(near_kink(values, name, params, 4 * eps(case.dtype)), 1.25, values)
    values = np.where(near_kink(values, name, params, 4 * eps(case.dtype)), 1.75, values)
    x, dy = case.array(values), case.normal(shape)
    t = tensor(x)
    y = TORCHS[name](t, **params)
    (dx,) = graded(y, [t], dy)
    scale = largest(dy) * steepness(params)
    check(lambda: (il.activation(x, name, **params),), [y], [largest(x)])
    backward = partial(il.activation_backward, dy, x, name, **params)
    check(lambda: (backward(),), [dx], [scale])
    out = il.activation(x, name, **params)
    stored = case.dtype if case.half else None
    check(lambda: (backward(y=out),), [dx], [scale], stored)


@pytest.mark.parametrize("name", GATED)
@quick
@given(data=st.data())
def test_gated(name: str, data: st.DataObject) -> None:
    case = Case(data)
    shape = list(case.shape((1, 4)))
    axis = case.draw(st.integers(-len(shape), len(shape) - 1))
    dy = case.normal(tuple(shape))
    shape[axis] *= 2
    x = case.normal(tuple(shape), 3.0)
    t = tensor(x)
    a, b = t.chunk(2, axis) if shape[axis] else (t, t)
    if name == "glu":
        y = F.glu(t, axis)
    else:
        gate, value = (a, b) if GATED[name].gate_is_first else (b, a)
        y = TORCHS[GATED[name].activation](gate) * value
    (dx,) = graded(y, [t], dy)
    check(lambda: (getattr(il, name)(x, axis),), [y], [largest(x)])
    backward = getattr(il, f"{name}_backward")
    check(lambda: (backward(dy, x, axis),), [dx], [largest(dy) * (1 + largest(x))])


@quick
@given(data=st.data())
def test_prelu(data: st.DataObject) -> None:
    case = Case(data)
    shape = case.shape((1, 4))
    channels = shape[1] if len(shape) > 1 else 1
    x, dy = case.normal(shape), case.normal(shape)
    dy[x == 0] = 0
    weight = case.normal((case.draw(st.sampled_from([1, channels])),))
    t, w = tensor(x), tensor(weight)
    y = F.prelu(t, w)
    total = float(np.abs(dy.astype("f8") * x.astype("f8")).sum())
    check(lambda: (il.prelu(x, weight),), [y])
    check(lambda: il.prelu_backward(dy, x, weight), graded(y, [t, w], dy), [0.0, total])
