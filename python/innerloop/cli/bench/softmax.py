"""softmax and log_softmax along the last axis, with their gradients, and nll_loss after them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import innerloop as il
from innerloop import reference

from .harness import Case, Make, agree
from .operations import operations
from .peers import Calls, Peers

SHAPES = ((2048, 32000), (256, 1000), (128, 10))
QUICK = ((32, 100), (8, 10))


def cases(beside: Peers, quick: bool) -> Iterator[Make]:
    """Yield value and gradient of both over each shape, into given arrays; then nll_loss."""
    for shape in QUICK if quick else SHAPES:
        for name in ("softmax", "log_softmax"):
            yield functools.partial(_forward, beside, name, shape)
            yield functools.partial(_backward, beside, name, shape)
        yield functools.partial(_nll_loss, beside, shape)


def _numbers(shape: tuple[int, int], seed: int) -> NDArray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def _numpy(x: NDArray, y: NDArray) -> NDArray:
    np.subtract(x, x.max(axis=1, keepdims=True), out=y)
    np.exp(y, out=y)
    y /= y.sum(axis=1, keepdims=True)
    return y


def _case(
    name: str,
    shape: tuple[int, int],
    group: str,
    run: Any,
    peers: Calls,
    arrays: float,
    each: float,
    fresh: tuple[str, ...] = (),
) -> Case:
    check = functools.partial(agree, run, peers, 1e-4)
    moved = 4.0 * arrays * shape[0] * shape[1]
    title = f"{name}, {shape[0]} x {shape[1]}"
    flops = each * shape[0] * shape[1]
    return Case(title, group, run, peers, moved, moved, flops, fresh=fresh, check=check)


def _forward(beside: Peers, name: str, shape: tuple[int, int]) -> Case:
    x = _numbers(shape, 0)
    y = np.zeros_like(x)  # given to all that take it
    peers: Calls = {}
    if beside.torch is not None:
        tx, ty = map(beside.torch.from_numpy, (x, y))
        peers["torch"] = functools.partial(getattr(beside.torch, name), tx, -1, out=ty)
    if name == "softmax":
        peers["numpy"] = lambda: _numpy(x, y)
        if beside.sklearn is not None:
            from sklearn.utils.extmath import softmax

            peers["sklearn"] = lambda: softmax(x)
    if beside.jax is not None:
        peers |= beside.jit(getattr(beside.jax.nn, name), x)
    run = functools.partial(getattr(il, name), x, out=np.zeros_like(x))
    each = operations(getattr(reference, name), x[:8])
    return _case(name, shape, "value", run, peers, 2, each, ("sklearn", "jax"))


def _backward(beside: Peers, name: str, shape: tuple[int, int]) -> Case:
    y, dy = getattr(il, name)(_numbers(shape, 0)), _numbers(shape, 1)
    peers: Calls = {}
    if beside.torch is not None:
        torch = beside.torch
        ty, tdy = map(torch.from_numpy, (y, dy))
        native = getattr(torch.ops.aten, f"_{name}_backward_data", None)
        if native is not None:
            out = {"grad_input" if name == "softmax" else "out": torch.zeros_like(ty)}
            peers["torch"] = functools.partial(native.out, tdy, ty, -1, torch.float32, **out)
    run = functools.partial(getattr(il, f"{name}_backward"), dy, y, out=np.zeros_like(y))
    each = operations(getattr(reference, f"{name}_backward"), dy[:8], y[:8])
    return _case(name, shape, "gradient", run, peers, 3, each)


def _nll_loss(beside: Peers, shape: tuple[int, int]) -> Case:
    log_probs = il.log_softmax(_numbers(shape, 0))
    target = np.random.default_rng(2).integers(0, shape[1], shape[0])
    out = np.zeros_like(log_probs)
    peers: Calls = {}
    if beside.torch is not None:
        torch = beside.torch
        aten, mean, ignored = torch.ops.aten, 1, -100
        tx, tt = torch.from_numpy(log_probs), torch.from_numpy(target)
        gradient, one = torch.zeros_like(tx), torch.ones(())

        def both() -> Any:  # what autograd runs, with a place for the gradient
            loss, weight = aten.nll_loss_forward(tx, tt, None, mean, ignored)
            backward = aten.nll_loss_backward.grad_input
            backward(one, tx, tt, None, mean, ignored, weight, grad_input=gradient)
            return loss, gradient

        peers["torch"] = both
    run = functools.partial(il.nll_loss, log_probs, target, return_grad=True, out=out)
    # The gradient is written whole; of log_probs one element a row is read.
    return _case("nll_loss", shape, "value and gradient", run, peers, 1, 0)
