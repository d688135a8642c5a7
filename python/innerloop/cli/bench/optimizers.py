"""Optimizers: one step over 32 million parameters, over 1000 arrays of 10,000, and with clipping.

All contenders work on the same parameters, gradients and states: where arrays lie in memory can
change a step's time by half. 32,000,000 and not 2**25, whose arrays would lie in each other's way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import innerloop as il
from innerloop import reference

from .harness import Case, close

LARGE, MANY, EACH = 32_000_000, 1_000, 10_000
LR = 1e-4
Options = dict[str, float]
OPTIONS: dict[str, Options] = {"sgd": {"momentum": 0.9}}
CLIP: Options = {"max_norm": 1.0}

Arrays = list[NDArray]


def cases(torch: Any, quick: bool) -> Iterator[Case]:
    """Yield each optimizer of the list over one large array, then Adam over many small ones."""
    large, many, each = (20_000, 5, 1_000) if quick else (LARGE, MANY, EACH)
    rng = np.random.default_rng(0)
    params, grads = ([rng.standard_normal(large, dtype=np.float32)] for _ in range(2))
    for name in reference.OPTIMIZERS:
        yield _case(torch, name, params, grads, f"{large:,}", OPTIONS.get(name, {}))
    yield _case(torch, "adam", params, grads, f"{large:,}", {"amsgrad": True})
    yield _case(torch, "adam", params, grads, f"{large:,}", CLIP)
    for state_dtype in ("bfloat16", "uint8"):
        yield _stored(state_dtype, params, grads, f"{large:,}")
    params = [rng.standard_normal(each, dtype=np.float32) for _ in range(many)]
    grads = [rng.standard_normal(each, dtype=np.float32) for _ in range(many)]
    for options in ({}, CLIP):
        yield _case(torch, "adam", params, grads, f"{many:,} x {each:,}", options)


def _case(
    torch: Any, name: str, params: Arrays, grads: Arrays, size: str, options: Options
) -> Case:
    entry = reference.OPTIMIZERS[name]
    needed = entry.needed_states(**options)
    states = [[np.zeros_like(p) for p in params] if s in needed else None for s in entry.states]
    used = [s for s in states if s is not None]
    step = getattr(il, f"{name}_step")

    def run() -> None:
        step(params, grads, *states, step=10, lr=LR, **options)

    peers: dict[str, Any] = {}
    if torch is not None:
        for fused in (True, False):
            call = _torch(torch, name, params, grads, used, fused, options)
            if call is not None:
                peers["torch fused" if fused else "torch default"] = call
    if name in NUMPY and options == OPTIONS.get(name, {}):

        def by_numpy() -> None:
            for i, (p, g) in enumerate(zip(params, grads, strict=True)):
                NUMPY[name](p, g, *(s[i] for s in used))

        peers["numpy"] = by_numpy

    count = float(sum(p.size for p in params))
    described = ", ".join(f"{option} {value:g}" for option, value in options.items())
    clips = "max_norm" in options  # which reads the gradients once more
    return Case(
        name=f"{entry.class_name}{f' ({described})' if described else ''}, {size}",
        group="one step",
        run=run,
        peers=peers,
        moved=4.0 * count * (3 + 2 * len(used) + clips),
        footprint=4.0 * count * (2 + len(used)),
        check=lambda: _check(torch, name, options),
    )


def _stored(state_dtype: str, params: Arrays, grads: Arrays, size: str) -> Case:
    """Adam with states of fewer bits, beside itself with float32 ones."""
    kept = {s: il.Adam(params, lr=LR, state_dtype=s) for s in ("float32", state_dtype)}
    count, bits = float(sum(p.size for p in params)), {"bfloat16": 16, "uint8": 8}[state_dtype]

    def check() -> None:
        """From states of 0 both take the same first step."""
        start, grad = (np.linspace(-1, 1, 1000, dtype=np.float32) for _ in range(2))
        steps = {s: start.copy() for s in kept}
        for s, param in steps.items():
            il.Adam(param, lr=LR, state_dtype=s).step(grad)
        small, wide = steps.values()
        np.testing.assert_array_equal(small, wide)

    return Case(
        name=f"Adam ({state_dtype} states), {size}",
        group="one step",
        run=lambda: kept[state_dtype].step(grads),
        peers={"float32 states": lambda: kept["float32"].step(grads)},
        moved=count * (3 * 4 + 4 * bits / 8),
        footprint=count * (2 * 4 + 2 * bits / 8),
        check=check,
    )


def _torch(
    torch: Any,
    name: str,
    params: Arrays,
    grads: Arrays,
    states: list[Arrays],
    fused: bool,
    options: Options,
) -> Callable[[], object] | None:
    """Return a step of PyTorch's optimizer over these very arrays; None where it has no such.

    With ``max_norm`` among the options, `clip_grad_norm_` comes first.
    """
    tensors = [torch.from_numpy(p).requires_grad_() for p in params]
    for tensor, grad in zip(tensors, grads, strict=True):
        tensor.grad = torch.from_numpy(grad)
    cls = getattr(torch.optim, reference.OPTIMIZERS[name].class_name, None)
    if cls is None:
        return None
    try:
        own = {k: v for k, v in options.items() if k != "max_norm"}
        optimizer = cls(tensors, lr=LR, **({"fused": True} if fused else {}), **own)
    except (TypeError, RuntimeError):  # not every optimizer has a fused form
        return None
    optimizer.step()  # makes its states, which then give way to the shared ones
    for i, tensor in enumerate(tensors):
        held = optimizer.state[tensor]
        entry = reference.OPTIMIZERS[name]
        order = [entry.torch_names.get(s, s) for s in entry.needed_states(**options)]
        for key, arrays in zip(order, states, strict=True):
            arrays[i][...] = held[key].numpy()
            held[key] = torch.from_numpy(arrays[i])
    if "max_norm" not in options:
        return optimizer.step

    def clip_and_step() -> None:
        torch.nn.utils.clip_grad_norm_(tensors, options["max_norm"])
        optimizer.step()

    return clip_and_step


def _check(torch: Any, name: str, options: Options) -> None:
    """Raise AssertionError unless three small steps agree with the reference and PyTorch's."""
    entry = reference.OPTIMIZERS[name]
    rng = np.random.default_rng(1)
    start, grad = (rng.standard_normal(1000, dtype=np.float32) for _ in range(2))
    ours, theirs = start.copy(), start.copy()
    needed = entry.needed_states(**options)
    mine, its = (
        [np.zeros_like(start) if s in needed else None for s in entry.states] for _ in range(2)
    )
    for number in (1, 2, 3):
        getattr(il, f"{name}_step")(ours, grad, *mine, step=number, lr=LR, **options)
        entry.function(theirs, grad, *its, step=number, lr=LR, **options)
    close(ours, theirs, 1e-6)
    if torch is not None:
        p = start.copy()
        states = [[np.zeros_like(p)] for _ in needed]
        clipped = grad * min(1.0, options.get("max_norm", np.inf) / float(np.linalg.norm(grad)))
        call = _torch(torch, name, [p], [clipped], states, False, options)
        if call is not None:  # which has taken the first step, without clipping
            call()
            call()
            close(ours, p, 1e-6)


def _sgd(p: NDArray, g: NDArray, buffer: NDArray) -> None:
    buffer *= 0.9
    buffer += g
    p -= LR * buffer


def _adam(p: NDArray, g: NDArray, m: NDArray, v: NDArray) -> None:
    m *= 0.9
    m += 0.1 * g
    v *= 0.999
    v += 0.001 * (g * g)
    p -= LR / (1 - 0.9**10) * m / (np.sqrt(v / (1 - 0.999**10)) + 1e-8)


def _adamw(p: NDArray, g: NDArray, m: NDArray, v: NDArray) -> None:
    p *= 1 - LR * 1e-2
    _adam(p, g, m, v)


def _rmsprop(p: NDArray, g: NDArray, v: NDArray) -> None:
    v *= 0.99
    v += 0.01 * (g * g)
    p -= LR * g / (np.sqrt(v) + 1e-8)


# As one writes them in NumPy, by the defaults of reference/optimizers.py and OPTIONS.
NUMPY: dict[str, Callable[..., None]] = {
    "sgd": _sgd,
    "adam": _adam,
    "adamw": _adamw,
    "rmsprop": _rmsprop,
}
