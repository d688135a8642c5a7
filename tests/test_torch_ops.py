"""The operators of the PyTorch plug-in beside torch.nn.functional, and what they refuse."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402

import innerloop as il  # noqa: E402
from innerloop.plugins.torch import ops  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

TORCH = {
    "identity": lambda x: x * 1,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "hardsigmoid": lambda x: F.relu6(x + 3) / 6,  # PyTorch's own derivative has float32's 1/6
}
SIZES = [0, 1, 7, 8, 9]
TOLERANCE = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.float32: {"rtol": 2e-5, "atol": 2e-5},
    torch.float16: {"rtol": 4e-3, "atol": 4e-3},
    torch.bfloat16: {"rtol": 4e-2, "atol": 4e-2},
}
DTYPES = list(TOLERANCE)


def theirs(name: str) -> Callable[..., Any]:
    return TORCH.get(name) or getattr(F, name)


def randn(*shape: int, dtype: Any = torch.float64, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)


def leaf(*shape: int, dtype: Any = torch.float64, seed: int = 0) -> Any:
    return randn(*shape, dtype=dtype, seed=seed).requires_grad_()


def close(a: Any, b: Any, dtype: Any = torch.float64) -> None:
    torch.testing.assert_close(a, b, **TOLERANCE[dtype], equal_nan=True, check_dtype=False)


def compare(
    ours: Callable[..., Any], peer: Callable[..., Any], *inputs: Any, dtype: Any = torch.float64
) -> None:
    """Results and gradients of all inputs that require them, for a dy that is not constant."""
    wide = [
        i.detach().double().requires_grad_(i.requires_grad) if i.is_floating_point() else i
        for i in inputs
    ]
    y, expected = ours(*inputs), peer(*wide)
    close(y, expected.to(y.dtype), dtype)
    dy = randn(*y.shape, dtype=y.dtype, seed=9)
    asked = [i for i in inputs if i.requires_grad]
    got = torch.autograd.grad(y, asked, dy)
    want = torch.autograd.grad(expected, [w for w in wide if w.requires_grad], dy.double())
    for g, w, i in zip(got, want, asked, strict=True):
        assert g.dtype == i.dtype and g.shape == i.shape
        assert g.numel() == 0 or w.abs().max() == 0 or g.abs().max() > 0
        close(g, w.to(g.dtype), dtype)


# Numerics -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", il.activations.NAMES)
def test_activations(name: str, dtype: Any) -> None:
    for shape in [(), (0,), (1,), (9,), (7, 8), (3, 0, 2), (2, 3, 5)]:
        compare(
            lambda x: ops.activation(x, name), theirs(name), leaf(*shape, dtype=dtype), dtype=dtype
        )
    base = leaf(6, 10, dtype=dtype)
    compare(
        lambda x: ops.activation(x[::2, 1::3].T, name),
        lambda x: theirs(name)(x[::2, 1::3].T),
        base,
        dtype=dtype,
    )


def test_parameters_of_activations() -> None:
    x = leaf(9)
    compare(
        lambda x: ops.activation(x, "leaky_relu", negative_slope=0.3),
        lambda x: F.leaky_relu(x, 0.3),
        x,
    )
    compare(lambda x: ops.activation(x, "elu", alpha=2.0), lambda x: F.elu(x, 2.0), x)
    compare(
        lambda x: ops.activation(x, "softplus", threshold=1.0), lambda x: F.softplus(x, 1, 1), x
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", SIZES)
def test_linear(m: int, dtype: Any) -> None:
    for k, n in [(0, 3), (1, 1), (7, 9), (8, 8), (9, 7), (3, 0)]:
        x, weight, bias = (
            leaf(m, k, dtype=dtype),
            leaf(n, k, dtype=dtype, seed=1),
            leaf(n, dtype=dtype, seed=2),
        )
        compare(ops.linear, F.linear, x, weight, bias, dtype=dtype)
        compare(ops.linear, F.linear, x, weight, dtype=dtype)


@pytest.mark.parametrize(
    "wanted", [(x, w, b) for x in (0, 1) for w in (0, 1) for b in (0, 1) if x + w + b]
)
@pytest.mark.parametrize("name", ["identity", "gelu", "relu", "tanh", "mish"])
def test_linear_gives_the_gradients_that_are_asked_for(name: str, wanted: Any) -> None:
    shapes = (2, 5, 7), (9, 7), (9,)
    inputs = [
        randn(*shape, seed=i).requires_grad_(bool(w))
        for i, (shape, w) in enumerate(zip(shapes, wanted, strict=True))
    ]
    compare(
        lambda x, w, b: ops.linear(x, w, b, activation=name),
        lambda x, w, b: theirs(name)(F.linear(x, w, b)),
        *inputs,
    )


@pytest.mark.parametrize("wanted", [(1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("shape", [(3, 0), (0, 3), (0, 0)])
def test_linear_of_no_features(shape: Any, wanted: Any) -> None:
    for rows in [(), (2, 4)]:
        x = randn(*rows, shape[1]).requires_grad_(bool(wanted[0]))
        w = randn(*shape).requires_grad_(bool(wanted[1]))
        compare(ops.linear, F.linear, x, w, leaf(shape[0]))


@pytest.mark.parametrize("wanted", [(0, 1), (1, 0), (1, 1)])
def test_linear_with_dropout_is_dropout_of_linear(wanted: Any) -> None:
    for name in ("identity", "relu", "gelu"):
        x, weight = (
            randn(*s, seed=i).requires_grad_(bool(w))
            for i, (s, w) in enumerate(zip([(5, 7), (9, 7)], wanted, strict=True))
        )
        asked = [t for t in (x, weight) if t.requires_grad]
        y = ops.linear(x, weight, activation=name, dropout=0.4, seed=2**64 - 1, offset=3)
        parts = ops.dropout(
            ops.activation(ops.linear(x, weight), name), 0.4, seed=2**64 - 1, offset=3
        )
        close(y, parts)
        close(
            y,
            torch.from_numpy(
                il.linear(
                    x.detach().numpy(),
                    weight.detach().numpy().T,
                    activation=name,
                    dropout=0.4,
                    seed=2**64 - 1,
                    offset=3,
                )
            ),
        )
        dy = randn(5, 9, seed=4)
        for a, b in zip(
            torch.autograd.grad(y, asked, dy), torch.autograd.grad(parts, asked, dy), strict=True
        ):
            assert a.abs().max() > 0
            close(a, b)


def test_strided_tensors_are_read_in_place_and_gradients_fit_them() -> None:
    big = leaf(20, 16)
    weight = leaf(14, 18, seed=1)
    bias = leaf(18, seed=2)
    view = lambda t: t[::2, ::2].T  # noqa: E731
    compare(
        lambda x, w, b: ops.linear(
            x[::3, 2:], w[::2, :: -1 + 2][:, 1:15], b[::3][:6].repeat(2)[:7]
        ),
        lambda x, w, b: F.linear(x[::3, 2:], w[::2, 1:15], b[::3][:6].repeat(2)[:7]),
        big,
        weight,
        bias,
    )
    compare(lambda x: ops.layer_norm(view(x)), lambda x: F.layer_norm(view(x), (10,)), big)
    y = ops.linear(leaf(3, 4), weight[:, :4])
    (dx,) = torch.autograd.grad(y.sum(), weight)  # a gradient that is expanded, of stride 0
    assert dx.shape == weight.shape and dx[:, :4].abs().max() > 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", SIZES[1:])
def test_norms(d: int, dtype: Any) -> None:
    for shape in [(d,), (0, d), (5, d), (2, 3, d)]:
        x, w, b = (
            leaf(*shape, dtype=dtype),
            leaf(d, dtype=dtype, seed=1),
            leaf(d, dtype=dtype, seed=2),
        )
        if d > 1:  # of one element the gradient is 0 but for rounding
            compare(
                lambda x, w, b: ops.layer_norm(x, d, w, b),
                lambda x, w, b: F.layer_norm(x, (d,), w, b),
                x,
                w,
                b,
                dtype=dtype,
            )
            compare(
                lambda x, b: ops.layer_norm(x, d, None, b),
                lambda x, b: F.layer_norm(x, (d,), None, b),
                x,
                b,
                dtype=dtype,
            )
            compare(lambda x: ops.layer_norm(x), lambda x: F.layer_norm(x, (d,)), x, dtype=dtype)
        compare(
            lambda x, w: ops.rms_norm(x, (d,), w, eps=1e-3),
            lambda x, w: F.rms_norm(x, (d,), w, 1e-3),
            x,
            w,
            dtype=dtype,
        )


def test_norms_over_several_axes_and_their_eps() -> None:
    x, w, b = leaf(3, 4, 5), leaf(4, 5, seed=1), leaf(4, 5, seed=2)
    compare(
        lambda x, w, b: ops.layer_norm(x, (4, 5), w, b, 0.1),
        lambda x, w, b: F.layer_norm(x, (4, 5), w, b, 0.1),
        x,
        w,
        b,
    )
    compare(lambda x, w: ops.rms_norm(x, [4, 5], w), lambda x, w: F.rms_norm(x, (4, 5), w), x, w)
    tiny = torch.full((1, 3), 1e-4, dtype=torch.bfloat16)
    close(ops.rms_norm(tiny), F.rms_norm(tiny, (3,)), torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES)
def test_prelu(dtype: Any) -> None:
    for shape, n in [((9,), 1), ((4, 5), 5), ((2, 3, 7), 3), ((0, 3), 3)]:
        compare(
            ops.prelu, F.prelu, leaf(*shape, dtype=dtype), leaf(n, dtype=dtype, seed=1), dtype=dtype
        )


def test_dropout() -> None:
    x = leaf(40, 50)
    y = ops.dropout(x, 0.3, seed=5, offset=2)
    close(y, torch.from_numpy(il.dropout(x.detach().numpy(), 0.3, seed=5, offset=2)))
    (dx,) = torch.autograd.grad(y, x, randn(40, 50, seed=3))
    assert torch.equal(dx == 0, y == 0) and 0.2 < (y == 0).double().mean() < 0.4
    torch.manual_seed(1)
    a, b = ops.dropout(x), ops.dropout(x)
    torch.manual_seed(1)
    assert torch.equal(a, ops.dropout(x)) and not torch.equal(a, b)
    assert torch.equal(
        ops.dropout(x, 0.5, seed=torch.tensor(-1)), ops.dropout(x, 0.5, seed=2**64 - 1)
    )


LOSSES = [
    {},
    {"reduction": "sum"},
    {"reduction": "none"},
    {"label_smoothing": 0.2},
    {"ignore_index": 3},
    {"label_smoothing": 0.1, "ignore_index": 0, "reduction": "none"},
]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("options", LOSSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_losses(options: dict[str, Any], dtype: Any, weighted: bool) -> None:
    target = torch.tensor([3, 0, 8, 1, 3])
    class_weight = randn(9, seed=5).abs().to(dtype) if weighted else None
    x, w, b = leaf(5, 7, dtype=dtype), leaf(9, 7, dtype=dtype, seed=1), leaf(9, dtype=dtype, seed=2)
    logits = leaf(5, 9, dtype=dtype, seed=3)
    wide = None if class_weight is None else class_weight.double()
    compare(
        lambda z: ops.softmax_cross_entropy(z, target, weight=class_weight, **options),
        lambda z: F.cross_entropy(z, target, weight=wide, **options),
        logits,
        dtype=dtype,
    )
    compare(
        lambda x, w, b: ops.linear_cross_entropy(
            x, w, target, b, class_weight=class_weight, **options
        ),
        lambda x, w, b: F.cross_entropy(F.linear(x, w, b), target, weight=wide, **options),
        x,
        w,
        b,
        dtype=dtype,
    )
    compare(
        lambda x, w: ops.linear_cross_entropy(x, w, target, **options),
        lambda x, w: F.cross_entropy(F.linear(x, w), target, **options),
        x,
        w,
        dtype=dtype,
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_of_probabilities_several_axes_and_our_own_options(reduction: str) -> None:
    logits, shares = leaf(4, 5, 3), torch.softmax(randn(4, 5, 3, seed=1), 1)
    compare(
        lambda z: ops.softmax_cross_entropy(z, shares, reduction=reduction),
        lambda z: F.cross_entropy(z, shares, reduction=reduction),
        logits,
    )
    labels = torch.tensor([[1, 0, 4], [2, 2, 3], [0, 0, 1], [4, 3, 2]])
    compare(
        lambda z: ops.softmax_cross_entropy(z, labels, reduction=reduction),
        lambda z: F.cross_entropy(z, labels, reduction=reduction),
        logits,
    )
    rows, last = randn(4, 3, seed=2), {"axis": -1, "z_loss": 0.3, "reduction": reduction}

    def by_hand(z: Any) -> Any:
        z = z.movedim(1, -1)
        losses = (
            F.cross_entropy(z.movedim(-1, 1), labels, reduction="none") + 0.3 * z.logsumexp(-1) ** 2
        )
        losses = losses * rows
        return (
            losses
            if reduction == "none"
            else losses.sum() / (rows.sum() if reduction == "mean" else 1)
        )

    compare(
        lambda z: ops.softmax_cross_entropy(z.movedim(1, -1), labels, sample_weight=rows, **last),
        by_hand,
        logits,
    )
    weight = leaf(5, 6, seed=7)
    x = leaf(4, 3, 6, seed=8)
    compare(
        lambda x, w: ops.linear_cross_entropy(
            x, w, labels, sample_weight=rows, z_loss=0.3, reduction=reduction
        ),
        lambda x, w: by_hand(F.linear(x, w).movedim(-1, 1)),
        x,
        weight,
    )


def test_losses_of_nothing() -> None:
    z = leaf(0, 3)
    loss = ops.softmax_cross_entropy(z, torch.zeros(0, dtype=torch.int64))
    assert loss.isnan()
    assert torch.autograd.grad(loss, z)[0].shape == (0, 3)
    ignored = ops.softmax_cross_entropy(leaf(2, 3), torch.full((2,), -100), reduction="sum")
    assert ignored == 0


# Autograd -----------------------------------------------------------------------------------------


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


# Under PyTorch's transformations ------------------------------------------------------------------


def _operators() -> dict[str, tuple[Any, ...]]:
    x, w, b, d = leaf(5, 4), leaf(9, 4, seed=1), leaf(9, seed=2), leaf(4, seed=3)
    labels, seed = torch.tensor([1, 8, 0, 3, 3]), torch.tensor(7)
    parameters = il.reference.ACTIVATIONS
    cases: dict[str, tuple[Any, ...]] = {
        n: (x, *parameters[n].parameters.values()) for n in il.activations.NAMES
    }
    cases |= {f"{n}_backward": (x.detach(), x.detach()) for n in il.activations.NAMES}
    return cases | {
        "linear": (x, w, b, "gelu", [], 0.0, None, 0),
        "linear_with_saved": (x, w, b, "gelu", [], 0.3, seed, 1),
        "linear_backward": (
            b.detach().expand(5, 9),
            x.detach(),
            w.detach(),
            None,
            "identity",
            [],
            0.0,
            None,
            0,
            [True, True, False],
        ),
        "layer_norm": (x, d, d),
        "layer_norm_with_saved": (x, d, None),
        "layer_norm_backward": (x.detach(), x.detach(), randn(2, 5), d.detach(), True),
        "rms_norm": (x, d, 0.1),
        "rms_norm_with_saved": (x, d),
        "rms_norm_backward": (x.detach(), x.detach(), randn(5), None, False),
        "prelu": (x, d),
        "prelu_backward": (x.detach(), x.detach(), d.detach()),
        "dropout": (x, 0.4, seed),
        "softmax_cross_entropy": (x, labels % 4),
        "softmax_cross_entropy_with_grad": (
            x.detach(),
            labels % 4,
            None,
            None,
            -100,
            0.1,
            0.0,
            "none",
        ),
        "softmax_cross_entropy_backward": (
            randn(5)[:, None].expand(5, 2),
            randn(5, 4, 2),
            torch.stack([labels % 4] * 2, 1),
            *(None, randn(5, 2).abs(), -100, 0.1, 0.0, "none"),
        ),
        "linear_cross_entropy": (x, w, labels, b),
        "linear_cross_entropy_backward": (randn(1)[0], randn(5, 4), randn(9, 4), labels),
        "linear_cross_entropy_with_grad": (x.detach(), w.detach(), labels),
    }


def test_every_operator_is_checked_here() -> None:
    registered = {
        n.removeprefix("innerloop::").partition(".")[0]
        for n in torch._C._dispatch_get_all_op_names()
        if n.startswith("innerloop::")
    }
    assert registered == set(_operators())


@pytest.mark.parametrize("name", _operators())
def test_opcheck(name: str) -> None:
    torch.library.opcheck(getattr(torch.ops.innerloop, name).default, _operators()[name])


def _network(x: Any, w: Any, b: Any, target: Any) -> Any:
    h = ops.linear(x, w, b, activation="gelu", dropout=0.2)
    h = ops.layer_norm(h, 9, b, b)
    h = ops.activation(ops.dropout(h, 0.1), "silu") + ops.rms_norm(h)
    return ops.linear_cross_entropy(h, h.T @ h, target) + ops.softmax_cross_entropy(h, target)


def test_compile_without_graph_breaks() -> None:
    target = torch.tensor([1, 8, 0, 3, 3])
    inputs = (
        leaf(5, 4, dtype=torch.float32),
        leaf(9, 4, dtype=torch.float32),
        leaf(9, dtype=torch.float32),
    )
    compiled = torch.compile(_network, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        torch.manual_seed(0)
        eager = _network(*inputs, target)
        expected = torch.autograd.grad(eager, inputs)
        again = _network(*inputs, target)
        torch.manual_seed(0)
        loss = compiled(*inputs, target)
        assert torch.equal(loss, eager) and not torch.equal(eager, again)
        for a, b in zip(torch.autograd.grad(loss, inputs), expected, strict=True):
            assert a.abs().max() > 0
            close(a, b, torch.float32)
        assert torch.equal(compiled(*inputs, target), again)  # the seed is drawn at each run
    with torch.no_grad():
        torch.manual_seed(0)
        assert torch.equal(compiled(*inputs, target), eager)


def test_compile_takes_other_batches() -> None:
    w = leaf(9, 4)
    compiled = torch.compile(
        lambda x: ops.linear(x, w, activation="relu"),
        fullgraph=True,
        dynamic=True,
        backend="aot_eager",
    )
    for m in (2, 3, 17):
        x = leaf(m, 4)
        assert torch.equal(compiled(x), ops.linear(x, w, activation="relu"))


class _Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(4, 9)

    def forward(self, x: Any) -> Any:
        return ops.layer_norm(ops.linear(x, self.inner.weight, self.inner.bias, activation="mish"))


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict: bool) -> None:
    net, x = _Net(), randn(5, 4, dtype=torch.float32)
    batch = {"x": {0: torch.export.Dim("batch")}}
    program = torch.export.export(net, (x,), dynamic_shapes=batch, strict=strict)
    targets = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
    assert {"innerloop.linear.default", "innerloop.layer_norm.default"} <= targets
    longer = randn(11, 4, dtype=torch.float32)
    assert torch.equal(program.module()(longer), net(longer))


VMAP: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "gelu": (lambda x, w, b: ops.activation(x, "gelu"), lambda x, w, b: F.gelu(x)),
    "linear": (
        lambda x, w, b: ops.linear(x, w, b, activation="tanh"),
        lambda x, w, b: F.linear(x, w, b).tanh(),
    ),
    "layer_norm": (
        lambda x, w, b: ops.layer_norm(x, 4, w[0]),
        lambda x, w, b: F.layer_norm(x, (4,), w[0]),
    ),
    "prelu": (lambda x, w, b: ops.prelu(x, w[0]), lambda x, w, b: torch.where(x > 0, x, w[0] * x)),
    "loss": (
        lambda x, w, b: ops.linear_cross_entropy(x, w, torch.tensor([1, 4, 0]), b),
        lambda x, w, b: F.cross_entropy(F.linear(x, w, b), torch.tensor([1, 4, 0])),
    ),
}


@pytest.mark.parametrize("dims", [(0, None, None), (1, None, None), (0, 0, 0), (None, 1, None)])
@pytest.mark.parametrize("name", VMAP)
def test_vmap_and_functional_gradients(name: str, dims: Any) -> None:
    ours, peer = VMAP[name]
    inputs = [
        randn(*shape, seed=i) if d is None else randn(*shape[:d], 6, *shape[d:], seed=i)
        for i, (shape, d) in enumerate(zip([(3, 4), (5, 4), (5,)], dims, strict=True))
    ]
    close(torch.func.vmap(ours, dims)(*inputs), torch.func.vmap(peer, dims)(*inputs))
    grad = lambda f: torch.func.grad(lambda *a: (f(*a) ** 2).sum(), argnums=(0, 1))  # noqa: E731
    for a, b in zip(*(torch.func.vmap(grad(f), dims)(*inputs) for f in (ours, peer)), strict=True):
        close(a, b)


def test_vmap_of_dropout_is_a_call_for_each_slice() -> None:
    x = randn(3, 8, 8)
    y = torch.func.vmap(lambda x: ops.dropout(x, 0.5, seed=3))(x)
    assert torch.equal(y, torch.stack([ops.dropout(s, 0.5, seed=3) for s in x]))
    w = randn(5, 8)
    layer = lambda x: ops.linear(x, w, dropout=0.5, seed=3)  # noqa: E731
    assert torch.equal(torch.func.vmap(layer)(x), torch.stack([layer(s) for s in x]))


def test_forward_mode_is_refused() -> None:
    x = randn(3, 4)
    with pytest.raises(NotImplementedError, match=r"forward mode|forward-mode"):
        torch.func.jvp(lambda x: ops.activation(x, "gelu"), (x,), (x,))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, x)
        for call in (lambda: ops.linear(x, dual), lambda: torch.ops.innerloop.linear(dual, x)):
            with pytest.raises(NotImplementedError, match="has a tangent"):
                call()


def test_torch_func_does_not_differentiate_twice() -> None:
    f = lambda x: ops.softmax_cross_entropy(x, torch.tensor([0, 1]))  # noqa: E731
    with pytest.raises(NotImplementedError, match="double backward"):
        torch.func.grad(lambda x: torch.func.grad(f)(x).square().sum())(randn(2, 3))


def test_jit_trace_keeps_the_operator() -> None:
    traced = torch.jit.trace(lambda x: ops.activation(x, "gelu"), (randn(3),))
    x = randn(5, seed=1)
    assert torch.equal(traced(x), ops.activation(x, "gelu"))


def test_autocast() -> None:
    x, w, b = (leaf(*s, dtype=torch.float32, seed=i) for i, s in enumerate([(5, 4), (9, 4), (9,)]))
    target = torch.tensor([1, 8, 0, 3, 3])

    def step(x: Any, w: Any, b: Any) -> Any:
        h = ops.linear(x, w, b, activation="gelu")
        z = ops.layer_norm(h, 9, b, b)
        return (
            h,
            z,
            ops.softmax_cross_entropy(z, target) + ops.linear_cross_entropy(z, w @ w.T, target),
        )

    for run in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        with torch.autocast("cpu", torch.bfloat16):
            h, z, loss = run(x, w, b)
            kept = ops.linear(x.double(), w.double())
        assert (h.dtype, z.dtype, loss.dtype) == (torch.bfloat16, torch.float32, torch.float32)
        assert kept.dtype == torch.float64
        got = torch.autograd.grad(loss, (x, w, b))
        want = torch.autograd.grad(step(x, w, b)[2], (x, w, b))
        for g, e in zip(got, want, strict=True):
            assert g.dtype == torch.float32 and g.abs().max() > 0
            torch.testing.assert_close(g, e, rtol=0.1, atol=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        assert ops.prelu(x.bfloat16(), b[:1]).dtype == torch.float32


# Bad input ----------------------------------------------------------------------------------------

X, W, B = torch.ones(3, 4), torch.ones(5, 4), torch.ones(5)
LABELS = torch.tensor([0, 1, 4])


def _bad() -> list[tuple[str, type[Exception], Callable[[], Any]]]:
    meta = X.to("meta")
    sparse = X.to_sparse()
    with torch.device("cpu"):
        quantised = torch.quantize_per_tensor(X, 0.1, 0, torch.qint8)
    nested = torch.nested.nested_tensor([X, X[:2]])
    wrong = [meta, sparse, quantised, nested, X.to(torch.complex64), X.to(torch.int64), X.bool()]
    cases: list[tuple[str, type[Exception], Callable[[], Any]]] = []
    for value in wrong:
        cases += [
            ("x", TypeError, lambda v=value: ops.linear(v, W, B)),
            ("weight", TypeError, lambda v=value: ops.linear(X, v)),
            ("bias", TypeError, lambda v=value: ops.linear(X, W, v)),
            ("x", TypeError, lambda v=value: ops.activation(v, "gelu")),
            ("x", TypeError, lambda v=value: ops.layer_norm(v)),
            ("weight", TypeError, lambda v=value: ops.layer_norm(X, (3, 4), v)),
            ("x", TypeError, lambda v=value: ops.rms_norm(v)),
            ("x", TypeError, lambda v=value: ops.dropout(v)),
            ("x", TypeError, lambda v=value: ops.prelu(v, B[:1])),
            ("logits", TypeError, lambda v=value: ops.softmax_cross_entropy(v, LABELS)),
            ("x", TypeError, lambda v=value: ops.linear_cross_entropy(v, W, LABELS)),
            ("weight", TypeError, lambda v=value: ops.linear_cross_entropy(X, v, LABELS)),
        ]
    needs = torch.ones(5, requires_grad=True)
    cases += [
        ("weight", TypeError, lambda: ops.linear(X, W.double())),
        ("bias", TypeError, lambda: ops.linear(X, W, B.bfloat16())),
        ("weight", TypeError, lambda: ops.layer_norm(X.bfloat16(), 4, X[0])),
        ("x", TypeError, lambda: ops.linear([1.0], W)),
        ("x", TypeError, lambda: ops.linear(X.numpy(), W)),
        ("x", ValueError, lambda: ops.linear(X[:, :3], W)),
        ("x", ValueError, lambda: ops.linear(torch.tensor(1.0), W)),
        ("weight", ValueError, lambda: ops.linear(X, W[0])),
        ("bias", ValueError, lambda: ops.linear(X, W, B[:2])),
        ("activation", ValueError, lambda: ops.linear(X, W, activation="gellu")),
        ("negative_slope", TypeError, lambda: ops.activation(X, "relu", negative_slope=1.0)),
        (
            "negative_slope",
            TypeError,
            lambda: ops.activation(X, "leaky_relu", negative_slope=needs[0]),
        ),
        ("dropout", ValueError, lambda: ops.linear(X, W, dropout=1.5)),
        ("dropout", TypeError, lambda: ops.linear(X, W, dropout=needs[0])),
        ("p", ValueError, lambda: ops.dropout(X, -0.1)),
        ("p", TypeError, lambda: ops.dropout(X, needs[0])),
        ("seed", ValueError, lambda: ops.dropout(X, seed=-1)),
        ("seed", TypeError, lambda: ops.dropout(X, seed=1.0)),
        ("seed", TypeError, lambda: ops.dropout(X, seed=torch.tensor(1.0))),
        ("offset", ValueError, lambda: ops.dropout(X, seed=1, offset=-1)),
        ("eps", ValueError, lambda: ops.layer_norm(X, 4, eps=-1.0)),
        ("normalized_shape", ValueError, lambda: ops.layer_norm(X, 5)),
        ("weight", ValueError, lambda: ops.rms_norm(X, 4, B)),
        ("weight", ValueError, lambda: ops.prelu(X, torch.ones(3))),
        ("target", ValueError, lambda: ops.softmax_cross_entropy(X, LABELS[:2])),
        ("target", TypeError, lambda: ops.softmax_cross_entropy(X, X.double())),
        ("target", TypeError, lambda: ops.softmax_cross_entropy(X, LABELS.bool())),
        ("weight", ValueError, lambda: ops.softmax_cross_entropy(X, LABELS % 4, weight=B)),
        (
            "weight",
            TypeError,
            lambda: ops.softmax_cross_entropy(X, LABELS % 4, weight=B[:4].double()),
        ),
        (
            "sample_weight",
            ValueError,
            lambda: ops.softmax_cross_entropy(X, LABELS % 4, sample_weight=B),
        ),
        (
            "label_smoothing",
            ValueError,
            lambda: ops.softmax_cross_entropy(X, LABELS % 4, label_smoothing=2.0),
        ),
        ("z_loss", ValueError, lambda: ops.softmax_cross_entropy(X, LABELS % 4, z_loss=-1.0)),
        (
            "reduction",
            ValueError,
            lambda: ops.softmax_cross_entropy(X, LABELS % 4, reduction="avg"),
        ),
        ("axis", ValueError, lambda: ops.softmax_cross_entropy(X, LABELS % 4, axis=2)),
        ("target", IndexError, lambda: ops.softmax_cross_entropy(X, LABELS)),
        ("target", IndexError, lambda: ops.linear_cross_entropy(X, W, LABELS + 1)),
        (
            "target",
            IndexError,
            lambda: ops.softmax_cross_entropy(X.clone().requires_grad_(), -LABELS),
        ),
        ("weight", TypeError, lambda: ops.softmax_cross_entropy(X, LABELS % 4, weight=needs[:4])),
        ("target", TypeError, lambda: ops.softmax_cross_entropy(X, X.clone().requires_grad_())),
        (
            "sample_weight",
            TypeError,
            lambda: ops.softmax_cross_entropy(X, LABELS % 4, sample_weight=needs[:3]),
        ),
        (
            "class_weight",
            TypeError,
            lambda: ops.linear_cross_entropy(X, W, LABELS, class_weight=needs),
        ),
        (
            "label_smoothing",
            TypeError,
            lambda: ops.softmax_cross_entropy(X, LABELS % 4, label_smoothing=needs[0]),
        ),
    ]
    return cases


@pytest.mark.filterwarnings("ignore")
def test_bad_input_is_refused_by_the_argument_s_name() -> None:
    for number, (name, kind, call) in enumerate(_bad()):
        with pytest.raises(kind) as caught:
            call()
        assert re.search(rf"\b{name}\b", str(caught.value)[:70]), (number, name, caught.value)


def test_the_registered_operators_refuse_what_the_functions_refuse() -> None:
    needs = torch.ones(4, requires_grad=True)
    with pytest.raises(TypeError, match="weight must not require grad"):
        torch.ops.innerloop.softmax_cross_entropy(X, LABELS % 4, needs)
    with pytest.raises(TypeError, match="weight must have the dtype of x"):
        torch.ops.innerloop.linear(X, W.double())
    with pytest.raises(TypeError, match="weight must be on the device of x"):
        torch.ops.innerloop.linear(X.to("meta"), W)
    assert torch.ops.innerloop.linear(X.to("meta"), W.to("meta")).shape == (3, 5)


def test_views_whose_memory_holds_other_numbers() -> None:
    negative = torch.conj(torch.complex(X, X)).imag
    assert negative.is_neg()
    assert torch.equal(ops.activation(negative, "relu"), torch.zeros(3, 4))
    zeros = torch._efficientzerotensor(3, 4)
    assert torch.equal(ops.activation(zeros, "sigmoid"), torch.full((3, 4), 0.5))
    assert torch.equal(ops.linear(X, zeros), torch.zeros(3, 3))


def test_the_function_that_vjp_returns() -> None:
    dy = randn(3, 5, seed=2)

    def gradients(linear: Any) -> Any:
        y, back = torch.func.vjp(lambda x, w: linear(x, w).tanh(), randn(3, 4), randn(5, 4, seed=1))
        return y, *back(dy)

    for a, b in zip(gradients(ops.linear), gradients(F.linear), strict=True):
        close(a, b)


def test_subclasses_of_tensors() -> None:
    class Own(torch.Tensor):
        pass

    class OwnParameter(torch.nn.Parameter):
        pass

    for x, w in ((X.as_subclass(Own), W), (X, W.as_subclass(Own)), (X, OwnParameter(W))):
        y = ops.linear(x, w, activation="gelu")
        assert isinstance(y, torch.Tensor)
        close(y.as_subclass(torch.Tensor), ops.linear(X, W, activation="gelu"))
        ops.softmax_cross_entropy(y, LABELS[:3] % 5)
    w.requires_grad_()
    ops.linear(X.as_subclass(Own), w).sum().backward()
    close(w.grad, X.sum(0).expand(5, 4), torch.float32)


def test_importing_innerloop_imports_no_torch() -> None:
    code = "import sys, innerloop; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_gradients_of_losses_have_no_graph() -> None:
    logits, weight = randn(3, 4).requires_grad_(), randn(4, 4).requires_grad_()
    target = torch.tensor([0, 3, 1])
    for loss in (
        ops.softmax_cross_entropy(logits, target),
        ops.linear_cross_entropy(logits, weight, target),
    ):
        (gradient,) = torch.autograd.grad(loss, logits)
        assert not gradient.requires_grad and gradient.abs().sum() > 0
