"""Elementwise losses: the mean and the gradient in one call, out of memory and within caches.

PyTorch's gradient is given an array where it has a kernel that takes one, and fresh elsewhere.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import innerloop as il
from innerloop import reference

from .harness import Case, Make, close
from .operations import operations
from .peers import Calls, Peers

LARGE, SMALL = 16_000_000, 1_000
QUICK = (3_000, 2_000)


def cases(beside: Peers, quick: bool) -> Iterator[Make]:
    """Yield each loss of the list, large and small, with the gradient into a given array."""
    for size in QUICK if quick else (LARGE, SMALL):
        for name in il.losses.NAMES:
            yield functools.partial(_case, beside, name, size)


def _case(beside: Peers, name: str, size: int) -> Case:
    torch, rng = beside.torch, np.random.default_rng(0)
    # Of probabilities, which every one of them takes.
    pred, target = (rng.random(size, dtype=np.float32) for _ in range(2))
    out = np.zeros_like(pred)
    reduction = "sum" if name == "kl_div" else "mean"  # of which PyTorch warns for kl_div
    loss = functools.partial(getattr(il, name), reduction=reduction)
    run = functools.partial(loss, pred, target, return_grad=True, out=out)
    peers: Calls = {}
    if torch is not None:
        peers |= (_torch_into if name in INTO else _torch)(torch, name, reduction, pred, target)
    if name == "mse_loss":
        peers["numpy"] = functools.partial(_mse, pred, target, np.zeros_like(pred))
        if beside.sklearn is not None:
            peers |= _sklearn_mse(pred, target, beside.threads)

    def check() -> None:
        for peer in peers.values():
            for actual, expected in zip(run(), peer(), strict=True):
                # The others sum 16 million elements in float32.
                close(actual, expected, 2e-5 if np.ndim(expected) else 1e-3)

    return Case(
        name=name,
        group=f"{pred.size:,} elements, value and gradient into a given array",
        run=run,
        peers=peers,
        moved=12.0 * pred.size,
        footprint=12.0 * pred.size,
        flops=operations(getattr(reference, name), pred[:100], target[:100], return_grad=True)
        * pred.size,
        fresh=() if name in INTO else ("torch",),
        check=check,
    )


# PyTorch's losses whose gradient it can write into a given array, with its kernels' arguments
# before and after the reduction.
INTO: dict[str, tuple[tuple, tuple]] = {
    "mse_loss": ((), ()),
    "smooth_l1_loss": ((), (1.0,)),
    "huber_loss": ((), (1.0,)),
    "binary_cross_entropy": ((None,), ()),
}


def _torch_into(torch: Any, name: str, reduction: str, pred: NDArray, target: NDArray) -> Calls:
    """Return the kernels that autograd runs, with a place for the gradient."""
    x, t = torch.from_numpy(pred), torch.from_numpy(target)
    gradient, one = torch.zeros_like(x), torch.ones(())
    before, after = INTO[name]
    options = (x, t, *before, {"mean": 1, "sum": 2}[reduction], *after)
    forward, backward = (getattr(torch.ops.aten, n) for n in (name, f"{name}_backward"))
    given = backward.out if name == "huber_loss" else backward.grad_input
    into = functools.partial(given, one, *options, grad_input=gradient)
    return {"torch": lambda: (forward(*options), into())}


def _torch(torch: Any, name: str, reduction: str, pred: NDArray, target: NDArray) -> Calls:
    function = getattr(torch.nn.functional, name, None)
    if function is None:
        return {}
    x, t = torch.from_numpy(pred).requires_grad_(), torch.from_numpy(target)

    def both() -> Any:
        loss = function(x, t, reduction=reduction)
        return loss.detach(), torch.autograd.grad(loss, x)[0]

    return {"torch": both}


def _mse(pred: NDArray, target: NDArray, d: NDArray) -> tuple[Any, NDArray]:
    np.subtract(pred, target, out=d)
    loss = np.vdot(d, d) / d.size
    d *= np.float32(2 / d.size)
    return loss, d


def _sklearn_mse(pred: NDArray, target: NDArray, threads: int) -> Calls:
    """Return the call of scikit-learn's own loss, which its gradient boosting uses."""
    try:
        from sklearn._loss import HalfSquaredError
    except ImportError:  # private: it may move
        return {}
    loss = HalfSquaredError()
    places = {"loss_out": np.zeros_like(pred), "gradient_out": np.zeros_like(pred)}

    def both() -> Any:
        values, gradient = loss.loss_gradient(target, pred, **places, n_threads=threads)
        gradient *= np.float32(2 / pred.size)
        return 2 * values.mean(), gradient

    return {"sklearn": both}
