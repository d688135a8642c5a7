"""The machine's limits, measured by native loops on as many threads as the kernels use."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from innerloop import _core

_KINDS = ("read", "update", "copy", "stream")
_SMALLEST, _LARGEST = 1 << 15, 1 << 28  # of a buffer to measure bandwidth over


@dataclass
class Limits:
    """Arithmetic and bandwidth, each the best of the times that it was measured.

    Bandwidth is that of the cache, or the memory, which holds an array of a given size: the best of
    reading, updating in place, copying, and copying around the caches.
    """

    seconds_each: float = 0.03
    _flops: float = 0.0
    _bandwidth: dict[int, float] = field(default_factory=dict)

    def flops(self, again: bool = False) -> float:
        """Return float32 operations a second, of independent fused multiply-adds.

        With `again` it is measured once more, and the best so far is kept: other work may have
        taken a core before.
        """
        if again or not self._flops:
            self._flops = max(self._flops, _core.fma_peak("float32", 3 * self.seconds_each))
        return self._flops

    def bandwidth(self, footprint: float, again: bool = False) -> float:
        """Return bytes a second over a working set of `footprint` bytes; `again` as in `flops`."""
        # Half powers of two, rounded down: a smaller buffer is no slower, so the limit is strict.
        half_powers = math.floor(2 * math.log2(max(footprint, _SMALLEST)))
        size = min(int(2 ** (half_powers / 2)), _LARGEST)
        if again or size not in self._bandwidth:
            # A pass over the largest buffer takes 10 ms or more: give it time for several.
            seconds = self.seconds_each * (4 if size == _LARGEST else 1)
            best = max(_core.bandwidth(kind, size, seconds) for kind in _KINDS)
            self._bandwidth[size] = max(best, self._bandwidth.get(size, 0.0))
            _core.buffer_cache_clear()  # not to be reused by the kernel that is measured
        return self._bandwidth[size]

    def seconds(self, flops: float, moved: float, footprint: float) -> float:
        """Return the least time for this many operations and bytes: the slower of both limits."""
        return max(flops / self.flops() if flops else 0.0, moved / self.bandwidth(footprint))
