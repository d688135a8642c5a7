"""Properties over random shapes, axes and layouts: where a value lies never changes its bits."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import innerloop as il
from support import equal_bits

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=19)
quick = settings(max_examples=150, deadline=None)


@st.composite
def views(draw: st.DrawFn, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """An array of any layout: axes in any order, steps of either sign, at any address."""
    shape = draw(SHAPES) if shape is None else shape
    dtype = draw(st.sampled_from(["float32", "float64"]))
    order = draw(st.permutations(range(len(shape))))
    steps = [draw(st.sampled_from([-3, -1, 1, 2])) for _ in shape]
    memory = np.zeros([shape[d] * abs(steps[d]) for d in order], dtype)
    raw = np.zeros(memory.nbytes + 8, np.uint8)[draw(st.integers(0, 7)) :]
    memory = raw[: memory.nbytes].view(dtype).reshape(memory.shape)
    view = memory.transpose(np.argsort(order))[tuple(slice(None, None, s) for s in steps)]
    seed = draw(st.integers(0, 2**32 - 1))
    view[...] = np.random.default_rng(seed).normal(size=shape) * 3
    return view


@quick
@given(views(), st.sampled_from(il.activations.NAMES))
def test_activations(x: np.ndarray, name: str) -> None:
    want = il.activation(x.copy(order="C"), name)
    assert equal_bits(il.activation(x, name), want)
    assert il.activation(x, name, out=x) is x
    assert equal_bits(x, want)


@quick
@given(st.data())
def test_softmax(data: st.DataObject) -> None:
    x = data.draw(views())
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    want = il.softmax(np.moveaxis(x, axis, -1).copy(order="C"))
    assert equal_bits(il.softmax(x, axis), np.moveaxis(want, -1, axis))


@quick
@given(st.data())
def test_linear(data: st.DataObject) -> None:
    m, k, n = (data.draw(st.integers(0, 70)) for _ in range(3))
    x, w = data.draw(views((m, k))), data.draw(views((k, n)))
    w = w.astype(x.dtype, copy=False)
    want = il.linear(x.copy(order="C"), w.copy(order="C"))
    assert equal_bits(il.linear(x, w), want)
    assert equal_bits(il.linear(x, il.pack(w)), want)
    if m:
        row = data.draw(st.integers(0, m - 1))
        assert equal_bits(il.linear(x[row : row + 1], w), want[row : row + 1])


@quick
@given(st.data())
def test_overlap_is_refused_or_harmless(data: st.DataObject) -> None:
    """Two windows of one array: the result is right, or the call is refused and nothing written."""
    memory = np.random.default_rng(0).normal(size=(12, 12))
    window = st.builds(slice, st.integers(0, 11), st.integers(1, 12), st.sampled_from([1, 2, 3]))
    x = memory[data.draw(window), data.draw(window)]
    out = memory[data.draw(window), data.draw(window)]
    if x.shape != out.shape:
        return
    want, before = np.maximum(x, 0), memory.copy()
    try:
        il.relu(x, out=out)
    except ValueError as error:
        assert "overlap" in str(error)
        assert equal_bits(memory, before)
    else:
        assert equal_bits(out, want)
