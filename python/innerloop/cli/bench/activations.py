"""Activations, forward: out of memory into a fresh array and a given one, and within the caches."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import innerloop as il

from .harness import Case, close

LARGE, SMALL = 16_000_000, 256_000  # no powers of two, whose arrays lie in each other's way
QUICK = 2_000


def cases(torch: Any, quick: bool) -> Iterator[Case]:
    """Yield each activation of the list, large and fresh, large into out=, small into out=."""
    for size, fresh in ((LARGE, True), (LARGE, False), (SMALL, False)):
        size = QUICK if quick else size
        x = np.random.default_rng(0).standard_normal(size, dtype=np.float32) * np.float32(3)
        y = np.zeros_like(x)  # given to all contenders
        label = "fresh" if fresh else "out="
        for name in il.activations.NAMES:
            yield _case(torch, name, x, None if fresh else y, f"{size:,} elements, {label}")


def _case(torch: Any, name: str, x: NDArray, out: NDArray | None, group: str) -> Case:
    function = getattr(il, name)
    run = functools.partial(function, x, out=out)
    peers: dict[str, Any] = {}
    if torch is not None:
        tx = torch.from_numpy(x)
        peer = _torch(torch, name, tx, None if out is None else torch.from_numpy(out))
        if peer is not None:
            peers["torch"] = peer
    if name in NUMPY:
        peers["numpy"] = functools.partial(NUMPY[name], x, out)

    def check() -> None:
        ours = np.array(run())
        for peer in peers.values():
            close(ours, peer())

    return Case(name, group, run, peers, 8.0 * x.size, 8.0 * x.size, check=check)


def _torch(torch: Any, name: str, x: Any, out: Any) -> Callable[[], Any] | None:
    """Return PyTorch's call of an activation, or None where it has none of that name."""
    if name == "identity":
        return (lambda: out.copy_(x)) if out is not None else x.clone
    options = {"approximate": "tanh"} if name == "gelu_tanh" else {}
    name = name.removesuffix("_tanh")
    packet = getattr(torch.ops.aten, name, None)
    if out is not None:
        overload = getattr(packet, "out", None)
        return functools.partial(overload, x, **options, out=out) if overload else None
    function = getattr(torch, name, None) or getattr(torch.nn.functional, name, None)
    return functools.partial(function, x, **options) if function else None


def _identity(x: NDArray, out: NDArray | None) -> NDArray:
    if out is None:
        return x.copy()
    np.copyto(out, x)
    return out


def _leaky_relu(x: NDArray, out: NDArray | None) -> NDArray:
    y = np.multiply(x, np.float32(0.01), out=out)
    return np.maximum(x, y, out=y)


def _sigmoid(x: NDArray, out: NDArray | None) -> NDArray:
    y = np.negative(x, out=out)
    np.exp(y, out=y)
    y += 1
    return np.reciprocal(y, out=y)


def _silu(x: NDArray, out: NDArray | None) -> NDArray:
    y = _sigmoid(x, out)
    y *= x
    return y


def _gelu_tanh(x: NDArray, out: NDArray | None) -> NDArray:
    y = np.multiply(x, x, out=out)
    y *= np.float32(0.044715)
    y += 1
    y *= x
    y *= np.float32((2 / np.pi) ** 0.5)
    np.tanh(y, out=y)
    y += 1
    y *= x
    y *= np.float32(0.5)
    return y


# NumPy has no erf, so no gelu.
NUMPY: dict[str, Callable[[NDArray, NDArray | None], NDArray]] = {
    "identity": _identity,
    "relu": lambda x, out: np.maximum(x, np.float32(0), out=out),
    "leaky_relu": _leaky_relu,
    "sigmoid": _sigmoid,
    "tanh": lambda x, out: np.tanh(x, out=out),
    "silu": _silu,
    "gelu_tanh": _gelu_tanh,
}
