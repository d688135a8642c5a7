"""Dropout and the norms: forward into a given array, and backward with all gradients.

PyTorch's dropout and batch_norm forward are given an array as well. What the others have for that
makes a new array and copies it, which would flatter us: they are fresh.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import innerloop as il
from innerloop import reference

from .harness import Case, Make, agree
from .operations import operations
from .peers import Calls, Peers

ELEMENTS = 16_000_000  # no power of two, whose arrays lie in each other's way
ROWS = (4096, 768)
BATCHES = ((4096, 512), (32, 64, 56, 56))
QUICK_ELEMENTS, QUICK_ROWS, QUICK_BATCHES = 2_000, (8, 24), ((8, 6), (2, 3, 5, 7))


def cases(beside: Peers, quick: bool) -> Iterator[Make]:
    """Yield dropout, then each norm forward and backward."""
    yield functools.partial(_dropout, beside, QUICK_ELEMENTS if quick else ELEMENTS)
    dtypes = [np.dtype(np.float32)] + ([] if beside.bfloat16 is None else [beside.bfloat16])
    for dtype in dtypes:
        for name in ("layer_norm", "rms_norm"):
            for make in (_rows_forward, _rows_backward):
                yield functools.partial(make, beside, name, QUICK_ROWS if quick else ROWS, dtype)
    for shape in QUICK_BATCHES if quick else BATCHES:
        yield functools.partial(_batch_forward, beside, shape, True)
        yield functools.partial(_batch_backward, beside, shape)
        yield functools.partial(_batch_forward, beside, shape, False)


def _numbers(shape: tuple[int, ...], seed: int) -> NDArray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def _case(
    name: str,
    shape: tuple[int, ...],
    run: Callable[[], Any],
    peers: Calls,
    moved: float,
    each: float,
    tolerance: float = 2e-5,
    footprint: float | None = None,
    fresh: tuple[str, ...] = ("torch",),
) -> Case:
    """`footprint`: bytes of all arrays, where some are read twice; else as many as are moved."""

    check = functools.partial(agree, run, peers, tolerance)
    group, kind = name.partition(", ")[::2]
    sizes = " x ".join(map(str, shape))
    flops = each * math.prod(shape)
    return Case(
        name=f"{group}, {sizes}",
        group=kind,
        run=run,
        peers=peers,
        moved=moved,
        footprint=footprint or moved,
        flops=flops,
        fresh=fresh,
        check=check,
    )


def _dropout(beside: Peers, n: int) -> Case:
    x = _numbers((n,), 0)
    run = functools.partial(il.dropout, x, 0.1, seed=1, out=np.zeros_like(x))
    case = _case("dropout, forward", (n,), run, {}, 8.0 * n, 1.0, fresh=())
    if beside.torch is not None:  # whose mask is another: there is nothing to check
        torch, tx = beside.torch, beside.torch.from_numpy(x)
        mask, out = torch.zeros_like(tx), torch.zeros_like(tx)
        # The steps of its dropout, with places for the mask and the result.
        case.peers["torch"] = lambda: torch.mul(tx, mask.bernoulli_(0.9).div_(0.9), out=out)
        case.check = lambda: None
    return case


def _rows(name: str, shape: tuple[int, int], dtype: np.dtype) -> tuple[NDArray, ...]:
    """Return x, dy, a result's place, and the weight and, of layer_norm, the bias."""
    seeds = (2, 3) if name == "layer_norm" else (2,)
    vectors = [_numbers(shape[1:], seed).astype(dtype) for seed in seeds]
    x, dy = (_numbers(shape, seed).astype(dtype) for seed in (0, 1))
    return x, dy, np.zeros_like(x), *vectors


def _titled(name: str, dtype: np.dtype, kind: str) -> str:
    return f"{name}, {kind}{'' if dtype == np.float32 else f', {dtype}'}"


def _tolerance(dtype: np.dtype) -> float:
    return 2e-5 if dtype == np.float32 else 2e-2


def _rows_forward(beside: Peers, name: str, shape: tuple[int, int], dtype: np.dtype) -> Case:
    x, _, y, *vectors = _rows(name, shape, dtype)
    peers: Calls = {}
    if beside.torch is not None:
        tx, *tv = (beside.tensor(a) for a in (x, *vectors))
        function = getattr(beside.torch.nn.functional, name)
        peers["torch"] = functools.partial(function, tx, shape[1:], *tv, eps=1e-5)
    run = functools.partial(getattr(il, name), x, *vectors, out=y)
    title = _titled(name, dtype, "forward")
    wide = [a.astype(np.float32) for a in (x[:8], *vectors)]
    each = operations(getattr(reference, name), *wide)
    return _case(title, shape, run, peers, 2.0 * x.nbytes, each, _tolerance(dtype))


def _rows_backward(beside: Peers, name: str, shape: tuple[int, int], dtype: np.dtype) -> Case:
    x, dy, dx, *vectors = _rows(name, shape, dtype)
    _, saved = getattr(il, name)(x, *vectors, return_saved=True)
    peers: Calls = {}
    if beside.torch is not None:
        torch = beside.torch
        tx, tdy, *tv = (beside.tensor(a) for a in (x, dy, *vectors))
        function = getattr(torch.nn.functional, name)
        if name == "layer_norm":
            mean, rstd = torch.from_numpy(saved).to(tx.dtype).reshape(2, -1, 1)
            native = torch.ops.aten.native_layer_norm_backward
            peers["torch"] = lambda: native(tdy, tx, shape[1:], mean, rstd, *tv, [True] * 3)
        else:
            peers["torch"] = _autograd(
                torch, lambda x, w: function(x, shape[1:], w, 1e-5), tx, tv, tdy
            )
    out = (dx, *(None for _ in vectors))
    backward = getattr(il, f"{name}_backward")
    run = functools.partial(backward, dy, x, saved, vectors[0], out=out)
    title = _titled(name, dtype, "backward")
    wide = [a.astype(np.float32) for a in (dy[:8], x[:8], saved[..., :8], vectors[0])]
    each = operations(getattr(reference, f"{name}_backward"), *wide)
    # PyTorch sums the vectors' gradients in bfloat16, up to 8% off the reference; ours 0.2%.
    tolerance = 2e-5 if dtype == np.float32 else 0.15
    return _case(title, shape, run, peers, 3.0 * x.nbytes, each, tolerance)


def _autograd(torch: Any, function: Callable, x: Any, vectors: list, dy: Any) -> Callable:
    """PyTorch's gradients of a function whose forward pass is done."""
    inputs = [a.clone().requires_grad_() for a in (x, *vectors)]
    y = function(*inputs)
    return lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True)


def _batch(shape: tuple[int, ...]) -> tuple[NDArray, ...]:
    """Return x, dy, a result's place, weight, bias, mean and variance."""
    x, dy = (_numbers(shape, seed) for seed in (0, 1))
    weight, bias, mean = (_numbers(shape[1:2], seed) for seed in (2, 3, 4))
    var = abs(_numbers(shape[1:2], 5)) + np.float32(0.5)
    return x, dy, np.zeros_like(x), weight, bias, mean, var


def _batch_forward(beside: Peers, shape: tuple[int, ...], training: bool) -> Case:
    x, _, y, weight, bias, mean, var = _batch(shape)
    peers: Calls = {}
    if beside.torch is not None:
        torch = beside.torch
        arrays = (x, weight, bias, mean.copy(), var.copy())
        options = (*map(torch.from_numpy, arrays), training, 0.1, 1e-5)
        saved = {n: torch.zeros(shape[1] * training) for n in ("save_mean", "save_invstd")}
        function = torch.ops.aten.native_batch_norm.out
        out = {"out": torch.zeros_like(options[0]), **saved}
        peers["torch"] = lambda: function(*options, **out)[0]
    run = functools.partial(il.batch_norm, x, mean, var, weight, bias, training=training, out=y)
    title = f"batch_norm{' (training)' if training else ''}, forward"
    few = (x[:8], mean, var, weight, bias)
    each = operations(reference.batch_norm, *few, training=training)
    moved = (12.0 if training else 8.0) * x.size
    return _case(title, shape, run, peers, moved, each, footprint=8.0 * x.size, fresh=())


def _batch_backward(beside: Peers, shape: tuple[int, ...]) -> Case:
    x, dy, dx, weight, bias, mean, var = _batch(shape)
    peers: Calls = {}
    if beside.torch is not None:
        torch = beside.torch
        tx, tdy, tmean, tvar, *tv = map(torch.from_numpy, (x, dy, mean, var, weight, bias))
        function = torch.nn.functional.batch_norm
        peers["torch"] = _autograd(
            torch, lambda x, w, b: function(x, tmean, tvar, w, b, training=True), tx, tv, tdy
        )
    _, saved = il.batch_norm(x, None, None, weight, bias, training=True, return_saved=True)
    out = (dx, None, None)
    run = functools.partial(il.batch_norm_backward, dy, x, saved, weight, training=True, out=out)
    few = (dy[:8], x[:8], saved, weight)
    each = operations(reference.batch_norm_backward, *few, training=True)
    title = "batch_norm (training), backward"
    return _case(title, shape, run, peers, 20.0 * x.size, each, footprint=12.0 * x.size)
