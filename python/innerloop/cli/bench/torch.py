"""The PyTorch plug-in: training steps, optimizers, and what the call of an operator costs.

Both sides of a case are PyTorch programs over the same autograd. A training step is eager with
innerloop's modules and Adam; beside it eager with PyTorch's fused Adam, and the same with forward
pass, loss and backward pass compiled.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from innerloop import reference

from .harness import Case, Make, agree
from .linear_cross_entropy import megabytes
from .operations import operations
from .peers import Calls, Peers

SIZES, BATCH = (784, 512, 512, 10), 128
LANGUAGE = {"vocabulary": 32000, "width": 256, "heads": 4, "layers": 2, "context": 128}
SEQUENCES = 8
QUICK_LANGUAGE = {"vocabulary": 50, "width": 16, "heads": 2, "layers": 1, "context": 6}
OPTIMIZERS = ("RMSprop", "Adadelta", "Adamax", "Adam")
PARAMETERS = ((4, 8_000_000), (8, 1_000_000), (1_000, 10_000))  # tensors, elements of each
FORMS: dict[str, dict[str, bool]] = {
    "default": {},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
MLP, LM = "an MLP's training step", "a language model's training step"
STEP, CALL = "optimizer's step", "a call for 8 numbers"
LR = 1e-3
CHECKED = 3  # training steps that are compared before any is timed


def cases(beside: Peers, quick: bool) -> Iterator[Make]:
    """Yield the training steps, the optimizers, the calls; nothing where PyTorch is missing."""
    if importlib.util.find_spec("torch") is None:
        return
    yield functools.partial(_mlp, beside, (6, 5, 4) if quick else SIZES, 3 if quick else BATCH)
    shape, sequences = (QUICK_LANGUAGE, 2) if quick else (LANGUAGE, SEQUENCES)
    yield functools.partial(_language_model, beside, shape, sequences)
    for count, each in ((2, 100), (5, 10)) if quick else PARAMETERS:
        for name in OPTIMIZERS:
            yield functools.partial(_optimizer, beside, name, count, each)
    for gradients, name in itertools.product(GRADIENTS, _operators()):
        yield functools.partial(_call, beside, name, gradients)


def _flops(name: str) -> float:
    """Return the operations of an optimizer's step, for each parameter."""
    entry = reference.OPTIMIZERS[name]
    arrays = [np.linspace(1, 2, 100, dtype=np.float32) for _ in range(2)]
    states = [
        np.ones(100, np.float32) if s in entry.needed_states() else None for s in entry.states
    ]
    return operations(entry.function, *arrays, *states, step=10, lr=LR)


# Training -----------------------------------------------------------------------------------------


def _training(model: Any, loss: Any, optimizer: Any, x: Any, y: Any) -> Callable[[], Any]:
    """Return what makes a step of `optimizer` and returns `loss(x, y)` before it."""

    def step() -> Any:
        optimizer.zero_grad()
        value = loss(x, y)
        value.backward()
        optimizer.step()
        return value.detach()

    return step


def _case(
    beside: Peers, name: str, group: str, ours: Any, theirs: Any, x: Any, y: Any, flops: float
) -> Case:
    """Return the case of a model and PyTorch's form of it, which have the same parameters."""
    from innerloop.plugins import torch as plugin

    run = _training(ours, ours, plugin.Adam(ours.parameters(), LR), x, y)
    peers: Calls = {}
    if beside.torch is not None:
        adam = functools.partial(beside.torch.optim.Adam, lr=LR, fused=True)
        model = copy.deepcopy(theirs)
        peers["torch fused"] = _training(model, model, adam(model.parameters()), x, y)
        model = copy.deepcopy(theirs)
        compiled = beside.compiled(model, x, y)
        if compiled is not None:  # which has no truth value
            peers["torch compiled"] = _training(model, compiled, adam(model.parameters()), x, y)

    def check() -> None:
        """Compare losses step by step."""
        for _ in range(CHECKED):
            agree(run, peers, 1e-4)

    count = sum(p.numel() for p in ours.parameters())
    return Case(
        name,
        group,
        run,
        peers,
        moved=4.0 * 7 * count,
        footprint=4.0 * 4 * count,
        flops=flops + _flops("adam") * count,
        note=megabytes({"innerloop": run, **peers}),
    )


def _mlp(beside: Peers, sizes: tuple[int, ...], batch: int) -> Case:
    import torch

    from innerloop.plugins.torch import accelerate

    from .torch_models import Classifier

    torch.manual_seed(0)
    theirs = Classifier(sizes)
    ours = copy.deepcopy(theirs)
    accelerate(ours)
    x, y = torch.randn(batch, sizes[0]), torch.randint(sizes[-1], (batch,))
    products = [k * n for k, n in itertools.pairwise(sizes)]
    flops = 2.0 * batch * (3 * sum(products) - products[0])  # the first layer makes no dx
    name = f"{'-'.join(map(str, sizes))}, batches of {batch}"
    return _case(beside, name, MLP, ours, theirs, x, y, flops)


def _language_model(beside: Peers, shape: dict[str, int], sequences: int) -> Case:
    import torch

    from innerloop.plugins.torch import accelerate
    from innerloop.plugins.torch.modules import LinearCrossEntropyLoss

    from .torch_models import LanguageModel

    torch.manual_seed(0)
    make: Any = LanguageModel
    theirs = make(**shape)
    ours = make(**shape, loss=LinearCrossEntropyLoss)
    ours.load_state_dict(theirs.state_dict())
    accelerate(ours)
    tokens = torch.randint(shape["vocabulary"], (sequences, shape["context"] + 1))
    x, y = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    products = shape["width"] * (shape["vocabulary"] + 12 * shape["width"] * shape["layers"])
    attention = 2 * shape["layers"] * shape["context"] * shape["width"]
    flops = 6.0 * x.numel() * (products + attention)
    name = f"{x.numel()} tokens of {shape['vocabulary']:,}, {shape['layers']} layers"
    name += f" of {shape['width']}"
    return _case(beside, name, LM, ours, theirs, x, y, flops)


# Optimizers ---------------------------------------------------------------------------------------


def _optimizer(beside: Peers, name: str, count: int, each: int) -> Case:
    """Return a step over tensors, gradients and states that all contenders share."""
    import torch

    from innerloop.plugins import torch as plugin

    params = [torch.randn(each).requires_grad_() for _ in range(count)]
    for p in params:
        p.grad = torch.randn(each)
    ours = getattr(plugin, name)(params, lr=LR)
    ours.step()
    peers: Calls = {}
    for form, options in FORMS.items() if beside.torch is not None else ():
        try:
            theirs = getattr(torch.optim, name)(params, lr=LR, **options)
        except TypeError:  # which has no fused form
            continue
        states = ours.state_dict()["state"]
        groups = theirs.state_dict()["param_groups"]
        theirs.load_state_dict({"state": states, "param_groups": groups})  # shares the tensors
        peers[f"torch {form}"] = theirs.step
    entry = reference.OPTIMIZERS[name.lower()]
    states = len(entry.needed_states())
    return Case(
        f"{name}, {count:,} x {each:,}",
        STEP,
        ours.step,
        peers,
        moved=4.0 * count * each * (3 + 2 * states),
        footprint=4.0 * count * each * (2 + states),
        flops=_flops(name.lower()) * count * each,
        check=functools.partial(_check_optimizer, name),
    )


def _check_optimizer(name: str) -> None:
    """Raise AssertionError unless steps of both optimizers give the same parameters."""
    import torch

    from innerloop.plugins import torch as plugin

    start, grads = torch.randn(3, 100), torch.randn(CHECKED, 3, 100)
    results = []
    for optim in (plugin, torch.optim):
        params = [row.clone().requires_grad_() for row in start]
        optimizer = getattr(optim, name)(params, lr=LR)
        for step in grads:
            for p, grad in zip(params, step, strict=True):
                p.grad = grad.clone()
            optimizer.step()
        results.append(torch.stack([p.detach() for p in params]) - start)
    agree(lambda: results[0], {"torch": lambda: results[1]}, 1e-4)


# Calls --------------------------------------------------------------------------------------------

GRADIENTS = ("no gradient", "forward with a gradient to come", "forward and backward")


@functools.lru_cache(1)
def _operators() -> dict[str, tuple[Any, Any, Any]]:
    """Return by name the tensors that a call takes, ours and PyTorch's."""
    import torch
    from torch.nn import functional as f

    from innerloop.plugins.torch import ops

    torch.manual_seed(0)
    x, w, b = torch.randn(1, 8), torch.randn(8, 8), torch.randn(8)
    label = torch.tensor([3])
    return {
        "gelu": ((x,), lambda x: ops.activation(x, "gelu"), f.gelu),
        "linear": ((x, w, b), ops.linear, f.linear),
        "linear and relu": (
            (x, w, b),
            lambda x, w, b: ops.linear(x, w, b, activation="relu"),
            lambda x, w, b: f.relu(f.linear(x, w, b)),
        ),
        "layer_norm": (
            (x, b.clone(), b),
            lambda x, w, b: ops.layer_norm(x, (8,), w, b),
            lambda x, w, b: f.layer_norm(x, (8,), w, b),
        ),
        "cross-entropy": (
            (x,),
            lambda x: ops.softmax_cross_entropy(x, label),
            lambda x: f.cross_entropy(x, label),
        ),
    }


def _call(beside: Peers, name: str, gradients: str) -> Case:
    import torch

    tensors, ours, theirs = _operators()[name]
    tensors = [t.detach().requires_grad_(gradients != GRADIENTS[0]) for t in tensors]
    dy = torch.ones_like(theirs(*tensors))

    def made(function: Any) -> Callable[[], Any]:
        if gradients == GRADIENTS[2]:
            return lambda: torch.autograd.grad(function(*tensors), tensors, dy)
        return lambda: function(*tensors)

    def shown(function: Any) -> Callable[[], Any]:
        """Return a call whose result NumPy can read."""

        def call() -> Any:
            result = made(function)()
            return result if isinstance(result, tuple) else result.detach()

        return call

    check = functools.partial(agree, shown(ours), {"torch": shown(theirs)})
    moved = 4.0 * (sum(t.numel() for t in tensors) + dy.numel())
    peers: Calls = {"torch": made(theirs)} if beside.torch is not None else {}
    return Case(name, f"{CALL}, {gradients}", made(ours), peers, moved, moved, check=check)
