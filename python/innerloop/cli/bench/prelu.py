"""prelu with one slope and with one a channel: the value, and both gradients, into given arrays."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import innerloop as il

from .harness import Case, Make, agree
from .peers import Peers

SHAPES = ((1_000_003,), (4096, 512), (16, 64, 56, 56))
QUICK = ((403,), (40, 19), (2, 3, 5, 7))


def cases(beside: Peers, quick: bool) -> Iterator[Make]:
    """Yield a vector with one slope, rows and images with one a channel; forward, then backward."""
    for backward in (False, True):
        for shape in QUICK if quick else SHAPES:
            yield functools.partial(_case, beside.torch, shape, backward)


def _case(torch: Any, shape: tuple[int, ...], backward: bool) -> Case:
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal(shape, dtype=np.float32) for _ in range(2))
    weight = np.full(shape[1] if len(shape) > 1 else 1, 0.25, np.float32)
    out = np.zeros_like(x)
    run: Any = functools.partial(il.prelu, x, weight, out=out)
    if backward:
        run = functools.partial(il.prelu_backward, dy, x, weight, out=(out, np.zeros_like(weight)))
    peers: dict[str, Any] = {}
    if torch is not None:
        tx, tw, tdy = map(torch.from_numpy, (x, weight, dy))
        name = "_prelu_kernel_backward" if backward else "prelu"
        if not backward:
            peers["torch"] = functools.partial(torch.prelu, tx, tw)
        elif hasattr(torch.ops.aten, name):
            peers["torch"] = functools.partial(_torch_backward, torch, tdy, tx, tw)

    return Case(
        name=" x ".join(map(str, shape)),
        group="gradients" if backward else "value",
        run=run,
        peers=peers,
        moved=(12.0 if backward else 8.0) * x.size,
        footprint=(12.0 if backward else 8.0) * x.size,
        flops=(4.0 if backward else 1.0) * x.size,  # backward: two products, a choice, a sum
        fresh=("torch",),  # it has none into a given array
        check=functools.partial(agree, run, peers),
    )


def _torch_backward(torch: Any, dy: Any, x: Any, weight: Any) -> tuple[Any, Any]:
    """What PyTorch's autograd runs: a gradient an element of x, then their sums."""
    slopes: NDArray | Any = weight.reshape(-1, *[1] * (x.ndim - 2)) if x.ndim > 1 else weight
    dx, dw = torch.ops.aten._prelu_kernel_backward(dy, x, slopes)
    others = [d for d in range(x.ndim) if d != 1 or x.ndim == 1]
    return dx, dw.sum(others).reshape(weight.shape)
