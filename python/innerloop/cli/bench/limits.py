"""The machine's limits, measured by native loops on as many threads as the kernels use."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import innerloop as il
from innerloop import _core

from .harness import Case

DTYPES = ("float32", "float64")
KINDS = {"read": "read", "copy": "copy", "stream": "copy around the caches", "update": "update"}
ALONE = "no two free cores"
Mood = dict[str, Any]
CACHES = (1 << 15, 1 << 18, 1 << 23)  # bytes that fit in two cores' L1, L2, L3


@dataclass
class Limits:
    """Arithmetic and bandwidth, each the best of the times that it was measured.

    What follows from them for a case is an estimate. Rules cost more than operations that count as
    one each, at two in each fused multiply-add; and a case may find some of its arrays in a cache,
    or need fewer operations than its formula: then it is beyond 100%.

    Bandwidth is that of the cache, or the memory, which holds an array of a given size: the best of
    reading, updating in place, copying, and copying around the caches. It is kept for each mode of
    a virtual machine apart, as memory is nearly twice as fast with its cores far apart.
    """

    seconds_each: float = 0.03
    largest: int = 1 << 28  # of a buffer to measure bandwidth over, which no cache holds
    pause: float = 0.06  # seconds after others have run, and between looks at a disturbed machine
    seen: dict[str, list[float]] = field(default_factory=dict)  # peaks, in the order measured
    _bandwidth: dict[tuple[str, int], float] = field(default_factory=dict)

    def flops(self, dtype: str = "float32", again: bool = False) -> float:
        """Return operations a second, of independent fused multiply-adds.

        With `again` it is measured once more, and the best so far is kept: other work may have
        taken a core before.
        """
        seen = self.seen.setdefault(dtype, [])
        if again or not seen:
            seen.append(_core.fma_peak(dtype, self.seconds_each))
        return max(seen)

    def bandwidth(self, footprint: float, when: str = "", again: bool = False) -> float:
        """Return bytes a second over a working set of `footprint` bytes, in the mode `when`.

        `again` is as in `flops`.
        """
        # Half powers of two, rounded down: a smaller buffer is no slower, which makes the limit the
        # harder one.
        half_powers = math.floor(2 * math.log2(max(footprint, CACHES[0])))
        size = min(int(2 ** (half_powers / 2)), self.largest)
        key = (when, size)
        if again or key not in self._bandwidth:
            best = max(self._rate(kind, size) for kind in KINDS)
            self._bandwidth[key] = max(best, self._bandwidth.get(key, 0.0))
            _core.buffer_cache_clear()  # not to be reused by the kernel that is measured
        return self._bandwidth[key]

    def _rate(self, kind: str, size: int) -> float:
        # A pass over the largest buffer takes 10 ms or more: give it time for several.
        return _core.bandwidth(kind, size, self.seconds_each * (4 if size == self.largest else 1))

    def bound(self, case: Case, when: str) -> tuple[float, str]:
        """Return the least time for a case's operations and bytes, and which of them takes it."""
        arithmetic = case.flops / self.flops(case.dtype) if case.flops else 0.0
        memory = case.moved / self.bandwidth(case.footprint, when)
        return (arithmetic, "arithmetic") if arithmetic > memory else (memory, "memory")

    def mood(self, dtype: str) -> Mood:
        """Measure peak and round trip at this moment; it is disturbed where others took a core."""
        self.flops(dtype, again=True)
        now = self.seen[dtype][-1]
        trip = round_trip()
        taken = now < 0.8 * max(self.seen[dtype]) or (
            il.get_num_threads() > 1 and mode(trip) == ALONE
        )
        return {"gflops": round(now / 1e9, 1), "round_trip_ns": trip, "disturbed": taken}

    def settled(self, dtype: str, tries: int) -> Mood:
        """Return the machine's mood when nobody disturbs it, or the last one of so many tries."""
        for _ in range(tries):
            time.sleep(self.pause)
            mood = self.mood(dtype)
            if not mood["disturbed"]:
                break
        return mood

    def machine(self) -> dict[str, Any]:
        """Measure all limits: GFLOP/s, GB/s, nanoseconds."""
        threads = il.get_num_threads()
        found: dict[str, Any] = {"gflops_one_thread": {}, "gflops": {}, "gb_per_s": {}}
        try:
            il.set_num_threads(1)
            for dtype in DTYPES:
                rate = _core.fma_peak(dtype, 3 * self.seconds_each)
                found["gflops_one_thread"][dtype] = round(rate / 1e9, 1)
        finally:
            il.set_num_threads(threads)
        for dtype in DTYPES:
            found["gflops"][dtype] = round(self.flops(dtype, again=True) / 1e9, 1)
        for size in (*CACHES, self.largest):
            rates = {kind: round(self._rate(kind, size) / 1e9, 1) for kind in KINDS}
            found["gb_per_s"][str(size)] = rates
        _core.buffer_cache_clear()
        found["fork_join_ns"] = round(_core.fork_join(self.seconds_each) * 1e9) or None
        return found

    def peaks_seen(self) -> dict[str, dict[str, float]]:
        """Return the best, the median and the least of each peak's measurements."""
        summaries: dict[str, Any] = {"best": max, "median": statistics.median, "least": min}
        return {
            dtype: {name: round(of(seen) / 1e9, 1) for name, of in summaries.items()}
            | {"times": len(seen)}
            for dtype, seen in self.seen.items()
        }


def round_trip() -> int | None:
    """Return the nanoseconds of a cache line's way from core to core and back; None if unknown."""
    return round(_core.round_trip() * 1e9) or None


def mode(round_trip_ns: float | None) -> str:
    """Say what a round trip tells of where a virtual machine's cores are just then."""
    if round_trip_ns is None or round_trip_ns > 3000:
        return ALONE
    return "cores share a cache" if round_trip_ns < 300 else "cores far apart"


def quick() -> Limits:
    """Return limits that are measured fast and badly, to see everything run."""
    return Limits(0.002, 1 << 24, 0.0)
