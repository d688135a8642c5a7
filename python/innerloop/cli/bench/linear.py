"""linear: y = act(x @ w + b) into a fresh array; weights lie as in PyTorch, (N, K)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import innerloop as il

from .harness import Case, close

SHAPES = (
    (1, 784, 256),
    (32, 784, 256),
    (128, 784, 512),
    (256, 1024, 1024),
    (1024, 1024, 1024),
    (2048, 2048, 2048),
    (64, 4096, 4096),
    (8, 4096, 4096),
    (1, 4096, 4096),
    (4096, 512, 64),
    (128, 64, 10),
    (512, 512, 512),
)
QUICK = ((1, 64, 32), (32, 64, 48))


def cases(torch: Any, quick: bool) -> Iterator[Case]:
    """Yield each shape without an activation, then each with gelu."""
    for activation in (None, "gelu"):
        for shape in QUICK if quick else SHAPES:
            yield _case(torch, shape, activation)


def _case(torch: Any, shape: tuple[int, int, int], activation: str | None) -> Case:
    m, k, n = shape
    rng = np.random.default_rng(0)
    x = rng.standard_normal((m, k), dtype=np.float32)
    weights = rng.standard_normal((n, k), dtype=np.float32) / np.float32(k**0.5)
    w, b = weights.T, rng.standard_normal(n, dtype=np.float32)

    def run() -> Any:
        return il.linear(x, w, b, activation=activation)

    peers: dict[str, Any] = {}
    if torch is not None:
        tx, tw, tb = map(torch.from_numpy, (x, weights, b))
        f = torch.nn.functional
        if activation is None:
            peers["torch"] = lambda: f.linear(tx, tw, tb)
        else:
            peers["torch"] = lambda: f.gelu(f.linear(tx, tw, tb))
    if activation is None:  # NumPy has no erf

        def numpy() -> Any:
            y = x @ w
            y += b
            return y

        peers["numpy"] = numpy

    def check() -> None:
        for peer in peers.values():
            close(run(), peer())

    moved = 4.0 * (m * k + k * n + n + m * n)
    return Case(
        name=",".join(map(str, shape)),
        group=f"linear, {activation}" if activation else "linear",
        run=run,
        peers=peers,
        moved=moved,
        footprint=moved,
        flops=2.0 * m * k * n,
        check=check,
    )
