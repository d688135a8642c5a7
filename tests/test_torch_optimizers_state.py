"""The PyTorch plug-in's optimizers in training: checkpoints, schedules, hooks, bad input."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch.optim.optimizer import register_optimizer_step_post_hook  # noqa: E402
from torch_optimizer_cases import (  # noqa: E402
    FULL,
    NAMES,
    SHAPES,
    TOLERANCE,
    Run,
    both,
    check_equal,
    give_gradients,
    parameters,
    scalars_of,
)

import innerloop.plugins.torch as plugin  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_torch_thread")
EVERY = [*NAMES, "Lion"]


def saved(state_dict: Any) -> Any:
    """A state_dict that has been through a file."""
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def copied(run: Run, kind: Any, **options: Any) -> Run:
    """Equal parameters under an optimizer that loads this one's state."""
    params = [torch.nn.Parameter(p.detach().clone()) for p in run.params]
    other = Run(kind, params, **options)
    other.optimizer.load_state_dict(saved(run.optimizer.state_dict()))
    return other


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_moves_both_ways_in_mid_training(name: str, dtype: Any) -> None:
    """Theirs, ours, theirs, ours: as theirs all along. Some parameters lag behind."""
    kinds = (getattr(torch.optim, name), getattr(plugin, name))

    def without(step: int) -> list[int]:
        return [2] if step < 5 else [1] if step % 2 else []

    with scalars_of(dtype):
        always = Run(kinds[0], parameters(dtype), **FULL[name])
        moved = Run(kinds[0], parameters(dtype), **FULL[name])
        for leg in range(4):
            first, last = 3 * leg + 1, 3 * leg + 3
            always.steps(first, last, without)
            moved.steps(first, last, without)
            check_equal(always, moved)
            moved = copied(moved, kinds[(leg + 1) % 2])  # its options come with the state
        check_equal(always.steps(20, 22), moved.steps(20, 22))


@pytest.mark.parametrize("name", EVERY)
def test_our_own_checkpoints_keep_every_bit(name: str) -> None:
    kind = getattr(plugin, name)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        run = Run(kind, parameters(dtype), **FULL[name]).steps(1, 3)
        other = copied(run, kind)
        for go_on in (run, other):
            go_on.steps(4, 6)
        for a, b in zip(run.params, other.params, strict=True):
            assert torch.equal(a, b)
            for key, value in run.optimizer.state[a].items():
                assert value.dtype == torch.float32
                assert torch.equal(value, other.optimizer.state[b][key]), key


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_checkpoints_of_pytorch_are_widened(name: str) -> None:
    """PyTorch rounds what it loads, NAdam's product of momenta among it."""
    kind = getattr(torch.optim, name)
    theirs = copied(Run(kind, parameters(torch.bfloat16), **FULL[name]).steps(1, 2), kind)
    ours = copied(theirs, getattr(plugin, name)).steps(3, 3)
    for p in ours.params:
        for value in ours.optimizer.state[p].values():
            assert value.dtype == torch.float32 and value.isfinite().all()
    back = copied(ours, getattr(torch.optim, name)).steps(4, 4)
    ours.steps(4, 4)
    for a, b in zip(ours.params, back.params, strict=True):
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("how", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_go_on_alike_and_apart(name: str, how: Any) -> None:
    run = Run(getattr(plugin, name), **FULL[name], max_norm=2.0).steps(1, 3)
    twin = copy.copy(run)
    twin.optimizer = how(run.optimizer)
    assert twin.optimizer.max_norm == 2.0 and type(twin.optimizer) is type(run.optimizer)
    twin.params = twin.optimizer.param_groups[0]["params"]
    before = [p.detach().clone() for p in twin.params]
    run.steps(4, 5)
    assert all(map(torch.equal, before, twin.params))
    twin.steps(4, 5)
    for a, b in zip(run.params, twin.params, strict=True):
        assert torch.equal(a, b)


SCHEDULES = [
    lambda o: torch.optim.lr_scheduler.StepLR(o, 2, gamma=0.5),
    lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 6),
    lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
]


@pytest.mark.parametrize("make", SCHEDULES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rate", [0.05, torch.tensor(0.05)])
def test_schedulers(name: str, make: Any, rate: Any) -> None:
    theirs, ours = both(name, lr=rate)
    for run in (theirs, ours):
        scheduler = make(run.optimizer)
        for step in range(1, 8):
            run.steps(step, step)
            scheduler.step()
        assert float(run.optimizer.param_groups[0]["lr"]) < 0.05
    check_equal(theirs, ours)


@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop", "AdamW", "RAdam", "Adamax"])
def test_a_scheduler_that_cycles_momentum(name: str) -> None:
    options = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
    theirs, ours = both(name, lr=0.01, **options)
    for run in (theirs, ours):
        scheduler = torch.optim.lr_scheduler.OneCycleLR(run.optimizer, 0.05, total_steps=10)
        for step in range(1, 10):
            run.steps(step, step)
            scheduler.step()
    check_equal(theirs, ours)


def test_a_scheduler_that_watches_a_metric() -> None:
    theirs, ours = both("Adam", lr=0.1)
    for run in (theirs, ours):
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(run.optimizer, patience=1)
        for step in range(1, 8):
            run.steps(step, step)
            scheduler.step(1.0)
        assert run.optimizer.param_groups[0]["lr"] < 0.1
    check_equal(theirs, ours)


@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("name", EVERY)
def test_grad_scaler_skips_a_step_with_an_infinity(name: str, unscale: bool, fused: Any) -> None:
    """Beside ours without a scaler, which leaves that step out: scales are powers of two."""
    kind, options = getattr(plugin, name), dict(FULL[name])
    takes_fused = name in ("SGD", "Adam", "AdamW", "Adagrad", "Lion")
    if fused and not takes_fused:
        options["foreach"] = True
    elif fused:
        options["fused"] = True
    scaled, plain = Run(kind, **options), Run(kind, **FULL[name])
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    for step in range(1, 6):
        run = scaled
        run.optimizer.zero_grad()
        give_gradients(run.params, step)
        scale = scaler.scale(torch.tensor(1.0)).item()
        for p in run.params:
            p.grad *= scale
        if step == 3:
            run.params[1].grad[0] = float("inf")
        before = [p.detach().clone() for p in run.params]
        if unscale:
            scaler.unscale_(run.optimizer)
        scaler.step(run.optimizer)
        scaler.update()
        if step == 3:
            assert all(map(torch.equal, before, run.params))
        else:
            plain.steps(step, step)
        for a, b in zip(run.params, plain.params, strict=True):
            assert torch.equal(a, b)
    assert scaler.get_scale() == 2048.0
    state = run.optimizer.state[run.params[0]]
    assert state.get("step", 4) == 4


def test_fused_scaling_is_clipped_by_the_unscaled_norm() -> None:
    ours = Run(plugin.SGD, lr=1.0, max_norm=0.5, fused=True)
    plain = Run(plugin.SGD, lr=1.0, max_norm=0.5).steps(1, 1)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    scaler.scale(torch.tensor(1.0))
    give_gradients(ours.params, 1)
    for p in ours.params:
        p.grad *= 64
    scaler.step(ours.optimizer)
    assert ours.optimizer.grad_norm == plain.optimizer.grad_norm > 0.5
    for a, b in zip(ours.params, plain.params, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", EVERY)
def test_hooks_see_the_step_and_the_state(name: str) -> None:
    seen: list[str] = []
    run = Run(getattr(plugin, name))
    optimizer = run.optimizer
    optimizer.register_step_pre_hook(lambda o, args, kwargs: seen.append("before"))
    optimizer.register_step_post_hook(lambda o, args, kwargs: seen.append("after"))
    everywhere = register_optimizer_step_post_hook(
        lambda o, args, kwargs: seen.append(type(o).__name__)
    )
    try:
        run.steps(1, 1)
    finally:
        everywhere.remove()
    assert seen == ["before", "after", name]
    optimizer.register_state_dict_pre_hook(lambda o: seen.append("saving"))
    optimizer.register_state_dict_post_hook(lambda o, d: {**d, "more": 1})
    state = optimizer.state_dict()
    assert state["more"] == 1 and seen[-1] == "saving"

    def rename(o: Any, given: Any) -> Any:
        return {key: value for key, value in given.items() if key != "more"}

    optimizer.register_load_state_dict_pre_hook(rename)
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append("loaded"))
    optimizer.load_state_dict(copy.deepcopy(state))
    assert seen[-1] == "loaded" and len(optimizer._optimizer_load_state_dict_pre_hooks) == 1


def test_tensors_that_are_moved_or_exchanged_are_found() -> None:
    """What was known of a tensor's memory must not outlive a change of it."""
    theirs, ours = both("Adam", amsgrad=True)
    square = (4, 4)
    for run in (theirs, ours):
        run.params = parameters(shapes=[square, (5,)])
        run.optimizer = type(run.optimizer)(run.params, amsgrad=True)
        p, q = run.params
        state = run.optimizer.state
        run.steps(1, 2)
        p.data = p.data.clone()
        run.steps(3, 3)
        p.data = p.data.t()  # the same memory
        run.steps(4, 4)
        q.data = torch.ones(5)
        state[p]["exp_avg"] = torch.full(square, 0.5)
        run.steps(5, 5)
        state[q]["exp_avg_sq"].data = torch.full((5,), 2.0)
        state[q]["step"].fill_(30.0)
        run.steps(6, 6)
        state[p]["max_exp_avg_sq"].share_memory_()
        p.data.share_memory_()
        run.steps(7, 7)
        state[p] = {k: v.clone() for k, v in state[p].items()}
        run.steps(8, 8)
        run.optimizer.param_groups[0]["params"].reverse()
        run.steps(9, 9)
        del state[q]
        run.steps(10, 10)
        state.clear()
        run.steps(11, 11)
    check_equal(theirs, ours)


def test_states_that_come_to_be_needed_later() -> None:
    theirs, ours = both("SGD", lr=0.1)
    for run in (theirs, ours):
        run.steps(1, 2)
        run.optimizer.param_groups[0]["momentum"] = 0.9
        run.steps(3, 4)
        run.optimizer.param_groups[0]["momentum"] = 0.0
        run.steps(5, 5)
    check_equal(theirs, ours)


def test_adagrad_shares_its_states() -> None:
    theirs, ours = both("Adagrad", **FULL["Adagrad"])
    for run in (theirs, ours):
        run.steps(1, 1)
        run.optimizer.share_memory()
        run.steps(2, 3)
        assert run.optimizer.state[run.params[0]]["sum"].is_shared()
    check_equal(theirs, ours)


def test_going_back_through_older_parameters_is_refused() -> None:
    w = torch.nn.Parameter(torch.tensor([2.0, 3.0]))
    x = torch.ones(2, requires_grad=True)
    optimizer = plugin.SGD([w], lr=0.1)
    loss = (w * x).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.fixture
def mesh(tmp_path: Any) -> Any:
    """A mesh of one process."""
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_available():
        pytest.skip("this PyTorch was built without torch.distributed")
    store = f"file://{tmp_path / 'store'}"
    distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield distributed.device_mesh.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.mark.parametrize("name", EVERY)
def test_distributed_tensors_are_stepped_where_they_lie(name: str, mesh: Any) -> None:
    from torch.distributed.tensor import DTensor, distribute_tensor

    kind = getattr(plugin, name)
    for dtype in (torch.float32, torch.bfloat16):
        plain = Run(kind, parameters(dtype, SHAPES[:2]), **FULL[name])
        shared = [distribute_tensor(p.detach().clone(), mesh) for p in plain.params]
        shared = [torch.nn.Parameter(d) for d in shared]
        optimizer = kind(shared, **FULL[name])
        for step in range(1, 4):
            plain.steps(step, step)
            for p, d in zip(plain.params, shared, strict=True):
                d.grad = distribute_tensor(p.grad, mesh)
            optimizer.step()
        for p, d in zip(plain.params, shared, strict=True):
            assert torch.equal(p, d.full_tensor())
            states = plain.optimizer.state[p]
            assert states.keys() == optimizer.state[d].keys()
            for key in states.keys() - {"step", "mu_product"}:
                held = optimizer.state[d][key]
                assert isinstance(held, DTensor) and torch.equal(held.full_tensor(), states[key])


def test_a_compiled_step_runs_as_it_is() -> None:
    pytest.importorskip("torch._dynamo")
    theirs, ours = both("Adam")
    step = torch.compile(ours.optimizer.step, backend="eager")
    for i in range(1, 4):
        give_gradients(ours.params, i)
        step()
        theirs.steps(i, i)
    check_equal(theirs, ours)


@pytest.mark.parametrize("name", EVERY)
def test_sparse_gradients_are_refused_and_nothing_changes(name: str) -> None:
    for made in (0, 2):
        run = Run(getattr(plugin, name), **FULL[name]).steps(1, made)
        give_gradients(run.params, 9)
        before = copy.deepcopy([run.params, run.optimizer.state_dict()])
        run.params[1].grad = torch.zeros(7).to_sparse()
        with pytest.raises(RuntimeError, match=r"sparse.*\['params'\]\[1\]"):
            run.optimizer.step()
        _unchanged(run, before)


def _unchanged(run: Run, before: Any) -> None:
    assert all(map(torch.equal, run.params, before[0]))
    state, was = run.optimizer.state_dict()["state"], before[1]["state"]
    assert state.keys() == was.keys()
    for i, states in was.items():
        assert state[i].keys() == states.keys()
        assert all(torch.equal(state[i][key], value) for key, value in states.items())


def _fake(p: Any) -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(allow_non_fake_inputs=True).from_tensor(p)


BAD = {
    "a meta tensor": (lambda: torch.zeros(3, device="meta"), TypeError, "params"),
    "a fake tensor": (lambda: _fake(torch.zeros(3)), TypeError, "params"),
    "expanded": (lambda: torch.zeros(1).expand(3), ValueError, "params"),
    "negated": (lambda: torch.zeros(3, dtype=torch.complex64).conj().imag, TypeError, "negated"),
}


@pytest.mark.parametrize("kind", BAD)
def test_parameters_that_cannot_be_stepped(kind: str) -> None:
    make, error, match = BAD[kind]
    good, bad = torch.ones(3, requires_grad=True), make().requires_grad_()
    good.grad, bad.grad = torch.ones(3), torch.ones_like(bad)
    for options in ({}, {"momentum": 0.9}):
        with pytest.raises(error, match=match):
            plugin.SGD([good, bad], lr=0.1, **options).step()
        assert torch.equal(good, torch.ones(3))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_parameters_are_refused(dtype: Any) -> None:
    optimizer = plugin.Adam(parameters())
    bad = torch.zeros(2, dtype=dtype, requires_grad=True)
    for refuse in (lambda: plugin.Adam([bad]), lambda: optimizer.add_param_group({"params": bad})):
        with pytest.raises(TypeError, match=f"real floating dtype, got {dtype}"):
            refuse()
    assert len(optimizer.param_groups) == 1


def test_states_that_do_not_fit_are_refused_before_anything_is_written() -> None:
    for key, value, error in [
        ("exp_avg", torch.zeros(4), ValueError),
        ("exp_avg_sq", torch.zeros(7, dtype=torch.float64), TypeError),
        ("exp_avg", torch.zeros(7, dtype=torch.int32), TypeError),
        ("exp_avg", torch.zeros(7).to_sparse(), TypeError),
        ("exp_avg", [0.0] * 7, TypeError),
        ("step", torch.zeros(2), ValueError),
        ("step", 3, TypeError),
    ]:
        run = Run(plugin.Adam).steps(1, 2)
        before = [p.detach().clone() for p in run.params]
        run.optimizer.state[run.params[1]][key] = value
        with pytest.raises(error, match=key):
            run.steps(3, 3)
        assert all(map(torch.equal, before, run.params))
        assert run.optimizer.state[run.params[0]]["step"] == 2


def test_memory_that_two_parameters_share_is_refused() -> None:
    p = torch.nn.Parameter(torch.ones(4))
    q = torch.nn.Parameter(p.detach()[1:3])
    optimizer = plugin.SGD([p, q], lr=0.1)
    for t in (p, q):
        t.grad = torch.ones_like(t)
    with pytest.raises(ValueError, match="overlap"):
        optimizer.step()
    assert torch.equal(p, torch.ones(4))


@pytest.mark.parametrize("name", EVERY)
def test_options_that_innerloop_lacks_are_named(name: str) -> None:
    kind = getattr(plugin, name)
    with pytest.raises(NotImplementedError, match="differentiable must be False"):
        kind(parameters(), differentiable=True)
    with pytest.raises(ValueError, match="max_norm"):
        kind(parameters(), max_norm=-1.0)
    with pytest.raises(TypeError, match="max_norm"):
        kind(parameters(), max_norm="1")
    with pytest.raises(ValueError, match="max_norm, which holds for all"):
        kind([{"params": parameters(), "max_norm": 1.0}])
    with pytest.raises(ValueError, match="lr"):
        kind(parameters(), lr=float("inf"))
    run = Run(kind)
    run.optimizer.param_groups[0]["differentiable"] = True
    with pytest.raises(NotImplementedError, match="differentiable"):
        run.steps(1, 1)
    if name in ("SGD", "Adam", "AdamW", "Adagrad", "Lion"):
        with pytest.raises(RuntimeError, match="fused"):
            kind(parameters(), fused=True, foreach=True)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "RMSprop", "Adadelta", "Adamax", "NAdam"])
def test_a_checkpoint_of_a_captured_optimizer_goes_on(name: str) -> None:
    plain, ours = Run(getattr(plugin, name)).steps(1, 3), Run(getattr(plugin, name))
    state = Run(getattr(torch.optim, name)).steps(1, 2).optimizer.state_dict()
    state["param_groups"][0]["capturable"] = True
    ours.steps(1, 2).optimizer.load_state_dict(state)
    ours.steps(3, 3)
    for a, b in zip(plain.params, ours.params, strict=True):
        torch.testing.assert_close(a, b)


def test_nadam_refuses_a_product_of_momenta_that_is_not_its_own() -> None:
    run = Run(plugin.NAdam).steps(1, 2)
    before = copy.deepcopy([run.params, run.optimizer.state_dict()])
    run.optimizer.param_groups[0]["betas"] = (0.8, 0.999)
    with pytest.raises(ValueError, match="betas and momentum_decay"):
        run.steps(3, 3)
    _unchanged(run, before)
    run.optimizer.param_groups[0]["betas"] = (0.9, 0.999)
    run.steps(3, 60)
    run.optimizer.param_groups[0]["betas"] = (0.8, 0.999)  # by now nothing is left of the product
    run.steps(61, 61)
