"""softmax_cross_entropy: the mean loss and the gradient, in one call, of class labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import innerloop as il

from .harness import Case, close

SHAPES = ((2048, 32000), (256, 1000), (128, 10))
QUICK = ((32, 100), (8, 10))


def cases(torch: Any, quick: bool) -> Iterator[Case]:
    """Yield each shape with the gradient into a given array, then over the logits."""
    for in_place in (False, True):
        for rows, classes in QUICK if quick else SHAPES:
            yield _case(torch, rows, classes, in_place)


def _numpy(logits: NDArray, target: NDArray) -> tuple[Any, NDArray]:
    rows = np.arange(len(target))
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    e /= e.sum(axis=1, keepdims=True)
    loss = -np.log(e[rows, target]).mean()
    e[rows, target] -= 1
    e /= len(target)
    return loss, e


def _case(torch: Any, rows: int, classes: int, in_place: bool) -> Case:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((rows, classes), dtype=np.float32)
    target = rng.integers(0, classes, rows)
    # Over the logits, each call finds the last one's gradient there. No branch depends on values of
    # such sizes, so it takes as long as it would on fresh logits. Peers keep the logits.
    ours = logits.copy() if in_place else logits
    out = ours if in_place else np.zeros_like(logits)

    def run(x: NDArray = ours, gradient: NDArray = out) -> Any:
        return il.softmax_cross_entropy(x, target, return_grad=True, out=gradient)

    peers: dict[str, Any] = {}
    if torch is not None:
        tx = torch.from_numpy(logits).requires_grad_()
        tt = torch.from_numpy(target)

        def by_torch() -> Any:
            loss = torch.nn.functional.cross_entropy(tx, tt)
            return loss.detach(), torch.autograd.grad(loss, tx)[0]

        peers["torch"] = by_torch
    peers["numpy"] = lambda: _numpy(logits, target)

    def check() -> None:
        for peer in peers.values():
            fresh = logits.copy()
            for actual, expected in zip(
                run(fresh, fresh if in_place else out), peer(), strict=True
            ):
                close(actual, expected)

    return Case(
        name=f"{rows} x {classes}",
        group=f"value and gradient, {'over the logits' if in_place else 'into a given array'}",
        run=run,
        peers=peers,
        moved=8.0 * logits.size,
        footprint=(4.0 if in_place else 8.0) * logits.size,
        check=check,
    )
