"""Dropout and the norms: forward into a given array, and backward with all gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import innerloop as il

from .harness import Case, close

ELEMENTS = 16_000_000  # no power of two, whose arrays lie in each other's way
ROWS = (4096, 768)
BATCHES = ((4096, 512), (32, 64, 56, 56))
QUICK_ELEMENTS, QUICK_ROWS, QUICK_BATCHES = 2_000, (8, 24), ((8, 6), (2, 3, 5, 7))


def cases(torch: Any, quick: bool) -> Iterator[Case]:
    """Yield dropout, then each norm forward and backward."""
    yield _dropout(torch, QUICK_ELEMENTS if quick else ELEMENTS)
    for name in ("layer_norm", "rms_norm"):
        yield from _rows(torch, name, QUICK_ROWS if quick else ROWS)
    for shape in QUICK_BATCHES if quick else BATCHES:
        yield from _batch(torch, shape)


def _numbers(shape: tuple[int, ...], seed: int) -> NDArray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def _case(
    name: str, group: str, run: Callable, peers: dict, bytes_: float, same: bool = True
) -> Case:
    def check() -> None:
        ours = run()
        for peer in peers.values() if same else ():
            theirs = peer()
            pairs = zip(ours, theirs, strict=True) if isinstance(ours, tuple) else [(ours, theirs)]
            for a, b in pairs:
                scale = max(1.0, float(abs(np.asarray(b)).max()))
                close(np.asarray(a) / scale, np.asarray(b) / scale)

    return Case(name, group, run, peers, bytes_, bytes_, check=check)


def _dropout(torch: Any, n: int) -> Case:
    x = _numbers((n,), 0)
    y = np.zeros_like(x)
    peers = {}
    if torch is not None:
        tx = torch.from_numpy(x)
        peers["torch"] = functools.partial(torch.nn.functional.dropout, tx, 0.1)
    run = functools.partial(il.dropout, x, 0.1, seed=1, out=y)
    return _case("dropout", f"{n:,} elements", run, peers, 8.0 * n, same=False)  # other masks


def _rows(torch: Any, name: str, shape: tuple[int, int]) -> Iterator[Case]:
    x, dy, y = _numbers(shape, 0), _numbers(shape, 1), np.zeros(shape, np.float32)
    vectors = [_numbers(shape[1:], s) for s in ((2, 3) if name == "layer_norm" else (2,))]
    _, saved = getattr(il, name)(x, *vectors, return_saved=True)
    group, moved = f"{shape[0]} x {shape[1]}", 4.0 * x.size
    peers, back = {}, {}
    if torch is not None:
        tx, tdy, *tv = (torch.from_numpy(a) for a in (x, dy, *vectors))
        function = getattr(torch.nn.functional, name)
        peers["torch"] = functools.partial(function, tx, shape[1:], *tv, eps=1e-5)
        if name == "layer_norm":
            mean, rstd = torch.from_numpy(saved).reshape(2, -1, 1)
            native = torch.ops.aten.native_layer_norm_backward
            back["torch"] = lambda: native(tdy, tx, shape[1:], mean, rstd, *tv, [True] * 3)
        else:
            back["torch"] = _autograd(
                torch, lambda x, w: function(x, shape[1:], w, 1e-5), tx, tv, tdy
            )
    run = functools.partial(getattr(il, name), x, *vectors, out=y)
    yield _case(name, f"{group}, forward", run, peers, 2 * moved)
    out = (y, *(None for _ in vectors))
    backward = getattr(il, f"{name}_backward")
    run = functools.partial(backward, dy, x, saved, vectors[0], out=out)
    yield _case(name, f"{group}, backward", run, back, 3 * moved)


def _autograd(torch: Any, function: Callable, x: Any, vectors: list, dy: Any) -> Callable:
    """PyTorch's gradients of a function whose forward pass is done."""
    inputs = [a.clone().requires_grad_() for a in (x, *vectors)]
    y = function(*inputs)
    return lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True)


def _affine(function: Callable) -> Callable:
    return lambda x, w, b: function(x, weight=w, bias=b)


def _batch(torch: Any, shape: tuple[int, ...]) -> Iterator[Case]:
    x, dy, y = _numbers(shape, 0), _numbers(shape, 1), np.zeros(shape, np.float32)
    weight, bias, mean = (_numbers(shape[1:2], s) for s in (2, 3, 4))
    var = abs(_numbers(shape[1:2], 5)) + np.float32(0.5)
    group, moved = " x ".join(map(str, shape)), 4.0 * x.size
    for training in (True, False):
        peers, back = {}, {}
        if torch is not None:
            tx, tdy, tw, tb = (torch.from_numpy(a) for a in (x, dy, weight, bias))
            tm, tv = torch.from_numpy(mean.copy()), torch.from_numpy(var.copy())
            function = functools.partial(
                torch.nn.functional.batch_norm, running_mean=tm, running_var=tv, training=training
            )
            peers["torch"] = functools.partial(function, tx, weight=tw, bias=tb)
            if training:
                back["torch"] = _autograd(torch, _affine(function), tx, [tw, tb], tdy)
        name = f"batch_norm, {'training' if training else 'inference'}"
        options: dict[str, Any] = {"training": training}
        stats = (mean.copy(), var.copy())
        run = functools.partial(il.batch_norm, x, *stats, weight, bias, **options, out=y)
        yield _case(name, f"{group}, forward", run, peers, (3 if training else 2) * moved)
        if training:
            _, saved = il.batch_norm(x, None, None, weight, bias, **options, return_saved=True)
            run = functools.partial(
                il.batch_norm_backward, dy, x, saved, weight, **options, out=(y, None, None)
            )
            yield _case(name, f"{group}, backward", run, back, 5 * moved)
