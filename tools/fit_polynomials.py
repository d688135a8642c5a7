"""Derives every coefficient in csrc/simd/math.h.

    python tools/fit_polynomials.py            prints the tables as they stand in math.h
    python tools/fit_polynomials.py --check    exit status 1 unless math.h holds exactly that text
    python tools/fit_polynomials.py --errors   also each table's error, as a power of 2

Needs mpmath, and half a minute. Each table is a minimax fit, by Remez's exchange on a fine grid, of
the relative error of the function's result rather than of the polynomial. Coefficients are rounded
to the type one after the other, from the constant up, and those still free are fitted again.
"""

import argparse
import math
import pathlib
import struct
import sys

from mpmath import mp, mpf

mp.dps = 36
HEADER = pathlib.Path(__file__).resolve().parent.parent / "csrc" / "simd" / "math.h"
BEGIN = """\
// Tables: printed by tools/fit_polynomials.py, which derives them (--check compares).
// clang-format off"""
END = "// clang-format on"
COLUMNS = 120


# Minimax fits ------------------------------------------------------------------------------------


def horner(coefficients, x):
    result = mpf(0)
    for c in reversed(coefficients):
        result = result * x + c
    return result


def error_curve(grid, target, weight, a, b):
    return [
        w * (horner(a, x) / horner(b, x) - f) for x, f, w in zip(grid, target, weight, strict=True)
    ]


def reference_points(errors, count):
    """The indices of `count` alternating extrema of a sampled error curve, the largest ones."""
    runs = []  # the extremum of each run of one sign
    for i, e in enumerate(errors):
        if runs and (e > 0) == (errors[runs[-1]] > 0):
            if abs(e) > abs(errors[runs[-1]]):
                runs[-1] = i
        else:
            runs.append(i)
    while len(runs) > count:
        if len(runs) == count + 1:  # one too many: an end goes, or the alternation breaks
            runs.pop(0 if abs(errors[runs[0]]) < abs(errors[runs[-1]]) else -1)
        else:
            k = min(
                range(len(runs) - 1),
                key=lambda j: max(abs(errors[runs[j]]), abs(errors[runs[j + 1]])),
            )
            del runs[k : k + 2]
    return runs


def remez(grid, target, weight, numerator, denominator, start=None):
    """Minimises max |weight (A / B - target)| over the grid.

    A and B are lists of coefficients, None where free. Returns A, B, that maximum and the errors at
    the grid. The equations of one exchange are linear because the error multiplies the B of the
    exchange before. `start`: what a fit with one more free coefficient returned.
    """
    free = [(0, i) for i, c in enumerate(numerator) if c is None] + [
        (1, i) for i, c in enumerate(denominator) if c is None
    ]
    tables = [list(numerator), list(denominator)]
    count = len(free) + 1
    last = len(grid) - 1
    points = [round(last * (1 - math.cos(math.pi * (k + 0.5) / count)) / 2) for k in range(count)]
    b_before = [mpf(1)] * count
    if start is not None:
        extrema = reference_points(start[3], count)
        points = extrema if len(extrema) == count else points
        b_before = [horner(start[1], grid[p]) for p in points]
    best, stalled = None, 0
    for _ in range(40):
        matrix, right = mp.matrix(count, count), mp.matrix(count, 1)
        for row, p in enumerate(points):
            x, f, w = grid[p], target[p], weight[p]
            for column, (table, power) in enumerate(free):
                matrix[row, column] = w * x**power * (1 if table == 0 else -f)
            matrix[row, count - 1] = (-1) ** row * b_before[row]
            fixed = [
                sum((c * x**i for i, c in enumerate(t) if c is not None), mpf(0))
                for t in (numerator, denominator)
            ]
            right[row] = w * (f * fixed[1] - fixed[0])
        solution = mp.lu_solve(matrix, right)
        for column, (table, power) in enumerate(free):
            tables[table][power] = solution[column]
        a, b = tables
        errors = error_curve(grid, target, weight, a, b)
        worst = max(map(abs, errors))
        stalled = stalled + 1 if best is not None and worst > best[2] * mpf("0.999") else 0
        if best is None or worst < best[2]:
            best = (list(a), list(b), worst, errors)
        if stalled == 3 or worst < abs(solution[count - 1]) * mpf("1.001"):
            break
        exchanged = reference_points(errors, count)
        if len(exchanged) < count:
            break
        points = exchanged
        b_before = [horner(b, grid[p]) for p in points]
    return best


def rounded(x, dtype):
    """x rounded to nearest, as the mpf of that float or double."""
    if dtype == "double":
        return mpf(float(x))
    exponent = mp.floor(mp.log(abs(x), 2)) - 23
    return mp.nint(x / mpf(2) ** exponent) * mpf(2) ** exponent


def fit(grid, target, weight, count, dtype):
    """A polynomial of `count` coefficients, rounded one after the other, and its error."""
    a, best = [None] * count, None
    for i in range(count):
        best = remez(grid, target, weight, a, [mpf(1)], best)
        a[i] = rounded(best[0][i], dtype)
    return a, max(map(abs, error_curve(grid, target, weight, a, [mpf(1)])))


def chebyshev_grid(low, high, count=200):
    """Extrema of a Chebyshev polynomial on [low, high], without 0, where weights vanish."""
    middle, radius = mpf(low + high) / 2, mpf(high - low) / 2
    grid = [middle - radius * mp.cos(mp.pi * k / (count - 1)) for k in range(count)]
    return [x for x in grid if abs(x) > mpf(10) ** -6]


# What each function needs -----------------------------------------------------------------------
# `degree` is that of the approximation in x, r or f; z stands for x^2.


def exp_table(dtype, degree):
    """e^r = 1 + r + r^2 p(r)."""
    grid = chebyshev_grid(-mp.ln2 / 2 * mpf("1.001"), mp.ln2 / 2 * mpf("1.001"))
    target = [(mp.expm1(r) - r) / r**2 for r in grid]
    return fit(grid, target, [r**2 / mp.exp(r) for r in grid], degree - 1, dtype)


def log_table(dtype, degree):
    """ln(1 + f) = f + f^2 p(f)."""
    grid = chebyshev_grid(mp.sqrt(mpf("0.5")) - 1, mp.sqrt(2) - 1)
    target = [(mp.log1p(f) - f) / f**2 for f in grid]
    return fit(grid, target, [f**2 / abs(mp.log1p(f)) for f in grid], degree - 1, dtype)


def tanh_table(dtype, degree):
    """tanh x = x + x z p(z), |x| <= 0.625."""
    grid = chebyshev_grid(mpf(0), mpf("0.625") ** 2 * mpf("1.0001"))
    value = [mp.tanh(mp.sqrt(z)) / mp.sqrt(z) for z in grid]
    target = [(v - 1) / z for v, z in zip(value, grid, strict=True)]
    weight = [z / v for v, z in zip(value, grid, strict=True)]
    return fit(grid, target, weight, (degree - 1) // 2, dtype)


def erf_table(dtype, degree):
    """erf x = x + x p(z), |x| <= 1."""
    grid = chebyshev_grid(mpf(0), mpf("1.0001"))
    value = [mp.erf(mp.sqrt(z)) / mp.sqrt(z) for z in grid]
    return fit(grid, [v - 1 for v in value], [1 / v for v in value], (degree + 1) // 2, dtype)


def tail_tables(dtype, degree, high):
    """exp(-t^2 / 2) / (2 Phi(-t)) = 1 + t + t n(t) / m(t), 0 <= t <= high."""
    ends = mpf(-1), (high - 2) / (high + mpf(2))  # of (t - 2) / (t + 2)
    grid = [2 * (1 + q) / (1 - q) for q in chebyshev_grid(*ends)][1:]  # at 0, weights vanish
    inverse = [mp.exp(-t * t / 2) / mp.erfc(t / mp.sqrt(2)) for t in grid]
    target = [(g - 1) / t - 1 for g, t in zip(inverse, grid, strict=True)]
    weight = [t / g for g, t in zip(inverse, grid, strict=True)]
    n, m, _, _ = remez(grid, target, weight, [None] * (degree + 1), [mpf(1)] + [None] * degree)

    # n and m may share any factor: of 128, the one whose rounding harms least.
    def scaled(k):
        return [[rounded(c * (1 + mpf(k) / 128), dtype) for c in table] for table in (n, m)]

    def error(k, step):
        curve = error_curve(grid[::step], target[::step], weight[::step], *scaled(k))
        return max(map(abs, curve))

    best = min(range(128), key=lambda k: error(k, 5))
    return *scaled(best), error(best, 1)


# Printing ----------------------------------------------------------------------------------------


def literal(x, dtype):
    """The shortest decimal that reads back as x, as a C++ literal."""
    if dtype == "double":
        return repr(float(x))
    for digits in range(1, 10):
        text = f"{float(x):.{digits}g}"
        if struct.unpack("f", struct.pack("f", float(text)))[0] == float(x):
            break
    if "." not in text and "e" not in text:
        text += ".0"
    return text + "f"


def array(name, coefficients, dtype):
    lines = [f"  static constexpr {dtype} {name}[] = {{"]
    literals = [literal(c, dtype) for c in coefficients]
    for i, text in enumerate(literals):
        text += "," if i + 1 < len(literals) else "};"
        if len(lines[-1]) + 1 + len(text) > COLUMNS:
            lines.append("     ")
        lines[-1] += text if lines[-1].endswith("{") else " " + text
    return lines


def truncated(x, bits):
    """x cut to that many significant bits."""
    exponent = mp.floor(mp.log(abs(x), 2)) + 1 - bits
    return mp.floor(x / mpf(2) ** exponent) * mpf(2) ** exponent


# The degrees: as --errors shows, what they leave is well below half a unit in the last place.
PLAN = {
    "float": dict(exp=6, log=10, tanh=11, erf=13, tail=(4, mpf("14.5")), ln2_bits=16),
    "double": dict(exp=11, log=22, tanh=23, erf=23, tail=(10, mpf(39)), ln2_bits=42),
}


def tables(dtype):
    """The lines of one type's tables, and each fit's error."""
    plan = PLAN[dtype]
    fits = {
        "exp": exp_table(dtype, plan["exp"]),
        "log": log_table(dtype, plan["log"]),
        "tanh": tanh_table(dtype, plan["tanh"]),
        "erf": erf_table(dtype, plan["erf"]),
        "tail": tail_tables(dtype, *plan["tail"]),
    }
    ln2_hi = truncated(mp.ln2, plan["ln2_bits"])  # times any exponent: exact
    numbers = {
        "log2_e": 1 / mp.ln2,
        "ln2_hi": ln2_hi,
        "ln2_lo": mp.ln2 - ln2_hi,
        "sqrt_2": mp.sqrt(2),
        "inverse_root_2_pi": 1 / mp.sqrt(2 * mp.pi),
    }
    lines = ["template <>", f"struct Tables<{dtype}> {{"]
    lines += [
        f"  static constexpr {dtype} {n} = {literal(rounded(v, dtype), dtype)};"
        for n, v in numbers.items()
    ]
    for name, (*arrays, _) in fits.items():
        suffixes = ("_n", "_m") if len(arrays) == 2 else ("",)
        for suffix, coefficients in zip(suffixes, arrays, strict=True):
            lines += array(name + suffix, coefficients, dtype)
    return [*lines, "};"], {name: f[-1] for name, f in fits.items()}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare with csrc/simd/math.h")
    parser.add_argument("--errors", action="store_true", help="print the errors too")
    arguments = parser.parse_args()
    lines = []
    for dtype in PLAN:
        text, errors = tables(dtype)
        lines += text
        if arguments.errors:
            for name, error in errors.items():
                print(f"{dtype} {name}: 2^{float(mp.log(error, 2)):.2f}", file=sys.stderr)
    derived = "\n".join([BEGIN, *lines, END])
    if not arguments.check:
        print(derived)
        return 0
    if derived in HEADER.read_text():
        print(f"{HEADER.name}: the tables are what this script derives")
        return 0
    print(f"{HEADER.name} holds other tables than these:\n{derived}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
