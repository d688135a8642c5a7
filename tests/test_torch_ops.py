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
from torch_op_cases import DTYPES, SIZES, close, compare, leaf, randn, theirs  # noqa: E402

import innerloop as il  # noqa: E402
from innerloop.plugins.torch import ops  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


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
