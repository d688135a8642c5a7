"""The elementary functions' largest errors, in units in the last place (ULP) of the exact result.

An error is |computed - exact| divided by the distance of two neighbouring numbers of the type at
the exact result. A result that rounds correctly is within 0.5; past the largest number, infinity
counts as the next power of two.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import innerloop as il
from innerloop import _core

from .console import console, show_table

ELEMENTARY = ("exp", "expm1", "log", "log1p", "erf")  # the others are activations
BOUNDS = {
    **{"exp": 1.0, "expm1": 1.2, "log": 1.0, "log1p": 1.0, "tanh": 1.5, "erf": 2.0, "sigmoid": 2.0},
    **{"gelu": 3.0, "elu": 1.1, "selu": 2.0, "mish": 3.0, "softplus": 2.0, "softsign": 1.5},
    **{"hardsigmoid": 1.5, "hardswish": 2.0},
}
FUNCTIONS = tuple(BOUNDS)
WITHOUT_FMA = 1.0  # what an instruction set that rounds products may add
# gelu(x) = x Phi(x). Below these x, Phi(x) is subnormal with few bits left, and half a unit of it
# is |x| / 2 units of gelu. Those inputs are a line of their own.
TAIL = "gelu, Phi subnormal"
TAIL_BELOW = {"float32": -12.9, "float64": -37.5}
TAIL_BOUND = 22.0
STEP = 257  # of every so many float32 bit patterns, one; prime, so that all low bits occur
CHUNK = 1 << 21

Oracle = Callable[[NDArray], NDArray]


@dataclass
class Worst:
    """The largest error met, and where."""

    error: float = 0.0
    at: float = math.nan

    def update(self, errors: NDArray, x: NDArray) -> None:
        """Take in the errors at x."""
        i = int(errors.argmax())
        if errors[i] > self.error:
            self.error, self.at = float(errors[i]), float(x[i])


def record(
    worst: dict[str, dict[str, Worst]], name: str, isa: str, errors: NDArray, x: NDArray
) -> None:
    """Take in one instruction set's errors at x, gelu's in two lines."""
    lines: dict[str, Any] = {name: slice(None)}
    if name == "gelu":
        tail = x < TAIL_BELOW[x.dtype.name]
        lines = {name: ~tail, TAIL: tail}
    for line, part in lines.items():
        found = worst.setdefault(line, {}).setdefault(isa, Worst())
        if (chosen := errors[part]).size:
            found.update(chosen, x[part])


def native(name: str, x: NDArray) -> NDArray:
    """Return innerloop's function of contiguous x."""
    return _core.elementary(name, x) if name in ELEMENTARY else il.activation(x, name)


def ulp_errors(computed: NDArray, exact: NDArray, dtype: np.dtype) -> NDArray:
    """Return the error of each element; infinite where just one of both is NaN.

    `exact` is of a wider type, whose own error does not count.
    """
    info = np.finfo(dtype)
    wide = exact.dtype.type
    overflow = wide(2.0) ** int(info.maxexp)
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
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def _selu(x: NDArray) -> NDArray:
    """From constants of long doubles, which float64 rounds."""
    alpha, scale = map(
        np.longdouble, ("1.6732632423543772848170429916717", "1.0507009873554804934193349852946")
    )
    wide = x.dtype.type
    return np.where(x > 0, wide(scale) * x, wide(scale * alpha) * np.expm1(x))


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
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
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

    return SIMPLE | {"erf": erf, "gelu": gelu}


def float32_inputs(step: int) -> Iterator[NDArray]:
    """Yield, in pieces, the float32 of every `step`-th bit pattern: all magnitudes, both signs."""
    for start in range(0, 1 << 32, CHUNK * step):
        stop = min(start + CHUNK * step, 1 << 32)
        yield np.arange(start, stop, step, dtype=np.uint64).astype(np.uint32).view(np.float32)


def measure_float32(step: int) -> dict[str, dict[str, Worst]]:
    """Return, by function and instruction set, the largest errors in float32."""
    oracles = float64_oracles()
    worst: dict[str, dict[str, Worst]] = {}
    for x in float32_inputs(step):
        with np.errstate(invalid="ignore"):  # signalling NaN
            wide = x.astype(np.float64)
        for name in FUNCTIONS:
            with np.errstate(all="ignore"):
                exact = oracles[name](wide)
            last = errors = np.empty(0)
            for isa in il.isas():
                with il.use_isa(isa):
                    y = native(name, x)
                if y.tobytes() != last.tobytes():  # those with FMA promise the same bits
                    last, errors = y, ulp_errors(y, exact, x.dtype)
                record(worst, name, isa, errors, x)
    return worst


def float64_inputs(name: str, count: int) -> NDArray:
    """Return random float64: even over the range where the function bends, and over magnitudes."""
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


def float64_oracle(name: str) -> tuple[Oracle, int] | None:
    """Return an oracle wider than float64 and how many inputs it has time for; or None."""
    if np.finfo(np.longdouble).nmant <= np.finfo(np.float64).nmant:
        return None
    if name in SIMPLE:
        return (lambda x: SIMPLE[name](x.astype(np.longdouble))), 200_000
    if importlib.util.find_spec("mpmath") is not None:
        return _mpmath_oracle(name), 4_000
    return None


def measure_float64(quick: bool) -> dict[str, dict[str, Worst]]:
    """Return, by function and instruction set, the largest errors met in float64."""
    worst: dict[str, dict[str, Worst]] = {}
    for name in FUNCTIONS:
        found = float64_oracle(name)
        if found is None:
            continue
        oracle, count = found
        x = float64_inputs(name, count // 20 if quick else count)
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
        ("float64", "random inputs", measure_float64(quick)),
    ):
        if exhaustive and dtype == "float32":
            sample = "all 2^32 inputs"
        rows = []
        for name, by_isa in worst.items():
            bound = BOUNDS.get(name, TAIL_BOUND)
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
