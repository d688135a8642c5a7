"""The gated pairs along the last axis: the value, and the gradient, into given arrays.

PyTorch's kernels write into given arrays as well: through its functions and autograd, each call
makes new ones, which takes it three to six times as long for the large shape.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

import innerloop as il
from innerloop import reference

from .harness import Case, Make, agree
from .operations import operations
from .peers import Calls, Peers

SHAPES = ((4096, 2 * 2816), (64, 2 * 1000))
QUICK = ((30, 2 * 19), (5, 2 * 7))


def cases(beside: Peers, quick: bool) -> Iterator[Make]:
    """Yield each pair of the list, out of memory and within the caches; forward, then backward."""
    for backward in (False, True):
        for shape in QUICK if quick else SHAPES:
            for name in il.gated.NAMES:
                yield functools.partial(_case, beside, name, shape, backward)


def _case(beside: Peers, name: str, shape: tuple[int, int], backward: bool) -> Case:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape, dtype=np.float32)
    dy = rng.standard_normal((shape[0], shape[1] // 2), dtype=np.float32)
    if backward:
        run = functools.partial(getattr(il, f"{name}_backward"), dy, x, out=np.zeros_like(x))
    else:
        run = functools.partial(getattr(il, name), x, out=np.zeros_like(dy))
    peers: Calls = {}
    if beside.torch is not None:
        tensors = map(beside.tensor, (x, dy))
        peers = (_torch_backward if backward else _torch)(beside.torch, name, *tensors)
    moved = 4.0 * (2 * x.size + dy.size if backward else x.size + dy.size)
    kind = "gradient" if backward else "value"
    formula = getattr(reference, f"{name}_backward" if backward else name)
    few = [np.ascontiguousarray(a[:2]) for a in ((dy, x) if backward else (x,))]
    flops = operations(formula, *few) * few[0].shape[1] * shape[0]
    group = f"{shape[0]} x {shape[1]}, {kind}"
    return Case(
        name, group, run, peers, moved, moved, flops, check=functools.partial(agree, run, peers)
    )


GATES = {"swiglu": "silu", "geglu": "gelu"}


def _torch(torch: Any, name: str, x: Any, dy: Any) -> Calls:
    """Return the pair as PyTorch's users write it, or none where nothing is known of it."""
    nn, out = torch._C._nn, torch.zeros_like(dy)
    if name == "glu":
        return {"torch": functools.partial(nn.glu, x, -1, out=out)}
    if name not in GATES:
        return {}
    a, b = x.chunk(2, -1)
    gate = functools.partial(getattr(nn, GATES[name]), a, out=out)
    return {"torch": lambda: gate().mul_(b)}


def _torch_backward(torch: Any, name: str, x: Any, dy: Any) -> Calls:
    """Return the kernels that autograd runs; it, too, has kept the gate's value."""
    aten, dx = torch.ops.aten, torch.zeros_like(x)
    if name == "glu":
        return {"torch": lambda: aten.glu_backward.grad_input(dy, x, -1, grad_input=dx)}
    if name not in GATES:
        return {}
    (a, b), (da, db) = x.chunk(2, -1), dx.chunk(2, -1)
    gated = getattr(torch.nn.functional, GATES[name])(a)
    of_gate = getattr(aten, f"{GATES[name]}_backward").grad_input

    def gradient() -> Any:
        torch.mul(dy, gated, out=db)
        of_gate(torch.mul(dy, b, out=da), a, grad_input=da)
        return dx

    return {"torch": gradient}
