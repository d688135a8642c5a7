"""``python -m innerloop selftest``: every kernel against the NumPy reference, on every ISA at hand.

Driven by the lists of activations, losses and optimizers, so that a new one is tested without being
named. A case is a function of the module that it calls: of innerloop, of its reference, or of
innerloop over the arrays of a device.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

import innerloop as il
from innerloop import reference

from . import ulp
from .console import console, show_table

# Differences are relative to the larger of 1 and the reference's value: sums of tens of elements of
# size 1 lose a few of the type's last bits. In half precision, what is near the middle of two
# numbers may be rounded to either, in each of an optimizer's three steps.
TOLERANCE = {"float32": 1e-5, "float64": 1e-13, "float16": 2**-8, "bfloat16": 2**-5}
# A device rounds the gradient before the activation to half precision for a layer's two products.
DEVICE_TOLERANCE = TOLERANCE | {"float16": 2**-6, "bfloat16": 2**-4}
SIZES = (1, 7, 16, 67, 1000)  # on both sides of every vector's width

Case = tuple[str, Callable[[Any], Any]]  # of ModuleType, or of OnDevice


@dataclass
class Outcome:
    """The largest difference of one kernel in one type, for each instruction set."""

    kernel: str
    dtype: str
    errors: dict[str, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--cuda", action="store_true", help="on the CUDA device, with PyTorch's tensors"
    )
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
    sizes = SIZES[::2] if options.quick else SIZES
    outcomes = compare(sizes, {"cuda": OnDevice(*_tensors())} if options.cuda else None)
    columns = list(outcomes[0].errors)
    tolerance = DEVICE_TOLERANCE if options.cuda else TOLERANCE
    failed = 0
    rows = []
    for outcome in outcomes:
        cells = []
        for error in outcome.errors.values():
            bad = not error <= tolerance[outcome.dtype]
            failed += bad
            cells.append(f"{'!' if bad else ''}{error:.1e}")
        rows.append((outcome.kernel, outcome.dtype, *cells))
    show_table(
        "largest difference from the NumPy reference",
        ["kernel", "type", *columns],
        rows,
        markdown=options.markdown,
    )
    bounds = ", ".join(f"{d} {t:g}" for d, t in tolerance.items())
    console.print(
        f"{len(rows) * len(columns) - failed} of {len(rows) * len(columns)} within bounds "
        f"({bounds})"
    )
    return 1 if failed else 0


def dtypes() -> list[np.dtype]:
    """NumPy's types of a kernel's arrays, and bfloat16 where ml_dtypes is installed."""
    found = [np.dtype(t) for t in ("float32", "float64", "float16")]
    if importlib.util.find_spec("ml_dtypes") is not None:
        import ml_dtypes

        found.append(np.dtype(ml_dtypes.bfloat16))
    return found


class OnDevice:
    """innerloop's functions over the arrays of a device, given NumPy's.

    Parameters
    ----------
    to, back : callable
        Copy a NumPy array without gaps, in its order of the axes, to the device; and back.
    """

    def __init__(self, to: Callable[[NDArray], Any], back: Callable[[Any], NDArray]) -> None:
        self.to, self.back = to, back

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **options: self._call(getattr(il, name), args, options)

    def _call(self, function: Callable[..., Any], args: Any, options: dict[str, Any]) -> Any:
        moved = []

        def there(value: Any) -> Any:
            if isinstance(value, (list, tuple)):
                return type(value)(map(there, value))
            if not isinstance(value, np.ndarray):
                return value
            moved.append((value, self.to(value.copy(order="K"))))
            return moved[-1][1]

        def here(value: Any) -> Any:
            if isinstance(value, (list, tuple)):
                return type(value)(map(here, value))
            return value if value is None else self.back(value)

        result = function(*map(there, args), **{k: there(v) for k, v in options.items()})
        for value, array in moved:
            value[...] = self.back(array)  # what was written in place
        return here(result)


def _tensors() -> tuple[Callable[[NDArray], Any], Callable[[Any], NDArray]]:
    """Between NumPy's arrays and PyTorch's tensors on the CUDA device."""
    import torch

    def to(array: NDArray) -> Any:
        if array.dtype.name == "bfloat16":
            return torch.from_numpy(array.view(np.int16)).cuda().view(torch.bfloat16)
        return torch.from_numpy(array).cuda()

    def back(tensor: Any) -> NDArray:
        if tensor.dtype == torch.bfloat16:
            import ml_dtypes

            return tensor.view(torch.int16).cpu().numpy().view(ml_dtypes.bfloat16)
        return tensor.cpu().numpy()

    return to, back


def compare(sizes: tuple[int, ...], devices: dict[str, OnDevice] | None = None) -> list[Outcome]:
    """Run every case on every instruction set, or on these devices."""
    outcomes = []
    targets: dict[str, Any] = dict(devices) if devices else dict.fromkeys(il.isas(), il)
    for dtype in dtypes():
        errors: dict[str, dict[str, float]] = {}
        for name, run in itertools.chain.from_iterable(noun(dtype, sizes) for noun in NOUNS):
            expected = run(reference)
            worst = errors.setdefault(name, dict.fromkeys(targets, 0.0))
            for target, module in targets.items():
                with il.use_backend("cpu"), il.use_isa(il.isas()[-1] if devices else target):
                    worst[target] = max(worst[target], largest_difference(run(module), expected))
        outcomes += [Outcome(name, dtype.name, found) for name, found in errors.items()]
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


def case(function: str, *args: Any, variant: str = "", **options: Any) -> Case:
    """Return the case of one call of a function that both modules have."""
    name = function.replace("_backward", " backward") + (f", {variant}" if variant else "")
    return name, lambda module: getattr(module, function)(*args, **options)


def normal(seed: int, dtype: np.dtype, *shape: int, scale: float = 1.0) -> NDArray:
    """Return normal numbers, the same for the same seed."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(dtype)


def uniform(
    seed: int, dtype: np.dtype, *shape: int, low: float = 0.5, high: float = 2.0
) -> NDArray:
    """Return numbers of a range, by default of weights."""
    return np.random.default_rng(seed).uniform(low, high, shape).astype(dtype)


def combinations(**values: tuple) -> Iterator[dict[str, Any]]:
    """Yield the options of every combination."""
    for chosen in itertools.product(*values.values()):
        yield dict(zip(values, chosen, strict=True))


def activations(dtype: np.dtype, sizes: tuple[int, ...]) -> Iterator[Case]:
    """Each activation forward and backward, over contiguous and strided arrays with edge values."""
    edges = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-30, -100.0, 100.0]).astype(dtype)
    for name, size in itertools.product(il.activations.NAMES, sizes):
        x = np.concatenate([normal(1, dtype, size, scale=3.0), edges])
        dy = normal(2, dtype, x.size)
        finite = np.isfinite(x)
        for step in (1, -2):
            yield case(name, x[::step])
            yield case(f"{name}_backward", dy[finite][::step], x[finite][::step])


def prelu(dtype: np.dtype, sizes: tuple[int, ...]) -> Iterator[Case]:
    """prelu with one slope and with one a channel, and both gradients."""
    for shape, slopes in (((67,), 1), ((33, 19), 19), ((2, 3, 1100), 3)):
        x, dy, weight = normal(3, dtype, *shape), normal(4, dtype, *shape), normal(5, dtype, slopes)
        yield case("prelu", x, weight)
        yield case("prelu_backward", dy, x, weight)


def gated(dtype: np.dtype, sizes: tuple[int, ...]) -> Iterator[Case]:
    """Each gated pair over each axis."""
    x = normal(3, dtype, 4, 38, 6, scale=3.0)
    for name, axis in itertools.product(reference.GATED, range(3)):
        dy = normal(4, dtype, *(n // 2 if d == axis else n for d, n in enumerate(x.shape)))
        yield case(name, x, axis)
        yield case(f"{name}_backward", dy, x, axis)


def softmax(dtype: np.dtype, sizes: tuple[int, ...]) -> Iterator[Case]:
    """softmax and log_softmax over each axis."""
    x, dy = normal(3, dtype, 5, 19, 3), normal(4, dtype, 5, 19, 3)
    for name, axis in itertools.product(("softmax", "log_softmax"), range(3)):
        yield case(name, x, axis)
        yield case(f"{name}_backward", dy, getattr(reference, name)(x, axis), axis)


def linear(dtype: np.dtype, sizes: tuple[int, ...]) -> Iterator[Case]:
    """linear and its backward with each activation, over a few shapes and both weight layouts."""
    for (m, k, n), name in itertools.product(
        ((1, 5, 3), (7, 33, 65), (37, 64, 17)), il.activations.NAMES
    ):
        x, b, dy = normal(5, dtype, m, k), normal(6, dtype, n), normal(8, dtype, m, n)
        w = normal(7, dtype, k, n, scale=k**-0.5)
        for drop in (False, True):
            options: dict[str, Any] = {"activation": name}
            options |= {"dropout": 0.25, "seed": 3, "offset": 1} if drop else {}
            saved = reference.linear(x, w, b, return_saved=True, **options)[1]
            options["variant"] = name + ", dropout" * drop
            for v in (w, np.ascontiguousarray(w.T).T):
                yield case("linear", x, v, b, return_saved=True, **options)
                yield case("linear_backward", dy, x, v, saved, **options)


def softmax_cross_entropy(dtype: np.dtype, sizes: tuple[int, ...]) -> Iterator[Case]:
    """Cross-entropy over labels and probabilities, of logits and of a layer."""
    for rows, classes in ((1, 1), (5, 10), (33, 1001)):
        logits = normal(9, dtype, rows, classes, scale=4.0)
        x, w = normal(9, dtype, rows, 7), normal(16, dtype, 7, classes)
        labels = np.random.default_rng(10).integers(0, classes, rows)
        labels[rows // 2 :: 4] = -100 if rows > 1 else 0
        targets = {"labels": labels}
        targets["probabilities"] = reference.softmax(normal(11, dtype, rows, classes))
        for (kind, target), options in itertools.product(
            targets.items(),
            combinations(
                reduction=("mean", "sum", "none"),
                label_smoothing=(0.0, 0.1),
                weight=(None, uniform(12, dtype, classes)),
            ),
        ):
            options |= {"return_grad": True, "variant": kind}
            yield case("softmax_cross_entropy", logits, target, **options)
            yield case("linear_cross_entropy", x, w, target, normal(17, dtype, classes), **options)


def elementwise_losses(dtype: np.dtype, sizes: tuple[int, ...]) -> Iterator[Case]:
    """Each elementwise loss with its gradient, over contiguous and strided arrays."""
    for (name, entry), size in itertools.product(reference.LOSSES.items(), sizes):
        # Of probabilities, which every one of them takes.
        pred, target, weight, third = (
            uniform(seed, dtype, size, low=0.01, high=0.99) for seed in (13, 14, 15, 16)
        )
        for step, options in itertools.product(
            (1, -2), combinations(reduction=("mean", "none"), sample_weight=(None, weight))
        ):
            if options["sample_weight"] is not None:
                options["sample_weight"] = weight[::step]
                options |= {entry.array: third[::step]} if entry.array else {}
            yield case(name, pred[::step], target[::step], return_grad=True, **options)


def nll_loss(dtype: np.dtype, sizes: tuple[int, ...]) -> Iterator[Case]:
    """nll_loss along each axis."""
    log_probs = reference.log_softmax(normal(14, dtype, 7, 5, 3), 1)
    for options in combinations(axis=(0, 1, 2), reduction=("mean", "none")):
        rows = np.delete(log_probs.shape, options["axis"])
        labels = np.random.default_rng(15).integers(0, log_probs.shape[options["axis"]], rows)
        yield case("nll_loss", log_probs, labels, ignore_index=1, return_grad=True, **options)


def norms(dtype: np.dtype, sizes: tuple[int, ...]) -> Iterator[Case]:
    """Each norm with and without its vectors, and its gradients."""
    for shape, (name, channels), plain in itertools.product(
        ((5, 7), (3, 19, 4), (2, 67, 300)),
        {"layer_norm": -1, "rms_norm": -1, "batch_norm": 1}.items(),
        (False, True),
    ):
        n = shape[channels]
        x, dy, weight = normal(18, dtype, *shape), normal(19, dtype, *shape), normal(20, dtype, n)
        vectors: dict[str, Any] = {"weight": None if plain else weight}
        if name != "rms_norm" and not plain:
            vectors["bias"] = normal(21, dtype, n)
        for options in combinations(training=(True, False)) if name == "batch_norm" else ({},):
            forward = name, _batch_norm(x, vectors, **options)
            if name != "batch_norm":
                forward = case(name, x, **vectors, return_saved=True)
            yield forward
            saved = forward[1](reference)[1]
            label, run = case(f"{name}_backward", dy, x, saved, vectors["weight"], **options)
            # The reference has gradients of vectors that were not given, too.
            yield label, _first_of(run) if plain else run


def _first_of(run: Callable[[ModuleType], Any]) -> Callable[[ModuleType], Any]:
    return lambda module: run(module)[0]


def _batch_norm(x: NDArray, vectors: dict[str, Any], training: bool = True) -> Any:
    """Return a function that returns also the running statistics, which are written in place."""
    compute = np.dtype(np.float64 if x.dtype == np.float64 else np.float32)

    def run(module: ModuleType) -> tuple:
        running = normal(22, compute, x.shape[1]), uniform(23, compute, x.shape[1])
        y, saved = module.batch_norm(x, *running, **vectors, training=training, return_saved=True)
        return y, saved, *running

    return run


def dropout(dtype: np.dtype, sizes: tuple[int, ...]) -> Iterator[Case]:
    """Dropout of contiguous and strided arrays."""
    for size, p, step in itertools.product(sizes, (0.0, 0.3, 1.0), (1, -2)):
        for name in ("dropout", "dropout_backward"):
            yield case(name, normal(24, dtype, size)[::step], p, seed=2**63 + 5, offset=7)


def optimizers(dtype: np.dtype, sizes: tuple[int, ...]) -> Iterator[Case]:
    """Three steps of each optimizer, with its defaults and with each option that it has."""
    switched: dict[str, Any] = {"momentum": 0.9, "weight_decay": 0.1, "l1": 0.1}
    switched |= {"grad_scale": 8.0, "max_norm": 0.5}
    for name, entry in reference.OPTIMIZERS.items():
        variants: list[dict[str, Any]] = [{}]
        for option, default in entry.hyperparameters.items():
            if option in switched:
                variants.append({option: switched[option]})
            elif isinstance(default, bool):
                # Some switches mean something only with momentum (nesterov needs it).
                extra = {"momentum": 0.9} if "momentum" in entry.hyperparameters else {}
                variants.append({**extra, option: not default})
        for options in variants:
            yield name, _steps(entry, dtype, sizes, options)

    def clip(module: ModuleType) -> list[Any]:
        grads = [normal(40 + i, dtype, size) for i, size in enumerate(sizes)]
        if module is not reference:
            return [np.float64(module.clip_grad_norm(grads, 0.5)), *grads]
        norm = reference.gradients.grad_norm(grads)
        for grad in grads:
            reference.gradients.clip(grad, norm, 0.5)
        return [np.float64(norm), *grads]

    yield "clip_grad_norm", clip


def _steps(entry: Any, dtype: np.dtype, sizes: tuple[int, ...], options: dict[str, Any]) -> Any:
    """Return a function that takes three steps and returns parameters and states."""
    needed = entry.needed_states(**options)
    compute = np.dtype(np.float64 if dtype == np.float64 else np.float32)

    def run(module: ModuleType) -> list[NDArray]:
        params = [normal(20 + i, dtype, size) for i, size in enumerate(sizes)]
        grads = [normal(40 + i, dtype, size) for i, size in enumerate(sizes)]
        states = {s: [np.zeros(size, compute) for size in sizes] for s in needed}
        norm = reference.gradients.grad_norm(grads) / options.get("grad_scale", 1.0)
        for step in (1, 2, 3):
            if module is not reference:
                lists = {f"{s}s": arrays for s, arrays in states.items()}
                getattr(module, f"{entry.name}_step")(params, grads, **lists, step=step, **options)
                continue
            for i, (param, grad) in enumerate(zip(params, grads, strict=True)):
                own = {s: arrays[i] for s, arrays in states.items()}
                entry.function(param, grad, **own, step=step, norm=norm, **options)
        return [*params, *itertools.chain.from_iterable(states.values())]

    return run


NOUNS = (
    *(activations, prelu, gated, softmax, linear, softmax_cross_entropy, elementwise_losses),
    *(nll_loss, norms, dropout, optimizers),
)
