"""``bench cuda``: kernels on an NVIDIA GPU beside PyTorch's, and against what the device can do.

Times are the device's own, between CUDA events. Each case is measured with its arrays out of the L2
cache (cold) and as the last call has left them there (hot). Its limit is the longer of two: for the
bytes of one read and one write of each array at the rate of a copy, and for the operations of its
products at the rate of a large bfloat16 product, both measured before and after the cases.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import platform
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

import innerloop as il
from innerloop import reference

from .. import machine
from ..console import console
from .cuda_device import Place
from .cuda_peers import Peers
from .harness import OURS, Case, Result, Timing
from .peers import Calls
from .report import as_record, means, report

ELEMENTS = 32_000_000
LARGE, MANY = (1, 32_000_000), (1_000, 100_000)  # arrays, elements of each
LOGITS = ((4096, 32768), (4096, 131072))
ROWS = ((8192, 4096), (8192, 8192))
LAYERS = (4096, 8192)  # M, K and N alike
CLASSIFIER = (4096, 4096, 128256)  # rows, K, classes
QUICK: dict[str, Any] = {
    "elements": 2_000,
    "arrays": ((1, 20_000), (5, 1_000)),
    "logits": ((8, 96),),
    "rows": ((8, 64),),
    "layers": (64,),
    "classifier": (32, 16, 96),
}
FULL: dict[str, Any] = {
    "elements": ELEMENTS,
    "arrays": (LARGE, MANY),
    "logits": LOGITS,
    "rows": ROWS,
    "layers": LAYERS,
    "classifier": CLASSIFIER,
}
BYTES = {"float32": 4, "bfloat16": 2}
LABEL = 8  # bytes
BFLOAT16 = "bfloat16"
ELEMENTWISE = ("gelu", "silu")
OPTIMIZERS: dict[str, dict[str, float]] = {"adam": {}, "adamw": {}, "sgd": {"momentum": 0.9}}
ACTIVATIONS = ("gelu", "gelu_tanh", "silu", "tanh", "mish", "leaky_relu")
TEMPERATURES = {"cold L2": True, "hot L2": False}
# Of the largest element: two results in bfloat16 may be rounded to both sides, once or twice.
TOLERANCE = {"float32": 2e-5, "bfloat16": 2e-2}
EPS, LR = 1e-5, 1e-4
ROUNDS, SAMPLES = 7, 30
SECONDS = 1.0  # of a case at one temperature


class Plan(NamedTuple):
    """A case by its name, made when its turn comes: it takes GBs, and peers compile."""

    group: str
    name: str
    make: Callable[[], Case]

    @property
    def title(self) -> str:
        return f"{self.group}: {self.name}"


def cases(place: Place, peers: Peers, quick: bool) -> Iterator[Plan]:
    """Yield all cases, elementwise functions first."""
    sizes = QUICK if quick else FULL

    def plan(make: Callable[..., Case], group: str, name: str, *arguments: Any) -> Plan:
        return Plan(group, name, functools.partial(make, place, peers, group, name, *arguments))

    n = sizes["elements"]
    for dtype in BYTES:
        kind = "" if dtype == "float32" else f"{dtype}, "
        for way, make in (("", _forward), ("backward, ", _backward)):
            for name in ELEMENTWISE:
                yield plan(make, f"{n:,} elements, {kind}{way}out=", name, n, dtype)
    for count, each in sizes["arrays"]:
        group = "one step, one array" if count == 1 else "one step, many arrays"
        size = f"{each:,}" if count == 1 else f"{count:,} x {each:,}"
        for name, options in OPTIMIZERS.items():
            named = "".join(f" ({option} {value:g})" for option, value in options.items())
            title = f"{reference.OPTIMIZERS[name].class_name}{named}, {size}"
            yield plan(_step, group, title, name, options, count, each)
    for shape in sizes["logits"]:
        group = f"value and gradient, into a given array, {BFLOAT16}"
        yield plan(_cross_entropy, group, _shape(*shape), *shape)
    for way, rows in (("forward", _norm), ("backward", _norm_backward)):
        for norm in ("layer_norm", "rms_norm"):
            for shape in sizes["rows"]:
                title = f"{norm}, {_shape(*shape)}"
                yield plan(rows, f"{way}, {BFLOAT16}", title, norm, shape)
    for activation in ACTIVATIONS:
        for side in sizes["layers"]:
            title = _shape(side, side, side)
            yield plan(_linear, f"linear, {activation}, {BFLOAT16}", title, activation, side)
    group = f"value and gradients, weight (C, K), {BFLOAT16}"
    shape = sizes["classifier"]
    yield plan(_linear_cross_entropy, group, _shape(*shape), *shape)


def _shape(*sides: int) -> str:
    return " x ".join(map(str, sides))


def _case(
    place: Place,
    group: str,
    name: str,
    run: Callable[[], Any],
    peers: Calls,
    moved: float,
    *,
    dtype: str = BFLOAT16,
    footprint: float | None = None,
    flops: float = 0.0,
    note: str = "",
    tolerance: float | None = None,
    check: Callable[[], None] | None = None,
) -> Case:
    """`footprint`: bytes of all arrays, where some are read and written; else those moved."""
    tolerance = TOLERANCE[dtype] if tolerance is None else tolerance
    return Case(
        name,
        group,
        run,
        peers,
        moved=float(moved),
        footprint=float(moved if footprint is None else footprint),
        flops=flops,
        dtype=dtype,
        note=note,
        check=check or functools.partial(place.agree, run, peers, tolerance),
    )


# Elementwise --------------------------------------------------------------------------------------


def _forward(place: Place, peers: Peers, group: str, title: str, n: int, dtype: str) -> Case:
    x, y = place.numbers((n,), dtype), place.zeros((n,), dtype)
    run = functools.partial(getattr(il, title), x, out=y)
    calls = peers.forward(title, x, y)
    return _case(place, group, title, run, calls, 2 * BYTES[dtype] * n, dtype=dtype)


def _backward(place: Place, peers: Peers, group: str, title: str, n: int, dtype: str) -> Case:
    x, dy, dx = (
        place.numbers((n,), dtype, 0),
        place.numbers((n,), dtype, 1),
        place.zeros((n,), dtype),
    )
    run = functools.partial(getattr(il, f"{title}_backward"), dy, x, out=dx)
    calls = peers.backward(title, dy, x, dx)
    return _case(place, group, title, run, calls, 3 * BYTES[dtype] * n, dtype=dtype)


# Optimizers ---------------------------------------------------------------------------------------


def _step(
    place: Place,
    peers: Peers,
    group: str,
    title: str,
    name: str,
    options: dict[str, float],
    count: int,
    each: int,
) -> Case:
    """All contenders step the same parameters, gradients and states."""
    params, grads = (
        [place.numbers((each,), "float32", start + i) for i in range(count)] for start in (0, count)
    )
    run, used = _our_step(place, name, options, params, grads)
    return _case(
        place,
        group,
        title,
        functools.partial(run, 10),
        peers.step(name, params, grads, used, options, LR),
        4 * count * each * (3 + 2 * len(used)),
        footprint=4 * count * each * (2 + len(used)),
        dtype="float32",
        check=functools.partial(_check_step, place, peers, name, options),
    )


def _our_step(
    place: Place, name: str, options: dict[str, float], params: list[Any], grads: list[Any]
) -> tuple[Callable[[int], Any], list[list[Any]]]:
    """Return a step by its number, and the states that it has."""
    entry = reference.OPTIMIZERS[name]
    needed = entry.needed_states(**options)
    states = [
        [place.zeros(tuple(p.shape), "float32") for p in params] if s in needed else None
        for s in entry.states
    ]
    step = getattr(il, f"{name}_step")

    def run(number: int) -> None:
        step(params, grads, *states, step=number, lr=LR, **options)

    return run, [s for s in states if s is not None]


def _check_step(place: Place, peers: Peers, name: str, options: dict[str, float]) -> None:
    """Raise AssertionError unless three steps of a few numbers are each peer's."""
    if place.torch is None:
        return
    start, grad = (place.numbers((1000,), "float32", seed) for seed in range(2))
    ours, steps = start.clone(), 3
    run, _ = _our_step(place, name, options, [ours], [grad])
    for number in range(steps):
        run(number + 1)
    # Of the way, which is some 1e-4 of the numbers: their rounding shows, and so does 1% of a rate.
    place.agree(lambda: ours - start, peers.way(name, start, grad, options, LR, steps), 5e-3)


# Losses, norms ------------------------------------------------------------------------------------


def _cross_entropy(
    place: Place, peers: Peers, group: str, title: str, rows: int, classes: int
) -> Case:
    logits, labels = place.numbers((rows, classes), BFLOAT16), place.labels(rows, classes)
    out = place.zeros((rows, classes), BFLOAT16)
    run = functools.partial(il.softmax_cross_entropy, logits, labels, return_grad=True, out=out)
    moved = 2 * BYTES[BFLOAT16] * rows * classes + LABEL * rows
    return _case(place, group, title, run, peers.cross_entropy(logits, labels), moved)


def _vectors(place: Place, norm: str, size: int) -> list[Any]:
    """Return the weight and, of layer_norm, the bias."""
    seeds = (2, 3) if norm == "layer_norm" else (2,)
    return [place.numbers((size,), BFLOAT16, seed) for seed in seeds]


def _norm(
    place: Place, peers: Peers, group: str, title: str, norm: str, shape: tuple[int, int]
) -> Case:
    x, y = place.numbers(shape, BFLOAT16), place.zeros(shape, BFLOAT16)
    vectors = _vectors(place, norm, shape[1])
    run = functools.partial(getattr(il, norm), x, *vectors, eps=EPS, out=y)
    moved = BYTES[BFLOAT16] * (2 * math.prod(shape) + len(vectors) * shape[1])
    return _case(place, group, title, run, peers.norm(norm, x, vectors, EPS), moved)


def _norm_backward(
    place: Place, peers: Peers, group: str, title: str, norm: str, shape: tuple[int, int]
) -> Case:
    x, dy = (place.numbers(shape, BFLOAT16, seed) for seed in range(2))
    vectors = _vectors(place, norm, shape[1])
    out = (place.zeros(shape, BFLOAT16), *(place.zeros(shape[1:], BFLOAT16) for _ in vectors))
    _, saved = getattr(il, norm)(
        x, *vectors, eps=EPS, out=place.zeros(shape, BFLOAT16), return_saved=True
    )
    run = functools.partial(getattr(il, f"{norm}_backward"), dy, x, saved, vectors[0], out=out)
    # The weight is read; its gradient, and the bias's, are written.
    moved = BYTES[BFLOAT16] * (3 * math.prod(shape) + (1 + len(vectors)) * shape[1])
    moved += BYTES["float32"] * math.prod(saved.shape)
    calls = peers.norm_backward(norm, dy, x, vectors, EPS)
    # Where PyTorch sums the vectors' gradients in bfloat16, it is up to 8% off.
    return _case(place, group, title, run, calls, moved, tolerance=0.15)


# Products -----------------------------------------------------------------------------------------


def _weight(place: Place, n: int, k: int) -> Any:
    """Return a weight whose products with numbers of the size of 1 are of that size."""
    return place.numbers((n, k), BFLOAT16, 1, k**-0.5)


def _linear(place: Place, peers: Peers, group: str, title: str, activation: str, side: int) -> Case:
    """A layer of a weight as PyTorch keeps it, (N, K)."""
    x, weight = place.numbers((side, side), BFLOAT16), _weight(place, side, side)
    b, y = place.numbers((side,), BFLOAT16, 2), place.zeros((side, side), BFLOAT16)
    run = functools.partial(il.linear, x, weight.T, b, activation=activation, out=y)
    return _case(
        place,
        group,
        title,
        run,
        peers.linear(activation, x, weight, b),
        BYTES[BFLOAT16] * (3 * side**2 + side),
        flops=2.0 * side**3,
    )


def _linear_cross_entropy(
    place: Place, peers: Peers, group: str, title: str, rows: int, k: int, classes: int
) -> Case:
    """Beside it are its three products alone, into a place for the logits that it does without."""
    run, x, weight, out = _classifier(place, rows, k, classes)
    note = f"innerloop {place.peak(run) / 1e6:.0f} MB"
    moved = 2 * BYTES[BFLOAT16] * (rows * k + classes * k) + LABEL * rows
    return _case(
        place,
        group,
        title,
        run,
        peers.products(x, weight, out[0], out[1].T),
        moved,
        flops=6.0 * rows * k * classes,
        note=note,
        check=functools.partial(_check_classifier, place, peers),
    )


def _classifier(
    place: Place, rows: int, k: int, classes: int
) -> tuple[Callable[[], Any], Any, Any, tuple[Any, Any, None]]:
    """Return the call, x, the weight as (C, K), and the gradients' places."""
    x, weight = place.numbers((rows, k), BFLOAT16), _weight(place, classes, k)
    labels = place.labels(rows, classes)
    out = (place.zeros((rows, k), BFLOAT16), place.zeros((classes, k), BFLOAT16).T, None)
    run = functools.partial(il.linear_cross_entropy, x, weight.T, labels, return_grad=True, out=out)
    return run, x, weight, out


def _check_classifier(place: Place, peers: Peers) -> None:
    """Raise AssertionError unless loss and gradients of a few rows are PyTorch's."""
    rows, k, classes = 48, 24, 200
    run, x, weight, _ = _classifier(place, rows, k, classes)

    def flat() -> Any:
        loss, (dx, dw, _) = run()
        return loss, dx, dw.T

    calls = peers.linear_cross_entropy(x, weight, place.labels(rows, classes))
    place.agree(flat, calls, TOLERANCE[BFLOAT16])


# Measuring ----------------------------------------------------------------------------------------


def measure(case: Case, place: Place, cold: bool, seconds: float, quick: bool) -> Result:
    """Time a case's contenders by turns, as `harness.measure` does, between a device's events."""
    contenders = {OURS: case.run, **case.peers}
    rounds = 2 if quick else ROUNDS
    samples = {}
    for name, call in contenders.items():
        estimate = max(place.block(call, cold, 1), 1e-7)
        fit = seconds / len(contenders) / rounds / estimate
        samples[name] = 2 if quick else min(SAMPLES, max(2, round(fit)))
    timings = {name: Timing() for name in contenders}
    for number in range(rounds):
        order = list(contenders)
        for name in reversed(order) if number % 2 else order:
            timings[name].rounds.append(place.block(contenders[name], cold, samples[name]))
    return Result(case, timings, mood={"round_trip_ns": None, "disturbed": False})


def context(place: Place) -> dict[str, Any]:
    """Return what one must know to read the figures."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "jax": None,
        "sklearn": None,
        "innerloop": il.__version__,
        "commit": machine.commit(),
        **place.about(),
    }


def run(
    place: Place,
    peers: Peers,
    plans: list[Plan],
    *,
    quick: bool = False,
    seconds: float | None = None,
    markdown: bool = False,
) -> dict[str, Any]:
    """Measure these cases, print them, and return their record.

    Raises
    ------
    AssertionError
        Where a result is not a peer's; it names the case.
    """
    start, checked = time.monotonic(), il.cuda_checked()
    il.set_cuda_checked(False)  # PyTorch's calls do not wait for their kernels either
    try:
        limits = [place.limits(quick)]
        results: list[Result] = []
        shown = Console(stderr=True)
        for plan in track(
            plans, "cuda", console=shown, transient=True, disable=not shown.is_terminal
        ):
            case = plan.make()
            try:
                case.check()
            except AssertionError as error:
                raise AssertionError(f"{plan.title}: {error}") from None
            for temperature, cold in TEMPERATURES.items():
                named = dataclasses.replace(case, group=f"{case.group}, {temperature}")
                results.append(measure(named, place, cold, seconds or SECONDS, quick))
            for result in results[-len(TEMPERATURES) :]:  # whose arrays the next case needs
                result.case = _without_arrays(result.case)
            del case, named
            place.release()
        limits.append(place.limits(quick))
    finally:
        il.set_cuda_checked(checked)
    bandwidth, rate = (max(values) for values in zip(*limits, strict=True))
    for result in results:
        _bound(result, bandwidth, rate)
    about = context(place) | {
        "copy_gb_per_s": [round(copied / 1e9, 1) for copied, _ in limits],
        "product_tflops": [round(product / 1e12, 1) for _, product in limits],
        "absent": peers.absent,
        "seconds": round(time.monotonic() - start, 1),
    }
    if not markdown:
        console.rule("cuda")
    report(results, context_lines(about), markdown)
    record = {"noun": "cuda", "quick": quick, "context": about}
    return record | {"cases": [as_record(r) for r in results], "geometric_means": means(results)}


def _without_arrays(case: Case) -> Case:
    """Return the case without what holds its arrays."""
    return dataclasses.replace(case, run=lambda: None, peers={}, check=lambda: None)


def _bound(result: Result, bandwidth: float, rate: float) -> None:
    """Set the limit of a result, and say which it is."""
    memory, arithmetic = result.case.moved / bandwidth, result.case.flops / rate
    result.limit = max(memory, arithmetic)
    result.bound = "arithmetic" if arithmetic > memory else "memory"


def context_lines(about: dict[str, Any]) -> list[str]:
    """Return the context as sentences."""
    commit = f" at {about['commit']}" if about["commit"] else ""
    copied, product = (
        " and ".join(f"{value:g}" for value in about[key])
        for key in ("copy_gb_per_s", "product_tflops")
    )
    return [
        f"{about['processor']}, {about['isa']}, L2 cache of {about['l2_bytes'] / 2**20:.0f} MiB; "
        f"innerloop {about['innerloop']}{commit}, PyTorch {about['torch']} with CUDA "
        f"{about['cuda']}, Python {about['python']}",
        f"before and after: a copy moves {copied} GB/s, a bfloat16 product does {product} TFLOP/s",
        "beside each peer's time: that time divided by innerloop's. ±: spread of the rounds, p20 "
        "to p80. of limit: of the slower of that copy, for one read and one write of each array, "
        "and that product; what fits in the L2 cache may be beyond it where hot",
        *about["absent"],
    ]
