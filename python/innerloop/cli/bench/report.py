"""The benchmark's figures as tables and as JSON."""

from __future__ import annotations

from typing import Any

from ..console import console, human_time, show_table
from .harness import OURS, Result, geometric_mean


def peer_names(results: list[Result]) -> list[str]:
    """Return all peers, in the order of the cases."""
    return [n for n in dict.fromkeys(name for r in results for name in r.timings) if n != OURS]


def means(results: list[Result]) -> dict[str, dict[str, float]]:
    """Return the geometric means of the ratios, by group and peer."""
    found: dict[str, dict[str, float]] = {}
    for group in dict.fromkeys(r.group for r in results):
        for peer in peer_names(results):
            ratios = [x for r in results if r.group == group and (x := r.ratio(peer)) is not None]
            if ratios:
                found.setdefault(group, {})[peer] = geometric_mean(ratios)
    return found


def as_record(result: Result) -> dict[str, Any]:
    """Return a result for JSON: seconds, and ratios above 1 where innerloop is the faster one."""
    return {
        "case": result.case,
        "group": result.group,
        "seconds": {n: {"median": t.median, "rounds": t.rounds} for n, t in result.timings.items()},
        "ratios": {n: result.ratio(n) for n in result.timings if n != OURS},
        "limit_seconds": result.limit,
        "of_limit": result.of_limit,
    }


def report(results: list[Result], about: dict[str, Any], markdown: bool) -> None:
    """Print a table a group with its geometric means, and the context."""
    found = means(results)
    for group in dict.fromkeys(r.group for r in results):
        chosen = [r for r in results if r.group == group]
        names = peer_names(chosen)
        rows = [_row(r, names) for r in chosen]
        mean = [f"{x:.2f}x" if (x := found.get(group, {}).get(name)) else "-" for name in names]
        rows.append(["geometric mean", "", *mean, ""])
        show_table(group, ["", OURS, *names, "of limit"], rows, markdown=markdown)
    for line in context_lines(about):
        if markdown:
            print(f"- {line}")
        else:
            console.print(line)


def _row(result: Result, names: list[str]) -> list[str]:
    ours = result.timings[OURS]
    cells = [result.case, f"{human_time(ours.median)} ±{ours.spread:.0%}"]
    for name in names:
        ratio = result.ratio(name)
        known = "-" if ratio is None else f"{human_time(result.timings[name].median)}, {ratio:.2f}x"
        cells.append(known)
    return [*cells, f"{result.of_limit:.0%}"]


def context_lines(about: dict[str, Any]) -> list[str]:
    """Return the context as sentences."""
    commit = f" at {about['commit']}" if about["commit"] else ""
    torch = f"PyTorch {about['torch']}" if about["torch"] else "PyTorch is not installed"
    trips = [
        "unknown (no two cores were free)" if t is None else f"{t} ns"
        for t in (about["round_trip_ns"], about["round_trip_ns_after"])
    ]
    return [
        f"{about['processor']}, {about['isa']}, {about['threads']} threads; innerloop "
        f"{about['innerloop']}{commit}, Python {about['python']}, NumPy {about['numpy']}, {torch}",
        f"cache line from core to core and back: {trips[0]}, at the end {trips[1]}; load "
        f"average {about['load_average']} before; measured peak {about['gflops']} GFLOP/s, and "
        "bandwidth at each case's own size",
        "beside each peer's time: that time divided by innerloop's. ±: spread of the rounds, p20 "
        "to p80. of limit: of the slower of arithmetic and memory, both as measured here",
    ]
