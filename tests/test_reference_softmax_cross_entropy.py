"""The reference's cross-entropy against PyTorch, and at the edges."""

import numpy as np
import pytest
from reference_cases import FLOATS, INF, NAN, close, random

from innerloop import reference

pytestmark = pytest.mark.usefixtures("no_numpy_warnings")


def torch_cross_entropy(torch, logits, target, weight=None, **options):
    z = torch.tensor(logits, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(
        z, torch.tensor(target), None if weight is None else torch.tensor(weight), **options
    )
    if loss.requires_grad:
        loss.sum().backward()
    return loss.detach().numpy(), z.grad.numpy()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(6,), (5, 6), (4, 6, 3), (2, 6, 3, 2)])
@pytest.mark.parametrize("kind", ["labels", "ignored", "probabilities"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_is_torchs(torch, dtype, shape, kind, reduction, smoothing, weighted):
    rng = np.random.default_rng(7)
    axis = min(1, len(shape) - 1)
    logits = (rng.standard_normal(shape) * 3).astype(dtype)
    if kind == "probabilities":
        target = rng.random(shape)
        target = (target / target.sum(axis, keepdims=True)).astype(dtype)
    else:
        target = rng.integers(0, 6, shape[:axis] + shape[axis + 1 :])
    options = {"reduction": reduction, "label_smoothing": smoothing}
    if kind == "ignored":
        options["ignore_index"] = 2
        target = np.asarray(target)
        if target.size > 1:  # at least one row that counts, one that does not
            target.flat[:2] = (2, 3)
    weight = rng.random(6).astype(dtype) + dtype(0.1) if weighted else None
    want, want_grad = torch_cross_entropy(torch, logits, target, weight, **options)

    loss = reference.softmax_cross_entropy(logits, target, weight=weight, **options)
    close(loss, want, dtype)
    again, grad = reference.softmax_cross_entropy(
        logits, target, weight=weight, return_grad=True, grad_scale=-2.5, **options
    )
    np.testing.assert_array_equal(again, loss)
    close(grad, -2.5 * want_grad, dtype)


@pytest.mark.parametrize("axis", [0, 2, -1])
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_cross_entropy_axis(axis, kind):
    logits = random(4, 6, 3).transpose(2, 0, 1)  # strided, too
    there = np.moveaxis(logits, axis, 1)
    if kind == "labels":
        labels = there.shape[:1] + there.shape[2:]
        target = there_target = np.random.default_rng(1).integers(0, there.shape[1], labels)
    else:
        target = reference.softmax(logits, axis=axis)
        there_target = np.moveaxis(target, axis, 1)
    loss, grad = reference.softmax_cross_entropy(logits, target, axis=axis, return_grad=True)
    want, want_grad = reference.softmax_cross_entropy(there, there_target, return_grad=True)
    close(loss, want)
    close(grad, np.moveaxis(want_grad, 1, axis))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_ignored_rows_count_for_nothing(reduction, smoothing):
    logits, target = random(4, 3), np.array([0, -100, 2, -100], np.int32)
    logits[1], logits[3] = NAN, INF
    options = {"reduction": reduction, "label_smoothing": smoothing, "return_grad": True}
    loss, grad = reference.softmax_cross_entropy(logits, target, **options)
    kept, kept_grad = reference.softmax_cross_entropy(logits[::2], target[::2], **options)
    np.testing.assert_array_equal(grad[::2], kept_grad)
    np.testing.assert_array_equal(grad[1::2], 0.0)
    if reduction == "none":
        np.testing.assert_array_equal(loss, [kept[0], 0.0, kept[1], 0.0])
    else:
        np.testing.assert_array_equal(loss, kept)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("rows", [0, 3])
def test_no_rows_that_count(torch, reduction, smoothing, rows):
    logits, target = random(rows, 4), np.full(rows, -100)
    options = {"reduction": reduction, "label_smoothing": smoothing}
    want, _ = torch_cross_entropy(torch, logits, target, **options)
    loss, grad = reference.softmax_cross_entropy(logits, target, return_grad=True, **options)
    close(loss, want)  # NaN for "mean", else 0
    close(grad, np.zeros_like(logits))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0), (2, 4, 0)])
def test_probabilities_of_no_elements(torch, shape, reduction):
    logits = np.zeros(shape)
    want, _ = torch_cross_entropy(torch, logits, logits, reduction=reduction)
    loss, grad = reference.softmax_cross_entropy(
        logits, logits, reduction=reduction, return_grad=True
    )
    close(loss, want)
    assert grad.shape == shape


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_special_logits_are_torchs(torch, kind, smoothing):
    logits = np.array(
        [[-INF, 0, 1], [0, -INF, 1], [-INF, -INF, -INF], [INF, 0, 1], [NAN, 0, 1], [0, 1e300, 1]]
    )
    target = np.array([1, 1, 0, 0, 1, 0])
    if kind == "probabilities":
        target = np.eye(3)[target]
    options = {"reduction": "none", "label_smoothing": smoothing}
    want, want_grad = torch_cross_entropy(torch, logits, target, **options)
    loss, grad = reference.softmax_cross_entropy(logits, target, return_grad=True, **options)
    close(loss, want)
    close(grad, want_grad)


def test_masked_class_costs_nothing():
    loss, grad = reference.softmax_cross_entropy(
        np.array([[-INF, 0.0, 0.0]]), np.array([1]), return_grad=True
    )
    close(loss, np.log(2.0))
    close(grad, [[0.0, -0.5, 0.5]])


def test_weights_of_zero_are_torchs(torch):
    logits, weight = random(3, 4), np.array([0.0, 0.0, 1.0, 2.0])
    for target in (np.array([0, 1, 0]), np.array([0, 1, 2])):
        want, want_grad = torch_cross_entropy(torch, logits, target, weight)
        loss, grad = reference.softmax_cross_entropy(
            logits, target, weight=weight, return_grad=True
        )
        close(loss, want)
        close(grad, want_grad)


@pytest.mark.parametrize("label_type", [np.int8, np.uint8, np.int32, np.int64, np.uint64])
def test_label_types(label_type):
    logits = random(3, 4)
    want = reference.softmax_cross_entropy(logits, np.array([3, 0, 1]))
    close(reference.softmax_cross_entropy(logits, np.array([3, 0, 1], label_type)), want)


def test_loss_of_half_logits_is_float32():
    loss, grad = reference.softmax_cross_entropy(
        random(3, 4, dtype=np.float16), np.array([3, 0, 1]), return_grad=True
    )
    assert loss.dtype == np.float32 and grad.dtype == np.float16
