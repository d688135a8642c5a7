"""Times a kernel beside its peers, in one run, so that the machine's moods strike all alike.

Contenders take turns in blocks, in reversed order every other round. Between blocks there is a
pause, because PyTorch's workers spin for a while after a call and slow down whatever runs next;
each block starts with a call that is not timed. A time is the median of the rounds' medians, a
ratio the median of the rounds' ratios.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

OURS = "innerloop"


@dataclass
class Case:
    """One line of the table.

    Attributes
    ----------
    name, group : str
        Geometric means are taken over a group.
    run : callable
        innerloop's call.
    peers : dict of str to callable
        The same work by others, on the same arrays.
    moved : float
        Bytes that must be read or written at least.
    footprint : float
        Bytes of all arrays, each counted once.
    flops : float
        Floating-point operations, where they can be the limit.
    check : callable
        Raises AssertionError where results differ from the peers'.
    """

    name: str
    group: str
    run: Callable[[], object]
    peers: dict[str, Callable[[], object]]
    moved: float
    footprint: float
    flops: float = 0.0
    check: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Settings:
    """How long to measure."""

    rounds: int = 7
    pause: float = 0.05  # seconds between blocks
    block: float = 0.1  # seconds of calls, at least one
    sample: float = 1e-3  # shorter calls are timed several at once

    @classmethod
    def quick(cls) -> Settings:
        """Enough to see that everything runs."""
        return cls(rounds=2, pause=0.0, block=1e-3, sample=1e-4)


@dataclass
class Timing:
    """Seconds of one call: a median for each round."""

    rounds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def spread(self) -> float:
        """Half the distance of the 20th and 80th percentiles, relative to the median."""
        low, high = np.percentile(self.rounds, [20, 80])
        return float(high - low) / 2 / self.median


@dataclass
class Result:
    """A case's times."""

    case: str
    group: str
    timings: dict[str, Timing]
    moved: float
    footprint: float
    flops: float
    limit: float = 0.0  # seconds, from the three above

    @property
    def seconds(self) -> float:
        return self.timings[OURS].median

    @property
    def of_limit(self) -> float:
        """How much of the machine's limit is reached; 1 is all."""
        return self.limit / self.seconds

    def ratio(self, peer: str) -> float | None:
        """Return the peer's time divided by innerloop's, or None where there is no such peer."""
        if peer not in self.timings:
            return None
        pairs = zip(self.timings[peer].rounds, self.timings[OURS].rounds, strict=False)
        return statistics.median(theirs / ours for theirs, ours in pairs)


def _seconds(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _block(call: Callable[[], object], estimate: float, settings: Settings) -> float:
    """Return the median time of a call."""
    call()
    repeats = max(1, round(settings.sample / estimate))
    samples = min(25, max(1, round(settings.block / (repeats * estimate))))
    return statistics.median(_seconds(call, repeats) for _ in range(samples))


def measure(case: Case, settings: Settings) -> Result:
    """Time a case's contenders by turns."""
    contenders = {OURS: case.run, **case.peers}
    estimates = {}
    for name, call in contenders.items():
        call()
        estimates[name] = max(_seconds(call, 1), 1e-7)
    timings = {name: Timing() for name in contenders}
    for number in range(settings.rounds):
        order = list(contenders)
        for name in reversed(order) if number % 2 else order:
            if estimates[name] > 0.5 and number >= 3:  # a slow peer: three rounds tell
                continue
            time.sleep(settings.pause)
            timings[name].rounds.append(_block(contenders[name], estimates[name], settings))
    return Result(case.name, case.group, timings, case.moved, case.footprint, case.flops)


def geometric_mean(values: list[float]) -> float:
    """Return the geometric mean of one or more numbers."""
    return statistics.geometric_mean(values)


def close(actual: object, expected: object, tolerance: float = 2e-5) -> None:
    """Raise AssertionError unless two float32 results agree, relative to the largest element."""
    a, e = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert a.shape == e.shape, f"shapes differ: {a.shape}, {e.shape}"
    gap, largest = np.abs(a - e).max(initial=0.0), np.abs(e).max(initial=0.0)
    assert gap <= tolerance * largest, f"results differ by {gap:.2e}, the largest is {largest:.2e}"
