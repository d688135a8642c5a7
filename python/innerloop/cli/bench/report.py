"""The benchmark's figures as tables and as JSON."""

from __future__ import annotations

from typing import Any

from ..console import console, human_bytes, human_time, show_table
from .harness import OURS, Result, geometric_mean
from .limits import KINDS

TITLES = {"numpy": "NumPy", "torch": "PyTorch", "jax": "JAX", "sklearn": "scikit-learn"}


def peer_names(results: list[Result]) -> list[str]:
    """Return all peers, in the order of the cases."""
    return [n for n in dict.fromkeys(name for r in results for name in r.timings) if n != OURS]


def means(results: list[Result]) -> dict[str, dict[str, float]]:
    """Return the geometric means of the ratios, by group and peer."""
    found: dict[str, dict[str, float]] = {}
    for group in dict.fromkeys(r.case.group for r in results):
        chosen = [r for r in results if r.case.group == group]
        for peer in peer_names(chosen):
            ratios = [x for r in chosen if (x := r.ratio(peer)) is not None]
            found.setdefault(group, {})[peer] = geometric_mean(ratios)
    return found


def as_record(result: Result) -> dict[str, Any]:
    """Return a result for JSON: seconds, and ratios above 1 where innerloop is the faster one."""
    case = result.case
    return {
        "case": case.name,
        "group": case.group,
        "note": case.note,
        "fresh": [name for name in case.fresh if name in result.timings],
        "dtype": case.dtype,
        "flops": case.flops,
        "bytes": case.moved,
        "footprint": case.footprint,
        "seconds": {
            n: {"median": t.median, "spread": t.spread, "rounds": t.rounds}
            for n, t in result.timings.items()
        },
        "ratios": {n: result.ratio(n) for n in result.timings if n != OURS},
        "limit_seconds": result.limit,
        "bound": result.bound,
        "of_limit": result.of_limit,
        "mood": result.mood,
    }


def report(results: list[Result], context: list[str], markdown: bool) -> None:
    """Print a table a group with its geometric means, and the context's sentences."""
    found = means(results)
    for group in dict.fromkeys(r.case.group for r in results):
        chosen = [r for r in results if r.case.group == group]
        names = peer_names(chosen)
        rows = [_row(r, names) for r in chosen]
        mean = [f"{x:.2f}x" if (x := found.get(group, {}).get(name)) else "-" for name in names]
        rows.append(["geometric mean", "", *mean, "", ""])
        columns = ["", OURS, *names, "rate", "of limit"]
        show_table(group, columns, rows, markdown=markdown)
    disturbed = sum(bool(r.mood.get("disturbed")) for r in results)
    marked = [f"*: {disturbed} cases that another process disturbed, measure them again"]
    fresh = any(name in r.timings for r in results for name in r.case.fresh)
    made = ["fresh: that peer makes a new array where innerloop is given one"]
    lines = [*(marked if disturbed else []), *(made if fresh else []), *context]
    show_lines(lines, markdown)


def show_lines(lines: list[str], markdown: bool) -> None:
    """Print sentences, in Markdown as a list."""
    for line in lines:
        if markdown:
            print(f"- {line}")
        else:
            console.print(line)


def _row(result: Result, names: list[str]) -> list[str]:
    ours, case = result.timings[OURS], result.case
    star = " *" if result.mood.get("disturbed") else ""
    cells = [f"{case.name}{case.note and ', '}{case.note}{star}"]
    cells.append(f"{human_time(ours.median)} ±{ours.spread:.0%}")
    for name in names:
        ratio = result.ratio(name)
        fresh = ", fresh" if name in case.fresh else ""
        cells.append(
            "-"
            if ratio is None
            else f"{human_time(result.timings[name].median)}, {ratio:.2f}x{fresh}"
        )
    arithmetic = result.bound == "arithmetic"
    rate = (case.flops if arithmetic else case.moved) / result.seconds / 1e9
    unit = "GFLOP/s" if arithmetic else "GB/s"
    if rate >= 1e4:
        rate, unit = rate / 1e3, unit.replace("G", "T", 1)
    return [*cells, f"{rate:.3g} {unit}", f"{result.of_limit:.0%}"]


def show_machine(machine: dict[str, Any], markdown: bool) -> None:
    """Print the limits that were measured before the kernels."""
    rows = [
        [f"{dtype}, fused multiply-add"]
        + [f"{machine[key][dtype]:.1f} GFLOP/s" for key in ("gflops_one_thread", "gflops")]
        for dtype in machine["gflops"]
    ]
    show_table("arithmetic", ["", "one thread", "all threads"], rows, markdown=markdown)
    rows = [
        [human_bytes(int(size))] + [f"{rates[kind]:.1f} GB/s" for kind in KINDS]
        for size, rates in machine["gb_per_s"].items()
    ]
    columns = ["bandwidth, all threads, over", *KINDS.values()]
    show_table("memory", columns, rows, markdown=markdown)


def trip_text(nanoseconds: int | None) -> str:
    """Return a cache line's round trip in words."""
    return "unknown (no two cores were free)" if nanoseconds is None else f"{nanoseconds} ns"


def context_lines(about: dict[str, Any]) -> list[str]:
    """Return the context as sentences."""
    commit = f" at {about['commit']}" if about["commit"] else ""
    versions = [f"{title} {about[name]}" for name, title in TITLES.items() if about[name]]
    trips = [trip_text(about[key]) for key in ("round_trip_ns", "round_trip_ns_after")]
    joined = about["machine"]["fork_join_ns"]
    lines = [
        f"{about['processor']}, {about['isa']}, {about['threads']} threads; innerloop "
        f"{about['innerloop']}{commit}, Python {about['python']}, " + ", ".join(versions),
        f"cache line from core to core and back: {trips[0]}, at the end {trips[1]}; the pool's "
        f"fork and join: {f'{joined} ns' if joined else 'one thread has none'}; load average "
        f"{about['load_average']} before",
    ]
    for dtype, seen in about["peaks"].items():
        lines.append(
            f"peak of {dtype}: {seen['best']} GFLOP/s, the best of {seen['times']} measurements "
            f"through the run; their median {seen['median']}, the least {seen['least']}"
        )
    return [
        *lines,
        "beside each peer's time: that time divided by innerloop's. ±: spread of the rounds, p20 "
        "to p80. of limit: of the slower of arithmetic and memory, both as measured here, memory "
        "at each case's own size; an estimate: each operation counts as one, an exponential too",
        *about["absent"],
    ]
