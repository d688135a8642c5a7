"""softmax and log_softmax beside PyTorch in float64: see properties.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import SIDES, Case, F, check, graded, largest, quick, tensor, torch

import innerloop as il

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@quick
@given(data=st.data())
def test_softmax(name: str, data: st.DataObject) -> None:
    """The gradient is of the very y that is passed, as rounded: what PyTorch's autograd calls."""
    case = Case(data)
    shape = case.shape((1, 3), SIDES | st.sampled_from([130, 2049]))
    axis = case.draw(st.integers(-len(shape), len(shape) - 1))
    x, dy = case.normal(shape, case.number(0.1, 20)), case.normal(shape)
    t = tensor(x)
    check(lambda: (getattr(il, name)(x, axis),), [getattr(F, name)(t, axis)], [largest(x)])
    y = case.place(getattr(il, name)(x, axis))
    theirs = getattr(torch.ops.aten, f"_{name}_backward_data")
    dx = theirs(tensor(dy, False), tensor(y, False), axis, torch.float64)
    scale = float(np.abs(dy.astype("f8")).sum(axis).max(initial=0.0))
    check(lambda: (getattr(il, f"{name}_backward")(dy, y, axis),), [dx], [scale])
    if not case.half:
        (by_autograd,) = graded(getattr(F, name)(t, axis), [t], dy)
        check(lambda: (getattr(il, f"{name}_backward")(dy, y, axis),), [by_autograd], [scale])
