"""accelerate and restore: a model that is there, before, with innerloop's modules, and after."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, parametrize, prune  # noqa: E402

from innerloop.plugins.torch import accelerate, modules, restore  # noqa: E402


def randn(*shape: int, dtype: Any = torch.float32, seed: int = 0) -> Any:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def mlp(dropout: float = 0.0) -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 16),
        nn.GELU("tanh"),
        nn.Dropout(dropout),
        nn.LayerNorm(16),
        nn.Linear(16, 16),
        nn.LeakyReLU(0.3, inplace=True),
        nn.Linear(16, 16),
        nn.Dropout(dropout),
        nn.Linear(16, 5),
    )


class Block(nn.Module):
    """A layer that is used twice, a tied weight, a norm that is its own peer, a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.twice = nn.Linear(8, 8)
        self.act = nn.SiLU()
        self.norm = nn.RMSNorm(8)
        self.conv = nn.Conv1d(3, 3, 1)
        self.slope = nn.PReLU()
        self.inner = nn.Sequential(self.twice, self.act)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight
        self.loss = nn.CrossEntropyLoss(label_smoothing=0.1, weight=torch.linspace(0.5, 1.5, 11))

    def forward(self, tokens: Any) -> Any:
        h = self.norm(self.act(self.twice(self.embed(tokens))))
        h = self.slope(self.inner(h)) + self.conv(h)
        return self.loss(self.head(h).transpose(1, 2), tokens.roll(-1, 1))


TOKENS = torch.randint(11, (4, 3), generator=torch.Generator().manual_seed(1))


def gradients(model: Any, *inputs: Any) -> list[Any]:
    model.zero_grad()
    model(*inputs).square().mean().backward()
    return [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("make", [mlp, Block])
def test_same_results_and_gradients(make: Any) -> None:
    torch.manual_seed(0)
    model = make()
    x = TOKENS if make is Block else randn(7, 6)
    before, y = gradients(model, x), model(x)
    accelerate(model)
    torch.testing.assert_close(model(x), y, rtol=1e-5, atol=1e-6)
    for a, b in zip(gradients(model, x), before, strict=True):
        assert b.abs().max() > 0
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def state(model: Any) -> list[Any]:
    """All that restore must bring back, by identity where there is one."""
    return [
        (
            *(name, module, type(module), set(vars(module)), module.training, repr(module)),
            *(id(t) for t in (*module.parameters(), *module.buffers())),
        )
        for name, module in model.named_modules(remove_duplicate=False)
    ]


@pytest.mark.parametrize("make", [mlp, Block])
def test_restore_undoes_it_exactly(make: Any) -> None:
    model = make()
    x = TOKENS if make is Block else randn(7, 6)
    before, y, keys = state(model), model(x), list(model.state_dict())
    ids = [id(p) for p in model.parameters()]
    report = accelerate(model)
    assert state(model) != before
    assert list(model.state_dict()) == keys and [id(p) for p in model.parameters()] == ids
    restored = restore(model)
    assert set(report.changed) <= set(restored)
    assert state(model) == before and torch.equal(model(x), y)
    assert restore(model) == []


def test_the_report() -> None:
    model = nn.ModuleDict({"net": mlp(0.1), "conv": nn.Conv1d(1, 1, 1), "block": Block()})
    model["net"][4].register_forward_hook(lambda *a: None)
    report = accelerate(model)
    assert report.fused == {
        "net.0": "Linear + GELU + Dropout",
        "net.6": "Linear + Dropout",
        "block.inner.0": "Linear + SiLU",
    }
    assert report.kept == {"net.4": "it has hooks"}
    assert (
        report.changed["net.3"] == "LayerNorm"
        and report.changed["block.loss"] == "CrossEntropyLoss"
    )
    assert not any("conv" in name or "embed" in name for name in report.changed)
    text = str(report)
    assert "kept as they are: 1 module\n  net.4  it has hooks" in text
    assert "net.0          Linear + GELU + Dropout" in text
    again = accelerate(model)
    assert not again.changed and again.fused == report.fused


def test_what_is_fused_is_one_operator() -> None:
    model = mlp(0.1)
    accelerate(model)

    def operators() -> list[str]:
        from torch.utils._python_dispatch import TorchDispatchMode

        seen: list[str] = []

        class Mode(TorchDispatchMode):
            def __torch_dispatch__(
                self, func: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                seen.append(str(func))
                return func(*args, **(kwargs or {}))

        with Mode(), torch.no_grad():
            model(randn(3, 6))
        return [s for s in seen if s.startswith("innerloop")]

    fused = ["linear", "layer_norm", "linear", "linear", "linear"]
    assert operators() == [f"innerloop.{n}.default" for n in fused]
    handle = model[1].register_forward_hook(lambda *a: None)  # later than accelerate
    alone = ["linear", "gelu_tanh", "dropout", *fused[1:]]
    assert operators() == [f"innerloop.{n}.default" for n in alone]
    handle.remove()
    everywhere = nn.modules.module.register_module_forward_hook(lambda *a: None)
    alone = operators()
    everywhere.remove()
    assert len(alone) == 8  # all but the activation in place, which is PyTorch's own


def test_members_of_a_sequential_are_what_they_were() -> None:
    model, x = mlp(), randn(7, 6)
    layers = [x]
    for module in model:
        layers.append(module(layers[-1].clone()))
    accelerate(model)
    h = x
    for module, expected in zip(model, layers[1:], strict=True):
        h = module(h.clone())
        torch.testing.assert_close(h, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model[:2](x), layers[2], rtol=1e-5, atol=1e-6)
    model[1] = nn.Tanh()
    torch.testing.assert_close(model[:2](x), layers[1].tanh(), rtol=1e-5, atol=1e-6)
    model.append(nn.Softmax(1))
    torch.testing.assert_close(model(x).sum(1), torch.ones(7))


def test_a_forward_that_is_put_into_a_module_later_is_called() -> None:
    model, x = mlp(), randn(7, 6)
    accelerate(model)
    first = model[0](x)
    model[1].forward = lambda h: h + 7
    assert torch.equal(model[:2](x), first + 7)
    del model[1].forward
    model[0].forward = lambda h: h[:, :1].expand(-1, first.shape[1]).clone()
    torch.testing.assert_close(model[:2](x), model[1](model[0](x)))


def test_training_goes_on_with_the_optimizer_that_is_there() -> None:
    target, curves = torch.arange(32) % 5, []
    for change in (False, True):
        model = mlp()
        optimizer = torch.optim.Adam(model.parameters(), 0.02)
        curve = []
        for step in range(30):
            if change and step == 10:
                accelerate(model)
            if change and step == 20:
                restore(model)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(randn(32, 6)), target)
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
        curves.append(torch.tensor(curve))
    assert curves[0][-1] < 0.7 * curves[0][0]
    torch.testing.assert_close(*curves, rtol=1e-3, atol=1e-4)


def test_modes() -> None:
    model, x = mlp(0.5), randn(64, 6)
    model.eval()
    expected = model(x)
    accelerate(model)
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-6)
    model.train()
    torch.manual_seed(1)
    a, b = model(x), model(x)
    torch.manual_seed(1)
    assert torch.equal(a, model(x)) and not torch.equal(a, b)
    model[2].eval()  # one dropout alone
    model[7].eval()
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-6)


def test_dtypes_are_kept() -> None:
    for dtype in (torch.float64, torch.bfloat16):
        model = mlp().to(dtype)
        expected = model(randn(7, 6).to(dtype))
        accelerate(model)
        y = model(randn(7, 6).to(dtype))
        assert y.dtype == dtype
        torch.testing.assert_close(y, expected, rtol=0.1, atol=0.1)


class Scaled(nn.Linear):
    def forward(self, x: Any) -> Any:
        return 2 * super().forward(x)


def _own_forward() -> Any:
    layer = nn.Linear(4, 4)
    layer.forward = lambda x: x
    return layer


def _compiled() -> Any:
    layer = nn.Linear(4, 4)
    layer.compile(backend="eager")
    return layer


def _kept() -> dict[str, tuple[Any, str]]:
    return {
        "subclass": (Scaled(4, 4), "subclass of Linear"),
        "parametrised": (parametrizations.weight_norm(nn.Linear(4, 4)), "subclass of Linear"),
        "pruned": (prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5), "has hooks"),
        "own forward": (_own_forward(), "forward of its own"),
        "compiled": (_compiled(), "compiled already"),
        "lazy": (nn.LazyLinear(4), "subclass of Linear"),
        "meta": (nn.Linear(4, 4, device="meta"), "on meta"),
        "complex": (nn.Linear(4, 4, dtype=torch.complex64), "complex64"),
        "attention": (nn.MultiheadAttention(4, 2).out_proj, "subclass of Linear"),
    }


@pytest.mark.parametrize("name", _kept())
@pytest.mark.filterwarnings("ignore")
def test_modules_that_are_left_alone(name: str) -> None:
    module, reason = _kept()[name]
    kind = type(module)
    model = nn.Sequential(module, nn.ReLU())
    report = accelerate(model)
    assert type(module) is kind and reason in report.kept["0"]
    assert list(report.changed) == ["1"] and not report.fused
    if name not in ("meta", "complex", "lazy"):
        model(randn(2, 4))
    restore(model)
    assert type(module) is kind and type(model) is nn.Sequential


def test_quantised_modules_are_left_alone() -> None:
    pytest.importorskip("torch.ao.quantization")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = torch.ao.quantization.quantize_dynamic(mlp(), {nn.Linear})
        except RuntimeError as error:
            pytest.skip(str(error))
    kinds = [type(m) for m in model]
    accelerate(model)
    assert type(model[0]) is kinds[0] and type(model[0]) is not modules.Linear
    assert model(randn(2, 6)).shape == (2, 5)


def test_own_modules_of_innerloop_stay_when_it_is_restored() -> None:
    model = nn.Sequential(modules.Linear(4, 4, activation="relu"), nn.GELU(), nn.Linear(4, 4))
    x = randn(3, 4)
    y = model(x)
    report = accelerate(model)
    assert list(report.changed) == ["1", "2"] and not report.fused
    torch.testing.assert_close(model(x), y)
    restore(model)
    assert type(model[0]) is modules.Linear and model[0].activation == "relu"


def test_restore_refuses_what_was_changed_since() -> None:
    model = mlp()
    accelerate(model)
    parametrizations.orthogonal(model[4])
    with pytest.raises(RuntimeError, match=r"model's module 4 has become .*since accelerate"):
        restore(model)
    assert type(model[0]) is modules.Linear  # nothing was changed back
    parametrize.remove_parametrizations(model[4], "weight")
    assert len(restore(model)) == 10


def test_a_module_itself_and_what_is_none() -> None:
    loss = nn.CrossEntropyLoss()
    assert accelerate(loss).changed == {"(model)": "CrossEntropyLoss"}
    assert type(loss) is modules.CrossEntropyLoss
    assert restore(loss) == ["(model)"] and type(loss) is nn.CrossEntropyLoss
    for call in (accelerate, restore):
        with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got int"):
            call(3)


def test_copies_and_files_are_restored_too() -> None:
    model = mlp()
    accelerate(model)
    other = copy.deepcopy(model)
    restore(other)
    assert type(other[0]) is nn.Linear and type(model[0]) is modules.Linear
    plain = mlp()
    plain.load_state_dict(model.state_dict())


def test_compile_and_export() -> None:
    model, x = mlp(), randn(7, 6)
    accelerate(model)
    expected = model(x)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), expected)
    assert torch.equal(torch.export.export(model, (x,)).module()(x), expected)


def test_a_transformer() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, activation=F.gelu, batch_first=True)
    model, x = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), randn(3, 5, 16)
    before, y = gradients(model, x), model(x)
    report = accelerate(model)
    assert {"layers.0.linear1", "layers.1.norm2"} <= set(report.changed)
    torch.testing.assert_close(model(x), y, rtol=1e-5, atol=1e-5)
    for a, b in zip(gradients(model, x), before, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x), y, rtol=1e-5, atol=1e-5)
