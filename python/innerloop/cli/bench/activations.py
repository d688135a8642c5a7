"""Activations, forward: out of memory into a fresh array and a given one, and within the caches.

"cold" goes round so many small arrays that none is in a cache. Four elements show what a call
costs, which is Python's and the checks' share.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import innerloop as il
from innerloop import reference

from .harness import OURS, Case, Make, agree, rotating, sets_to_rotate
from .operations import operations
from .peers import Calls, Peers

LARGE, SMALL, TINY = 16_000_000, 256_000, 4  # no powers of two, whose arrays meet in the caches
QUICK = (3_000, 2_000)
SAMPLE = ("relu", "tanh", "gelu")  # of the groups that say little more of the others


def cases(beside: Peers, quick: bool) -> Iterator[Make]:
    """Yield each of the list, large and fresh, large into out=, small into out=; then a sample."""
    make = functools.partial(functools.partial, _case, beside)
    large, small = QUICK if quick else (LARGE, SMALL)
    for size, fresh in ((large, True), (large, False), (small, False)):
        for name in il.activations.NAMES:
            yield make(name, size, fresh)
    for name in SAMPLE:
        yield functools.partial(_cold, beside, name, small, quick)
    if beside.bfloat16 is not None:
        for name in SAMPLE:
            yield make(name, large, False, beside.bfloat16)
    for fresh in (False, True):
        yield make("relu", TINY, fresh)


def _numbers(size: int, seed: int = 0) -> NDArray:
    x = np.random.default_rng(seed).standard_normal(size, dtype=np.float32)
    return x * np.float32(3)


def _contenders(
    beside: Peers, name: str, x: NDArray, out: NDArray | None
) -> tuple[Callable[[], Any], Calls]:
    """Return innerloop's call and the peers', all into `out` where that is given."""
    peers: Calls = {}
    if beside.torch is not None:
        peers |= _torch(beside, name, beside.tensor(x), None if out is None else beside.tensor(out))
    if name in NUMPY and x.dtype == np.float32:
        peers["numpy"] = functools.partial(NUMPY[name], x, out)
    if beside.jax is not None and out is None and hasattr(beside.jax.nn, name):
        exact = {"approximate": False} if name == "gelu" else {}
        peers |= beside.jit(functools.partial(getattr(beside.jax.nn, name), **exact), x)
    return functools.partial(getattr(il, name), x, out=out), peers


def _case(beside: Peers, name: str, size: int, fresh: bool, dtype: Any = np.float32) -> Case:
    x = _numbers(size).astype(dtype)
    y = None if fresh else np.zeros_like(x)  # given to all contenders
    run, peers = _contenders(beside, name, x, y)
    tolerance = 2e-5 if dtype is np.float32 else 1e-2

    check = functools.partial(agree, run, peers, tolerance)
    kind = "" if dtype is np.float32 else f"{np.dtype(dtype)}, "
    group = f"{size:,} elements, {kind}{'fresh' if fresh else 'out='}"
    moved = 2.0 * x.nbytes
    flops = _flops(name, size)
    return Case(name, group, run, peers, moved, moved, flops, check=check)


def _cold(beside: Peers, name: str, size: int, quick: bool) -> Case:
    x, sets = _numbers(size), []
    for _ in range(sets_to_rotate(8 * size, quick)):
        run, peers = _contenders(beside, name, x.copy(), np.zeros_like(x))
        sets.append({OURS: run, **peers})
    calls = rotating(sets)
    run = calls.pop(OURS)
    check = functools.partial(agree, run, calls)
    footprint = 8.0 * size * len(sets)
    group = f"{size:,} elements, cold, out="
    return Case(name, group, run, calls, 8.0 * size, footprint, _flops(name, size), check=check)


def _flops(name: str, size: int) -> float:
    return operations(getattr(reference, name), np.linspace(-3, 3, 100, dtype=np.float32)) * size


def _torch(beside: Peers, name: str, x: Any, out: Any) -> Calls:
    """Return PyTorch's call of an activation; none where it has no such."""
    torch = beside.torch
    if out is not None:
        call = _torch_into(torch, name, x, out)
        return {} if call is None else {"torch": call}
    if name == "identity":
        return {"torch": x.clone}
    options = {"approximate": "tanh"} if name == "gelu_tanh" else {}
    name = name.removesuffix("_tanh")
    function = getattr(torch, name, None) or getattr(torch.nn.functional, name, None)
    if function is None:
        return {}
    function = functools.partial(function, **options)
    calls: Calls = {"torch": functools.partial(function, x)}
    compiled = beside.compiled(function, x)
    if compiled:
        calls["torch compiled"] = functools.partial(compiled, x)
    return calls


def _torch_into(torch: Any, name: str, x: Any, out: Any) -> Callable[[], Any] | None:
    """Return PyTorch's own kernel into `out`, by its shortest way.

    Where it has none (softsign), ``torch.ops.aten.*.out`` makes an array and copies it, which would
    flatter us: there is no peer then.
    """
    if name == "identity":
        return lambda: out.copy_(x)
    nn = torch._C._nn
    scale, alpha = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
    special = {
        "relu": functools.partial(torch.clamp_min, x, 0.0),
        "relu6": functools.partial(torch.clamp, x, 0.0, 6.0),
        "selu": functools.partial(nn.elu, x, alpha, scale),
        "celu": functools.partial(nn.elu, x),
        "gelu_tanh": functools.partial(nn.gelu, x, approximate="tanh"),
        "sigmoid": functools.partial(torch.sigmoid, x),
        "tanh": functools.partial(torch.tanh, x),
    }
    call = special.get(name) or (
        functools.partial(getattr(nn, name), x) if hasattr(nn, name) else None
    )
    if call is None:
        return None
    call = functools.partial(call, out=out)
    try:
        call()
    except TypeError:  # no out= here
        return None
    return call


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
