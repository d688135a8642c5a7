"""Optimizers: one step over 32 million parameters, over 1000 arrays of 10,000, and with clipping.

All contenders work on the same parameters, gradients and states: where arrays lie in memory can
change a step's time by half. 32,000,000 and not 2**25, whose arrays would lie in each other's way.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import innerloop as il
from innerloop import reference

from .harness import Case, Make, close
from .operations import operations
from .peers import Calls, Peers

LARGE, MANY = (1, 32_000_000), (1_000, 10_000)  # arrays, elements of each
FORMS = ("fused", "foreach", "default")  # of PyTorch's; its default on a CPU is a loop
LR = 1e-4
ONE, MANY_SMALL = "one step, one array", "one step, many arrays"
Options = dict[str, float]
OPTIONS: dict[str, Options] = {"sgd": {"momentum": 0.9}}
CLIP: Options = {"max_norm": 1.0}
AMSGRAD: Options = {"amsgrad": True}

Arrays = list[NDArray]


def cases(beside: Peers, quick: bool) -> Iterator[Make]:
    """Yield each optimizer of the list over one large array, then Adam's forms, then many small."""
    large, many = ((1, 20_000), (5, 1_000)) if quick else (LARGE, MANY)
    for name in reference.OPTIMIZERS:
        yield functools.partial(_case, beside, name, large, OPTIONS.get(name, {}))
    for options in (AMSGRAD, CLIP):
        yield functools.partial(_case, beside, "adam", large, options)
    for state_dtype in ("bfloat16", "uint8"):
        yield functools.partial(_stored, beside, large, state_dtype=state_dtype)
    if beside.bfloat16 is not None:
        for master in ("float32", "split"):
            yield functools.partial(_master, beside, large, master)
    yield functools.partial(_clip, beside, large)
    for options in ({}, CLIP):
        yield functools.partial(_case, beside, "adam", many, options)
    yield functools.partial(_clip, beside, many)


@functools.lru_cache(maxsize=1)
def _arrays(size: tuple[int, int]) -> tuple[Arrays, Arrays]:
    """Return parameters and gradients: the same ones for case after case."""
    rng, (count, each) = np.random.default_rng(0), size
    params, grads = (
        [rng.standard_normal(each, dtype=np.float32) for _ in range(count)] for _ in range(2)
    )
    return params, grads


def _described(size: tuple[int, int]) -> str:
    return f"{size[1]:,}" if size[0] == 1 else f"{size[0]:,} x {size[1]:,}"


def _case(beside: Peers, name: str, size: tuple[int, int], options: Options) -> Case:
    params, grads = _arrays(size)
    entry = reference.OPTIMIZERS[name]
    needed = entry.needed_states(**options)
    states = [[np.zeros_like(p) for p in params] if s in needed else None for s in entry.states]
    used = [s for s in states if s is not None]
    step = getattr(il, f"{name}_step")

    def run() -> None:
        step(params, grads, *states, step=10, lr=LR, **options)

    peers: Calls = {}
    if beside.torch is not None:
        for form in FORMS if size[0] > 1 else ("fused", "default"):
            call = _torch(beside.torch, name, params, grads, used, form, options)
            if call is not None:
                peers[f"torch {form}"] = call
        if size[0] == 1 and "torch default" in peers:
            compiled = beside.compiled(peers["torch default"])
            if compiled:
                peers["torch compiled"] = compiled
    if name in NUMPY and options == OPTIONS.get(name, {}):

        def by_numpy() -> None:
            for i, (p, g) in enumerate(zip(params, grads, strict=True)):
                NUMPY[name](p, g, *(s[i] for s in used))

        peers["numpy"] = by_numpy
        if name in JAX and beside.jax is not None:
            peers["jax"] = _jax(beside, name, params, grads, used)
    if name == "adam" and not options and size[0] > 1 and beside.sklearn is not None:
        peers |= _sklearn(params, grads)

    count = float(sum(p.size for p in params))
    described = ", ".join(f"{option} {value:g}" for option, value in options.items())
    clips = "max_norm" in options  # which reads the gradients once more
    return Case(
        name=f"{entry.class_name}{f' ({described})' if described else ''}, {_described(size)}",
        group=ONE if size[0] == 1 else MANY_SMALL,
        run=run,
        peers=peers,
        moved=4.0 * count * (3 + 2 * len(used) + clips),
        footprint=4.0 * count * (2 + len(used)),
        flops=_flops(name, options) * count,
        check=lambda: _check(beside.torch, name, options),
    )


def _flops(name: str, options: Options) -> float:
    """Return the operations of a step, for each parameter."""
    entry = reference.OPTIMIZERS[name]
    needed = entry.needed_states(**options)
    arrays = [np.linspace(1, 2, 100, dtype=np.float32) for _ in range(2)]
    states = [np.ones(100, np.float32) if s in needed else None for s in entry.states]
    return operations(entry.function, *arrays, *states, step=10, lr=LR, **options)


def _jax(beside: Peers, name: str, params: Arrays, grads: Arrays, states: list[Arrays]) -> Any:
    """Return the step under jit, which is given parameters and states to write over."""
    jax = beside.jax

    def each(p: Any, g: Any, *held: Any) -> Any:
        return JAX[name](jax.numpy, p, g, *held)

    def all_of_them(kept: Any, grads: Any) -> Any:
        return [each(p, g, *held) for (p, *held), g in zip(kept, grads, strict=True)]

    step = jax.jit(all_of_them, donate_argnums=0)
    own = [tuple(map(jax.numpy.array, arrays)) for arrays in zip(params, *states, strict=True)]
    given = [jax.numpy.array(g) for g in grads]

    def run() -> None:
        nonlocal own
        own = jax.block_until_ready(step(own, given))

    return run


def _sklearn(params: Arrays, grads: Arrays) -> Calls:
    """Return the step of scikit-learn's MLP."""
    try:
        from sklearn.neural_network._stochastic_optimizers import AdamOptimizer
    except ImportError:  # private: it may move
        return {}
    adam = AdamOptimizer(params, LR)
    return {"sklearn": lambda: adam.update_params(params, grads)}


def _clip(beside: Peers, size: tuple[int, int]) -> Case:
    """clip_grad_norm alone, of gradients that are short enough: they are read, not written."""
    grads = [g.copy() for g in _arrays(size)[1]]
    pieces = [p for g in grads for p in np.array_split(g, 1 + g.size // 1_000_000)]
    norm = float(np.sqrt(sum(np.square(p, dtype=np.float64).sum() for p in pieces)))
    peers: Calls = {}
    if beside.torch is not None:
        torch = beside.torch
        tensors = [torch.from_numpy(g).requires_grad_() for g in grads]
        for tensor, g in zip(tensors, grads, strict=True):
            tensor.grad = torch.from_numpy(g)
        peers["torch"] = lambda: torch.nn.utils.clip_grad_norm_(tensors, 2 * norm)

    def run() -> Any:
        return il.clip_grad_norm(grads, 2 * norm)

    def check() -> None:
        ours = float(run())
        assert abs(ours / norm - 1) < 1e-5, f"the norm is {ours}, not {norm}"
        for peer in peers.values():  # PyTorch's, in float32, is 0.2% off for 32 million elements
            theirs = float(peer())
            assert abs(theirs / norm - 1) < 1e-2, f"a peer's norm is {theirs}, not {norm}"

    nbytes = float(sum(g.nbytes for g in grads))
    title = f"clip_grad_norm, {_described(size)}"
    return Case(title, "the norm of gradients", run, peers, nbytes, nbytes, check=check)


def _master(beside: Peers, size: tuple[int, int], master: str) -> Case:
    """Adam of bfloat16 parameters with a float32 copy, which PyTorch's users keep by hand."""
    params, grads = ([a.astype(beside.bfloat16) for a in arrays] for arrays in _arrays(size))
    adam = il.Adam(params, lr=LR, master=master)
    peers: Calls = {}
    if beside.torch is not None:
        torch = beside.torch
        small, given = ([beside.tensor(a) for a in arrays] for arrays in (params, grads))
        wide = [p.float().requires_grad_() for p in small]
        for w in wide:
            w.grad = torch.zeros_like(w)
        optimizer = torch.optim.Adam(wide, lr=LR, fused=True)

        def step() -> None:
            for w, g in zip(wide, given, strict=True):
                w.grad.copy_(g)
            optimizer.step()
            with torch.no_grad():
                for p, w in zip(small, wide, strict=True):
                    p.copy_(w)

        peers["torch fused"] = step

    def check() -> None:
        start = np.linspace(-1, 1, 1000).astype(beside.bfloat16)
        _same_as_reference(start, master=master)

    count = float(size[0] * size[1])
    # grad 2, param 2 written, states 16; the copy 8, or param read and the 16 bits that it lacks.
    moved = count * (20 + (8 if master == "float32" else 6))
    footprint = count * (12 + (4 if master == "float32" else 2))
    title = f"Adam (bfloat16, master {master}), {_described(size)}"
    return Case(title, "masters", lambda: adam.step(grads), peers, moved, footprint, check=check)


def _stored(beside: Peers, size: tuple[int, int], state_dtype: str) -> Case:
    """Adam with states of fewer bits, beside itself with float32 ones."""
    params, grads = _arrays(size)
    kept = {s: il.Adam(params, lr=LR, state_dtype=s) for s in ("float32", state_dtype)}
    count, bits = float(sum(p.size for p in params)), {"bfloat16": 16, "uint8": 8}[state_dtype]

    def check() -> None:
        _same_as_reference(np.linspace(-1, 1, 1000, dtype=np.float32), state_dtype=state_dtype)

    return Case(
        name=f"Adam ({state_dtype} states), {_described(size)}",
        group="states of fewer bits",
        run=lambda: kept[state_dtype].step(grads),
        peers={"float32 states": lambda: kept["float32"].step(grads)},
        moved=count * (3 * 4 + 4 * bits / 8),
        footprint=count * (2 * 4 + 2 * bits / 8),
        check=check,
    )


def _same_as_reference(start: NDArray, **options: Any) -> None:
    """Raise AssertionError unless three steps of Adam are the reference's, and steps at all."""
    grad = np.linspace(-2, 1.1, start.size).astype(start.dtype)  # none of them 0
    found = []
    for backend in ("cpu", "reference"):
        param = start.copy()
        with il.use_backend(backend):
            adam = il.Adam(param, lr=0.1, seed=1, **options)
            for _ in range(3):
                adam.step(grad)
        found.append(param.astype(np.float32))
    ours, expected = found
    close(ours, expected, 1e-2 if start.itemsize == 2 else 1e-5)
    moved = abs(ours - start.astype(np.float32))
    assert moved.min() > 0.05, f"an element has moved by {moved.min()} only"


def _torch(
    torch: Any,
    name: str,
    params: Arrays,
    grads: Arrays,
    states: list[Arrays],
    form: str,
    options: Options,
) -> Callable[[], object] | None:
    """Return a step of PyTorch's optimizer over these very arrays; None where it has no such.

    With ``max_norm`` among the options, `clip_grad_norm_` comes first.
    """
    tensors = [torch.from_numpy(p).requires_grad_() for p in params]
    for tensor, grad in zip(tensors, grads, strict=True):
        # clip_grad_norm_ writes its gradients: a copy, lest it shortens those of later cases.
        tensor.grad = torch.from_numpy(grad.copy() if "max_norm" in options else grad)
    cls = getattr(torch.optim, reference.OPTIMIZERS[name].class_name, None)
    if cls is None:
        return None
    try:
        own = {k: v for k, v in options.items() if k != "max_norm"}
        optimizer = cls(tensors, lr=LR, **own, **({} if form == "default" else {form: True}))
    except (TypeError, RuntimeError):  # not every optimizer has every form
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
    # Of the way, which is some 1e-4 of the numbers: their rounding shows, and so does 1% of a rate.
    close(ours - start, theirs - start, 5e-3)
    for mine_one, its_one in zip(mine, its, strict=True):
        if mine_one is not None:
            close(mine_one, its_one)
    if torch is not None:
        p = start.copy()
        states = [[np.zeros_like(p)] for _ in needed]
        clipped = grad * min(1.0, options.get("max_norm", np.inf) / float(np.linalg.norm(grad)))
        call = _torch(torch, name, [p], [clipped], states, "default", options)
        if call is not None:  # which has taken the first step, without clipping
            call()
            call()
            close(ours - start, p - start, 5e-3)
            held = (s for s in mine if s is not None)
            for mine_one, (its_one,) in zip(held, states, strict=True):
                close(mine_one, its_one, 1e-4)


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


def _jax_sgd(jnp: Any, p: Any, g: Any, buffer: Any) -> Any:
    buffer = 0.9 * buffer + g
    return p - LR * buffer, buffer


def _jax_adam(jnp: Any, p: Any, g: Any, m: Any, v: Any) -> Any:
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    denominator = jnp.sqrt(v / (1 - 0.999**10)) + 1e-8
    return p - LR / (1 - 0.9**10) * m / denominator, m, v


def _jax_adamw(jnp: Any, p: Any, g: Any, m: Any, v: Any) -> Any:
    return _jax_adam(jnp, p * (1 - LR * 1e-2), g, m, v)


def _jax_rmsprop(jnp: Any, p: Any, g: Any, v: Any) -> Any:
    v = 0.99 * v + 0.01 * g * g
    return p - LR * g / (jnp.sqrt(v) + 1e-8), v


# The same without writing in place, which donation makes of them.
JAX: dict[str, Callable[..., Any]] = {
    "sgd": _jax_sgd,
    "adam": _jax_adam,
    "adamw": _jax_adamw,
    "rmsprop": _jax_rmsprop,
}
