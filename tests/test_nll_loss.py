"""nll_loss in every combination of its options, beside the reference and PyTorch."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import innerloop as il
from innerloop import reference
from support import DTYPES, LAYOUTS, equal_bits, fma_isas, numbers

TOLERANCE = {"float32": 2e-6, "float64": 1e-14}
REDUCTIONS = ("mean", "sum", "none")
NAN, INF = np.nan, np.inf


def close(actual: Any, want: Any, dtype: str, largest: float = 0.0) -> None:
    actual, want = np.asarray(actual), np.asarray(want)
    assert actual.shape == want.shape and actual.dtype == want.dtype == dtype
    largest = np.abs(want[np.isfinite(want)]).max(initial=largest)
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(actual, want, rtol=tolerance, atol=tolerance * largest)


def both(log_probs: np.ndarray, target: np.ndarray, **options: Any) -> tuple[Any, Any]:
    """Loss and gradient, after holding both to the reference; the loss alone has the same bits."""
    loss, grad = il.nll_loss(log_probs, target, return_grad=True, **options)
    want, want_grad = reference.nll_loss(log_probs, target, return_grad=True, **options)
    close(loss, want, log_probs.dtype.name, 1.0)
    close(grad, want_grad, log_probs.dtype.name)
    alone = il.nll_loss(log_probs, target, **options)
    assert equal_bits(np.asarray(alone), np.asarray(loss))
    return loss, grad


def labels(shape: tuple[int, ...], axis: int, seed: int = 7) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.asarray(rng.integers(0, shape[axis], shape[:axis] + shape[axis + 1 :]))


def options_for(
    shape: tuple[int, ...], axis: int, dtype: str, weights: str, ignored: bool
) -> dict[str, Any]:
    rows = shape[:axis] + shape[axis + 1 :]
    options: dict[str, Any] = {"ignore_index": 2 if ignored else -100}
    if "class" in weights:
        options["weight"] = (numbers(shape[axis], dtype, seed=3) ** 2 + 0.1).astype(dtype)
    if "sample" in weights:
        options["sample_weight"] = np.array(numbers(rows, dtype, seed=4) ** 2 + 0.1, dtype)
    return options


SHAPES = [((6,), 1), ((5, 6), 1), ((4, 6, 3), 1), ((2, 6, 3, 5), 1), ((5, 6), 0), ((3, 2, 7), -1)]
SHAPES += [((0, 4), 1), ((2, 4, 0), 1), ((4, 700), 0)]
WEIGHTS = ["", "class", "sample", "class and sample"]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_options_in_every_combination(
    target: str, dtype: str, ignored: bool, weights: str, reduction: str
) -> None:
    for shape, axis in SHAPES:
        along = 0 if len(shape) == 1 else axis % len(shape)
        x, t = numbers(shape, dtype), labels(shape, along)
        options = options_for(shape, along, dtype, weights, ignored and t.size > 1)
        options |= {"reduction": reduction, "axis": axis, "grad_scale": -2.5}
        loss, grad = both(x, t, **options)
        inout = x.copy()
        again, same = il.nll_loss(inout, t, return_grad=True, out=inout, **options)
        assert same is inout
        assert equal_bits(np.asarray(again), np.asarray(loss)) and equal_bits(inout, grad)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("ignored", [False, True])
def test_beside_torch(ignored: bool, weights: str, reduction: str) -> None:
    torch = pytest.importorskip("torch")
    for dtype, shape in itertools.product(DTYPES, ((6,), (5, 6), (4, 6, 3), (2, 6, 3, 5), (0, 6))):
        axis = min(1, len(shape) - 1)
        x, t = numbers(shape, dtype), labels(shape, axis)
        options = options_for(shape, axis, dtype, weights, ignored and t.size > 1)
        options["reduction"] = reduction
        given = {k: torch.tensor(v) if hasattr(v, "dtype") else v for k, v in options.items()}
        samples = given.pop("sample_weight", torch.ones(t.shape, dtype=getattr(torch, dtype)))
        tx = torch.tensor(x, requires_grad=True)
        want = samples * torch.nn.functional.nll_loss(
            tx, torch.tensor(t), **(given | {"reduction": "none"})
        )
        if reduction != "none":
            want = want.sum()
        if reduction == "mean":
            counts = torch.where(torch.tensor(t) == options["ignore_index"], 0.0, samples)
            classes = given.get("weight", torch.ones(6))
            want = want / (counts * classes[torch.tensor(t)]).sum()
        want.sum().backward()
        if "sample" not in weights:  # then torch has it whole
            whole = torch.nn.functional.nll_loss(tx, torch.tensor(t), **given)
            np.testing.assert_allclose(whole.detach(), want.detach(), rtol=1e-5)
        loss, grad = il.nll_loss(tx.detach(), torch.tensor(t), return_grad=True, **options)
        assert isinstance(loss, torch.Tensor) and isinstance(grad, torch.Tensor)
        tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == "float32" else {"rtol": 1e-12}
        np.testing.assert_allclose(loss.numpy(), want.detach().numpy(), **tolerance)
        np.testing.assert_allclose(grad.numpy(), tx.grad.numpy(), **tolerance)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts_hold_the_same_bits(isa: str, dtype: str, layout: str) -> None:
    place = LAYOUTS[layout]
    for shape, axis in itertools.product(((3, 5, 37), (21, 18, 2)), range(3)):
        x, t = numbers(shape, dtype), labels(shape, axis)
        given = options_for(shape, axis, dtype, "class and sample", True)
        for reduction in ("mean", "none"):
            options: dict[str, Any] = {"axis": axis, "reduction": reduction, "return_grad": True}
            loss, grad = il.nll_loss(x, t, **given, **options)
            placed = {k: place(v) if hasattr(v, "dtype") else v for k, v in given.items()}
            out = place(np.full_like(x, 7))
            again, same = il.nll_loss(place(x), place(t), out=out, **placed, **options)
            assert same is out and equal_bits(out, grad)
            assert equal_bits(np.asarray(again), np.asarray(loss))
            inout = place(x)
            again, same = il.nll_loss(inout, t, out=inout, **placed, **options)
            assert same is inout and equal_bits(inout, grad)
            assert equal_bits(np.asarray(again), np.asarray(loss))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_ignored_rows_count_for_nothing(target: str, reduction: str) -> None:
    x, t = numbers((6, 5), "float32"), np.array([0, -100, 2, -100, 1, -100])
    weight = np.array([1.0, NAN, 2.0, INF, 3.0, 4.0], "float32")
    x[1], x[3], x[5] = NAN, INF, -INF
    options = {"reduction": reduction, "return_grad": True}
    loss, grad = il.nll_loss(x, t, sample_weight=weight, **options)
    kept, kept_grad = il.nll_loss(x[::2], t[::2], sample_weight=weight[::2], **options)
    assert equal_bits(grad[::2], kept_grad) and (grad[1::2] == 0).all()
    assert equal_bits(np.asarray(loss)[::2] if reduction == "none" else loss, kept)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(0, 4), (3, 4), (2, 4, 0), (3, 0)])
def test_no_rows_that_count(target: str, shape: tuple[int, ...], reduction: str) -> None:
    """The mean is NaN, as in PyTorch; the gradient 0."""
    t = np.full(shape[:1] + shape[2:], -100)
    _, grad = both(numbers(shape, "float32"), t, reduction=reduction)
    assert not grad.any()


def test_special_values(target: str) -> None:
    """Only the label's element is read."""
    x = np.array([[NAN, -1.0, INF], [-INF, NAN, 0.0], [0.0, 0.0, NAN]])
    for t in ([1, 2, 0], [0, 0, 2], [2, 1, 1]):
        both(x, np.array(t), reduction="none")
        both(x, np.array(t))
    both(x, np.array([1, 0, 0]), weight=np.array([0.0, 0.0, 1.0]))


def test_gradient_by_finite_differences(target: str) -> None:
    x, t = numbers((4, 6, 3), "float64"), labels((4, 6, 3), 1)
    for reduction in REDUCTIONS:
        options = options_for((4, 6, 3), 1, "float64", "class and sample", True)
        options["reduction"] = reduction
        _, grad = il.nll_loss(x, t, return_grad=True, grad_scale=3.0, **options)
        for at in np.ndindex(x.shape):
            up = x.copy()
            up[at] += 1.0  # it is linear
            rise = np.sum(il.nll_loss(up, t, **options) - il.nll_loss(x, t, **options))
            np.testing.assert_allclose(grad[at], 3 * rise, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_for_any_threads_and_isa(dtype: str, restore_threads: None) -> None:
    for shape in ((50_011, 10), (50, 7, 1000)):
        x, t = numbers(shape, dtype), labels(shape, 1)
        given = options_for(shape, 1, dtype, "class and sample", True)
        want = None
        for isa, threads in itertools.product(fma_isas(), (1, 2, 5)):
            il.set_num_threads(threads)
            with il.use_isa(isa):
                loss, grad = il.nll_loss(x, t, return_grad=True, **given)
            want = want or (loss, grad)
            assert loss == want[0] and equal_bits(grad, want[1])


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_options_beside_the_reference(data: st.DataObject) -> None:
    draw = data.draw
    rows = draw(st.lists(st.integers(0, 9), max_size=3))
    axis = draw(st.integers(0, len(rows)))
    shape = (*rows[:axis], draw(st.integers(3, 40)), *rows[axis:])
    dtype = draw(st.sampled_from(DTYPES))

    def place(a: np.ndarray) -> np.ndarray:
        return LAYOUTS[draw(st.sampled_from(list(LAYOUTS)))](a) if a.ndim else a

    options = options_for(shape, axis, dtype, draw(st.sampled_from(WEIGHTS)), draw(st.booleans()))
    options = {k: place(v) if hasattr(v, "dtype") else v for k, v in options.items()}
    options["reduction"] = draw(st.sampled_from(REDUCTIONS))
    if axis != 1 or draw(st.booleans()):
        options["axis"] = axis - draw(st.sampled_from([0, len(shape)]))
    kind = draw(st.sampled_from(["int8", "uint8", "int64", "uint16"]))
    both(place(numbers(shape, dtype)), place(labels(shape, axis).astype(kind)), **options)


def test_label_types_and_negative_log_softmax(target: str) -> None:
    """Of log_softmax it is softmax_cross_entropy."""
    z, t = numbers((5, 130), "float64"), np.array([3, 0, 127, 100, 3])
    want = il.softmax_cross_entropy(z, t)
    for dtype in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"):
        loss = il.nll_loss(il.log_softmax(z), t.astype(dtype))
        np.testing.assert_allclose(loss, want, rtol=1e-13)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("return_grad", [False, True])
def test_labels_out_of_range(target: str, return_grad: bool, reduction: str) -> None:
    x, weight = numbers((4, 5), "float32"), np.ones(5, "float32")
    before = x.tobytes()
    for row, label in ((0, 5), (3, -1), (2, 2**62), (1, -(2**63))):
        t = np.arange(4)
        t[row] = label
        for out in (x, np.full_like(x, 7)) if return_grad else (None,):
            with pytest.raises(IndexError, match=rf"target.*got {label} at \({row},\)"):
                il.nll_loss(
                    x, t, weight=weight, reduction=reduction, return_grad=return_grad, out=out
                )
            assert x.tobytes() == before and (out is None or out is x or (out == 7).all())
        il.nll_loss(x, t, ignore_index=label)
    with pytest.raises(IndexError, match="from 0 to 0"):
        il.nll_loss(np.empty((3, 0)), np.zeros(3, int), reduction=reduction)
