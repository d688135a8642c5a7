"""linear: y = act(x @ w + b) into a fresh array, its backward, and its other forms.

Weights lie as in PyTorch, (N, K), where a group does not say otherwise. "cold" goes round so many
weights that none is in a cache, as the layers of a network do that is larger than the cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import innerloop as il

from .harness import OURS, Case, Make, agree, close, rotating, sets_to_rotate
from .peers import Calls, Peers

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
FEW_ROWS = ((1, 784, 256), (4, 1024, 1024), (8, 1024, 1024), (8, 4096, 4096), (1, 4096, 4096))
COLD = ((1, 784, 256), (8, 784, 512), (32, 1024, 1024))
DROPOUT = ((128, 784, 512), (1024, 1024, 1024))
BFLOAT16 = {
    "bfloat16, large": ((512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048)),
    "bfloat16, M <= 32": ((1, 4096, 4096), (8, 4096, 4096), (32, 784, 256), (32, 1024, 1024)),
}
QUICK = ((1, 64, 32), (32, 64, 48))

Shape = tuple[int, int, int]


def cases(beside: Peers, quick: bool) -> Iterator[Make]:
    """Yield every group's shapes."""

    def over(shapes: tuple[Shape, ...], make: Callable[..., Case], *options: Any) -> Iterator[Make]:
        for shape in QUICK if quick else shapes:
            yield functools.partial(make, beside, shape, *options)

    yield from over(SHAPES, _forward, "linear", None)
    yield from over(SHAPES, _forward, "linear, weights (K, N)", None)
    for activation in ("gelu", "relu"):
        yield from over(SHAPES, _forward, f"linear, {activation}", activation)
    yield from over(FEW_ROWS, _packed)
    yield from over(COLD, _cold, quick)
    yield from over(DROPOUT, _dropout)
    yield from over(SHAPES, _backward)
    yield from over(SHAPES, _forward, "linear, float64", None, np.float64)
    if beside.bfloat16 is not None:
        for group, shapes in BFLOAT16.items():
            yield from over(shapes, _forward, f"linear, {group}", None, beside.bfloat16)


def _arrays(shape: Shape, dtype: Any = np.float32) -> tuple[NDArray, NDArray, NDArray]:
    """Return x, the weights as (N, K), and b."""
    m, k, n = shape
    rng = np.random.default_rng(0)
    x, weights = rng.standard_normal((m, k)), rng.standard_normal((n, k)) / k**0.5
    return x.astype(dtype), weights.astype(dtype), rng.standard_normal(n).astype(dtype)


def _case(
    shape: Shape,
    group: str,
    run: Callable[[], Any],
    peers: Calls,
    dtype: Any = np.float32,
    tolerance: float = 2e-5,
    **changed: Any,
) -> Case:
    """Return a case of one product; `changed` are fields that are not a product's."""

    m, k, n = shape
    moved = float(np.dtype(dtype).itemsize * (m * k + k * n + n + m * n))
    fields: dict[str, Any] = {
        "moved": moved,
        "footprint": moved,
        "flops": 2.0 * m * k * n,
        "check": functools.partial(agree, run, peers, tolerance),
        "dtype": "float64" if dtype is np.float64 else "float32",
    }
    return Case(",".join(map(str, shape)), group, run, peers, **fields | changed)


def _torch(beside: Peers, activation: str | None, *arrays: NDArray) -> Calls:
    """Return PyTorch's calls: eager, and compiled where that is wanted."""
    if beside.torch is None:
        return {}
    f = beside.torch.nn.functional
    function = f.linear
    if activation:
        act = getattr(f, activation)

        def function(x: Any, w: Any, b: Any) -> Any:
            return act(f.linear(x, w, b))

    tensors = [beside.tensor(a) for a in arrays]
    calls: Calls = {"torch": functools.partial(function, *tensors)}
    compiled = beside.compiled(function, *tensors)
    if compiled:
        calls["torch compiled"] = functools.partial(compiled, *tensors)
    return calls


def _jax(beside: Peers, activation: str | None, *arrays: NDArray) -> Calls:
    if beside.jax is None:
        return {}
    nn = beside.jax.nn
    exact = {"approximate": False} if activation == "gelu" else {}
    chosen = functools.partial(getattr(nn, activation or "identity"), **exact)
    return beside.jit(lambda x, w, b: chosen(x @ w.T + b), *arrays)


def _forward(
    beside: Peers, shape: Shape, group: str, activation: str | None, dtype: Any = np.float32
) -> Case:
    x, weights, b = _arrays(shape, dtype)
    w = weights.T
    if group.endswith("(K, N)"):
        w = np.ascontiguousarray(w)
        weights = w.T  # for all: PyTorch, too, takes it as it lies
    run = functools.partial(il.linear, x, w, b, activation=activation)
    peers = _torch(beside, activation, x, weights, b)
    if activation is None and dtype != beside.bfloat16:  # NumPy has no erf

        def numpy() -> Any:
            y = x @ w
            y += b
            return y

        peers["numpy"] = numpy
    if dtype is np.float32:
        peers |= _jax(beside, activation, x, weights, b)
    return _case(shape, group, run, peers, dtype, 1e-2 if dtype == beside.bfloat16 else 2e-5)


def _packed(beside: Peers, shape: Shape) -> Case:
    x, weights, b = _arrays(shape)
    run = functools.partial(il.linear, x, il.pack(weights.T), b)
    return _case(shape, "linear, prepacked", run, _torch(beside, None, x, weights, b))


def _cold(beside: Peers, shape: Shape, quick: bool) -> Case:
    x, weights, b = _arrays(shape)
    copies = [weights.copy() for _ in range(sets_to_rotate(weights.nbytes, quick))]
    sets: list[Calls] = [{OURS: functools.partial(il.linear, x, w.T, b)} for w in copies]
    if beside.torch is not None:
        f, (tx, tb) = beside.torch.nn.functional, map(beside.tensor, (x, b))
        for calls, w in zip(sets, copies, strict=True):
            calls["torch"] = functools.partial(f.linear, tx, beside.tensor(w), tb)
    peers = rotating(sets)
    run = peers.pop(OURS)
    footprint = float(sum(w.nbytes for w in copies))
    return _case(shape, "linear, cold", run, peers, footprint=footprint)


def _dropout(beside: Peers, shape: Shape) -> Case:
    x, weights, b = _arrays(shape)
    options: Any = {"activation": "relu", "dropout": 0.1, "seed": 1}
    run = functools.partial(il.linear, x, weights.T, b, **options)
    peers: Calls = {}
    if beside.torch is not None:
        f = beside.torch.nn.functional
        tensors = [beside.tensor(a) for a in (x, weights, b)]
        peers["torch"] = lambda: f.dropout(f.relu(f.linear(*tensors)), 0.1)

    def check() -> None:  # masks differ from PyTorch's: what is kept is as without dropout
        kept, y = run(), il.linear(x, weights.T, b, activation="relu")
        close(kept, np.where(kept != 0, y / np.float32(0.9), 0))
        assert np.any(kept), "all is dropped"

    return _case(shape, "linear, relu, dropout", run, peers, check=check)


def _backward(beside: Peers, shape: Shape) -> Case:
    x, weights, b = _arrays(shape)
    m, k, n = shape
    dy = np.random.default_rng(1).standard_normal((m, n), dtype=np.float32)
    _, saved = il.linear(x, weights.T, b, activation="gelu", return_saved=True)
    backward = functools.partial(il.linear_backward, dy, x, weights.T, saved, activation="gelu")
    peers: Calls = {}
    if beside.torch is not None:
        f = beside.torch.nn.functional
        inputs = [beside.tensor(a).requires_grad_() for a in (x, weights, b)]
        tdy = beside.tensor(dy)

        y = f.gelu(f.linear(*inputs))

        def gradients() -> Any:
            dx, dw, db = beside.torch.autograd.grad(y, inputs, tdy, retain_graph=True)
            return dx, dw.T, db

        peers["torch"] = gradients
    moved = 4.0 * (2 * (m * k + k * n) + 2 * m * n + n)
    return _case(
        shape,
        "linear, gelu, backward: dx, dw, db",
        backward,
        peers,
        tolerance=1e-4,
        flops=4.0 * m * k * n,
        moved=moved,
        footprint=moved,
    )
