"""``python -m innerloop bench NOUN``: one module a noun, each with ``cases(beside, quick)``."""

from __future__ import annotations

import argparse
import importlib
import json
import os
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
from . import compare, cuda, pages, scaling
from .cuda_device import Absent, Place, find
from .cuda_peers import Peers as CudaPeers
from .harness import Case, Make, Result, Settings, measure
from .limits import Limits, mode, quick, round_trip
from .peers import DEFAULT, NAMES, Peers, numpy_threads
from .report import as_record, context_lines, means, report, show_lines, show_machine, trip_text

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
    "mlp": 40,
    "torch": 110,
}
WORDS = {
    "machine": "the limits alone",
    "all": "every noun, each into its file in --results",
    "scaling": "time as work grows, and its cliffs",
    "cuda": "kernels on an NVIDIA GPU, with PyTorch's tensors",
    "table": "write the tables of --pages from the files in --results",
}


OF_NOUN = ("json", "markdown", "plot", "compare", "peers", "only", "seconds", "quick", "threads")
TAKES = {
    "machine": ("json", "markdown", "quick", "threads"),
    "all": (*OF_NOUN[1:], "results"),
    "scaling": ("json", "markdown", "plot", "quick", "threads"),
    "cuda": ("json", "markdown", "compare", "only", "seconds", "quick"),
    "table": ("results", "pages"),
}
DEFAULTS: dict[str, Any] = {
    "peers": DEFAULT,
    "only": "",
    "results": Path("bench/results"),
    "pages": [Path("README.md"), Path("docs/performance.md")],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options; `run` says which of them a noun does not take."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "besides nouns, each with its options:\n" + "\n".join(
        f"  {word:9} {what}\n{'':12}--{' --'.join(TAKES[word])}" for word, what in WORDS.items()
    )
    flag: dict[str, Any] = {"action": "store_const", "const": True}
    parser.add_argument("noun", choices=(*NOUNS, *WORDS), metavar="NOUN", help=", ".join(NOUNS))
    parser.add_argument("--json", metavar="FILE", type=Path, help="save all figures, with context")
    parser.add_argument("--markdown", **flag, help="print Markdown tables")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw the roofline and the bars")
    parser.add_argument(
        "--compare",
        metavar="OLD.json",
        type=Path,
        help="say what became faster or slower than noise since then",
    )
    parser.add_argument("--peers", type=_peers, metavar="A,B", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--only", metavar="TEXT", help="cases whose name has this")
    parser.add_argument(
        "--seconds", type=_seconds, metavar="S", help="for each case, not its share of the noun's"
    )
    parser.add_argument("--quick", **flag, help="small sizes, only to see it run")
    parser.add_argument("--threads", type=int, metavar="N", help="of innerloop and of its peers")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="of all and table")
    parser.add_argument("--pages", type=Path, nargs="+", metavar="FILE", help="of table")


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
    """Measure, print, save. The status is 1 if a result differs from a peer's, 2 if misused."""
    given = {name for name, value in vars(options).items() if value is not None}
    for name in sorted(given - {"command", "noun", *TAKES.get(options.noun, OF_NOUN)}):
        return _misused(f"--{name} says nothing of {options.noun}")
    options = argparse.Namespace(**DEFAULTS | {name: getattr(options, name) for name in given})
    for name in (*OF_NOUN, *DEFAULTS):
        if name not in options:
            setattr(options, name, None)
    if options.noun == "table":
        return pages.run(options.results, options.pages)
    before = il.get_num_threads()
    try:
        if options.threads is not None:
            il.set_num_threads(options.threads)
    except ValueError as error:
        return _misused(f"--threads: {error}")
    threads = il.get_num_threads()
    try:
        _check_paths(options)
        with numpy_threads(threads):
            return _run(options, threads)
    except Misuse as error:
        return _misused(str(error))
    finally:
        il.set_num_threads(before)


class Misuse(Exception):
    """What an option asks for cannot be done."""


def _misused(why: str) -> int:
    print(f"bench: {why}", file=sys.stderr)
    return 2


def _check_paths(options: argparse.Namespace) -> None:
    """Raise Misuse where a result could not be written in the end."""
    if options.noun == "all":
        try:
            options.results.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Misuse(f"--results: {error}") from None
    if options.plot:
        from . import plot  # which needs matplotlib

        if options.plot.suffix[1:] not in plot.KINDS:
            raise Misuse(f"--plot {options.plot}: its kind is none of {', '.join(plot.KINDS)}")
    for name in ("json", "plot"):
        path = getattr(options, name)
        place = path and (path if path.exists() else path.parent)
        if path and (path.is_dir() or not os.access(place, os.W_OK)):
            raise Misuse(f"--{name} {path}: no file can be written there")


def _run(options: argparse.Namespace, threads: int) -> int:
    if options.noun == "scaling":
        return scaling.run(context(Peers.find((), threads)), options)
    if options.noun == "machine":
        return _machine(options, Peers.find((), threads))
    if options.noun == "cuda":
        try:
            place = find()
        except Absent as error:
            print(f"bench cuda: {error}", file=sys.stderr)
            return 1
        return _cuda(options, place, CudaPeers(place.torch))
    nouns = tuple(NOUNS) if options.noun == "all" else (options.noun,)
    old = {noun: _old(noun, options) for noun in nouns} if options.compare else {}
    beside = Peers.find(options.peers, threads)
    statuses: list[int] = []
    names: list[str] = []
    for noun in nouns:
        path = options.results / f"{noun}.json" if options.noun == "all" else options.json
        status = _noun(noun, options, beside, path, old.get(noun), names)
        statuses += [] if status is None else [status]
    if not statuses and not names:
        raise Misuse(f"{options.noun} has no cases without its library: install {options.noun}")
    if not statuses:
        there = "\n".join(f"  {name}" for name in names)
        raise Misuse(f"no case has {options.only!r} in its name; there are\n{there}")
    return max(statuses)


def _old(
    noun: str, options: argparse.Namespace, about: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return the record to compare with: the file, or the noun's own in a folder.

    `about` tells of the device that it must be of, if not of this machine's processor.
    """
    path = options.compare / f"{noun}.json" if options.compare.is_dir() else options.compare
    if about is None:
        about = {"processor": machine.cpu_model(), "isa": il.info()["isa"]}
        about["threads"] = il.get_num_threads()
    try:
        old = compare.read(path)
    except (OSError, ValueError) as error:
        raise Misuse(f"--compare {path}: {error}") from None
    reasons = compare.refusals(old, {"noun": noun, "quick": bool(options.quick), "context": about})
    if reasons:
        raise Misuse(f"--compare {path}: {'; '.join(reasons)}")
    return old


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


def _cuda(options: argparse.Namespace, place: Place, beside: CudaPeers) -> int:
    """Measure on a device; the status is 1 where a result is not a peer's."""
    old = _old("cuda", options, place.about()) if options.compare else None
    plans = list(cuda.cases(place, beside, options.quick))
    chosen = [plan for plan in plans if options.only in plan.title]
    if not chosen:
        there = "\n".join(f"  {plan.title}" for plan in plans)
        raise Misuse(f"no case has {options.only!r} in its name; there are\n{there}")
    given = {name: getattr(options, name) for name in ("seconds", "markdown")}
    try:
        record = cuda.run(place, beside, chosen, **given, quick=bool(options.quick))
    except AssertionError as error:
        print(f"bench cuda, {error}", file=sys.stderr)
        return 1
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    if old is not None:
        compare.show(old, record, options.markdown)
    return 0


def _noun(
    noun: str,
    options: argparse.Namespace,
    beside: Peers,
    path: Path | None,
    old: dict[str, Any] | None,
    names: list[str],
) -> int | None:
    """Return the status, None where no case is asked for; add the names of those that are not."""
    record = _measured(noun, options, beside, names)
    if record is None:
        return 1
    if not record["cases"]:
        return None
    if path:
        path.write_text(json.dumps(record, indent=1) + "\n")
    if options.plot:
        from . import plot

        file = options.plot
        if options.noun == "all":
            file = file.with_name(f"{file.stem}_{noun}{file.suffix}")
        plot.draw(record, file)
    if old is not None:
        compare.show(old, record, options.markdown)
    return 0


def _measured(
    noun: str, options: argparse.Namespace, beside: Peers, names: list[str]
) -> dict[str, Any] | None:
    """Measure a noun's cases, print them, and return their record; None where one is wrong."""
    start = time.monotonic()
    limits = quick() if options.quick else Limits()
    about = context(beside) | {"machine": limits.machine()}
    makes = list(importlib.import_module(f".{noun}", __name__).cases(beside, options.quick))
    results: list[Result] = []
    for left, case in _shown(makes, noun, beside, options.only, names):
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
    if results and not options.markdown:
        console.rule(noun)
    if results:
        report(results, context_lines(about), options.markdown)
    record = {"noun": noun, "quick": bool(options.quick), "context": about}
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
    makes: Sequence[Make], title: str, beside: Peers, only: str, names: list[str]
) -> Iterator[tuple[int, Case]]:
    """Yield the cases with how many are left, showing on the error stream which is measured.

    To `names` are added those of the cases that `only` leaves out.
    """
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
            name = f"{case.group}: {case.name}"
            progress.update(task, description=name, completed=number, refresh=True)
            if only in name:
                yield len(makes) - number, case
            else:
                names.append(name)
