"""The dense layer beside PyTorch in float64: see properties.py."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from properties import (
    SIDES,
    TORCHS,
    Case,
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

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@settings(quick, max_examples=60)
@given(data=st.data())
def test_linear(data: st.DataObject) -> None:
    case = Case(data)
    sides = SIDES | st.sampled_from([70, 130])
    lead, (k, n) = case.shape((0, 2)), case.shape((2, 2), sides)
    name = case.draw(st.sampled_from([None, *TORCHS]))
    params = parameters(case, name) if name else {}
    x, w = case.normal((*lead, k)), case.normal((k, n))
    b, dy = case.maybe(lambda: case.normal((n,))), case.normal((*lead, n))
    tx, tw, tb = tensor(x), tensor(w), tensor(b)
    z = tx @ tw if tb is None else tx @ tw + tb
    if name:
        # The derivative near a kink is either side's; softplus itself jumps at a low threshold.
        apart = 1e-4 if not case.half else 4 * eps(case.dtype)
        if name == "softplus":
            params["threshold"] = 25.0
        dy[near_kink(z.detach().numpy(), name, params, apart)] = 0
    y = TORCHS[name](z, **params) if name else z
    grads = graded(y, [tx, tw, tb], dy)
    wide = [np.abs(np.asarray(a).astype("f8")) for a in (x, w, dy)]
    size = largest(wide[0] @ wide[1], 0 if b is None else b)
    m = math.prod(lead)
    rows = wide[2].reshape(m, n) * steepness(params)
    scales = [rows @ wide[1].T, wide[0].reshape(m, k).T @ rows, rows.sum(0)]
    stored = case.dtype if case.half else None
    options: dict[str, Any] = {"activation": name, **params}
    check(lambda: (il.linear(x, w, b, **options),), [y], [size])
    check(lambda: (il.linear(x, il.pack(w), b, **options),), [y], [size])

    def backward() -> tuple[Any, ...]:
        _, saved = il.linear(x, w, b, return_saved=True, **options)
        return il.linear_backward(dy, x, w, saved, bias=b is not None, **options)

    check(backward, grads, [largest(s) for s in scales], stored if name else None)
