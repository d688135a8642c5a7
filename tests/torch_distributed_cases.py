"""What test_torch_distributed.py asks of two processes, each of which runs this file.

Each case is called in both, alone with the other over gloo on the loopback device, and compares
what they make of a batch, half of which each has, with what one process makes of all of it. All run
in one start, which takes longer than the cases do.

    python torch_distributed_cases.py RANK FOLDER
"""

from __future__ import annotations

import copy
import functools
import json
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch_optimizer_cases import FULL

import innerloop as il
import innerloop.plugins.torch as plugin

WORLD, ROWS, STEPS = 2, 8, 4
CASES: dict[str, Callable[[int, Path], None]] = {}
modules: Any = plugin.modules


class Skip(Exception):
    """What this PyTorch cannot do on the CPU over gloo, and why."""


def case(function: Callable[[int, Path], None]) -> Callable[[int, Path], None]:
    CASES[function.__name__] = function
    return function


def network(library: Any = modules, out: int = 5) -> Any:
    """Of two blocks, with shapes that do not halve evenly; of the same numbers every time."""
    torch.manual_seed(0)
    first = library.Sequential(library.Linear(6, 9), library.GELU(), library.LayerNorm(9))
    second = library.Sequential(library.Linear(9, 7), library.Tanh(), library.Linear(7, out))
    return library.Sequential(first, second).double()


def batch(step: int, rank: int | None = None) -> tuple[Any, Any]:
    """All of its rows, or those of a process."""
    generator = torch.Generator().manual_seed(100 + step)
    x = torch.randn(ROWS, 6, generator=generator, dtype=torch.float64)
    y = torch.randint(5, (ROWS,), generator=generator)
    rows = slice(None) if rank is None else slice(rank, None, WORLD)
    return x[rows], y[rows]


def train(
    model: Any, optimizer: Any, rank: int | None = None, first: int = 0, steps: int = STEPS
) -> Any:
    """The losses. Gradients of the last step stay, for who wants to see them."""
    lossy = modules.CrossEntropyLoss()
    losses = []
    for step in range(first, first + steps):
        optimizer.zero_grad()
        x, y = batch(step, rank)
        loss = lossy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def whole(tensor: Any) -> Any:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def close(have: Any, want: Any) -> None:
    """To rounding; NaN is equal to NaN."""
    torch.testing.assert_close(whole(have), whole(want), rtol=1e-9, atol=1e-11, equal_nan=True)


def same_parameters(have: Any, want: Any) -> None:
    for ours, theirs in zip(have.parameters(), want.parameters(), strict=True):
        close(ours.detach(), theirs.detach())


def same_states(have: Any, want: Any) -> None:
    """Of two state_dicts of optimizers, by the names of their parameters or their numbers."""
    assert list(have["state"]) == list(want["state"])
    for name, states in want["state"].items():
        assert set(have["state"][name]) == set(states)
        for key, value in states.items():
            close(have["state"][name][key], value)


def identical_everywhere(model: Any) -> None:
    """Bit for bit."""
    for parameter in model.parameters():
        mine = parameter.detach()
        everyone = [torch.empty_like(mine) for _ in range(WORLD)]
        dist.all_gather(everyone, mine)
        assert all(torch.equal(mine, other) for other in everyone)


def refused(kind: type[Exception], words: str, call: Callable[[], Any]) -> None:
    try:
        call()
    except kind as error:
        assert words in str(error), error
    else:
        raise AssertionError(f"it was to be refused: {words}")


# DistributedDataParallel


def ddp(rank: int, library: Any, make: Callable[[Any], Any], **options: Any) -> tuple[Any, Any]:
    """The optimizers of two processes and of one, whose parameters are found to be equal."""
    model = nn.parallel.DistributedDataParallel(network(), **options)
    alone = network(library)
    optimizer, single = make(model.parameters()), make(alone.parameters())
    losses = train(model, optimizer, rank)
    expected = train(alone, single)
    dist.all_reduce(losses)
    close(losses / WORLD, expected)
    same_parameters(model, alone)
    identical_everywhere(model)
    same_states(optimizer.state_dict(), single.state_dict())
    return optimizer, single


@case
def ddp_adam(rank: int, folder: Path) -> None:
    for options in ({}, {"gradient_as_bucket_view": True}, {"static_graph": True}):
        ddp(rank, modules, lambda params: plugin.Adam(params, lr=0.01), **options)


@case
def ddp_beside_pytorch(rank: int, folder: Path) -> None:
    """Its own modules and optimizer, in one process."""
    model = network(nn)
    report = plugin.accelerate(model)
    assert len(report.changed) == 6 and len(report.fused) == 2, report
    model = nn.parallel.DistributedDataParallel(model)
    alone = network(nn)
    optimizer = plugin.Adam(model.parameters(), lr=0.01)
    single = torch.optim.Adam(alone.parameters(), lr=0.01)
    train(model, optimizer, rank)
    train(alone, single)
    same_parameters(model, alone)
    identical_everywhere(model)


@case
def ddp_max_norm(rank: int, folder: Path) -> None:
    """Every process sees all of the gradients, so each clips them alone."""

    def make(params: Any) -> Any:
        return plugin.SGD(params, lr=0.1, momentum=0.9, max_norm=0.05)

    optimizer, single = ddp(rank, modules, make)
    assert optimizer.grad_norm > 0.1
    close(torch.tensor(optimizer.grad_norm), torch.tensor(single.grad_norm))


@case
def ddp_accumulates(rank: int, folder: Path) -> None:
    """Two batches to a step, with one sum over the processes."""
    model, alone = nn.parallel.DistributedDataParallel(network()), network()
    optimizer, single = [plugin.Adam(m.parameters(), lr=0.01) for m in (model, alone)]
    lossy = modules.CrossEntropyLoss()
    for first in (0, 2):
        with model.no_sync():
            x, y = batch(first, rank)
            lossy(model(x), y).backward()
        x, y = batch(first + 1, rank)
        lossy(model(x), y).backward()
        for step in (first, first + 1):
            x, y = batch(step)
            lossy(alone(x), y).backward()
        for each in (optimizer, single):
            each.step()
            each.zero_grad()
    same_parameters(model, alone)
    identical_everywhere(model)


@case
def ddp_fused_last_layer(rank: int, folder: Path) -> None:
    """LinearCrossEntropyLoss is a module with parameters: it is the one that DDP wraps."""
    torch.manual_seed(1)
    alone = modules.LinearCrossEntropyLoss(6, 5, bias=True).double()
    model = nn.parallel.DistributedDataParallel(copy.deepcopy(alone))
    for m, its_rank in ((model, rank), (alone, None)):
        optimizer = plugin.RMSprop(m.parameters(), lr=0.01)
        for step in range(STEPS):
            optimizer.zero_grad()
            m(*batch(step, its_rank)).backward()
            optimizer.step()
    same_parameters(model, alone)
    identical_everywhere(model)


# ZeroRedundancyOptimizer


def zero(params: Any, name: str, **options: Any) -> Any:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    kind = getattr(plugin, name)
    return ZeroRedundancyOptimizer(params, optimizer_class=kind, **options)


@case
def zero_every_optimizer(rank: int, folder: Path) -> None:
    for name, options in FULL.items():
        model, alone = nn.parallel.DistributedDataParallel(network()), network()
        optimizer = zero(model.parameters(), name, **options)
        held = sum(len(group["params"]) for group in optimizer.optim.param_groups)
        assert 0 < held < len(list(model.parameters()))
        single = getattr(plugin, name)(alone.parameters(), **options)
        train(model, optimizer, rank)
        train(alone, single)
        same_parameters(model, alone)
        identical_everywhere(model)
        optimizer.consolidate_state_dict(to=0)
        if rank == 0:
            same_states(optimizer.state_dict(), single.state_dict())


@case
def zero_goes_on_from_a_checkpoint(rank: int, folder: Path) -> None:
    """In one process, with PyTorch's optimizer, and back in two."""
    model, alone = nn.parallel.DistributedDataParallel(network()), network()
    options = FULL["Adam"]
    optimizer = zero(model.parameters(), "Adam", parameters_as_bucket_view=True, **options)
    single = torch.optim.Adam(alone.parameters(), **options)
    train(model, optimizer, rank)
    optimizer.consolidate_state_dict(to=0)
    held: list[Any] = [optimizer.state_dict() if rank == 0 else None]
    dist.broadcast_object_list(held)
    alone.load_state_dict(model.module.state_dict())
    single.load_state_dict(copy.deepcopy(held[0]))
    train(alone, single, first=STEPS)
    again = zero(model.parameters(), "Adam", **options)
    again.load_state_dict(copy.deepcopy(held[0]))
    train(model, again, rank, first=STEPS)
    same_parameters(model, alone)
    identical_everywhere(model)


@case
def zero_groups_and_an_idle_process(rank: int, folder: Path) -> None:
    """Groups of their own numbers; a parameter for one process only; a change of the rate."""
    torch.manual_seed(2)
    start = [torch.randn(3, dtype=torch.float64) for _ in range(3)]
    made = []
    for shared in (True, False):
        params = [nn.Parameter(s.clone()) for s in start]
        if shared:
            optimizer = zero(params[:1], "Adam", lr=0.1)
        else:
            optimizer = plugin.Adam(params[:1], lr=0.1)
        if rank == 1 and shared:
            assert not optimizer.optim.param_groups[0]["params"]
        for step in range(3):
            if step == 1:
                optimizer.add_param_group({"params": params[1:], "lr": 0.01})
            if step == 2:
                optimizer.param_groups[0]["lr"] = 0.5
            for p in params:
                p.grad = torch.linspace(1, step + 2, 3, dtype=torch.float64)
            optimizer.step()
        made.append(params)
    for ours, alone in zip(*made, strict=True):
        close(ours.detach(), alone.detach())


@case
def zero_refuses_max_norm(rank: int, folder: Path) -> None:
    """A process has but some of the tensors, and would clip by their norm alone."""
    params = [nn.Parameter(torch.ones(3)) for _ in range(4)]
    refused(ValueError, "max_norm", lambda: zero(params, "Adam", max_norm=1.0))


# FSDP2


@functools.cache
def fully_shard() -> Any:
    try:
        from torch.distributed.fsdp import fully_shard
    except ImportError:
        raise Skip("this PyTorch has no torch.distributed.fsdp.fully_shard") from None
    try:
        scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
        scatter(torch.empty(1), torch.ones(WORLD))
    except (RuntimeError, ValueError) as error:
        raise Skip(f"gloo has no reduce_scatter here, which FSDP2 needs: {error}") from None
    return fully_shard


def shard(model: Any) -> Any:
    """Each block and the rest of it."""
    for block in model:
        fully_shard()(block)
    return fully_shard()(model)


def checkpointing() -> Any:
    from torch.distributed.checkpoint import state_dict

    return state_dict


def states_of(model: Any, optimizer: Any) -> Any:
    """By parameters' names, each state whole."""
    how = checkpointing().StateDictOptions(full_state_dict=True)
    return checkpointing().get_optimizer_state_dict(model, optimizer, options=how)


@case
def fsdp_every_optimizer(rank: int, folder: Path) -> None:
    for name, options in FULL.items():
        model, alone = shard(network()), network()
        optimizer = getattr(plugin, name)(model.parameters(), **options)
        single = getattr(plugin, name)(alone.parameters(), **options)
        losses = train(model, optimizer, rank)
        expected = train(alone, single)
        dist.all_reduce(losses)
        close(losses / WORLD, expected)
        same_parameters(model, alone)
        for each in (optimizer, single):  # whose numbers lie elsewhere from now on
            each.load_state_dict(copy.deepcopy(each.state_dict()))
        train(model, optimizer, rank, first=STEPS)
        train(alone, single, first=STEPS)
        same_parameters(model, alone)
        same_states(states_of(model, optimizer), states_of(alone, single))
        for p in model.parameters():
            for key, state in optimizer.state[p].items():
                if key in ("step", "mu_product"):
                    assert type(state) is torch.Tensor and not state.ndim
                else:
                    assert type(state) is type(p) and state.placements == p.placements
                    assert state.shape == p.shape


@case
def fsdp_beside_pytorch(rank: int, folder: Path) -> None:
    """FSDP2 over a model that was accelerated, and PyTorch's own in one process."""
    model, alone = network(nn), network(nn)
    assert len(plugin.accelerate(model).fused) == 2
    shard(model)
    assert isinstance(model[0], modules.Sequential)
    optimizer = plugin.AdamW(model.parameters(), lr=0.01)
    single = torch.optim.AdamW(alone.parameters(), lr=0.01)
    train(model, optimizer, rank)
    train(alone, single)
    same_parameters(model, alone)
    same_states(states_of(model, optimizer), states_of(alone, single))
    late = network(nn)
    shard(late)
    kept = plugin.accelerate(late).kept
    assert "DTensor" in kept["0.0"], kept


@case
def fsdp_goes_on_from_a_checkpoint(rank: int, folder: Path) -> None:
    """Written by ours in two processes, read by PyTorch's, and the other way round."""
    import torch.distributed.checkpoint as dcp

    kinds = (plugin.Adam, torch.optim.Adam)
    options = FULL["Adam"]
    for number, (writer, reader) in enumerate((kinds, kinds[::-1])):
        alone = network()
        train(alone, plugin.Adam(alone.parameters(), **options), steps=2 * STEPS)
        model = shard(network())
        optimizer = writer(model.parameters(), **options)
        train(model, optimizer, rank)
        place = folder / f"checkpoint{number}"
        names = ("model", "optimizer")
        states = checkpointing().get_state_dict(model, optimizer)
        dcp.save(dict(zip(names, states, strict=True)), checkpoint_id=place)
        again = shard(network())
        other = reader(again.parameters(), **options)
        held = dict(zip(names, checkpointing().get_state_dict(again, other), strict=True))
        dcp.load(held, checkpoint_id=place)
        checkpointing().set_state_dict(
            again, other, model_state_dict=held["model"], optim_state_dict=held["optimizer"]
        )
        train(again, other, rank, first=STEPS)
        same_parameters(again, alone)


@case
def fsdp_max_norm(rank: int, folder: Path) -> None:
    """The norm is that of the gradients of both; a bias of one element is in one of them."""
    for name, max_norm in (("SGD", 0.05), ("Adam", 0.05), ("SGD", 1e6), ("SGD", 0.0)):
        options = {**FULL[name], "max_norm": max_norm}
        made = []
        for model, its_rank in ((shard(network(out=1)), rank), (network(out=1), None)):
            optimizer = getattr(plugin, name)(model.parameters(), **options)
            for step in range(STEPS):
                optimizer.zero_grad()
                model(batch(step, its_rank)[0]).square().mean().backward()
                optimizer.step()
            made.append((model, optimizer))
        (model, optimizer), (alone, single) = made
        assert (optimizer.grad_norm > 0.05) and (
            rank == 0 or not model[1][2].bias.to_local().numel()
        )
        close(torch.tensor(optimizer.grad_norm), torch.tensor(single.grad_norm))
        same_parameters(model, alone)


@case
def fsdp_scaled_losses(rank: int, folder: Path) -> None:
    """GradScaler: overflow in one process is overflow in both, and the step is left out."""
    for fused in (None, True):
        made = []
        for model, its_rank in ((shard(network()), rank), (network(), None)):
            optimizer = plugin.Adam(model.parameters(), lr=0.01, max_norm=0.05, fused=fused)
            scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
            for step in range(STEPS):
                optimizer.zero_grad()
                x, y = batch(step, its_rank)
                scaler.scale(modules.CrossEntropyLoss()(model(x), y)).backward()
                if step == 1:
                    last = model[1][2].weight.grad
                    share = last.to_local() if its_rank is not None else last
                    if its_rank != 0:
                        share[-1, -1] = float("inf")
                scaler.step(optimizer)
                scaler.update()
            assert scaler.get_scale() == 4.0
            made.append((model, optimizer))
        (model, optimizer), (alone, single) = made
        same_parameters(model, alone)
        close(torch.tensor(optimizer.grad_norm), torch.tensor(single.grad_norm))


@case
def fsdp_half_precision(rank: int, folder: Path) -> None:
    """Computed in bfloat16 for float32 parameters: near PyTorch's, which rounds elsewhere."""
    shard(network())  # skips
    from torch.distributed.fsdp import MixedPrecisionPolicy

    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    found: list[list[Any]] = []
    for library, kind in ((modules, plugin.SGD), (nn, torch.optim.SGD)):
        model = network(library).float()
        fully_shard()(model, mp_policy=policy)
        optimizer = kind(model.parameters(), lr=0.1)
        train(model, optimizer, rank)
        assert all(p.dtype == torch.float32 for p in model.parameters())
        found.append([whole(p.detach()) for p in model.parameters()])
    start = [p.detach().float() for p in network().parameters()]
    for ours, theirs, before in zip(*found, start, strict=True):
        moved = (theirs - before).abs().max()
        assert (ours - theirs).abs().max() < 0.1 * moved


# DTensors


@functools.cache
def dtensor() -> Any:
    try:
        import torch.distributed.tensor as module
    except ImportError:
        raise Skip("this PyTorch has no public torch.distributed.tensor") from None
    return module


def placed(tensor: Any, mesh: Any, *placements: Any) -> Any:
    return dtensor().distribute_tensor(tensor, mesh, placements)


@case
def dtensor_placements(rank: int, folder: Path) -> None:
    """What is spread, what is on all alike, and plain tensors, in one step and in one norm."""
    t = dtensor()
    spread, split, everywhere = t.Shard(0), t.Shard(1), t.Replicate()
    one = dist.device_mesh.init_device_mesh("cpu", (WORLD,))
    two = dist.device_mesh.init_device_mesh("cpu", (1, WORLD), mesh_dim_names=("a", "b"))
    torch.manual_seed(3)
    values = [torch.randn(5, 3, dtype=torch.float64) for _ in range(6)]
    grads = [torch.randn(5, 3, dtype=torch.float64) for _ in range(6)]
    where = [(one, spread), (one, split), (one, everywhere), (two, everywhere, split), None, None]

    def place(tensor: Any, there: Any) -> Any:
        return tensor.clone() if there is None else placed(tensor, *there)

    for max_norm in (None, 0.5, 100.0):
        ours = [nn.Parameter(place(v, w)) for v, w in zip(values, where, strict=True)]
        alone = [nn.Parameter(v.clone()) for v in values]
        optimizer, single = [plugin.Adam(p, lr=0.1, max_norm=max_norm) for p in (ours, alone)]
        for step in range(STEPS):
            if step == 2:  # their numbers lie elsewhere from now on
                for p in ours:
                    p.data = p.data.clone()
            for p, q, grad, there in zip(ours, alone, grads, where, strict=True):
                p.grad, q.grad = place(grad, there), grad.clone()
            optimizer.step()
            single.step()
        for p, q in zip(ours, alone, strict=True):
            close(p.detach(), q.detach())
        if max_norm is not None:
            close(torch.tensor(optimizer.grad_norm), torch.tensor(single.grad_norm))


@case
def dtensor_gradients_not_all_there(rank: int, folder: Path) -> None:
    """Sums still to be made, other places than the parameter's; a gradient in one process only."""
    t = dtensor()
    mesh = dist.device_mesh.init_device_mesh("cpu", (WORLD,))
    full = torch.arange(12.0, dtype=torch.float64).reshape(4, 3)
    addends = t.DTensor.from_local(full * (rank + 1), mesh, [t.Partial()])
    for grad, sum_of_it in ((addends, full * 3), (placed(full, mesh, t.Replicate()), full)):
        p = nn.Parameter(placed(torch.ones(4, 3, dtype=torch.float64), mesh, t.Shard(0)))
        p.grad = grad
        optimizer = plugin.SGD([p], lr=0.1, max_norm=2.0)
        optimizer.step()
        norm = sum_of_it.norm()
        close(torch.tensor(optimizer.grad_norm, dtype=torch.float64), norm)
        close(p.detach(), 1 - 0.1 * sum_of_it * 2 / (norm + 1e-6))
    plain = nn.Parameter(torch.ones(2))
    p = nn.Parameter(placed(torch.ones(4), mesh, t.Shard(0)))
    plain.grad = torch.full((2,), 0.75)
    if rank == 0:
        p.grad = t.DTensor.from_local(torch.ones(2), mesh, [t.Shard(0)])
    optimizer = plugin.SGD([plain, p], lr=0.1, max_norm=1.0)
    optimizer.step()
    assert abs(optimizer.grad_norm - (2 * 0.75**2 + 2) ** 0.5) < 1e-6


@case
def dtensor_norms_without_end(rank: int, folder: Path) -> None:
    """A NaN, an infinity or a huge number in one process clips in both as it does in one."""
    t = dtensor()
    mesh = dist.device_mesh.init_device_mesh("cpu", (WORLD,))
    half = torch.bfloat16
    for dtype in (torch.float64, torch.float32, half):
        for number in (float("nan"), float("inf"), 1e30, 1e100):
            if dtype != torch.float64 and number == 1e100:
                continue
            for max_norm in (0.5, 1e-12):
                grad = torch.ones(4, dtype=dtype)
                grad[0] = number  # is the first process'
                ours = nn.Parameter(placed(torch.ones(4, dtype=dtype), mesh, t.Shard(0)))
                alone = nn.Parameter(torch.ones(4, dtype=dtype))
                ours.grad, alone.grad = placed(grad, mesh, t.Shard(0)), grad.clone()
                for p in (ours, alone):
                    optimizer = plugin.SGD([p], lr=1.0, max_norm=max_norm)
                    optimizer.step()
                have, want = whole(ours.detach()), alone.detach()
                if number == 1e100 or dtype == torch.float64:
                    close(have, want)
                else:
                    torch.testing.assert_close(have, want, equal_nan=True)
                assert torch.equal(whole(ours.grad).isnan(), grad.isnan())  # not rewritten


@case
def dtensor_refusals(rank: int, folder: Path) -> None:
    t = dtensor()
    mesh = dist.device_mesh.init_device_mesh("cpu", (WORLD,))
    p = nn.Parameter(placed(torch.ones(4, 3), mesh, t.Shard(0)))
    x = torch.ones(2, 3)
    refused(TypeError, "weight must not be a DTensor", lambda: plugin.ops.linear(x, p))
    everywhere = placed(x, mesh, t.Replicate())
    refused(TypeError, "x must not be a DTensor", lambda: plugin.ops.activation(everywhere, "relu"))
    with torch.autocast("cpu", torch.bfloat16):
        refused(TypeError, "weight must not be a DTensor", lambda: plugin.ops.linear(x, p))
    refused(TypeError, "must not be a DTensor", lambda: modules.CrossEntropyLoss()(everywhere, x))
    optimizer = plugin.Adam([p], lr=0.1, max_norm=1.0)
    optimizer.max_norm = -1.0
    p.grad = placed(torch.ones(4, 3), mesh, t.Shard(0))
    refused(ValueError, "max_norm", optimizer.step)
    optimizer.max_norm = None
    other = dist.device_mesh.init_device_mesh("cpu", (1, WORLD))
    p.grad = placed(torch.ones(4, 3), other, t.Replicate(), t.Shard(0))
    refused(ValueError, "device mesh", optimizer.step)
    assert torch.equal(whole(p.detach()), torch.ones(4, 3)) and not optimizer.state


def main() -> None:
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    il.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), WORLD)
    wait = timedelta(seconds=20)  # for a process that failed
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORLD, timeout=wait)
    results: dict[str, str] = {}
    for name, function in CASES.items():
        try:
            function(rank, folder)
            results[name] = ""
        except Skip as reason:
            results[name] = f"skip {reason}"
        except BaseException:
            # The other one waits for what this one left out, so no case after it means anything.
            results[name] = traceback.format_exc()
            break
        finally:
            (folder / f"{rank}.json").write_text(json.dumps(results))
    if all(not r or r.startswith("skip") for r in results.values()):
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
