"""Losses beside PyTorch in float64: see properties.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from properties import NONEMPTY, SIDES, Case, F, check, graded, largest, quick, tensor, torch

import innerloop as il
from innerloop.reference import LOSSES

pytestmark = pytest.mark.usefixtures("one_torch_thread")

REDUCTIONS = ["mean", "sum", "none"]


def reduced(terms: Any, reduction: str, weights: Any) -> Any:
    """The mean is over `weights`: their number's sum, or the number itself."""
    if reduction == "none":
        return terms
    return terms.sum() / (weights if reduction == "mean" else 1)


def check_loss(
    call: Callable[..., Any], loss: Any, inputs: Sequence[Any], scales: Sequence[float], case: Case
) -> None:
    """A loss and its gradients, times a random grad_scale."""
    factor = case.draw(st.sampled_from([1.0, -2.5, 0.125]), label="grad_scale")
    grads = graded(loss.sum() * factor, inputs)

    def flat() -> tuple[Any, ...]:
        found, gradients = call(return_grad=True, grad_scale=factor)
        return (found, *(gradients if isinstance(gradients, tuple) else (gradients,)))

    check(flat, [loss, *grads], scales)
    check(lambda: (call(),), [loss], scales[:1])


@pytest.mark.parametrize("name", [name for name in LOSSES if hasattr(F, name)])
@quick
@given(data=st.data())
def test_elementwise_losses(name: str, data: st.DataObject) -> None:
    case = Case(data)
    reduction = case.draw(st.sampled_from(REDUCTIONS + ["batchmean"] * LOSSES[name].batchmean))
    shape = case.shape((1 if reduction == "batchmean" else 0, 3), SIDES | st.just(330))
    options: dict[str, Any] = {}
    pred, target = case.normal(shape), case.normal(shape)
    if name == "smooth_l1_loss":
        options["beta"] = case.draw(st.just(0.0) | st.floats(0.1, 4))
    elif name == "huber_loss":
        options["delta"] = case.number(0.1, 4)
    elif name == "binary_cross_entropy":
        pred, target = case.uniform(shape, 0.02, 0.98), case.uniform(shape, 0, 1)
    elif name == "binary_cross_entropy_with_logits":
        pred, target = case.normal(shape, 5.0), case.uniform(shape, 0, 1)
        if shape:
            weight = case.maybe(lambda: case.uniform(shape[-1:], 0.1, 3))
            options |= {} if weight is None else {"pos_weight": weight}
    elif name == "kl_div":
        pred = case.uniform(shape, -5, 0)
        target = case.array(np.maximum(case.rng.uniform(-0.2, 1, shape), 0))
        if case.draw(st.booleans()):
            options["log_target"], target = True, case.uniform(shape, -5, 0)
    elif name == "poisson_nll_loss":
        target = case.array(case.rng.integers(0, 9, shape))
        options = {"log_input": case.draw(st.booleans()), "full": case.draw(st.booleans())}
        if not options["log_input"]:
            pred, options["eps"] = case.uniform(shape, 0, 5), case.number(0.1, 1)
    sample = case.maybe(lambda: case.uniform(shape, 0.1, 2))
    p, t, s = tensor(pred), tensor(target, False), tensor(sample, False)
    theirs = {h: tensor(v, False) if h == "pos_weight" else v for h, v in options.items()}
    function = getattr(F, name)
    terms = function(p, t, reduction="none", **theirs)
    if s is not None:
        terms = terms * s
    if reduction == "batchmean":
        loss = terms.sum() / shape[0]
    else:
        loss = reduced(terms, reduction, terms.numel() if s is None else s.sum())
    if s is None and (name, reduction) != ("kl_div", "mean"):  # of which PyTorch warns
        given_loss = function(p, t, reduction=reduction, **theirs)
        torch.testing.assert_close(given_loss, loss, equal_nan=True)
        loss = given_loss
    scale = float(terms.detach().abs().sum()) if reduction == "sum" else largest(terms.detach())
    call = partial(getattr(il, name), pred, target, sample_weight=sample, reduction=reduction)
    check_loss(partial(call, **options), loss, [p], [scale, 0.0], case)


def rows_of(case: Case) -> tuple[tuple[int, ...], int, int]:
    """A shape of logits, the axis of their classes, and how many there are."""
    shape = case.shape((1, 4), NONEMPTY)
    last = len(shape) - 1
    axis = min(1, last) if case.draw(st.booleans()) else case.draw(st.integers(0, last))
    return shape, axis, shape[axis]


def labels_of(case: Case, shape: tuple[int, ...], c: int, ignored: int) -> np.ndarray:
    labels = case.rng.integers(0, c, shape)
    if case.draw(st.booleans()):
        labels = np.where(case.rng.random(shape) < 0.3, ignored, labels)
    return case.place(np.asarray(labels, case.draw(st.sampled_from(["i4", "i8"]))))


def row_loss(
    function: Callable[..., Any],
    scores: Any,
    target: Any,
    weight: Any,
    sample: Any,
    ignored: int,
    reduction: str,
    z_loss: float = 0.0,
    **other: Any,
) -> Any:
    """PyTorch's loss of scores (rows, classes); what it has no option for, of its own rows'."""
    labels = target.ndim == 1
    other |= {"ignore_index": ignored} if labels else {}
    call = partial(function, scores, target, weight=weight, **other)
    terms = call(reduction="none")
    weights = torch.ones(len(terms), dtype=torch.float64)
    if labels:
        kept = (target != ignored).double()
        inside = torch.where(target == ignored, 0, target)
        weights = kept if weight is None else kept * weight[inside]
    if sample is not None:
        terms, weights = terms * sample, weights * sample
    if z_loss:
        terms = terms + z_loss * weights * torch.logsumexp(scores, 1) ** 2
    loss = reduced(terms, reduction, weights.sum())
    if (sample is None and not z_loss) or not weights.any():  # NaN, of which the gradient is 0
        given_loss = call(reduction=reduction)
        torch.testing.assert_close(given_loss, loss, equal_nan=True)
        return given_loss
    return loss


def class_options(case: Case, c: int, rows: tuple[int, ...]) -> dict[str, Any]:
    return {
        "weight": case.maybe(lambda: case.uniform((c,), 0.1, 2)),
        "sample_weight": case.maybe(lambda: case.uniform(rows, 0.1, 2)),
        "ignore_index": case.draw(st.sampled_from([-100, -1, 0])),
        "reduction": case.draw(st.sampled_from(REDUCTIONS)),
    }


@settings(quick, max_examples=60)
@given(data=st.data())
def test_softmax_cross_entropy(data: st.DataObject) -> None:
    case = Case(data)
    shape, axis, c = rows_of(case)
    rows = shape[:axis] + shape[axis + 1 :]
    logits = case.normal(shape, case.number(0.1, 8))
    options = class_options(case, c, rows)
    options |= {"label_smoothing": case.draw(st.just(0.0) | st.floats(0, 1))}
    options |= {"z_loss": case.draw(st.just(0.0) | st.floats(0, 0.5))}
    if case.draw(st.booleans()):
        raw = case.rng.random(shape) + 0.05
        target = case.array(raw / raw.sum(axis, keepdims=True))
        flat = tensor(np.moveaxis(target, axis, -1).reshape(-1, c), False)
    else:
        target = labels_of(case, rows, c, options["ignore_index"])
        flat = tensor(target, False).reshape(-1)
    t = tensor(logits)
    sample = tensor(options["sample_weight"], False)
    loss = row_loss(
        F.cross_entropy,
        t.movedim(axis, -1).reshape(-1, c),
        flat,
        tensor(options["weight"], False),
        None if sample is None else sample.reshape(-1),
        options["ignore_index"],
        options["reduction"],
        options["z_loss"],
        label_smoothing=options["label_smoothing"],
    )
    loss = loss.reshape(rows) if options["reduction"] == "none" else loss
    call = partial(il.softmax_cross_entropy, logits, target, axis=axis, **options)
    # A gradient is a difference of probabilities; of a mean, over the number of rows.
    count = max(1, math.prod(rows)) if options["reduction"] == "mean" else 1
    check_loss(call, loss, [t], [1 + largest(logits), 0.1 / count], case)


@quick
@given(data=st.data())
def test_nll_loss(data: st.DataObject) -> None:
    case = Case(data)
    shape, axis, c = rows_of(case)
    rows = shape[:axis] + shape[axis + 1 :]
    scores = case.normal(shape, 3.0)
    options = class_options(case, c, rows)
    target = labels_of(case, rows, c, options["ignore_index"])
    t = tensor(scores)
    sample = tensor(options["sample_weight"], False)
    loss = row_loss(
        F.nll_loss,
        t.movedim(axis, -1).reshape(-1, c),
        tensor(target, False).reshape(-1),
        tensor(options["weight"], False),
        None if sample is None else sample.reshape(-1),
        options["ignore_index"],
        options["reduction"],
    )
    loss = loss.reshape(rows) if options["reduction"] == "none" else loss
    call = partial(il.nll_loss, scores, target, axis=axis, **options)
    total = 2 * largest(scores) * (math.prod(rows) if options["reduction"] == "sum" else 1)
    check_loss(call, loss, [t], [total, 0.0], case)


@quick
@given(data=st.data())
def test_classes_on_axis_1(data: st.DataObject) -> None:
    """The shapes that PyTorch itself takes, with nothing moved: (N, C, d1, ...), and (C,)."""
    case = Case(data)
    shape = case.shape((1, 4), NONEMPTY)
    axis = min(1, len(shape) - 1)
    rows = shape[:axis] + shape[axis + 1 :]
    options = class_options(case, shape[axis], rows)
    del options["sample_weight"]
    logits = case.normal(shape, 3.0)
    target = labels_of(case, rows, shape[axis], options["ignore_index"])
    theirs = options | {"weight": tensor(options["weight"], False)}
    total = 2 * (1 + largest(logits)) * max(math.prod(rows), 1)
    for name, ours in (("cross_entropy", "softmax_cross_entropy"), ("nll_loss", "nll_loss")):
        t = tensor(logits)
        loss = getattr(F, name)(t, tensor(target, False), **theirs)
        call = partial(getattr(il, ours), logits, target, **options)
        check_loss(call, loss, [t], [total if options["reduction"] == "sum" else 0.0, 0.1], case)


@settings(quick, max_examples=40)
@given(data=st.data())
def test_linear_cross_entropy(data: st.DataObject) -> None:
    case = Case(data)
    sides = NONEMPTY | st.sampled_from([70, 130])
    n, k, c = case.shape((3, 3), sides)
    x, w = case.normal((n, k)), case.normal((k, c))
    b = case.maybe(lambda: case.normal((c,)))
    options = class_options(case, c, (n,))
    options |= {"label_smoothing": case.draw(st.just(0.0) | st.floats(0, 1))}
    options |= {"z_loss": case.draw(st.just(0.0) | st.floats(0, 0.1))}
    target = labels_of(case, (n,), c, options["ignore_index"])
    tx, tw, tb = tensor(x), tensor(w), tensor(b)
    z = tx @ tw if tb is None else tx @ tw + tb
    loss = row_loss(
        F.cross_entropy,
        z,
        tensor(target, False),
        tensor(options["weight"], False),
        tensor(options["sample_weight"], False),
        options["ignore_index"],
        options["reduction"],
        options["z_loss"],
        label_smoothing=options["label_smoothing"],
    )
    size = 1 + largest(np.abs(x.astype("f8")) @ np.abs(w.astype("f8")))
    rows = 1 if options["reduction"] == "mean" else n
    call = partial(il.linear_cross_entropy, x, w, target, b, **options)
    scales = [size * rows if options["reduction"] == "sum" else size]
    scales += [largest(w) * 4, largest(x) * rows * 4, rows * 4.0]
    check_loss(call, loss, [tx, tw, tb], scales, case)
