"""``python -m innerloop bench NOUN``: one module a noun, each with ``cases(torch, quick)``."""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

import innerloop as il
from innerloop import _core

from .. import machine
from . import peers
from .harness import Case, Result, Settings, measure
from .limits import Limits
from .report import as_record, means, report

NOUNS = (
    *("linear", "softmax_cross_entropy", "linear_cross_entropy", "optimizers", "activations"),
    *("elementwise_losses", "prelu", "gated", "norms"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("noun", choices=NOUNS)
    parser.add_argument("--json", metavar="FILE", type=Path, help="save all figures, with context")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    parser.add_argument("--quick", action="store_true", help="small sizes, only to see it run")
    parser.add_argument("--threads", type=int, metavar="N", help="of innerloop and of its peers")


def run(options: argparse.Namespace) -> int:
    """Measure, print, save. The status is 1 if a result differs from a peer's."""
    before = il.get_num_threads()
    try:
        if options.threads is not None:
            il.set_num_threads(options.threads)
    except ValueError as error:
        print(f"--threads: {error}", file=sys.stderr)
        return 2
    threads = il.get_num_threads()
    try:
        with peers.numpy_threads(threads):
            return _run(options, threads)
    finally:
        il.set_num_threads(before)


def context(threads: int, torch: Any) -> dict[str, Any]:
    """Return what one must know of the machine to read the figures."""
    return {
        "processor": machine.cpu_model(),
        "isa": il.info()["isa"],
        "threads": threads,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": None if torch is None else torch.__version__,
        "innerloop": il.__version__,
        "commit": machine.commit(),
        "load_average": machine.load_average(),
        "round_trip_ns": round_trip(),
    }


def round_trip() -> int | None:
    """Return the nanoseconds of a cache line's way from core to core and back; None if unknown."""
    return round(_core.round_trip() * 1e9) or None


def _run(options: argparse.Namespace, threads: int) -> int:
    torch = peers.torch(threads)
    limits = Limits(0.002 if options.quick else 0.03)
    settings = Settings.quick() if options.quick else Settings()
    about = context(threads, torch)
    noun = importlib.import_module(f".{options.noun}", __name__)
    results: list[Result] = []
    for case in _shown(noun.cases(torch, options.quick), options.noun):
        try:
            case.check()
        except AssertionError as error:
            print(f"bench {options.noun}, {case.name}: {error}", file=sys.stderr)
            return 1
        limits.bandwidth(case.footprint, again=True)
        if case.flops:
            limits.flops(again=True)
        results.append(measure(case, settings))
    for result in results:  # now that the limits are known best
        result.limit = limits.seconds(result.flops, result.moved, result.footprint)
    about["gflops"] = round(limits.flops() / 1e9, 1)
    about["round_trip_ns_after"] = round_trip()
    report(results, about, options.markdown)
    if options.json:
        record = {"noun": options.noun, "quick": options.quick, "context": about}
        record |= {"cases": [as_record(r) for r in results], "geometric_means": means(results)}
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def _shown(cases: Iterator[Case], title: str) -> Iterator[Case]:
    """Yield the cases, and show on the terminal's error stream which one is being measured."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),  # it has no end, as a case is made when its turn comes
        console=Console(stderr=True),
        auto_refresh=False,
        transient=True,
    ) as progress:
        task = progress.add_task(title, total=None)
        for case in cases:
            progress.update(task, description=f"{case.group}: {case.name}", refresh=True)
            yield case
