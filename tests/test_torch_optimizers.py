"""The PyTorch plug-in's optimizers beside torch.optim: PyTorch's samples, options, gradients."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch_optimizer_cases import (  # noqa: E402
    FULL,
    NAMES,
    TOLERANCE,
    Run,
    both,
    check_equal,
    give_gradients,
    parameters,
    scalars_of,
)

import innerloop as il  # noqa: E402
import innerloop.plugins.torch as plugin  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_torch_thread")
DTYPES = list(TOLERANCE)
STEPS = 8  # RAdam is rectified from the sixth on


def samples() -> Any:
    """PyTorch's module of them, which needs a test library of its own."""
    return pytest.importorskip("torch.testing._internal.common_optimizers")


def info_of(name: str) -> Any:
    return next(info for info in samples().optim_db if info.name == name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_every_sample_of_pytorch(name: str, dtype: Any) -> None:
    """With foreach and fused on and off, too."""
    every = samples()._get_optim_inputs_including_global_cliquey_kwargs
    inputs = every("cpu", dtype, info_of(name), skip=("differentiable",))
    plain = info_of(name).optim_inputs_func("cpu")
    assert len(inputs) >= len(plain) >= 5
    for sample in [*plain, *inputs]:
        with scalars_of(dtype):
            theirs, ours = both(name, dtype, **sample.kwargs)
            for step in range(1, STEPS + 1):
                theirs.steps(step, step)
                ours.steps(step, step)
                check_equal(theirs, ours)


@pytest.mark.parametrize("name", [*NAMES, "Lion"])
def test_every_error_input_of_pytorch(name: str) -> None:
    module, kind = samples(), getattr(plugin, name)
    if name == "Lion":
        errors = module.get_error_inputs_for_all_optims("cpu", torch.float32)
    else:
        errors = info_of(name).optim_error_inputs_func("cpu", torch.float32)
    assert len(errors) >= 6
    for error in errors:
        given = error.optimizer_error_input
        params = parameters() if given.params is None else given.params
        assert error.error_on is module.OptimizerErrorEnum.CONSTRUCTION_ERROR
        expected = pytest.warns if issubclass(error.error_type, Warning) else pytest.raises
        with expected(error.error_type, match=error.error_regex):
            kind(params, **given.kwargs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_parameters_without_a_gradient_are_left_and_count_their_own_steps(
    name: str, dtype: Any
) -> None:
    with scalars_of(dtype):
        theirs, ours = both(name, dtype, **FULL[name])

        def without(step: int) -> list[int]:
            return [i for i in range(4) if (step + i) % (i + 2) == 0]

        untouched = ours.params[0].detach().clone()
        for run in (theirs, ours):
            run.steps(1, 1, lambda _: [0, 2])
        assert torch.equal(ours.params[0], untouched)
        assert ours.params[0] not in ours.optimizer.state or name == "Adagrad"
        for step in range(2, 14):
            theirs.steps(step, step, without)
            ours.steps(step, step, without)
            check_equal(theirs, ours)
    for run in (theirs, ours):  # and none at all
        run.steps(1, 1, lambda _: range(4))
    check_equal(theirs, ours)


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_backend_takes_the_same_steps(name: str) -> None:
    theirs, ours = both(name, **FULL[name])
    with il.use_backend("reference"):
        check_equal(theirs.steps(1, 3), ours.steps(1, 3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_lion_is_its_paper(dtype: Any) -> None:
    lr, (beta1, beta2), decay = 0.01, (0.8, 0.95), 0.1
    kind = plugin.Lion
    ours = Run(kind, parameters(dtype), lr=lr, betas=(beta1, beta2), weight_decay=decay)
    want = [p.detach().clone() for p in ours.params]
    means = [torch.zeros_like(w) for w in want]
    for step in range(1, 6):
        ours.steps(step, step)
        for w, m, p in zip(want, means, ours.params, strict=True):
            w -= lr * (torch.sign(beta1 * m + (1 - beta1) * p.grad) + decay * w)
            m.mul_(beta2).add_(p.grad, alpha=1 - beta2)
    for w, m, p in zip(want, means, ours.params, strict=True):
        torch.testing.assert_close(p.detach(), w)
        assert list(ours.optimizer.state[p]) == ["exp_avg"]
        torch.testing.assert_close(ours.optimizer.state[p]["exp_avg"], m)
    descent, ascent = Run(kind), Run(kind, maximize=True)
    before = [p.detach().clone() for p in descent.params]
    for down, up, b in zip(descent.steps(1, 1).params, ascent.steps(1, 1).params, before, strict=1):
        torch.testing.assert_close((down + up).detach(), 2 * b)
        assert not torch.equal(down, up)


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_pytorchs_and_max_norm(name: str) -> None:
    ours, theirs = getattr(plugin, name), getattr(torch.optim, name)
    assert issubclass(ours, theirs)
    have, want = inspect.signature(ours).parameters, inspect.signature(theirs).parameters
    assert [p for p in have if p != "max_norm"] == list(want)
    for argument, parameter in want.items():
        assert have[argument].default == parameter.default
        assert have[argument].kind == parameter.kind
        assert f"\n{argument} : " in ours.__doc__
    assert "\nmax_norm : " in ours.__doc__ and "torch.optim" in ours.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_groups_have_numbers_of_their_own(name: str) -> None:
    options = {"lr": 0.05, "weight_decay": 0.2}
    theirs, ours = both(name)
    for run in (theirs, ours):
        kind, (a, b, c, d) = type(run.optimizer), run.params
        groups = [{"params": [a, b], **options}, {"params": c, "maximize": True}]
        run.optimizer = kind(groups, lr=0.01)
        run.steps(1, 3)
        run.optimizer.add_param_group({"params": [d], "lr": 0.3})
        if name == "Adagrad":  # whose state PyTorch only makes when it is constructed
            run.optimizer.state[d] = {"step": torch.tensor(0.0), "sum": torch.zeros_like(d)}
        run.steps(4, 6)
        run.optimizer.param_groups[0]["lr"] = 0.5
        run.steps(7, 9)
    check_equal(theirs, ours)


def test_groups_of_adam_may_differ_in_how_they_decay() -> None:
    theirs, ours = both("Adam")
    for run in (theirs, ours):
        kind, (a, b, c, d) = type(run.optimizer), run.params
        coupled = {"params": [a, b], "weight_decay": 0.1}
        decoupled = {"params": [c, d], "weight_decay": 0.2, "decoupled_weight_decay": True}
        run.optimizer = kind([coupled, decoupled], lr=0.1)
        run.steps(1, 4)
    check_equal(theirs, ours)
    ours.optimizer.max_norm = 1.0
    with pytest.raises(ValueError, match="max_norm must be None where decoupled_weight_decay"):
        ours.steps(5, 5)


@pytest.mark.parametrize("name", NAMES)
def test_a_rate_may_be_a_tensor(name: str) -> None:
    theirs, ours = both(name, lr=torch.tensor(0.02))
    check_equal(theirs.steps(1, 3), ours.steps(1, 3))
    for run in (theirs, ours):
        run.optimizer.param_groups[0]["lr"].fill_(0.1)
    check_equal(theirs.steps(4, 6), ours.steps(4, 6))


def test_betas_may_be_tensors() -> None:
    betas = (torch.tensor(0.8), torch.tensor(0.95))
    theirs, ours = both("Adam", betas=betas)
    check_equal(theirs.steps(1, 3), ours.steps(1, 3))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("max_norm", [0.5, 3.0, 1e6])
def test_max_norm_is_clip_grad_norm_over_all_groups(name: str, max_norm: float) -> None:
    theirs, ours = both(name)
    for run in (theirs, ours):
        (a, b, c, d), kind = run.params, type(run.optimizer)
        own = {"max_norm": max_norm} if run is ours else {}
        groups = [{"params": [a, b]}, {"params": [c, d], "lr": 0.1}]
        run.optimizer = kind(groups, lr=0.01, **own)
    for step in range(1, 5):
        for run in (theirs, ours):
            give_gradients(run.params, step, [1] if step == 2 else ())
        before = [None if p.grad is None else p.grad.clone() for p in ours.params]
        norm = torch.nn.utils.clip_grad_norm_(theirs.params, max_norm)
        theirs.optimizer.step()
        ours.optimizer.step()
        assert ours.optimizer.grad_norm == pytest.approx(norm.item(), rel=1e-6)
        for p, grad in zip(ours.params, before, strict=True):
            assert p.grad is grad is None or torch.equal(p.grad, grad)
    check_equal(theirs, ours)
    ours.optimizer.max_norm = None
    ours.steps(5, 5)
    assert ours.optimizer.grad_norm is None


def _transposed(p: Any) -> Any:
    return torch.nn.Parameter(p.detach().t().contiguous().t() if p.ndim == 2 else p.detach())


def _strided(p: Any) -> Any:
    wide = torch.zeros([2 * n for n in p.shape], dtype=p.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in p.shape)]
    return torch.nn.Parameter(view.copy_(p.detach()))


@pytest.mark.parametrize("layout", [_transposed, _strided])
@pytest.mark.parametrize("name", NAMES)
def test_parameters_of_any_layout(name: str, layout: Any) -> None:
    theirs, ours = both(name)
    for run in (theirs, ours):
        run.params = [layout(p) for p in run.params]
        run.optimizer = type(run.optimizer)(run.params, **FULL[name])
    assert not ours.params[0].is_contiguous()
    check_equal(theirs.steps(1, 3), ours.steps(1, 3))
    for run in (theirs, ours):  # gradients, too
        run.steps(4, 4)
        for p in run.params:
            p.grad = _strided(p.grad).detach()
        run.optimizer.step()
    check_equal(theirs, ours)


def test_channels_last_and_empty_parameters() -> None:
    theirs, ours = both("Adam")
    for run in (theirs, ours):
        image = torch.arange(48.0).reshape(2, 2, 3, 4).to(memory_format=torch.channels_last)
        run.params = [torch.nn.Parameter(image), torch.nn.Parameter(torch.zeros(0, 3))]
        run.optimizer = type(run.optimizer)(run.params)
    check_equal(theirs.steps(1, 3), ours.steps(1, 3))
    assert ours.optimizer.state[ours.params[0]]["exp_avg"].stride() == ours.params[0].stride()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [*NAMES, "Lion"])
def test_half_precision_is_float32_rounded_once(name: str, dtype: Any) -> None:
    kind = getattr(plugin, name)
    half, wide = Run(kind, parameters(dtype), **FULL[name]), Run(kind, **FULL[name])
    for step in range(1, 5):
        give_gradients(half.params, step)
        for h, w in zip(half.params, wide.params, strict=True):
            w.data.copy_(h.detach())
            w.grad = h.grad.float()
        half.optimizer.step()
        wide.optimizer.step()
        for h, w in zip(half.params, wide.params, strict=True):
            assert torch.equal(h.detach(), w.detach().to(dtype))
            for key, value in half.optimizer.state[h].items():
                assert value.dtype == torch.float32
                assert torch.equal(value, wide.optimizer.state[w][key]), key


def test_dtypes_may_differ_between_parameters() -> None:
    theirs, ours = both("Adam")
    for run in (theirs, ours):
        run.params = [*parameters(torch.float64), *parameters(torch.float32)]
        run.optimizer = type(run.optimizer)(run.params)
    check_equal(theirs.steps(1, 3), ours.steps(1, 3))


@pytest.mark.parametrize("name", NAMES)
def test_large_tensors_and_many(name: str) -> None:
    """States of 4 MiB and more are placed apart; a thousand tensors are bound once."""
    theirs, ours = both(name)
    for run in (theirs, ours):
        run.params = parameters(shapes=[(1 << 20, 1), *[(3,)] * 1000])
        run.optimizer = type(run.optimizer)(run.params)
    check_equal(theirs.steps(1, 2), ours.steps(1, 2))


def test_gradients_whose_memory_holds_the_negated_numbers() -> None:
    theirs, ours = both("Adam")
    for run in (theirs, ours):
        for p in run.params:
            p.grad = torch._neg_view(torch.full_like(p, -0.5))
        assert run.params[0].grad.is_neg()
        run.optimizer.step()
    check_equal(theirs, ours)


def test_gradients_that_autograd_follows() -> None:
    theirs, ours = both("Adam")
    for run in (theirs, ours):
        for _ in range(2):
            run.optimizer.zero_grad()
            loss = sum((p**3).sum() for p in run.params)
            found = torch.autograd.grad(loss, run.params, create_graph=True)
            for p, grad in zip(run.params, found, strict=True):
                p.grad = grad
            run.optimizer.step()
            assert run.params[0].grad.requires_grad
        run.optimizer.zero_grad(set_to_none=False)
        run.optimizer.step()
        for p in run.params:
            p.grad = None  # or the graph holds itself
    check_equal(theirs, ours)


def test_closures_see_gradients_enabled_and_give_the_loss() -> None:
    theirs, ours = both("SGD", lr=0.1)
    for run in (theirs, ours):

        def closure(run: Run = run) -> Any:
            assert torch.is_grad_enabled()
            run.optimizer.zero_grad()
            loss = sum((p**2).sum() for p in run.params)
            loss.backward()
            return loss

        with torch.no_grad():
            losses = [run.optimizer.step(closure).item() for _ in range(3)]
        assert losses[0] > losses[1] > losses[2]
    check_equal(theirs, ours)
