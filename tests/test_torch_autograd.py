"""Autograd through the PyTorch plug-in's operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch_op_cases import close, compare, leaf, randn  # noqa: E402

import innerloop as il  # noqa: E402
from innerloop.plugins.torch import ops  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def test_the_graph_can_be_gone_through_again() -> None:
    target = torch.tensor([1, 0, 2])
    for call in (
        lambda z: ops.softmax_cross_entropy(z, target),
        lambda z: ops.linear_cross_entropy(z, z, target),
        lambda z: ops.linear(z, z, activation="gelu").sum(),
        lambda z: ops.softmax_cross_entropy(z + 0, target),
    ):
        z = leaf(3, 3)
        loss = call(z)
        (once,) = torch.autograd.grad(loss, z, retain_graph=True)
        kept = once.clone()
        assert kept.abs().max() > 0
        for times in (1, 2, 3):  # a leaf's grad is added to in place
            loss.backward(retain_graph=True)
            close(z.grad, times * kept)
        close(torch.autograd.grad(loss * 3, z)[0], 3 * kept)
        close(once, kept)


def test_scaled_losses_give_scaled_gradients() -> None:
    z, w = leaf(3, 4), leaf(5, 4, seed=1)
    target = torch.tensor([1, 0, 2])
    compare(
        lambda z: 0.25 * ops.softmax_cross_entropy(z, target),
        lambda z: 0.25 * F.cross_entropy(z, target),
        z,
    )
    compare(
        lambda z, w: -2 * ops.linear_cross_entropy(z, w, target),
        lambda z, w: -2 * F.cross_entropy(F.linear(z, w), target),
        z,
        w,
    )


def test_float16_losses_take_the_scale_that_a_scaler_begins_with() -> None:
    z = leaf(3, 4, dtype=torch.float16)
    w = (randn(5, 4, seed=1) / 8).half().requires_grad_()
    target = torch.tensor([1, 0, 2])
    wide_z, wide_w = (x.detach().float().requires_grad_() for x in (z, w))
    for ours, peer, leaves, wide in (
        (
            ops.softmax_cross_entropy(z, target),
            F.cross_entropy(wide_z, target),
            (z,),
            (wide_z,),
        ),
        (
            ops.softmax_cross_entropy(z, target, reduction="none"),
            F.cross_entropy(wide_z, target, reduction="none"),
            (z,),
            (wide_z,),
        ),
        (
            ops.linear_cross_entropy(z, w, target),
            F.cross_entropy(F.linear(wide_z, wide_w), target),
            (z, w),
            (wide_z, wide_w),
        ),
    ):
        scale = torch.full_like(ours, 65536.0)
        gradients = torch.autograd.grad(ours, leaves, scale)
        for mine, expected in zip(gradients, torch.autograd.grad(peer, wide, scale), strict=True):
            assert expected.abs().max() < 65504
            torch.testing.assert_close(mine.float(), expected, rtol=4e-3, atol=10.0)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("scale", [65536.0, -1024.0, float("inf"), float("nan")])
def test_gradients_of_float16_are_scaled_before_they_are_rounded(
    scale: float, reduction: str
) -> None:
    """Probabilities down to 1e-9, which float16 has not, times what a scaler begins with."""
    z = (torch.linspace(-20, 0, 12, dtype=torch.float16).repeat(4, 1)).requires_grad_()
    w = torch.eye(12, dtype=torch.float16).requires_grad_()
    target, weight = torch.tensor([3, 11, -100, 0]), torch.rand(4, generator=torch.Generator())
    weight[1] = 2.0
    wide = z.detach().double().requires_grad_()
    losses = F.cross_entropy(wide, target, reduction="none") * weight
    expected_loss = {
        "mean": lambda: losses.sum() / weight[target >= 0].sum(),
        "sum": losses.sum,
        "none": lambda: losses,
    }[reduction]()
    by = torch.full_like(expected_loss, scale)
    (expected,) = torch.autograd.grad(expected_loss, wide, by)
    given = {"sample_weight": weight, "reduction": reduction}
    of_logits = ops.softmax_cross_entropy(z, target, **given)
    of_layer = ops.linear_cross_entropy(z, w, target, **given)
    for loss, gradient in (
        (of_logits, torch.autograd.grad(of_logits, z, by.float())[0]),
        (of_layer, torch.autograd.grad(of_layer, z, by.float())[0]),
    ):
        torch.testing.assert_close(loss.double(), expected_loss, rtol=1e-3, atol=1e-5)
        if scale == scale and abs(scale) < float("inf"):
            torch.testing.assert_close(gradient.double(), expected, rtol=2e-3, atol=6e-8)
            assert (gradient[[0, 1, 3]] != 0).all() and (gradient[2] == 0).all()
        else:
            assert not gradient[[0, 1, 3]].isfinite().any()


def test_the_weight_takes_its_gradient_over_without_a_copy() -> None:
    weight = torch.nn.Parameter(randn(9, 7))
    ops.linear(randn(5, 7), weight).sum().backward()
    assert weight.grad.is_contiguous() and weight.grad.stride() == weight.stride()


def test_changes_in_place_of_what_is_saved_are_refused() -> None:
    for call in (
        lambda x, w: (ops.linear(x, w, activation="gelu"), x),
        lambda x, w: (ops.linear(x, w), w),
        lambda x, w: (ops.activation(x, "gelu"), x),
        lambda x, w: (ops.layer_norm(x), x),
    ):
        x, w = leaf(3, 4) * 1, leaf(4, 4, seed=1) * 1
        y, changed = call(x, w)
        changed += 1
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()
    x = leaf(3)
    y = ops.activation(x, "tanh")
    y *= 2
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


GRADCHECK: dict[str, Callable[..., Any]] = {
    **{n: lambda x, w, b, n=n: ops.activation(x, n) for n in il.activations.NAMES},
    "linear": lambda x, w, b: ops.linear(x, w, b),
    "linear gelu": lambda x, w, b: ops.linear(x, w, b, activation="gelu"),
    "linear sigmoid dropout": lambda x, w, b: ops.linear(
        x, w, b, activation="sigmoid", dropout=0.3, seed=1
    ),
    "layer_norm": lambda x, w, b: ops.layer_norm(x, 4, w[0], b[:4]),
    "rms_norm": lambda x, w, b: ops.rms_norm(x, 4, w[0]),
    "prelu": lambda x, w, b: ops.prelu(x, w[0]),
    "dropout": lambda x, w, b: ops.dropout(x, 0.4, seed=1),
    "loss": lambda x, w, b: ops.softmax_cross_entropy(x, torch.tensor([1, 3, 0]), z_loss=0.1),
    "loss none": lambda x, w, b: ops.softmax_cross_entropy(
        x, torch.tensor([1, 3, 0]), reduction="none"
    ),
    "layer loss": lambda x, w, b: ops.linear_cross_entropy(x, w, torch.tensor([1, 4, 0]), b),
    "layer loss none": lambda x, w, b: ops.linear_cross_entropy(
        x, w, torch.tensor([1, 4, 0]), b, reduction="none"
    ),
}


@pytest.mark.parametrize("name", GRADCHECK)
def test_gradcheck(name: str) -> None:
    inputs = leaf(3, 4), leaf(5, 4, seed=1), leaf(5, seed=2)
    assert torch.autograd.gradcheck(GRADCHECK[name], inputs)


@pytest.mark.parametrize("name", [n for n in GRADCHECK if n != "dropout"])
def test_double_backward_is_refused(name: str) -> None:
    inputs = leaf(3, 4), leaf(5, 4, seed=1), leaf(5, seed=2)
    y = GRADCHECK[name](*inputs)
    gradients = torch.autograd.grad((y**2).sum(), inputs, create_graph=True, allow_unused=True)
    with pytest.raises(NotImplementedError, match="double backward is not supported"):
        torch.autograd.grad(
            sum((g**2).sum() for g in gradients if g is not None), inputs, allow_unused=True
        )


def test_double_backward_of_dropout() -> None:
    assert torch.autograd.gradgradcheck(lambda x: ops.dropout(x, 0.4, seed=1) ** 3, (leaf(3, 4),))
