"""Measure docs/accuracy.json and write from it the table of docs/accuracy.md.

    PYTHONPATH=python python tools/accuracy.py [FUNCTION ...] [--step N]
    PYTHONPATH=python python tools/accuracy.py --check

For each function (by default all; some minutes each) the largest error in ULP: in float32 over
every N-th bit pattern, by default all 2^32, and in float64 over random numbers; on every
instruction set of the build. What is not measured again stays, so several builds may share a table.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from innerloop.cli import ulp

DOCS = Path(__file__).parent.parent / "docs"
FIGURES, PAGE = DOCS / "accuracy.json", DOCS / "accuracy.md"
BEGIN, END = "<!-- tools/accuracy.py writes this table -->\n", "<!-- to here -->\n"
COLUMNS = [(dtype, isa) for dtype in ("float32", "float64") for isa in ("v3", "v2")]
MORE = 6.0  # times as many float64 as `selftest --ulp`

Figures = dict[str, dict[str, dict[str, Any]]]  # by dtype, line and instruction set


def measure(functions: list[str], step: int) -> Figures:
    """Return the figures of these functions."""
    figures: Figures = {"float32": {}, "float64": {}}
    for dtype, errors in (
        ("float32", ulp.measure_float32(step, functions)),
        ("float64", ulp.measure_float64(MORE, functions)),
    ):
        for line, by_isa in errors.items():
            name = line.partition(ulp.TAIL)[0]
            inputs = (
                {"every": step}
                if dtype == "float32"
                else {"inputs": ulp.float64_inputs(name, MORE).size}
            )
            figures[dtype][line] = {
                isa: {"error": round(worst.error, 4), "at": worst.at, **inputs}
                for isa, worst in by_isa.items()
                if isa in [name for _, name in COLUMNS]
            }
    return figures


def cell(figure: dict[str, Any] | None) -> str:
    """Return an error, with how many inputs it is of where these are not all."""
    if figure is None:
        return ""
    text = f"{figure['error']:.2f}"
    if "inputs" in figure:
        return f"{text} ({figure['inputs'] / 1e6:.2g} M)"
    return text + (f" (1 in {figure['every']})" if figure["every"] > 1 else "")


def table(figures: Figures) -> str:
    """Return the table in Markdown."""
    heads = ["function", "bounds that the tests keep", *(f"{d}, {isa}" for d, isa in COLUMNS)]
    rows = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for line in ulp.LINES["float32"]:
        bounds = dict.fromkeys(f"{ulp.LINES[d][line]:g}" for d in ("float32", "float64"))
        cells = [cell(figures[d].get(line, {}).get(isa)) for d, isa in COLUMNS]
        rows.append([line, "; ".join(bounds), *cells])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> int:
    """Measure, or compare the page with the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("functions", nargs="*", metavar="FUNCTION", help=", ".join(ulp.FUNCTIONS))
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--check", action="store_true", help="measure nothing; 1 if they differ")
    options = parser.parse_args()
    if unknown := set(options.functions) - {*ulp.FUNCTIONS}:
        parser.error(f"no such function: {', '.join(sorted(unknown))}")
    figures = (
        json.loads(FIGURES.read_text()) if FIGURES.exists() else {"float32": {}, "float64": {}}
    )
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    if options.check:
        missing = [f"{d} {x}" for d in figures for x in ulp.LINES[d] if x not in figures[d]]
        same = page == before + BEGIN + table(figures) + END + after
        print(f"missing: {missing}" if missing else "" if same else "the table is not the figures'")
        return int(bool(missing) or not same)
    for name in options.functions or ulp.FUNCTIONS:
        for dtype, lines in measure([name], options.step).items():
            for line, by_isa in lines.items():
                figures[dtype][line] = figures[dtype].get(line, {}) | by_isa
        FIGURES.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")
        PAGE.write_text(before + BEGIN + table(figures) + END + after)
        print(name, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
