"""The PyTorch plug-in's operators under opcheck, compile, export, vmap, torch.func and autocast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch_op_cases import close, leaf, randn  # noqa: E402

import innerloop as il  # noqa: E402
from innerloop.plugins.torch import ops  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


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
