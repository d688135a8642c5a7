"""softmax_cross_entropy: the weights of rows and z_loss, combined with all other options."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import innerloop as il
from innerloop import reference
from support import DTYPES, LAYOUTS, equal_bits, fma_isas, numbers

# Of the largest element; z_loss squares a logarithm that carries a few ULP.
TOLERANCE = {"float32": 1e-5, "float64": 5e-14}
REDUCTIONS = ("mean", "sum", "none")
KINDS = ["labels", "ignored", "probabilities"]


def close(actual: Any, want: Any, dtype: str, least: float = 0.0) -> None:
    """Equal up to rounding relative to the largest element, or to `least` if that is larger."""
    actual, want = np.asarray(actual), np.asarray(want)
    assert actual.shape == want.shape and actual.dtype == want.dtype == dtype
    largest = np.abs(want[np.isfinite(want)]).max(initial=least)
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(actual, want, rtol=tolerance, atol=tolerance * largest)


def targets(kind: str, shape: tuple[int, ...], axis: int, dtype: str, seed: int = 7) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "probabilities":
        t = rng.random(shape)
        return (t / t.sum(axis, keepdims=True)).astype(dtype)
    return np.asarray(rng.integers(0, shape[axis], shape[:axis] + shape[axis + 1 :]))


def by_torch(
    logits: np.ndarray,
    target: np.ndarray,
    *,
    weight: np.ndarray | None,
    sample_weight: np.ndarray | None,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    reduction: str,
    axis: int,
    grad_scale: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The same from torch's cross_entropy of single rows, its logsumexp and its autograd."""
    torch = pytest.importorskip("torch")
    z = torch.tensor(logits, requires_grad=True)
    classes_last = z.movedim(axis, -1)
    rows = classes_last.reshape(-1, classes_last.shape[-1])
    w = None if weight is None else torch.tensor(weight)
    labels = target.dtype.kind == "i"
    if labels:
        t = torch.tensor(target).reshape(-1)
        counts = t != ignore_index
        row_weight = torch.where(counts, 1.0, 0.0).to(z.dtype)
        if w is not None:
            row_weight = row_weight * w[torch.where(counts, t, 0)]
    else:
        t = torch.tensor(target).movedim(axis, -1).reshape(rows.shape)
        row_weight = torch.ones(len(rows), dtype=z.dtype)
    options = {"label_smoothing": label_smoothing, "reduction": "none"}
    if labels:
        options["ignore_index"] = ignore_index
    losses = torch.nn.functional.cross_entropy(rows, t, w, **options)
    if sample_weight is not None:
        samples = torch.tensor(sample_weight).reshape(-1)
        losses, row_weight = losses * samples, row_weight * samples
    losses = losses + z_loss * row_weight * torch.logsumexp(rows, -1) ** 2
    total = losses.sum()
    if reduction == "mean":
        total = total / row_weight.sum()
    (total * grad_scale).backward()
    loss = total
    if reduction == "none":
        loss = losses.reshape(classes_last.shape[:-1])
    return loss.detach().numpy(), z.grad.numpy()


def combinations(
    dtype: str, kind: str, weights: str, smoothing: float, reductions: tuple[str, ...]
) -> Iterator[tuple[np.ndarray, np.ndarray, dict[str, Any]]]:
    """Logits, target and options: every shape with every z_loss and reduction."""
    shapes = (((6,), 0), ((40, 33), 0), ((3, 21, 18), 1), ((2, 3, 2100), 2))
    for (shape, axis), z_loss, reduction in itertools.product(shapes, (0.0, 0.01), reductions):
        t = targets(kind, shape, axis, dtype)
        rows = shape[:axis] + shape[axis + 1 :]
        options: dict[str, Any] = {
            "weight": None,
            "sample_weight": None,
            "ignore_index": 2 if kind == "ignored" and t.size > 1 else -100,
            "label_smoothing": smoothing,
            "z_loss": z_loss,
            "reduction": reduction,
            "axis": axis,
            "grad_scale": -2.5,
        }
        if "class" in weights:
            options["weight"] = (numbers(shape[axis], dtype, seed=3) ** 2 + 0.1).astype(dtype)
        if "sample" in weights:
            options["sample_weight"] = np.array(numbers(rows, dtype, seed=4) ** 2, dtype)
        yield numbers(shape, dtype), t, options


every_combination = [
    pytest.mark.parametrize("smoothing", [0.0, 0.1]),
    pytest.mark.parametrize("weights", ["", "class", "sample", "class and sample"]),
    pytest.mark.parametrize("kind", KINDS),
    pytest.mark.parametrize("dtype", DTYPES),
]


def marked(function: Any) -> Any:
    for mark in every_combination:
        function = mark(function)
    return function


@marked
def test_options_in_every_combination(
    target: str, dtype: str, kind: str, weights: str, smoothing: float
) -> None:
    for logits, t, options in combinations(dtype, kind, weights, smoothing, REDUCTIONS):
        loss, grad = il.softmax_cross_entropy(logits, t, return_grad=True, **options)
        want, want_grad = reference.softmax_cross_entropy(logits, t, return_grad=True, **options)
        close(loss, want, dtype)
        close(grad, want_grad, dtype, 2.5 / logits.size)
        if options["ignore_index"] == 2:
            ignored = np.broadcast_to(np.expand_dims(t == 2, options["axis"]), logits.shape)
            assert (grad[ignored] == 0).all()
        alone = il.softmax_cross_entropy(logits, t, **options)
        assert equal_bits(np.asarray(alone), np.asarray(loss))


@marked
def test_beside_torch(dtype: str, kind: str, weights: str, smoothing: float) -> None:
    for logits, t, options in combinations(dtype, kind, weights, smoothing, REDUCTIONS):
        loss, grad = il.softmax_cross_entropy(logits, t, return_grad=True, **options)
        want, want_grad = by_torch(logits, t, **options)
        close(loss, want, dtype)
        close(grad, want_grad, dtype, 2.5 / logits.size)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_options_beside_the_reference(data: st.DataObject) -> None:
    draw = data.draw
    shape = tuple(draw(st.lists(st.integers(0, 7), min_size=1, max_size=3)))
    shape += (draw(st.integers(1, 40)),)
    axis = draw(st.integers(0, len(shape) - 1))
    shape = shape[len(shape) - axis - 1 :] + shape[: len(shape) - axis - 1]
    dtype = draw(st.sampled_from(DTYPES))
    axis = shape.index(max(shape)) if max(shape) else 0
    kind = draw(st.sampled_from(KINDS))
    if shape[axis] == 0:
        kind = "probabilities"
    rows = shape[:axis] + shape[axis + 1 :]
    logits = LAYOUTS[draw(st.sampled_from(list(LAYOUTS)))](numbers(shape, dtype))
    with np.errstate(all="ignore"):
        t = targets(kind, shape, axis, dtype)
    options: dict[str, Any] = {
        "axis": axis - draw(st.sampled_from([0, len(shape)])),
        "reduction": draw(st.sampled_from(["mean", "sum", "none"])),
        "label_smoothing": draw(st.sampled_from([0.0, 0.3])),
        "z_loss": draw(st.sampled_from([0.0, 0.5])),
        "grad_scale": draw(st.sampled_from([1.0, 3.0])),
    }
    if kind == "ignored":
        options["ignore_index"] = draw(st.integers(0, shape[axis] - 1))
    if draw(st.booleans()):
        options["weight"] = abs(numbers(shape[axis], dtype, seed=3))
    if draw(st.booleans()):
        place = LAYOUTS[draw(st.sampled_from(list(LAYOUTS)))] if rows else np.array
        options["sample_weight"] = place(np.array(abs(numbers(rows, dtype, seed=4)), dtype))
    loss, grad = il.softmax_cross_entropy(logits, t, return_grad=True, **options)
    want, want_grad = reference.softmax_cross_entropy(logits, t, return_grad=True, **options)
    close(loss, want, dtype)
    close(grad, want_grad, dtype, 3.0 / max(logits.size, 1))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kind", ["ignored", "probabilities"])
def test_gradient_by_finite_differences(target: str, kind: str, reduction: str) -> None:
    logits, t = numbers((5, 6, 3), "float64"), targets(kind, (5, 6, 3), 1, "float64")
    options: dict[str, Any] = {
        "weight": numbers(6, "float64", seed=3) ** 2,
        "sample_weight": numbers((5, 3), "float64", seed=4),  # of either sign
        "ignore_index": 2,
        "label_smoothing": 0.1,
        "z_loss": 0.3,
        "reduction": reduction,
    }
    _, grad = il.softmax_cross_entropy(logits, t, return_grad=True, grad_scale=3.0, **options)
    h = 1e-5
    for at in np.ndindex(logits.shape):
        up, down = logits.copy(), logits.copy()
        up[at] += h
        down[at] -= h
        rise = il.softmax_cross_entropy(up, t, **options)
        rise = np.sum(rise - il.softmax_cross_entropy(down, t, **options))
        np.testing.assert_allclose(grad[at], 3 * rise / (2 * h), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_ignored_rows_count_for_nothing(target: str, reduction: str, smoothing: float) -> None:
    """Whatever they hold, and whatever they weigh."""
    logits, t = numbers((6, 5), "float32"), np.array([0, -100, 2, -100, 1, -100])
    weight = np.array([1.0, np.nan, 2.0, np.inf, 3.0, 4.0], "float32")
    logits[1], logits[3], logits[5] = np.nan, np.inf, -np.inf
    options = {"reduction": reduction, "label_smoothing": smoothing, "z_loss": 0.1}
    options["return_grad"] = True
    loss, grad = il.softmax_cross_entropy(logits, t, sample_weight=weight, **options)
    kept, kept_grad = il.softmax_cross_entropy(
        logits[::2], t[::2], sample_weight=weight[::2], **options
    )
    assert equal_bits(grad[::2], kept_grad) and (grad[1::2] == 0).all()
    if reduction == "none":
        assert equal_bits(loss[::2], kept) and (loss[1::2] == 0).all()
    else:
        assert loss == kept


@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_weights_that_are_no_weights(target: str, kind: str) -> None:
    """NaN spreads from a sample weight as from a class weight; no weight at all is a NaN mean."""
    logits, t = numbers((4, 5), "float64"), targets(kind, (4, 5), 1, "float64")
    for weight in ([1, np.nan, 1, 1], [0, 0, 0, 0], [1, -1, 3, -2]):
        for reduction in ("mean", "sum", "none"):
            options: dict[str, Any] = {"sample_weight": np.array(weight, "float64")}
            options |= {"reduction": reduction, "return_grad": True, "z_loss": 0.1}
            loss, grad = il.softmax_cross_entropy(logits, t, **options)
            want, want_grad = reference.softmax_cross_entropy(logits, t, **options)
            np.testing.assert_allclose(loss, want, rtol=1e-12)
            np.testing.assert_allclose(grad, want_grad, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_of_one_change_no_bit(isa: str, dtype: str) -> None:
    for kind in KINDS:
        logits, t = numbers((37, 50), dtype), targets(kind, (37, 50), 1, dtype)
        want = il.softmax_cross_entropy(logits, t, return_grad=True)
        got = il.softmax_cross_entropy(
            logits, t, sample_weight=np.ones(37, dtype), return_grad=True
        )
        assert got[0] == want[0] and equal_bits(got[1], want[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(20_011, 10), (257, 1003), (9, 9000)])
def test_same_bits_for_any_threads_and_isa(
    shape: tuple[int, ...], dtype: str, restore_threads: None
) -> None:
    for kind in ("labels", "probabilities"):
        logits, t = numbers(shape, dtype), targets(kind, shape, 1, dtype)
        weight = abs(numbers(shape[0], dtype, seed=4))
        want = None
        for isa in fma_isas():
            for threads in (1, 2, 5):
                il.set_num_threads(threads)
                with il.use_isa(isa):
                    loss, grad = il.softmax_cross_entropy(
                        logits, t, sample_weight=weight, z_loss=0.1, return_grad=True
                    )
                want = want or (loss, grad)
                assert loss == want[0] and equal_bits(grad, want[1])
        row, row_grad = il.softmax_cross_entropy(
            logits[3], t[3, ...], sample_weight=weight[3, ...], z_loss=0.1, reduction="none",
            return_grad=True,
        )  # fmt: skip
        every, grads = il.softmax_cross_entropy(
            logits, t, sample_weight=weight, z_loss=0.1, reduction="none", return_grad=True
        )
        assert equal_bits(row, every[3, ...]) and equal_bits(row_grad, grads[3])
