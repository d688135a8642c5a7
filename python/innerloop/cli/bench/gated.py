"""The gated pairs along the last axis: the value, and the gradient, into given arrays."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import innerloop as il
from innerloop import reference

from .harness import Case, Make, agree
from .operations import operations
from .peers import Peers

SHAPES = ((4096, 2 * 2816), (64, 2 * 1000))
QUICK = ((30, 2 * 19), (5, 2 * 7))


def cases(beside: Peers, quick: bool) -> Iterator[Make]:
    """Yield each pair of the list, out of memory and within the caches; forward, then backward."""
    for backward in (False, True):
        for shape in QUICK if quick else SHAPES:
            for name in il.gated.NAMES:
                yield functools.partial(_case, beside.torch, name, shape, backward)


def _case(torch: Any, name: str, shape: tuple[int, int], backward: bool) -> Case:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape, dtype=np.float32)
    dy = rng.standard_normal((shape[0], shape[1] // 2), dtype=np.float32)
    if backward:
        run = functools.partial(getattr(il, f"{name}_backward"), dy, x, out=np.zeros_like(x))
    else:
        run = functools.partial(getattr(il, name), x, out=np.zeros_like(dy))
    peers: dict[str, Any] = {}
    peer = None if torch is None else _torch(torch, name)
    if peer is not None:
        tx, tdy = torch.from_numpy(x), torch.from_numpy(dy)
        if backward:
            tx.requires_grad_()
            peers["torch"] = lambda: torch.autograd.grad(peer(tx), tx, tdy)[0]
        else:
            peers["torch"] = functools.partial(peer, tx)

    moved = 4.0 * (2 * x.size + dy.size if backward else x.size + dy.size)
    kind = "gradient (torch: and value)" if backward else "value"
    formula = getattr(reference, f"{name}_backward" if backward else name)
    few = [np.ascontiguousarray(a[:2]) for a in ((dy, x) if backward else (x,))]
    flops = operations(formula, *few) * few[0].shape[1] * shape[0]
    group = f"{shape[0]} x {shape[1]}, {kind}"
    return Case(
        name, group, run, peers, moved, moved, flops, check=functools.partial(agree, run, peers)
    )


def _torch(torch: Any, name: str) -> Callable[[Any], Any] | None:
    """Return the pair as PyTorch's users write it, or None where nothing is known of it."""
    functional = torch.nn.functional
    if name == "glu":
        return functional.glu
    gate = {"swiglu": functional.silu, "geglu": functional.gelu}.get(name)
    if gate is None:
        return None

    def pair(x: Any) -> Any:
        a, b = x.chunk(2, -1)
        return gate(a) * b

    return pair
