"""The elementary functions' largest errors, in units in the last place (ULP) of the exact result.

An error is |computed - exact| divided by the distance of two neighbouring numbers of the type at
the exact result. A result that rounds correctly is within 0.5; past the largest number, infinity
counts as the next power of two.
"""

from __future__ import annotations

import importlib.util
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import innerloop as il
from innerloop import _core
from innerloop.reference import GATED

from .console import console, show_table

ELEMENTARY = ("exp", "expm1", "log", "log1p", "erf")  # the others are activations
BOUNDS = {
    **{"exp": 1.0, "expm1": 1.2, "log": 1.0, "log1p": 1.0, "tanh": 1.5, "erf": 2.0, "sigmoid": 2.0},
    **{"gelu": 3.0, "gelu_tanh": 205.0, "silu": 3.0, "leaky_relu": 1.5},
    **{"elu": 1.1, "celu": 1.1, "selu": 2.0, "mish": 3.0, "softplus": 2.0, "softsign": 1.5},
    **{"hardsigmoid": 1.5, "hardswish": 2.0, "glu": 3.0, "swiglu": 4.0, "geglu": 4.0},
}
FUNCTIONS = tuple(BOUNDS)
WITHOUT_FMA = 1.0  # what an instruction set that rounds products may add
# x times a gate: below these x the gate is subnormal, with few bits left, and half a unit of it is
# |x| / 2 units of the product. Those inputs are a line of their own.
TAIL = ", gate subnormal"
TAILS_BELOW = {
    "gelu": {"float32": -12.9, "float64": -37.5},
    "gelu_tanh": {"float32": -10.0, "float64": -21.1},
    "silu": {"float32": -87.3, "float64": -708.3},
}
# What each line of the table, a function or its tail, may err by. Before tanh, gelu_tanh rounds a
# number as large as the exponent of its result, and a rounding there is as many units of that.
_TAILS = {
    "float32": {"gelu": 22.0, "gelu_tanh": 205.0, "silu": 60.0, "swiglu": 120.0, "geglu": 22.0},
    "float64": {"gelu": 22.0, "gelu_tanh": 2000.0, "silu": 400.0, "swiglu": 800.0, "geglu": 40.0},
}
LINES = {
    dtype: {
        line: bound
        for name in FUNCTIONS
        for line, bound in ((name, BOUNDS[name]), (name + TAIL, tails.get(name)))
        if bound is not None
    }
    for dtype, tails in _TAILS.items()
}
LINES["float64"]["gelu_tanh"] = 2000.0
STEP = 257  # of every so many float32 bit patterns, one; prime, so that all low bits occur
CHUNK = 1 << 14  # whose arrays a core's cache holds

Oracle = Callable[[NDArray], NDArray]


@dataclass
class Worst:
    """The largest error met, and where."""

    error: float = 0.0
    at: float = math.nan


Errors = dict[str, dict[str, Worst]]  # by line of the table and instruction set


def record(worst: Errors, name: str, isa: str, errors: NDArray, x: NDArray) -> None:
    """Take in the errors at x of one instruction set; of some functions, the tail's apart."""
    activation = GATED[name].activation if name in GATED else name
    parts: dict[str, Any] = {name: slice(None)}
    if activation in TAILS_BELOW:
        tail = x < TAILS_BELOW[activation][x.dtype.name]
        parts = {name: ~tail, name + TAIL: tail}
    for line, part in parts.items():
        found = worst.setdefault(line, {}).setdefault(isa, Worst())
        if (chosen := errors[part]).size and chosen[i := int(chosen.argmax())] > found.error:
            found.error, found.at = float(chosen[i]), float(x[part][i])


def values_beside(gates: NDArray) -> NDArray:
    """Return numbers in [1, 2) to be gated, of which each low bit depends on the gate's all."""
    mixed = gates.view(f"u{gates.itemsize}") * np.array(0x9E3779B1, f"u{gates.itemsize}")
    info = np.finfo(gates.dtype)
    kept = mixed >> np.array(8 * gates.itemsize - info.nmant, mixed.dtype)
    return gates.dtype.type(1) + kept.astype(gates.dtype) * info.eps


def native(name: str, x: NDArray) -> NDArray:
    """Return innerloop's function of contiguous x; a gated pair's of x as the gate."""
    if name in ELEMENTARY:
        return _core.elementary(name, x)
    if name not in GATED:
        return il.activation(x, name)
    halves = (x, values_beside(x))
    return getattr(il, name)(np.stack(halves if GATED[name].gate_is_first else halves[::-1]), 0)[0]


def ulp_errors(computed: NDArray, exact: NDArray, dtype: np.dtype) -> NDArray:
    """Return the error of each element; infinite where just one of both is NaN.

    `exact` is of a wider type, whose own error does not count.
    """
    info = np.finfo(dtype)
    wide = exact.dtype.type
    overflow = wide(2.0) ** int(info.maxexp)
    if wide is np.float64 and dtype == np.float32:  # of which there may be all
        with np.errstate(all="ignore"):
            if np.abs(exact).max(initial=0) < overflow and np.isfinite(computed).all():
                powers = (exact.view(np.int64) & 0x7FF0000000000000).view(np.float64)
                np.maximum(powers, info.smallest_normal, out=powers)
                return np.abs(computed - exact) / (powers * float(info.eps))
            if np.array_equal(computed, exact):
                return np.zeros(exact.shape)
    with np.errstate(all="ignore"):
        exact_nan, computed_nan = np.isnan(exact), np.isnan(computed)
        exact = np.clip(exact, -overflow, overflow)
        got = np.clip(computed.astype(wide), -overflow, overflow)
        exponent = np.frexp(exact)[1]  # |exact| lies in [2^(exponent - 1), 2^exponent)
        exponent[exact == 0] = info.minexp
        exponent = np.clip(exponent, info.minexp + 1, info.maxexp) - 1 - info.nmant
        errors = np.abs(got - exact) / np.ldexp(wide(1.0), exponent)
    errors = np.where(exact_nan | computed_nan, np.inf, errors)
    return np.where(exact_nan & computed_nan, 0.0, errors).astype(np.float64)


def _sigmoid(x: NDArray) -> NDArray:
    return 1 / (1 + np.exp(-x))


def _selu(x: NDArray) -> NDArray:
    """From constants of long doubles, which float64 rounds."""
    alpha, scale = map(
        np.longdouble, ("1.6732632423543772848170429916717", "1.0507009873554804934193349852946")
    )
    wide = x.dtype.type
    return np.where(x > 0, wide(scale) * x, wide(scale * alpha) * np.expm1(x))


def _gelu_tanh(x: NDArray) -> NDArray:
    number = x.dtype.type
    x = np.where(x == -np.inf, number("nan"), np.maximum(x, -1e3))  # where it is 0
    argument = number("1.59576912160573071176") * (x + number("0.044715") * x**3)
    return x * _sigmoid(argument)


def _softplus(x: NDArray) -> NDArray:
    return np.where(x > 20, x, np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))))


# NumPy's own functions, and those made of them: as exact as the type of x is wide.
SIMPLE: dict[str, Oracle] = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "gelu_tanh": _gelu_tanh,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "leaky_relu": lambda x: np.where(x > 0, x, x.dtype.type("0.01") * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "celu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "selu": _selu,
    "mish": lambda x: np.maximum(x, -1e4) * np.tanh(np.log1p(np.exp(x))),
    "softplus": _softplus,
    "softsign": lambda x: x / (1 + np.abs(x)),
    "hardsigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "hardswish": lambda x: x * (np.clip(x + 3, 0, 6) / 6),
}


def _error_functions() -> tuple[Oracle, Oracle]:
    """erf and erfc of float64: SciPy's where it is installed, else the slower ones of `math`."""
    if importlib.util.find_spec("scipy") is not None:
        from scipy import special

        return special.erf, special.erfc

    def each(function: Callable[[float], float]) -> Oracle:
        return lambda x: np.fromiter(map(function, x.tolist()), np.float64, x.size)

    return each(math.erf), each(math.erfc)


def float64_oracles() -> dict[str, Oracle]:
    """Functions of float64 arrays, exact enough to judge float32."""
    erf, erfc = _error_functions()

    def gelu(x: NDArray) -> NDArray:
        return x * (0.5 * erfc(x / -math.sqrt(2.0)))

    oracles = SIMPLE | {"erf": erf, "gelu": gelu}

    def gated(activation: str) -> Oracle:
        return lambda x: oracles[activation](x) * values_beside(x.astype(np.float32))

    return oracles | {name: gated(pair.activation) for name, pair in GATED.items()}


def float32_inputs(step: int, share: int = 0, shares: int = 1) -> Iterator[NDArray]:
    """Yield, in pieces, the float32 of every `step`-th bit pattern: all magnitudes, both signs.

    Of several shares, one: every so many pieces.
    """
    piece = CHUNK * step
    first = np.arange(0, min(piece, 1 << 32), step, dtype=np.uint32)
    for start in range(share * piece, 1 << 32, shares * piece):
        left = -(-((1 << 32) - start) // step)
        yield (first[:left] + np.uint32(start)).view(np.float32)


def measure_float32(step: int, functions: Sequence[str] = FUNCTIONS) -> Errors:
    """Return the largest errors in float32, over every `step`-th bit pattern."""
    oracles = float64_oracles()
    worst: Errors = {}
    one_at_a_time = threading.Lock()  # as the choice of an instruction set is the process's

    def measure(name: str, x: NDArray) -> None:
        with np.errstate(all="ignore"):  # signalling NaN, too
            exact = oracles[name](x.astype(np.float64))
        with one_at_a_time:
            computed = {}
            for isa in il.isas():
                with il.use_isa(isa):
                    computed[isa] = native(name, x)
        last: Any = None
        for isa, y in computed.items():
            if last is None or y.tobytes() != last.tobytes():  # with FMA they are the same bits
                last, errors = y, ulp_errors(y, exact, x.dtype)
            with one_at_a_time:
                record(worst, name, isa, errors, x)

    def measure_share(share: int) -> None:
        for name in functions:
            for x in float32_inputs(step, share, threads):
                measure(name, x)

    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(measure_share, range(threads)))
    return {line: worst[line] for line in LINES["float32"] if line in worst}


def float64_inputs(name: str, scale: float) -> NDArray:
    """Return random float64: even over the range where the function bends, and over magnitudes."""
    activation = GATED[name].activation if name in GATED else name
    count = int((200_000 if activation in SIMPLE else 4_000) * scale)  # mpmath takes its time
    rng = np.random.default_rng(0)
    if name == "log":
        near_one = 1.0 + np.exp(rng.uniform(-36.0, 0.0, count)) * rng.choice([-0.5, 1.0], count)
        return np.concatenate([np.exp(rng.uniform(-744.0, 709.0, count)), near_one])
    if name == "log1p":
        tiny = np.exp(rng.uniform(-700.0, 0.0, count)) * rng.choice([-1.0, 1.0], count)
        return np.concatenate([np.exp(rng.uniform(-1.0, 709.0, count)) - 1.0, tiny])
    low, high = {
        "exp": (-746.0, 710.0),
        "expm1": (-40.0, 710.0),
        "tanh": (-20.0, 20.0),
        "erf": (-6.0, 6.0),
        "sigmoid": (-746.0, 40.0),
        "gelu": (-38.5, 9.0),
        "geglu": (-38.5, 9.0),
        "gelu_tanh": (-21.2, 9.0),
        "silu": (-746.0, 40.0),
        "swiglu": (-746.0, 40.0),
        "glu": (-746.0, 40.0),
        "mish": (-744.0, 40.0),
    }.get(name, (-40.0, 40.0))
    magnitudes = np.exp(rng.uniform(-700.0, math.log(-low), count)) * rng.choice([-1.0, 1.0], count)
    near_zero = rng.uniform(-2.0, 2.0, count)
    return np.concatenate([rng.uniform(low, high, count), magnitudes, near_zero])


def _mpmath_oracle(name: str) -> Oracle:
    import mpmath  # type: ignore[import-untyped]

    mpmath.mp.prec = 120

    def gelu(x: float) -> mpmath.mpf:
        return x * mpmath.erfc(-mpmath.mpf(x) / mpmath.sqrt(2)) / 2

    function = {"erf": mpmath.erf, "gelu": gelu}[name]

    def exact(value: mpmath.mpf) -> np.longdouble:
        high = float(value)  # a long double is the sum of two doubles
        return np.longdouble(high) + np.longdouble(float(value - high))

    return lambda x: np.array([exact(function(v)) for v in x.tolist()], np.longdouble)


def float64_oracle(name: str) -> Oracle | None:
    """Return an oracle wider than float64, or None."""
    if np.finfo(np.longdouble).nmant <= np.finfo(np.float64).nmant:
        return None
    if name in GATED:
        activation = float64_oracle(GATED[name].activation)
        return activation and (lambda x: activation(x) * values_beside(x))
    if name in SIMPLE:
        return lambda x: SIMPLE[name](x.astype(np.longdouble))
    return _mpmath_oracle(name) if importlib.util.find_spec("mpmath") is not None else None


def measure_float64(scale: float = 1.0, functions: Sequence[str] = FUNCTIONS) -> Errors:
    """Return the largest errors met in float64, at `scale` times the usual number of inputs."""
    worst: Errors = {}
    for name in functions:
        if (oracle := float64_oracle(name)) is None:
            continue
        x = float64_inputs(name, scale)
        with np.errstate(all="ignore"):
            exact = oracle(x)
        for isa in il.isas():
            with il.use_isa(isa):
                y = native(name, x)
            record(worst, name, isa, ulp_errors(y, exact, x.dtype), x)
    return worst


def _extra(isa: str) -> float:
    with il.use_isa(isa):
        return 0.0 if _core.has_fma() else WITHOUT_FMA


def run(*, exhaustive: bool = False, quick: bool = False, markdown: bool = False) -> int:
    """Measure and print. The status is 1 if an error is above its bound."""
    step = 1 if exhaustive else STEP * (128 if quick else 1)
    extra = {isa: _extra(isa) for isa in il.isas()}
    status = 0
    for dtype, sample, worst in (
        ("float32", f"every {step}. of 2^32 inputs", measure_float32(step)),
        ("float64", "random inputs", measure_float64(0.05 if quick else 1.0)),
    ):
        if exhaustive and dtype == "float32":
            sample = "all 2^32 inputs"
        rows = []
        for name, by_isa in worst.items():
            bound = LINES[dtype][name]
            cells = []
            for isa, found in by_isa.items():
                bad = not found.error <= bound + extra[isa]
                status |= bad
                cells.append(f"{'!' if bad else ''}{found.error:.3f} at {found.at:.5g}")
            rows.append((name, f"{bound:g}", *cells))
        title = f"largest error in ULP, {dtype}, {sample}"
        show_table(title, ["function", "bound", *il.isas()], rows, markdown=markdown)
        for name in FUNCTIONS:
            if name not in worst:
                console.print(
                    f"{name}, {dtype}: skipped, as it needs mpmath and a wide long double"
                )
    for isa in (isa for isa, more in extra.items() if more):
        console.print(f"{isa} has no fused multiply-add: its bounds are higher by {WITHOUT_FMA:g}.")
    return int(status)
