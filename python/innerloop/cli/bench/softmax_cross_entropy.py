"""softmax_cross_entropy: the mean loss and the gradient, in one call, of class labels.

PyTorch's gradient is a fresh array in every group: it has no other.
"""

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

SHAPES = ((2048, 32000), (512, 128000), (256, 1000), (128, 10))
QUICK = ((32, 100), (8, 10))
INTO = {"given": "into a given array", "fresh": "into a fresh array", "over": "over the logits"}


def cases(beside: Peers, quick: bool) -> Iterator[Make]:
    """Yield each shape with the gradient into a given array, a fresh one, and over the logits."""
    for where in INTO:
        for shape in QUICK if quick else SHAPES:
            yield functools.partial(_case, beside, shape, where)


def _numpy(logits: NDArray, target: NDArray, e: NDArray) -> tuple[Any, NDArray]:
    rows = np.arange(len(target))
    np.subtract(logits, logits.max(axis=1, keepdims=True), out=e)
    np.exp(e, out=e)
    e /= e.sum(axis=1, keepdims=True)
    loss = -np.log(e[rows, target]).mean()
    e[rows, target] -= 1
    e /= len(target)
    return loss, e


def _case(beside: Peers, shape: tuple[int, int], where: str) -> Case:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal(shape, dtype=np.float32)
    target = rng.integers(0, shape[1], shape[0])
    # Over the logits, each call finds the last one's gradient there. No branch depends on values of
    # such sizes, so it takes as long as it would on fresh logits. Peers keep the logits.
    ours = logits.copy() if where == "over" else logits
    out = {"over": ours, "fresh": None}.get(where, np.zeros_like(logits))

    def run(x: NDArray = ours, gradient: NDArray | None = out) -> Any:
        return il.softmax_cross_entropy(x, target, return_grad=True, out=gradient)

    peers = _torch(beside, logits, target)
    if where == "given":  # once: the others' places are ours alone
        peers["numpy"] = functools.partial(_numpy, logits, target, np.zeros_like(logits))
        peers |= _jax(beside, logits, target) | _sklearn(beside, logits, target)

    def over_fresh() -> Any:
        fresh = logits.copy()
        return run(fresh, fresh if where == "over" else out)

    return Case(
        name=f"{shape[0]} x {shape[1]}",
        group=f"value and gradient, {INTO[where]}",
        run=run,
        peers=peers,
        moved=8.0 * logits.size,
        footprint=(4.0 if where == "over" else 8.0) * logits.size,
        flops=logits.size
        * operations(reference.softmax_cross_entropy, logits[:8], target[:8], return_grad=True),
        fresh=() if where == "fresh" else ("torch", "torch compiled", "jax"),
        check=functools.partial(agree, over_fresh, peers, 1e-4),
    )


def _torch(beside: Peers, logits: NDArray, target: NDArray) -> Calls:
    if beside.torch is None:
        return {}
    torch = beside.torch
    x, t = torch.from_numpy(logits).requires_grad_(), torch.from_numpy(target)
    eager = torch.nn.functional.cross_entropy

    def both(function: Any) -> Any:
        loss = function(x, t)
        return loss.detach(), torch.autograd.grad(loss, x)[0]

    calls: Calls = {"torch": functools.partial(both, eager)}
    compiled = beside.compiled(lambda x, t: eager(x, t), x, t)
    if compiled:
        calls["torch compiled"] = functools.partial(both, compiled)
    return calls


def _jax(beside: Peers, logits: NDArray, target: NDArray) -> Calls:
    if beside.jax is None:
        return {}
    jax = beside.jax

    def loss(x: Any, t: Any) -> Any:
        chosen = jax.numpy.take_along_axis(jax.nn.log_softmax(x), t[:, None], axis=1)
        return -chosen.mean()

    return beside.jit(jax.value_and_grad(loss), logits, target.astype(np.int32))


def _sklearn(beside: Peers, logits: NDArray, target: NDArray) -> Calls:
    """Return the call of scikit-learn's own loss, which its gradient boosting uses."""
    if beside.sklearn is None:
        return {}
    try:
        from sklearn._loss import HalfMultinomialLoss
    except ImportError:  # private: it may move
        return {}
    loss, labels = HalfMultinomialLoss(logits.shape[1]), target.astype(np.float32)
    places = {"loss_out": np.zeros_like(labels), "gradient_out": np.zeros_like(logits)}

    def both() -> Any:
        values, gradient = loss.loss_gradient(labels, logits, **places, n_threads=beside.threads)
        gradient /= len(target)
        return values.mean(), gradient

    return {"sklearn": both}
