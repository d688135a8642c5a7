"""The PyTorch plug-in's modules beside those of torch.nn."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import innerloop as il  # noqa: E402
from innerloop.plugins.torch import modules, ops  # noqa: E402

nn = torch.nn
DTYPES = [torch.float32, torch.float64]


def randn(*shape: int, dtype: Any = torch.float32, seed: int = 0) -> Any:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def both(name: str, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """Ours and PyTorch's, each made after the same seed."""
    made = []
    for library in (modules, nn):
        torch.manual_seed(3)
        made.append(getattr(library, name)(*args, **kwargs))
    return made[0], made[1]


def agree(ours: Any, peer: Any, *inputs: Any) -> None:
    """Results, and gradients of the first input and of all parameters."""
    results = []
    for module in (ours, peer):
        x = inputs[0].clone().requires_grad_()
        y = module(x, *inputs[1:])
        dy = randn(*y.shape, dtype=y.dtype, seed=7)
        results.append((y, *torch.autograd.grad(y, (x, *module.parameters()), dy)))
    assert len(results[0]) == len(results[1])
    for a, b in zip(*results, strict=True):
        assert a.numel() == 0 or a.abs().max() > 0
        torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-6)


PEERS = [
    ("Linear", (7, 9), {}),
    ("Linear", (7, 9), {"bias": False}),
    ("LayerNorm", (7,), {}),
    ("LayerNorm", ([5, 7],), {"eps": 0.1, "bias": False}),
    ("LayerNorm", (7,), {"elementwise_affine": False}),
    ("RMSNorm", (7,), {}),
    ("RMSNorm", ((5, 7),), {"eps": 0.1, "elementwise_affine": False}),
    ("PReLU", (), {}),
    ("PReLU", (5,), {"init": 0.3}),
    ("LeakyReLU", (0.3,), {}),
    ("ELU", (), {"alpha": 1.5}),
    ("CELU", (1.5,), {}),
    ("Softplus", (2, 1), {}),
    ("GELU", (), {"approximate": "tanh"}),
    *((peer.__name__, (), {}) for peer in modules.ACTIVATION_PEERS),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "args", "kwargs"), PEERS)
def test_as_torch_nn(name: str, args: Any, kwargs: Any, dtype: Any) -> None:
    ours, peer = both(name, *args, **kwargs)
    assert isinstance(ours, type(peer))
    assert list(ours.state_dict()) == list(peer.state_dict())
    for a, b in zip(ours.parameters(), peer.parameters(), strict=True):
        assert torch.equal(a, b)
    assert repr(ours) == repr(peer)
    agree(ours.to(dtype), peer.to(dtype), randn(3, 5, 7, dtype=dtype))


@pytest.mark.filterwarnings("ignore:Mismatch dtype")  # of PyTorch's RMSNorm: its slower form
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["LayerNorm", "RMSNorm"])
def test_norms_of_half_precision_beside_float32_weights(name: str, dtype: Any) -> None:
    ours, peer = both(name, 7)
    results = []
    for module in (ours, peer):
        x = randn(3, 7, dtype=dtype).requires_grad_()
        y = module(x)
        assert y.dtype == dtype
        results.append((y, *torch.autograd.grad(y.sum(), (x, *module.parameters()))))
    torch.testing.assert_close(*results)
    with pytest.raises((RuntimeError, TypeError), match=r"dtype|type"):
        both("LayerNorm", 7)[0].double()(randn(3, 7, dtype=dtype))
    peer.load_state_dict(ours.state_dict())
    ours.load_state_dict(peer.state_dict())


def test_every_activation_has_its_module() -> None:
    have = {modules.activation_of(m())[0] for m in modules.ACTIVATION_MODULES.values()}
    assert have | {"identity", "gelu_tanh"} == set(il.activations.NAMES)
    assert modules.activation_of(modules.GELU("tanh")) == ("gelu_tanh", {})


def test_activations_in_place_write_their_input() -> None:
    for name in ("ReLU", "SiLU", "LeakyReLU"):
        x, expected = randn(9), getattr(nn, name)()(randn(9))
        y = getattr(modules, name)(inplace=True)(x)
        assert y is x or y.data_ptr() == x.data_ptr()
        torch.testing.assert_close(x, expected)


def test_linear_with_activation_and_dropout() -> None:
    for activation, peer in (("relu", nn.ReLU()), ("gelu_tanh", nn.GELU("tanh"))):
        torch.manual_seed(0)
        ours = modules.Linear(7, 9, activation=activation)
        torch.manual_seed(0)
        agree(ours, nn.Sequential(nn.Linear(7, 9), peer), randn(5, 7))
    layer = modules.Linear(7, 9, activation="leaky_relu", negative_slope=0.4, dropout=0.5)
    assert "activation='leaky_relu', negative_slope=0.4, dropout=0.5" in repr(layer)
    x = randn(50, 7)
    torch.manual_seed(1)
    a, b = layer(x), layer(x)
    torch.manual_seed(1)
    assert torch.equal(a, layer(x)) and not torch.equal(a, b)
    assert 0.4 < (a == 0).float().mean() < 0.6
    layer.eval()
    torch.testing.assert_close(
        layer(x), nn.functional.leaky_relu(nn.functional.linear(x, layer.weight, layer.bias), 0.4)
    )


def test_linear_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="activation must be one of"):
        modules.Linear(2, 2, activation="rellu")
    with pytest.raises(TypeError, match="takes no parameters, got alpha"):
        modules.Linear(2, 2, activation="relu", alpha=1.0)
    with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\]"):
        modules.Linear(2, 2, dropout=2.0)
    with pytest.raises(TypeError, match=r"x must be on the CPU.*, got one on meta"):
        modules.Linear(2, 2, device="meta")(torch.ones(2, 2, device="meta"))
    with pytest.raises(TypeError, match="weight must have the dtype of x"):
        modules.Linear(2, 2)(torch.ones(2, 2, dtype=torch.bfloat16))


def test_dropout() -> None:
    layer, x = modules.Dropout(0.3), torch.ones(100, 50)
    torch.manual_seed(1)
    a, b = layer(x), layer(x)
    torch.manual_seed(1)
    assert torch.equal(a, layer(x)) and not torch.equal(a, b)
    assert 0.2 < (a == 0).float().mean() < 0.4
    assert torch.equal(a[a != 0], torch.full_like(a[a != 0], 1 / 0.7))
    layer.eval()
    assert layer(x) is x
    modules.Dropout(0.5, inplace=True)(x)
    assert 0.4 < (x == 0).float().mean() < 0.6


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kwargs", [{}, {"label_smoothing": 0.1}, {"ignore_index": 2}])
def test_cross_entropy(kwargs: dict[str, Any], reduction: str) -> None:
    target = torch.tensor([2, 0, 6, 1, 2])
    for weight in (None, randn(7, seed=4).abs()):
        ours, peer = both("CrossEntropyLoss", weight, reduction=reduction, **kwargs)
        assert list(ours.state_dict()) == list(peer.state_dict())
        agree(ours, peer, randn(5, 7), target)
        agree(ours, peer, randn(5, 7), torch.softmax(randn(5, 7, seed=1), 1)) if (
            "ignore_index" not in kwargs
        ) else None
        agree(ours, peer, randn(2, 7, 3), torch.tensor([[2, 0, 6], [1, 5, 5]]))
        agree(ours, peer, randn(7), torch.tensor(3))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_linear_cross_entropy(reduction: str) -> None:
    class Peer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(7, 9, bias=True)
            self.loss = nn.CrossEntropyLoss(weight, reduction=reduction, label_smoothing=0.1)

        def forward(self, x: Any, target: Any) -> Any:
            return self.loss(self.linear(x), target)

    weight = randn(9, seed=5).abs()
    torch.manual_seed(2)
    peer = Peer()
    torch.manual_seed(2)
    ours = modules.LinearCrossEntropyLoss(
        7, 9, bias=True, reduction=reduction, weight=weight, label_smoothing=0.1
    )
    agree(ours, peer, randn(5, 7), torch.tensor([8, 0, -100, 3, 3]))


@pytest.mark.skipif(not hasattr(nn, "LinearCrossEntropyLoss"), reason="PyTorch has none yet")
def test_linear_cross_entropy_as_torch_nn() -> None:
    ours, peer = both("LinearCrossEntropyLoss", 7, 9, weight=torch.ones(9), label_smoothing=0.1)
    assert list(ours.state_dict()) == list(peer.state_dict())
    ours.load_state_dict(peer.state_dict())
    agree(ours, peer, randn(5, 7), torch.tensor([8, 0, 1, 3, 3]))


def test_half_precision_modules() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(modules.Linear(8, 16, activation="gelu"), modules.LayerNorm(16))
    x = randn(4, 8)
    expected = net(x)
    for dtype in (torch.bfloat16, torch.float16):
        y = copy.deepcopy(net).to(dtype)(x.to(dtype))
        assert y.dtype == dtype
        torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)


def _network() -> Any:
    return nn.Sequential(
        modules.Linear(6, 16, activation="silu", dropout=0.1),
        modules.LayerNorm(16),
        modules.Dropout(0.2),
        modules.Linear(16, 5),
    )


def test_they_are_copied_pickled_compiled_and_exported() -> None:
    net, x = _network(), randn(4, 6)
    torch.manual_seed(0)
    expected = net(x)
    stream = io.BytesIO()
    torch.save(net, stream)
    stream.seek(0)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    for other in (copy.deepcopy(net), torch.load(stream, weights_only=False), compiled):
        torch.manual_seed(0)
        assert torch.equal(other(x), expected)
    net.eval()
    program = torch.export.export(net, (x,))
    assert torch.equal(program.module()(x), net(x))


def test_training_goes_as_with_torch_nn() -> None:
    target = torch.arange(32) % 5
    curves = []
    for library in (modules, nn):
        torch.manual_seed(0)
        net = nn.Sequential(
            library.Linear(6, 16), library.Tanh(), library.LayerNorm(16), library.Linear(16, 5)
        )
        loss, optimizer = library.CrossEntropyLoss(), torch.optim.Adam(net.parameters(), 0.05)
        curve = []
        for _ in range(30):
            optimizer.zero_grad()
            value = loss(net(randn(32, 6)), target)
            value.backward()
            optimizer.step()
            curve.append(value.item())
        curves.append(torch.tensor(curve))
    assert curves[0][-1] < 0.5 * curves[0][0]
    torch.testing.assert_close(curves[0], curves[1], rtol=1e-3, atol=1e-4)


def test_gradient_checkpointing_draws_the_same_mask_again() -> None:
    from torch.utils.checkpoint import checkpoint

    layer, x = modules.Linear(6, 40, dropout=0.5), randn(4, 6)
    results = []
    for run in (lambda: layer(x), lambda: checkpoint(layer, x, use_reentrant=False)):
        torch.manual_seed(0)
        results.append(torch.autograd.grad(run().square().sum(), layer.weight)[0])
    assert results[0].abs().max() > 0
    assert torch.equal(*results)


def test_functional_call() -> None:
    layer, x = modules.Linear(6, 4, activation="gelu"), randn(3, 6)
    values = {k: v.detach() for k, v in layer.named_parameters()}
    f = lambda p: torch.func.functional_call(layer, p, (x,)).square().sum()  # noqa: E731
    got = torch.func.grad(f)(values)
    want = torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))
    for a, b in zip(got.values(), want, strict=True):
        assert torch.equal(a, b)


def test_the_modules_use_the_operators() -> None:
    x = randn(3, 6)
    with torch.profiler.profile() as profile, torch.autocast("cpu", torch.bfloat16):
        _network()(x)  # under autocast they pass the dispatcher, which the profiler sees
    seen = {e.name for e in profile.events()}
    assert {"innerloop::linear", "innerloop::layer_norm", "innerloop::dropout"} <= seen
    assert ops.__all__
