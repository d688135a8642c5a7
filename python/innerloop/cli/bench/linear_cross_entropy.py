"""linear_cross_entropy: loss and gradients of a classifier's last layer; their memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import innerloop as il
from innerloop import _core

from .harness import Case, close

SHAPES = ((512, 512, 32000), (2048, 256, 8000), (4096, 128, 1000))
QUICK = ((32, 16, 100),)


def cases(torch: Any, quick: bool) -> Iterator[Case]:
    """Yield each shape with the weight as PyTorch keeps it, (C, K), then as (K, C)."""
    for order in ("C, K", "K, C"):
        for shape in QUICK if quick else SHAPES:
            yield _case(torch, shape, order)


def _case(torch: Any, shape: tuple[int, int, int], order: str) -> Case:
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

    peers: dict[str, Any] = {}
    if torch is not None:
        tx, tw, tb = (torch.from_numpy(a).requires_grad_() for a in (x, stored, b))
        tt = torch.from_numpy(target)
        f = torch.nn.functional
        for a in (tx, tw, tb):
            a.grad = torch.zeros_like(a)

        def by_torch() -> Any:
            for a in (tx, tw, tb):
                a.grad.zero_()
            loss = f.cross_entropy(f.linear(tx, tw, tb), tt)
            loss.backward()
            return loss.detach(), tx.grad, tw.grad.T, tb.grad

        peers["torch"] = by_torch

    def check() -> None:
        for peer in peers.values():
            for actual, expected in zip(run(), peer(), strict=True):
                close(actual, expected, 1e-4)

    moved = 8.0 * (x.size + stored.size + classes)
    return Case(
        name=f"{rows} x {k} x {classes}, " + _megabytes({"innerloop": run, **peers}),
        group=f"value and gradients, weight ({order})",
        run=run,
        peers=peers,
        moved=moved,
        footprint=moved,
        flops=6.0 * rows * k * classes,
        check=check,
    )


def _megabytes(contenders: dict[str, Callable[[], Any]]) -> str:
    """Return what each takes at its peak beyond the arrays that are there, in MB."""
    return ", ".join(f"{name} {_peak(call):.0f} MB" for name, call in contenders.items())


def _peak(call: Callable[[], Any]) -> float:
    """Return the peak of the process during a call beyond its size before, in MB; NaN if unknown.

    innerloop's cache of buffers is emptied before, so that its scratch counts.
    """

    def status(name: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(name)) / 1e3

    call()  # whatever it sets up once
    try:
        _core.buffer_cache_clear()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = status("VmRSS")
        call()
        return status("VmHWM") - before
    except (OSError, StopIteration):
        return float("nan")
