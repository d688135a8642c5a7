"""``python -m innerloop selftest``: every kernel against the NumPy reference, on every ISA at hand.

Driven by the lists of activations, losses and optimizers, so that a new one is tested without being
named.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import innerloop as il
from innerloop import reference

from . import ulp
from .console import console, show_table

# Differences are relative to the larger of 1 and the reference's value: sums of tens of elements of
# size 1 lose a few of the type's last bits.
TOLERANCE = {"float32": 1e-5, "float64": 1e-13}
SIZES = (1, 7, 16, 67, 1000)  # on both sides of every vector's width

Case = tuple[str, Callable[[], Any], Callable[[], Any]]  # name, kernel, reference


@dataclass
class Outcome:
    """The largest difference of one kernel in one type, for each instruction set."""

    kernel: str
    dtype: str
    errors: dict[str, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--ulp", action="store_true", help="measure the elementary functions' errors"
    )
    parser.add_argument(
        "--exhaustive", action="store_true", help="with --ulp: all 2**32 float32 inputs (hours)"
    )
    parser.add_argument("--quick", action="store_true", help="fewer sizes; with --ulp fewer inputs")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")


def run(options: argparse.Namespace) -> int:
    """Print the table. The status is 1 if anything fails."""
    if options.ulp:
        return ulp.run(
            exhaustive=options.exhaustive, quick=options.quick, markdown=options.markdown
        )
    outcomes = compare(SIZES[::2] if options.quick else SIZES)
    failed = 0
    rows = []
    for outcome in outcomes:
        cells = []
        for error in outcome.errors.values():
            bad = not error <= TOLERANCE[outcome.dtype]
            failed += bad
            cells.append(f"{'!' if bad else ''}{error:.1e}")
        rows.append((outcome.kernel, outcome.dtype, *cells))
    show_table(
        "largest difference from the NumPy reference",
        ["kernel", "type", *il.isas()],
        rows,
        markdown=options.markdown,
    )
    bounds = ", ".join(f"{d} {t:g}" for d, t in TOLERANCE.items())
    console.print(
        f"{len(rows) * len(il.isas()) - failed} of {len(rows) * len(il.isas())} within bounds "
        f"({bounds})"
    )
    return 1 if failed else 0


def compare(sizes: tuple[int, ...]) -> list[Outcome]:
    """Run every case on every instruction set."""
    outcomes = []
    for dtype in ("float32", "float64"):
        errors: dict[str, dict[str, float]] = {}
        for isa in il.isas():
            with il.use_backend("cpu"), il.use_isa(isa):
                for name, kernel, expected in cases(np.dtype(dtype), sizes):
                    worst = errors.setdefault(name, dict.fromkeys(il.isas(), 0.0))
                    worst[isa] = max(worst[isa], largest_difference(kernel(), expected()))
        outcomes += [Outcome(name, dtype, found) for name, found in errors.items()]
    return outcomes


def largest_difference(actual: Any, expected: Any) -> float:
    """Return the largest difference, relative to the larger of 1 and the expected value.

    Both may be tuples or lists of arrays. NaN equals NaN; another shape or type is infinitely far.
    """
    if isinstance(expected, (tuple, list)):
        if len(actual) != len(expected):
            return np.inf
        return max(map(largest_difference, actual, expected), default=0.0)
    if expected is None:
        return 0.0 if actual is None else np.inf
    a, e = np.asarray(actual), np.asarray(expected)
    if a.shape != e.shape or a.dtype != e.dtype:
        return np.inf
    a, e = a.astype(np.float64), e.astype(np.float64)
    with np.errstate(all="ignore"):
        gap = np.abs(a - e) / np.maximum(1.0, np.abs(e))
    same = (a == e) | (np.isnan(a) & np.isnan(e))
    gap = np.where(same, 0.0, np.where(np.isnan(gap), np.inf, gap))
    return float(gap.max(initial=0.0))


def random(seed: int, dtype: np.dtype, *shape: int) -> NDArray:
    """Return normal numbers, the same for the same seed."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def cases(dtype: np.dtype, sizes: tuple[int, ...]) -> Iterator[Case]:
    """Yield every kernel's cases in one type."""
    yield from activation_cases(dtype, sizes)
    yield from prelu_cases(dtype)
    yield from gated_cases(dtype)
    yield from softmax_cases(dtype)
    yield from linear_cases(dtype)
    yield from cross_entropy_cases(dtype)
    yield from elementwise_loss_cases(dtype, sizes)
    yield from nll_loss_cases(dtype)
    yield from optimizer_cases(dtype, sizes)


def activation_cases(dtype: np.dtype, sizes: tuple[int, ...]) -> Iterator[Case]:
    """Each activation forward and backward, over contiguous and strided arrays with edge values."""
    edges = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-30, -100.0, 100.0], dtype)
    for name, size in itertools.product(il.activations.NAMES, sizes):
        entry = reference.ACTIVATIONS[name]
        x = np.concatenate([random(1, dtype, size) * dtype.type(3), edges])
        dy = random(2, dtype, x.size)
        finite = np.isfinite(x)
        for a in (x, x[::-2]):
            yield name, partial(il.activation, a, name), partial(entry.forward, a)
        for a, d in ((x[finite], dy[finite]), (x[finite][::2], dy[finite][::2])):
            yield (
                f"{name} backward",
                partial(il.activation_backward, d, a, name),
                partial(entry.backward, d, a),
            )


def prelu_cases(dtype: np.dtype) -> Iterator[Case]:
    """prelu with one slope and with one a channel, and both gradients."""
    for shape, slopes in (((67,), 1), ((33, 19), 19), ((2, 3, 1100), 3)):
        x, dy = random(3, dtype, *shape), random(4, dtype, *shape)
        weight = random(5, dtype, slopes)
        yield "prelu", partial(il.prelu, x, weight), partial(reference.prelu, x, weight)
        yield (
            "prelu backward",
            partial(il.prelu_backward, dy, x, weight),
            partial(reference.prelu_backward, dy, x, weight),
        )


def gated_cases(dtype: np.dtype) -> Iterator[Case]:
    """Each gated pair over each axis."""
    x = random(3, dtype, 4, 38, 6) * dtype.type(3)
    for (name, entry), axis in itertools.product(reference.GATED.items(), range(3)):
        yield name, partial(getattr(il, name), x, axis), partial(entry.forward, x, axis)
        dy = random(4, dtype, *entry.forward(x, axis).shape)
        yield (
            f"{name} backward",
            partial(getattr(il, f"{name}_backward"), dy, x, axis),
            partial(entry.backward, dy, x, axis),
        )


def softmax_cases(dtype: np.dtype) -> Iterator[Case]:
    """softmax and log_softmax over each axis."""
    x, dy = random(3, dtype, 5, 19, 3), random(4, dtype, 5, 19, 3)
    for name, axis in itertools.product(("softmax", "log_softmax"), range(3)):
        forward, backward = getattr(reference, name), getattr(reference, f"{name}_backward")
        y = forward(x, axis)
        yield name, partial(getattr(il, name), x, axis), partial(forward, x, axis)
        yield (
            f"{name} backward",
            partial(getattr(il, f"{name}_backward"), dy, y, axis),
            partial(backward, dy, y, axis),
        )


def linear_cases(dtype: np.dtype) -> Iterator[Case]:
    """linear and its backward with each activation, over a few shapes and both weight layouts."""
    for (m, k, n), name in itertools.product(
        ((1, 5, 3), (7, 33, 65), (37, 64, 17)), il.activations.NAMES
    ):
        x, b = random(5, dtype, m, k), random(6, dtype, n)
        w = random(7, dtype, k, n) / dtype.type(k**0.5)
        dy = random(8, dtype, m, n)
        saved = reference.linear(x, w, b, activation=name, return_saved=True)[1]
        for v in (w, np.ascontiguousarray(w.T).T):
            yield (
                f"linear, {name}",
                partial(il.linear, x, v, b, activation=name, return_saved=True),
                partial(reference.linear, x, w, b, activation=name, return_saved=True),
            )
            yield (
                f"linear backward, {name}",
                partial(il.linear_backward, dy, x, v, saved, activation=name),
                partial(reference.linear_backward, dy, x, w, saved, activation=name),
            )


def cross_entropy_cases(dtype: np.dtype) -> Iterator[Case]:
    """softmax_cross_entropy over labels and probabilities, with every reduction and option."""
    name = "softmax_cross_entropy"
    for rows, classes in ((1, 1), (5, 10), (33, 1001)):
        logits = random(9, dtype, rows, classes) * dtype.type(4)
        labels = np.random.default_rng(10).integers(0, classes, rows)
        labels[rows // 2 :: 4] = -100 if rows > 1 else 0
        probabilities = reference.softmax(random(11, dtype, rows, classes))
        weight = np.random.default_rng(12).uniform(0.5, 2.0, classes).astype(dtype)
        for target, reduction, smoothing, w in itertools.product(
            (labels, probabilities), ("mean", "sum", "none"), (0.0, 0.1), (None, weight)
        ):
            options = {
                "weight": w,
                "label_smoothing": smoothing,
                "reduction": reduction,
                "return_grad": True,
            }
            yield (
                f"{name}, {'labels' if target is labels else 'probabilities'}",
                # The loss of a sum grows with the rows: compare a row's share.
                _share(il.softmax_cross_entropy, logits, target, options, rows),
                _share(reference.softmax_cross_entropy, logits, target, options, rows),
            )


def _share(
    function: Any, logits: NDArray, target: NDArray, options: dict[str, Any], rows: int
) -> Callable[[], Any]:
    def call() -> tuple[Any, Any]:
        loss, gradient = function(logits, target, **options)
        return np.asarray(loss / gradient.dtype.type(rows), gradient.dtype), gradient

    return call


def elementwise_loss_cases(dtype: np.dtype, sizes: tuple[int, ...]) -> Iterator[Case]:
    """Each elementwise loss with its gradient, over contiguous and strided arrays."""
    for (name, entry), size in itertools.product(reference.LOSSES.items(), sizes):
        rng = np.random.default_rng(13)
        # Of probabilities, which every one of them takes.
        pred, target, weight = (rng.uniform(0.01, 0.99, size).astype(dtype) for _ in range(3))
        for reduction, step, w in itertools.product(("mean", "none"), (1, -2), (None, weight)):
            options: dict[str, Any] = {
                "sample_weight": None if w is None else w[::step],
                "reduction": reduction,
                "return_grad": True,
            }
            arrays = pred[::step], target[::step]
            yield (
                name,
                partial(getattr(il, name), *arrays, **options),
                partial(entry.function, *arrays, **options),
            )


def nll_loss_cases(dtype: np.dtype) -> Iterator[Case]:
    """nll_loss along each axis."""
    log_probs = reference.log_softmax(random(14, dtype, 7, 5, 3), 1)
    for axis, reduction in itertools.product(range(3), ("mean", "none")):
        rows = log_probs.shape[:axis] + log_probs.shape[axis + 1 :]
        labels = np.random.default_rng(15).integers(0, log_probs.shape[axis], rows)
        options: dict[str, Any] = {"axis": axis, "reduction": reduction, "return_grad": True}
        options["ignore_index"] = 1
        yield (
            "nll_loss",
            partial(il.nll_loss, log_probs, labels, **options),
            partial(reference.nll_loss, log_probs, labels, **options),
        )


def optimizer_cases(dtype: np.dtype, sizes: tuple[int, ...]) -> Iterator[Case]:
    """Three steps of each optimizer, with its defaults and with each option that it has."""
    switched: dict[str, Any] = {"momentum": 0.9, "weight_decay": 0.1, "l1": 0.1, "grad_scale": 8.0}
    for name, entry in reference.OPTIMIZERS.items():
        known = entry.hyperparameters
        variants: list[dict[str, Any]] = [{}]
        for option, default in known.items():
            if option in switched:
                variants.append({option: switched[option]})
            elif isinstance(default, bool):
                # Some switches mean something only with momentum (nesterov needs it).
                extra = {"momentum": 0.9} if "momentum" in known else {}
                variants.append({**extra, option: not default})
        for options in variants:
            args = (dtype, entry, options, sizes)
            yield name, _steps(_native_step(name), *args), _steps(_reference_step(name), *args)


def _native_step(name: str) -> Callable[..., None]:
    return getattr(il, f"{name}_step")


def _reference_step(name: str) -> Callable[..., None]:
    function = reference.OPTIMIZERS[name].function

    def step(params: list, grads: list, *states: list | None, **options: Any) -> None:
        for i, (param, grad) in enumerate(zip(params, grads, strict=True)):
            function(param, grad, *(s and s[i] for s in states), **options)

    return step


def _steps(
    step: Callable[..., None], dtype: np.dtype, entry: Any, options: dict, sizes: tuple[int, ...]
) -> Callable[[], list[NDArray]]:
    """Return a function that takes three steps and returns parameters and states."""

    def call() -> list[NDArray]:
        params = [random(20 + i, dtype, size) for i, size in enumerate(sizes)]
        grads = [random(40 + i, dtype, size) for i, size in enumerate(sizes)]
        needed = entry.needed_states(**options)
        states = [[np.zeros_like(p) for p in params] if s in needed else None for s in entry.states]
        for number in (1, 2, 3):
            step(params, grads, *states, step=number, **options)
        return [*params, *(a for s in states if s is not None for a in s)]

    return call
