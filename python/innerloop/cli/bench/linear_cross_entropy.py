"""linear_cross_entropy: loss and gradients of a classifier's last layer; their memory."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import innerloop as il
from innerloop import _core

from .harness import Case, Make, agree
from .peers import Calls, Peers

SHAPES = ((512, 512, 32000), (2048, 256, 8000), (4096, 128, 1000))
QUICK = ((32, 16, 100),)


def cases(beside: Peers, quick: bool) -> Iterator[Make]:
    """Yield each shape with the weight as PyTorch keeps it, (C, K), then as (K, C)."""
    for order in ("C, K", "K, C"):
        for shape in QUICK if quick else SHAPES:
            yield functools.partial(_case, beside, shape, order)


def _case(beside: Peers, shape: tuple[int, int, int], order: str) -> Case:
    rows, k, classes = shape
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, k), dtype=np.float32)
    stored = rng.standard_normal((classes, k), dtype=np.float32) / np.float32(k**0.5)
    b = rng.standard_normal(classes, dtype=np.float32)
    target = rng.integers(0, classes, rows)
    dx, db, dw = np.zeros_like(x), np.zeros_like(b), np.zeros_like(stored).T
    w = stored.T
    if order == "K, C":
        w, dw = np.ascontiguousarray(w), np.ascontiguousarray(dw)

    def run() -> Any:
        loss, gradients = il.linear_cross_entropy(
            x, w, target, b, return_grad=True, out=(dx, dw, db)
        )
        return loss, *gradients

    peers = _torch(beside, x, stored, b, target) | _jax(beside, x, stored, b, target)

    moved = 8.0 * (x.size + stored.size + classes)
    return Case(
        name=f"{rows} x {k} x {classes}",
        group=f"value and gradients, weight ({order})",
        run=run,
        peers=peers,
        moved=moved,
        footprint=moved,
        flops=6.0 * rows * k * classes,
        note=megabytes({"innerloop": run, **peers}),
        fresh=("torch", "torch compiled", "jax"),
        check=functools.partial(agree, run, peers, 1e-4),
    )


def _torch(beside: Peers, x: NDArray, w: NDArray, b: NDArray, target: NDArray) -> Calls:
    if beside.torch is None:
        return {}
    torch, f = beside.torch, beside.torch.nn.functional
    tensors = [torch.from_numpy(a).requires_grad_() for a in (x, w, b)]
    tt = torch.from_numpy(target)

    def eager(x: Any, w: Any, b: Any) -> Any:
        return f.cross_entropy(f.linear(x, w, b), tt)

    def all_of_it(function: Any) -> Any:
        loss = function(*tensors)
        # Fresh: to set .grad to zero and add to it takes as long, or a sixth more.
        dx, dw, db = torch.autograd.grad(loss, tensors)
        return loss.detach(), dx, dw.T, db

    calls: Calls = {"torch": functools.partial(all_of_it, eager)}
    compiled = beside.compiled(eager, *tensors)
    if compiled:
        calls["torch compiled"] = functools.partial(all_of_it, compiled)
    return calls


def _jax(beside: Peers, x: NDArray, w: NDArray, b: NDArray, target: NDArray) -> Calls:
    if beside.jax is None:
        return {}
    jax = beside.jax

    def loss(x: Any, w: Any, b: Any, t: Any) -> Any:
        logits = x @ w + b
        return -jax.numpy.take_along_axis(jax.nn.log_softmax(logits), t[:, None], axis=1).mean()

    def all_of_it(*arrays: Any) -> Any:
        value, gradients = jax.value_and_grad(loss, (0, 1, 2))(*arrays)
        return value, *gradients

    return beside.jit(all_of_it, x, np.ascontiguousarray(w.T), b, target.astype(np.int32))


def megabytes(contenders: dict[str, Callable[[], Any]]) -> str:
    """Return what each takes at its peak beyond the arrays that are there, in MB."""
    return ", ".join(f"{name} {_peak(call):.0f} MB" for name, call in contenders.items())


def _peak(call: Callable[[], Any]) -> float:
    """Return the peak of the process during a call beyond its size before, in MB; NaN if unknown.

    innerloop's cache of buffers is emptied before, and malloc's, so that its scratch counts.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda keep: 0)

    def status(name: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(name)) / 1e3

    call()  # whatever it sets up once
    try:
        _core.buffer_cache_clear()
        trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = status("VmRSS")
        call()
        return status("VmHWM") - before
    except (OSError, StopIteration):
        return float("nan")
