"""``python -m innerloop bench NOUN``: one module a noun, each with ``cases(beside, quick)``."""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

import innerloop as il

from .. import machine
from ..console import console
from . import compare, pages, scaling
from .harness import Case, Make, Result, Settings, measure
from .limits import Limits, mode, quick, round_trip
from .peers import DEFAULT, NAMES, Peers, numpy_threads
from .report import as_record, means, report, show_lines, show_machine, trip_text

# Each noun, and the seconds that `all` gives it: ten minutes together, some twelve with checks.
NOUNS = {
    "linear": 160,
    "softmax_cross_entropy": 75,
    "linear_cross_entropy": 45,
    "optimizers": 120,
    "activations": 75,
    "elementwise_losses": 30,
    "prelu": 12,
    "gated": 16,
    "norms": 32,
    "softmax": 35,
}
WORDS = {
    "machine": "the limits alone",
    "all": "every noun, each into its file in --results",
    "scaling": "time as work grows, and its cliffs",
    "table": "write the tables of --pages from the files in --results",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "besides nouns:\n" + "\n".join(f"  {w:9} {s}" for w, s in WORDS.items())
    parser.add_argument("noun", choices=(*NOUNS, *WORDS), metavar="NOUN", help=", ".join(NOUNS))
    parser.add_argument("--json", metavar="FILE", type=Path, help="save all figures, with context")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw the roofline and the bars")
    parser.add_argument(
        "--compare",
        metavar="OLD.json",
        type=Path,
        help="say what became faster or slower than noise since then",
    )
    parser.add_argument(
        "--peers", type=_peers, default=DEFAULT, metavar="A,B", help=f"of {', '.join(NAMES)}"
    )
    parser.add_argument("--only", metavar="TEXT", default="", help="cases whose name has this")
    parser.add_argument(
        "--seconds", type=_seconds, metavar="S", help="for each case, not its share of the noun's"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, only to see it run")
    parser.add_argument("--threads", type=int, metavar="N", help="of innerloop and of its peers")
    parser.add_argument(
        "--results", type=Path, default=Path("bench/results"), metavar="FOLDER", help="of all"
    )
    parser.add_argument(
        "--pages",
        type=Path,
        nargs="+",
        default=[Path("README.md"), Path("docs/performance.md")],
        metavar="FILE",
        help="of table",
    )


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < 600:
        raise argparse.ArgumentTypeError(f"{text} does not lie between 0 and 600")
    return seconds


def _peers(text: str) -> tuple[str, ...]:
    names = tuple(filter(None, text.split(",")))
    if unknown := set(names) - set(NAMES):
        raise argparse.ArgumentTypeError(f"{unknown.pop()!r} is none of {', '.join(NAMES)}")
    return names


def run(options: argparse.Namespace) -> int:
    """Measure, print, save. The status is 1 if a result differs from a peer's."""
    if options.noun == "table":
        return pages.run(options.results, options.pages)
    before = il.get_num_threads()
    try:
        if options.threads is not None:
            il.set_num_threads(options.threads)
    except ValueError as error:
        print(f"--threads: {error}", file=sys.stderr)
        return 2
    threads = il.get_num_threads()
    try:
        with numpy_threads(threads):
            return _run(options, threads)
    finally:
        il.set_num_threads(before)


def _run(options: argparse.Namespace, threads: int) -> int:
    if options.noun == "scaling":
        return scaling.run(context(Peers.find((), threads)), options)
    beside = Peers.find(() if options.noun == "machine" else options.peers, threads)
    if options.noun == "machine":
        return _machine(options, beside)
    if options.noun != "all":
        return _noun(options.noun, options, beside, options.json)
    options.results.mkdir(parents=True, exist_ok=True)
    statuses = [_noun(noun, options, beside, options.results / f"{noun}.json") for noun in NOUNS]
    return max(statuses)


def context(beside: Peers) -> dict[str, Any]:
    """Return what one must know of the machine to read the figures."""
    return {
        "processor": machine.cpu_model(),
        "isa": il.info()["isa"],
        "threads": beside.threads,
        "python": platform.python_version(),
        "numpy": np.__version__,
        **beside.versions(),
        "innerloop": il.__version__,
        "commit": machine.commit(),
        "load_average": machine.load_average(),
        "round_trip_ns": round_trip(),
    }


def _machine(options: argparse.Namespace, beside: Peers) -> int:
    about = context(beside) | {"machine": (quick() if options.quick else Limits(0.2)).machine()}
    show_machine(about["machine"], options.markdown)
    joined = about["machine"]["fork_join_ns"]
    trip = about["round_trip_ns"]
    lines = [f"fork and join of {beside.threads} threads: {joined} ns"] if joined else []
    lines.append(f"cache line from core to core and back: {trip_text(trip)} ({mode(trip)})")
    show_lines(lines, options.markdown)
    if options.json:
        options.json.write_text(json.dumps({"noun": "machine", "context": about}, indent=1) + "\n")
    return 0


def _noun(noun: str, options: argparse.Namespace, beside: Peers, path: Path | None) -> int:
    old = _old(options.compare, noun)
    record = _measured(noun, options, beside)
    if record is None:
        return 1
    if path:
        path.write_text(json.dumps(record, indent=1) + "\n")
    if options.plot:
        from . import plot  # which needs matplotlib

        file = options.plot
        if options.noun == "all":
            file = file.with_name(f"{file.stem}_{noun}{file.suffix}")
        plot.draw(record, file)
    return 0 if old is None else compare.run(old, record, options.markdown)


def _old(path: Path | None, noun: str) -> dict[str, Any] | None:
    """Return the record to compare with: the file, or the noun's own in a folder."""
    if path is None:
        return None
    return json.loads((path / f"{noun}.json" if path.is_dir() else path).read_text())


def _measured(noun: str, options: argparse.Namespace, beside: Peers) -> dict[str, Any] | None:
    """Measure a noun's cases, print them, and return their record; None where one is wrong."""
    start = time.monotonic()
    limits = quick() if options.quick else Limits()
    about = context(beside) | {"machine": limits.machine()}
    makes = list(importlib.import_module(f".{noun}", __name__).cases(beside, options.quick))
    results: list[Result] = []
    for left, case in _shown(makes, noun, beside, options.only):
        try:
            case.check()
        except AssertionError as error:
            print(f"bench {noun}, {case.name}: {error}", file=sys.stderr)
            return None
        share = (NOUNS[noun] - (time.monotonic() - start)) / left
        settings = Settings(options.seconds or min(max(share, 0.4), 3.0))
        settings = Settings.quick() if options.quick else settings
        results.append(
            _undisturbed(case, settings, limits, 2 if share > 0.4 and not options.quick else 1)
        )
    for result in results:  # now that the limits are known best
        when = mode(result.mood["round_trip_ns"])
        result.limit, result.bound = limits.bound(result.case, when)
    about["peaks"] = limits.peaks_seen()
    about["round_trip_ns_after"] = round_trip()
    about["absent"] = list(beside.absent)
    about["seconds"] = round(time.monotonic() - start, 1)
    if not options.markdown:
        console.rule(noun)
    report(results, about, options.markdown)
    record = {"noun": noun, "quick": options.quick, "context": about}
    return record | {"cases": [as_record(r) for r in results], "geometric_means": means(results)}


def _undisturbed(case: Case, settings: Settings, limits: Limits, tries: int) -> Result:
    """Measure a case, again where another process took a core before or meanwhile."""
    for _ in range(tries):
        mood = limits.settled(case.dtype, 2 * tries - 1)
        limits.bandwidth(case.footprint, mode(mood["round_trip_ns"]), again=True)
        result = measure(case, settings)
        after = limits.settled(case.dtype, 1)["disturbed"]
        result.mood = mood | {"disturbed": mood["disturbed"] or after}
        if not result.mood["disturbed"]:
            break
    return result


def _shown(
    makes: Sequence[Make], title: str, beside: Peers, only: str
) -> Iterator[tuple[int, Case]]:
    """Yield the cases with how many are left, showing on the error stream which is measured."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=Console(stderr=True),
        auto_refresh=False,
        transient=True,
    ) as progress:
        task = progress.add_task(title, total=len(makes))
        for number, make in enumerate(makes):
            case = make()
            beside.keep(case.peers)
            progress.update(
                task, description=f"{case.group}: {case.name}", completed=number, refresh=True
            )
            if only in f"{case.group}: {case.name}":
                yield len(makes) - number, case
