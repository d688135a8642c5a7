"""``bench scaling``: time as one size grows over four decades, and with threads; its cliffs.

Between two neighbouring sizes time may stand still, where a call's fixed cost rules, or grow as the
work does. A step that leaves this band by more than `CLIFF`, or a point that lies so far off the
line between its neighbours, is a cliff. It is measured twice more before it is called one.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import innerloop as il

from ..console import human_time, show_table
from .report import show_lines

CLIFF = 1.5
SLOWER = 1.1  # with one thread more
PER_DECADE = 6

Call = Callable[[], object]


@dataclass
class Sweep:
    """Time against one size.

    Attributes
    ----------
    name, axis : str
    make : callable
        Returns the call of a size.
    first, last : int
    """

    name: str
    axis: str
    make: Callable[[int], Call]
    first: int
    last: int
    sizes: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def measure(self, each: float, points: int) -> None:
        """Time every size; where a cliff seems to be, its points again."""
        self.sizes = sorted({round(s) for s in np.geomspace(self.first, self.last, points)})
        self.seconds = [_time(self.make(size), each) for size in self.sizes]
        for _ in range(2):
            for at in {i for cliff in cliffs(self.sizes, self.seconds) for i in cliff[:2]}:
                again = _time(self.make(self.sizes[at]), 2 * each)
                self.seconds[at] = min(self.seconds[at], again)


def _numbers(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def _linear(m: int, k: int, n: int) -> Call:
    x, w, b = _numbers(m, k), _numbers(n, k).T, _numbers(n)
    return functools.partial(il.linear, x, w, b, out=np.zeros((m, n), np.float32))


def _cross_entropy(classes: int) -> Call:
    logits = _numbers(64, classes)
    target = np.random.default_rng(1).integers(0, classes, 64)
    out = np.zeros_like(logits)
    return functools.partial(il.softmax_cross_entropy, logits, target, return_grad=True, out=out)


def _adam(count: int) -> Call:
    arrays = [_numbers(count), _numbers(count), *(np.zeros(count, np.float32) for _ in range(2))]
    return functools.partial(il.adam_step, *arrays, step=10, lr=1e-4)


def _gelu(count: int) -> Call:
    x = _numbers(count)
    return functools.partial(il.gelu, x, out=np.zeros_like(x))


def sweeps() -> list[Sweep]:
    """Return what is measured, each over four decades."""
    return [
        Sweep("linear, M x 256 @ 256 x 256", "M", lambda m: _linear(m, 256, 256), 1, 10_000),
        Sweep("linear, 64 x 256 @ 256 x N", "N", lambda n: _linear(64, 256, n), 1, 10_000),
        Sweep("linear, 64 x K @ K x 256", "K", lambda k: _linear(64, k, 256), 1, 10_000),
        Sweep("cross-entropy of 64 x C", "C", _cross_entropy, 10, 100_000),
        Sweep("Adam", "parameters", _adam, 1_000, 10_000_000),
        Sweep("gelu", "elements", _gelu, 1_000, 10_000_000),
    ]


def threaded() -> dict[str, Call]:
    """Return the work that is measured on one thread, two, ... all."""
    return {
        "linear, 32,784,256": _linear(32, 784, 256),
        "linear, 1024,1024,1024": _linear(1024, 1024, 1024),
        "cross-entropy of 64 x 10,000": _cross_entropy(10_000),
        "Adam, 10,000": _adam(10_000),
        "Adam, 10,000,000": _adam(10_000_000),
        "gelu, 20,000": _gelu(20_000),
        "gelu, 10,000,000": _gelu(10_000_000),
    }


def _time(call: Call, seconds: float) -> float:
    """Return the lower quartile of a call's times: the machine's moods only add."""
    call()
    start = time.perf_counter()
    call()
    estimate = max(time.perf_counter() - start, 1e-7)
    repeats = max(1, round(seconds / 20 / estimate))
    samples = []
    for _ in range(max(3, min(20, round(seconds / (repeats * estimate))))):
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        samples.append((time.perf_counter() - start) / repeats)
    return float(np.percentile(samples, 25))


def cliffs(sizes: list[int], seconds: list[float]) -> list[tuple[int, int, float]]:
    """Return pairs of neighbours that a cliff lies between, and how far it is off."""
    found = []
    for i, (a, b) in enumerate(itertools.pairwise(range(len(sizes)))):
        step, work = seconds[b] / seconds[a], sizes[b] / sizes[a]
        off = max(step / work, 1 / step)
        if b + 1 < len(sizes):  # and b's own distance from the line between its neighbours
            x, y = np.log(sizes), np.log(seconds)
            line = np.interp(x[b], [x[a], x[b + 1]], [y[a], y[b + 1]])
            off = max(off, float(np.exp(abs(y[b] - line))))
        if off > CLIFF:
            found.append((i, i + 1, off))
    return found


def run(about: dict[str, Any], options: argparse.Namespace) -> int:
    """Measure, print, save and draw."""
    each, points = (0.002, 5) if options.quick else (0.15, 4 * PER_DECADE + 1)
    made = sweeps()
    lines, rows = [], []
    for sweep in made:
        if options.quick:
            sweep.last = sweep.first * 100
        sweep.measure(each, points)
        shown = range(0, len(sweep.sizes), 1 if options.quick else PER_DECADE)
        rows += [
            [
                *(sweep.name if at == 0 else "", f"{sweep.axis} = {sweep.sizes[at]:,}"),
                human_time(sweep.seconds[at]),
                f"{sweep.seconds[at] / sweep.sizes[at] * 1e9:.3g} ns",
            ]
            for at in shown
        ]
        for a, b, off in cliffs(sweep.sizes, sweep.seconds):
            lines.append(
                f"cliff: {sweep.name}: {sweep.axis} {sweep.sizes[a]:,} takes "
                f"{human_time(sweep.seconds[a])}, {sweep.sizes[b]:,} {human_time(sweep.seconds[b])}"
                f": {off:.2f} times off"
            )
    columns = ["work", "size", "time", "for each"]
    show_table("time as work grows", columns, rows, markdown=options.markdown)
    threads, slower = _threads(each, options.markdown)
    lines = [*(lines or [f"no cliffs: no step of more than {CLIFF} times"]), *slower]
    show_lines(lines, options.markdown)
    if options.json:
        record = {"noun": "scaling", "quick": options.quick, "context": about, "threads": threads}
        record["sweeps"] = [
            {"name": s.name, "axis": s.axis, "sizes": s.sizes, "seconds": s.seconds} for s in made
        ]
        options.json.write_text(json.dumps(record | {"cliffs": lines}, indent=1) + "\n")
    if options.plot:
        _draw(made, options.plot)
    return 0


def _threads(each: float, markdown: bool) -> tuple[dict[str, list[float]], list[str]]:
    """Time the same work on 1 .. n threads; return the times, and where one more is slower."""
    most = il.get_num_threads()
    times: dict[str, list[float]] = {name: [] for name in threaded()}
    lines = []
    try:
        for name, call in threaded().items():
            rounds: list[list[float]] = [[] for _ in range(most)]
            for _ in range(3):
                for count in range(1, most + 1):
                    il.set_num_threads(count)
                    rounds[count - 1].append(_time(call, each))
            times[name] = [statistics.median(r) for r in rounds]
            for count, (fewer, more) in enumerate(itertools.pairwise(times[name]), 2):
                if more > SLOWER * fewer:
                    lines.append(f"{name}: {count} threads take {more / fewer:.2f} of {count - 1}")
    finally:
        il.set_num_threads(most)
    rows = [[name, *map(human_time, t), f"{t[0] / t[-1]:.2f}x"] for name, t in times.items()]
    columns = ["threads", *map(str, range(1, most + 1)), "1 / all"]
    show_table("time with threads", columns, rows, markdown=markdown)
    return times, lines


def _draw(made: list[Sweep], path: Any) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    for axes, sweep in zip(figure.subplots(2, 3).flat, made, strict=True):
        axes.loglog(sweep.sizes, sweep.seconds, ".-", linewidth=0.8)
        for a, b, _ in cliffs(sweep.sizes, sweep.seconds):
            pair = slice(a, b + 1)
            axes.loglog(sweep.sizes[pair], sweep.seconds[pair], "r-", linewidth=2)
        axes.set(xlabel=sweep.axis, ylabel="seconds")
        axes.set_title(sweep.name, fontsize=9)
    figure.savefig(path, dpi=120)
