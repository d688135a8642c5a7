"""Times a kernel beside its peers, in one run, so that the machine's moods strike all alike.

Contenders take turns in blocks, in reversed order every other round. After each block there is a
pause, because the workers of PyTorch and of NumPy's BLAS spin for a while after a call and slow
down whatever runs next; each block of short calls starts with one that is not timed. A time is the
median of the rounds' medians, a ratio the median of the rounds' ratios.
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import machine

OURS = "innerloop"
# Seconds after a block until the workers rest. OpenBLAS spins for 2**26 ticks of the processor:
# after 20 ms of pause PyTorch's next call took twice its time.
PAUSES = {OURS: 0.005, "numpy": 0.06}
PAUSE = 0.03
SLOW = 0.05  # seconds of a call that needs no other to warm up
COLD = 128e6  # bytes, at least, of the buffers that a cold case goes round,
# and at least so many times the last-level caches: one that replaces lines at random keeps 2% of
# buffers that go round four times its size.
BEYOND = 4


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
    dtype : str
        Whose peak they are held against: float32 or float64. Half precision is widened to float32
        on every instruction set, and no kernel uses a processor's bfloat16 products.
    note : str
        Shown beside the name.
    fresh : tuple of str
        Peers that make a new array of what innerloop writes into a given one: their time has the
        page faults of a large one.
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
    dtype: str = "float32"
    note: str = ""
    fresh: tuple[str, ...] = ()
    check: Callable[[], None] = lambda: None


Make = Callable[[], Case]  # a case takes up to a GB: it is made when its turn comes


@dataclass(frozen=True)
class Settings:
    """How long to measure."""

    seconds: float = 1.5  # a case, with its pauses
    rounds: int = 7
    pauses: bool = True  # between blocks
    sample: float = 1e-3  # shorter calls are timed several at once

    @classmethod
    def quick(cls) -> Settings:
        """Enough to see that everything runs."""
        return cls(seconds=0.01, rounds=2, pauses=False, sample=1e-4)


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
    """A case's times, and its limit."""

    case: Case
    timings: dict[str, Timing]
    limit: float = 0.0  # seconds
    bound: str = "memory"  # or arithmetic: which of them is the limit
    mood: dict[str, Any] = field(default_factory=dict)  # the machine's, just before

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
        pairs = zip(self.timings[peer].rounds, self.timings[OURS].rounds, strict=True)
        return statistics.median(theirs / ours for theirs, ours in pairs)


def rotating(contenders: Sequence[dict[str, Callable[[], Any]]]) -> dict[str, Callable[[], Any]]:
    """Return a call by each name that takes the next set's, so that none finds its arrays hot.

    All go round together: else one would find those that another has just left in the caches.
    """
    following = itertools.cycle(contenders).__next__

    def call(name: str) -> Any:
        return following()[name]()

    return {name: functools.partial(call, name) for name in contenders[0]}


def sets_to_rotate(nbytes: float, quick: bool) -> int:
    """Return how many sets of arrays of `nbytes` no cache holds."""
    beyond = max(COLD, BEYOND * machine.last_level_bytes())
    return 2 if quick else max(2, math.ceil(beyond / nbytes))


def _seconds(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _block(call: Callable[[], object], estimate: float, seconds: float, sample: float) -> float:
    """Return the median time of a call, of as many as fit."""
    if estimate < SLOW:
        call()
    repeats = max(1, round(sample / estimate))
    samples = min(25, max(1, round(seconds / (repeats * estimate))))
    return statistics.median(_seconds(call, repeats) for _ in range(samples))


def measure(case: Case, settings: Settings) -> Result:
    """Time a case's contenders by turns, each for its share of the time, three rounds at least."""
    contenders = {OURS: case.run, **case.peers}
    share = settings.seconds / len(contenders)
    estimates, fits, pauses = {}, {}, {}
    for name, call in contenders.items():
        first = _seconds(call, 1)
        estimates[name] = first if first > SLOW else max(_seconds(call, 1), 1e-7)
        pauses[name] = PAUSES.get(name, PAUSE) if settings.pauses else 0.0
        cost = pauses[name] + estimates[name]
        fits[name] = max(3, int(share / cost))
        time.sleep(pauses[name])
    count = min(settings.rounds, *fits.values())  # as many for each: ratios are of pairs
    timings = {name: Timing() for name in contenders}
    for number in range(count):
        order = list(contenders)
        for name in reversed(order) if number % 2 else order:
            seconds = share / count - pauses[name]
            block = _block(contenders[name], estimates[name], seconds, settings.sample)
            timings[name].rounds.append(block)
            time.sleep(pauses[name])
    return Result(case, timings)


def geometric_mean(values: list[float]) -> float:
    """Return the geometric mean of one or more numbers."""
    return statistics.geometric_mean(values)


def agree(
    run: Callable[[], Any], peers: dict[str, Callable[[], Any]], tolerance: float = 2e-5
) -> None:
    """Raise AssertionError unless what `run` returns, one array or a tuple, is every peer's."""
    for peer in peers.values():
        ours = run()
        ours = [_numpy(a).copy() for a in (ours if isinstance(ours, tuple) else (ours,))]
        theirs = peer()  # maybe in the place of ours
        for actual, expected in zip(
            ours, theirs if isinstance(theirs, tuple) else (theirs,), strict=True
        ):
            close(actual, expected, tolerance)


def _numpy(result: Any) -> NDArray:
    """Return an array of any library; PyTorch's bfloat16, which NumPy does not know, as float32."""
    return np.asarray(
        result.float() if str(getattr(result, "dtype", "")) == "torch.bfloat16" else result
    )


def close(actual: object, expected: object, tolerance: float = 2e-5) -> None:
    """Raise AssertionError unless two results agree, relative to the largest element."""
    a, e = _numpy(actual), _numpy(expected)
    assert a.shape == e.shape, f"shapes differ: {a.shape}, {e.shape}"
    a, e = a.reshape(-1), e.reshape(-1)
    gap, largest = 0.0, 0.0
    for at in range(0, a.size, 1 << 20):  # in pieces: of a large array float64 takes a GB
        ours, theirs = (x[at : at + (1 << 20)].astype(np.float64) for x in (a, e))
        gap = float(np.maximum(gap, np.abs(ours - theirs).max()))  # which keeps a NaN
        largest = max(largest, float(np.abs(theirs).max()))
    assert gap <= tolerance * largest, f"results differ by {gap:.2e}, the largest is {largest:.2e}"
