"""Norms beside PyTorch in float64: see properties.py."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from properties import NONEMPTY, Case, F, check, graded, largest, quick, tensor

import innerloop as il

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def norm_scales(x: Any, dy: Any, w: Any, deviation: np.ndarray) -> tuple[float, list[float]]:
    """Magnitudes from which results of norms cancel: of y, and of dx, dweight and dbias.

    Where numbers are alike, the deviation is much less than they are, and so less certain.
    """
    inverse = float(1 / deviation.min(initial=1.0))
    certain = 1 + largest(x) * inverse
    weights = 1.0 if w is None else largest(w)
    total = float(np.abs(dy.astype("f8")).sum())
    dx = largest(dy) * weights * inverse * certain * certain
    return weights * certain, [dx, total * certain, total]


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
@settings(quick, max_examples=40)
@given(data=st.data())
def test_row_norms(name: str, data: st.DataObject) -> None:
    case = Case(data)
    shape = case.shape((1, 3), NONEMPTY | st.sampled_from([130, 2049]))
    x, dy = case.normal(shape), case.normal(shape)
    w = case.maybe(lambda: case.normal(shape[-1:]))
    b = case.maybe(lambda: case.normal(shape[-1:])) if name == "layer_norm" else None
    eps_ = case.number(1e-6, 0.1)
    tx, tw, tb = tensor(x), tensor(w), tensor(b)
    vectors: dict[str, Any] = {"weight": w}
    if name == "layer_norm":
        y = F.layer_norm(tx, shape[-1:], tw, tb, eps_)
        vectors["bias"] = b
        square = x.astype("f8").var(-1)
    else:
        y = F.rms_norm(tx, shape[-1:], tw, eps_)
        square = (x.astype("f8") ** 2).mean(-1)
    size, scales = norm_scales(x, dy, w, np.sqrt(square + eps_))
    forward = partial(getattr(il, name), x, **vectors, eps=eps_)
    check(lambda: (forward(),), [y], [size])

    def backward() -> tuple[Any, ...]:
        _, saved = forward(return_saved=True)
        gradients = getattr(il, f"{name}_backward")
        if name == "rms_norm":
            return gradients(dy, x, saved, w)
        return gradients(dy, x, saved, w, bias=b is not None)

    count = 2 if name == "rms_norm" else 3
    check(backward, graded(y, [tx, tw, tb][:count], dy), scales[:count])


@settings(quick, max_examples=60)
@given(data=st.data())
def test_batch_norm(data: st.DataObject) -> None:
    case = Case(data)
    shape = case.shape((2, 4), NONEMPTY)
    c = shape[1]
    training = case.draw(st.booleans())
    if training and math.prod(shape) == c:
        shape = (shape[0] + 2, *shape[1:])  # PyTorch refuses the variance of one number
    x, dy = case.normal(shape), case.normal(shape)
    w, b = (case.maybe(lambda: case.normal((c,))) for _ in range(2))
    kept = np.dtype(np.float64 if case.dtype == np.float64 else np.float32)
    mean = case.rng.normal(size=c).astype(kept)
    var = case.rng.uniform(0.2, 2, c).astype(kept)
    options = {"momentum": case.number(0, 1), "eps": case.number(1e-6, 0.1), "training": training}
    tx, tw, tb = tensor(x), tensor(w), tensor(b)
    running = tensor(mean, False), tensor(var, False)
    y = F.batch_norm(tx, *running, tw, tb, **options)
    axes = (0, *range(2, x.ndim))
    square = x.astype("f8").var(axes) if training else var
    size, scales = norm_scales(x, dy, w, np.sqrt(square + options["eps"]))

    def both() -> tuple[Any, ...]:
        statistics = case_mean, case_var = mean.copy(), var.copy()
        out, saved = il.batch_norm(x, *statistics, w, b, **options, return_saved=True)
        gradients = il.batch_norm_backward(dy, x, saved, w, training=training, bias=b is not None)
        return (out, case_mean, case_var, *gradients)

    largest_mean = largest(mean)
    size += (largest(w) if w is not None else 1.0) * largest_mean * 3
    scales[1] *= 1 + 3 * largest_mean
    want = [y, *running, *graded(y, [tx, tw, tb], dy)]
    check(both, want, [size, 1.0, largest(x) ** 2, *scales])
