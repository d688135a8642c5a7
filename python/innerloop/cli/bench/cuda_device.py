"""What `bench cuda` asks of a device: arrays, time between events, memory; of PyTorch's, here."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any, Protocol

import innerloop as il
from innerloop._arrays import cuda_module

from .peers import Calls

COPIED, PRODUCT = 1 << 30, 8192  # bytes, and the side of a product, that measure the device
QUICK_COPIED, QUICK_PRODUCT = 1 << 24, 512
BLOCKS = 5  # of which the best is the device's limit
AHEAD = 2.0  # how many times what queueing is expected to take the device waits before a block
LONGEST_WAIT = 0.5  # seconds
PIECE = 1 << 24  # elements that are compared at once


class Absent(Exception):
    """There is nothing to measure on: why."""


class Place(Protocol):
    """Where cases have their arrays, and who times them. A dtype is given by its name."""

    torch: Any  # the module, whose calls are the peers; None: there are no peers

    def numbers(self, shape: tuple[int, ...], dtype: str, seed: int = 0, scale: float = 1.0) -> Any:
        """Return normally distributed numbers, `scale` times those of variance 1."""

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Return zeros."""

    def labels(self, rows: int, classes: int) -> Any:
        """Return a class for each row, in int64."""

    def block(self, call: Callable[[], object], cold: bool, samples: int) -> float:
        """Return the seconds of one call on the device, of so many."""

    def peak(self, call: Callable[[], object]) -> float:
        """Return the bytes that a call takes at its peak beyond what is there before."""

    def agree(self, run: Callable[[], Any], peers: Calls, tolerance: float) -> None:
        """Raise AssertionError unless what `run` returns is every peer's."""

    def release(self) -> None:
        """Give back what freed arrays have left."""

    def limits(self, quick: bool) -> tuple[float, float]:
        """Return bytes a second of a copy and operations a second of a bfloat16 product."""

    def about(self) -> dict[str, Any]:
        """Return what one must know of the device."""


def find() -> Place:
    """Return PyTorch's current CUDA device.

    Raises
    ------
    Absent
        Where PyTorch, a device or `innerloop._cuda` is missing.
    """
    if importlib.util.find_spec("torch") is None:
        raise Absent("PyTorch, whose tensors and events it measures with, is not installed")
    import torch

    if not torch.cuda.is_available():
        raise Absent("PyTorch finds no CUDA device")
    if cuda_module() is None:
        raise Absent(f"CUDA is {il.info()['cuda']}: docs/cuda.md says how to build it")
    return Device(torch)


class Tensors:
    """PyTorch's tensors on a device of this name, and what can be said of their numbers."""

    def __init__(self, torch: Any, name: str) -> None:
        self.torch, self.name = torch, name

    def numbers(self, shape: tuple[int, ...], dtype: str, seed: int = 0, scale: float = 1.0) -> Any:
        """Return normally distributed numbers, `scale` times those of variance 1."""
        made = self.torch.Generator(self.name).manual_seed(seed)
        kind = getattr(self.torch, dtype)
        return self.torch.randn(shape, dtype=kind, device=self.name, generator=made).mul_(scale)

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Return zeros."""
        return self.torch.zeros(shape, dtype=getattr(self.torch, dtype), device=self.name)

    def labels(self, rows: int, classes: int) -> Any:
        """Return a class for each row, in int64."""
        made = self.torch.Generator(self.name).manual_seed(0)
        return self.torch.randint(classes, (rows,), device=self.name, generator=made)

    def agree(self, run: Callable[[], Any], peers: Calls, tolerance: float) -> None:
        """Raise AssertionError unless what `run` returns is every peer's.

        Differences are relative to the largest element, and taken on the device.
        """
        for name, peer in peers.items():
            ours = [a.clone() for a in _tuple(run())]  # a peer may write in the same place
            for actual, expected in zip(ours, _tuple(peer()), strict=True):
                assert actual.shape == expected.shape, f"{name}: shapes differ"
                a, e = actual.detach().reshape(-1), expected.detach().reshape(-1)
                pieces = list(zip(a.split(PIECE), e.split(PIECE), strict=True))
                gaps = [float((x.double() - y.double()).abs().max()) for x, y in pieces]
                largest = max(float(y.double().abs().max()) for _, y in pieces)
                gap = max(gaps)
                same = all(g <= tolerance * largest for g in gaps)  # which a NaN is not
                assert same, f"{name}: results differ by {gap:.2e}, the largest is {largest:.2e}"


def _tuple(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


class Device(Tensors):
    """PyTorch's current CUDA device, and its current stream."""

    def __init__(self, torch: Any) -> None:
        super().__init__(torch, "cuda")
        self.properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        self.clock = 1e3 * getattr(self.properties, "clock_rate", 2e6)  # cycles a second
        self.cache = torch.empty(
            2 * self.properties.L2_cache_size, dtype=torch.uint8, device="cuda"
        )

    def block(self, call: Callable[[], object], cold: bool, samples: int) -> float:
        """Return the seconds of one call between events, of so many.

        Cold: their median, each after a buffer of twice the L2 cache was written. Hot: their mean.
        The device is kept waiting until they are queued, so that the CPU's time for a call does not
        count where the device's is shorter; it does where a call waits for the device.
        """
        cuda = self.torch.cuda
        call()
        cuda.synchronize()
        start = time.perf_counter()
        call()
        queueing = (time.perf_counter() - start + 5e-5) * samples
        cuda.synchronize()
        count = samples if cold else 1
        marks = [[cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
        cuda._sleep(int(min(AHEAD * queueing, LONGEST_WAIT) * self.clock))
        for begin, end in marks:
            if cold:
                self.cache.fill_(1)
            begin.record()
            for _ in range(samples // count):
                call()
            end.record()
        cuda.synchronize()
        return statistics.median(b.elapsed_time(e) for b, e in marks) * 1e-3 * count / samples

    def peak(self, call: Callable[[], object]) -> float:
        """Return the bytes that a call takes at its peak beyond what is there before.

        Those of PyTorch's allocator, and of the device's own pool, where innerloop's scratch lies.
        """
        cuda = self.torch.cuda
        call()
        cuda.synchronize()
        cuda.reset_peak_memory_stats()
        before = cuda.memory_allocated()
        pool = _Pool(cuda.current_device())
        call()
        cuda.synchronize()
        return cuda.max_memory_allocated() - before + pool.peak()

    def release(self) -> None:
        """Give back what freed tensors have left."""
        self.torch.cuda.empty_cache()

    def limits(self, quick: bool) -> tuple[float, float]:
        """Return bytes a second of a copy and operations a second of a bfloat16 product."""
        torch = self.torch
        nbytes, n = (QUICK_COPIED, QUICK_PRODUCT) if quick else (COPIED, PRODUCT)
        a, b = (torch.zeros(nbytes, dtype=torch.uint8, device="cuda") for _ in range(2))
        copy = min(self.block(lambda: b.copy_(a), False, 10) for _ in range(BLOCKS))
        x, w = (self.numbers((n, n), "bfloat16", seed) for seed in range(2))
        y = torch.empty_like(x)
        product = min(
            self.block(lambda: torch.matmul(x, w, out=y), False, 10) for _ in range(BLOCKS)
        )
        return 2.0 * nbytes / copy, 2.0 * n**3 / product

    def about(self) -> dict[str, Any]:
        """Return what one must know of the device."""
        p = self.properties
        return {
            "processor": p.name,
            "isa": f"sm_{p.major}{p.minor}",
            "threads": None,
            "torch": self.torch.__version__,
            "cuda": self.torch.version.cuda,
            "multiprocessors": p.multi_processor_count,
            "memory_bytes": p.total_memory,
            "l2_bytes": p.L2_cache_size,
        }


class _Pool:
    """The most that calls take of a device's own pool (cudaMallocAsync) from now on."""

    # Of the driver's CUmemPool_attribute, in cuda.h.
    _CURRENT, _HIGH = 7, 8

    def __init__(self, device: int) -> None:
        self.pool = ctypes.c_void_p()
        self.driver: Any = None
        with contextlib.suppress(OSError):
            self.driver = ctypes.CDLL("libcuda.so.1")
            self._done(self.driver.cuDeviceGetDefaultMemPool(ctypes.byref(self.pool), device))
            none = ctypes.c_uint64(0)  # the only value that it takes: the peak begins anew
            self._done(self.driver.cuMemPoolSetAttribute(self.pool, self._HIGH, ctypes.byref(none)))
            self.before = self._value(self._CURRENT)

    @staticmethod
    def _done(status: int) -> None:
        if status != 0:
            raise OSError(f"the CUDA driver's error {status}")

    def _value(self, attribute: int) -> int:
        value = ctypes.c_uint64()
        self._done(self.driver.cuMemPoolGetAttribute(self.pool, attribute, ctypes.byref(value)))
        return value.value

    def peak(self) -> float:
        """Return the bytes beyond those of the beginning; NaN where the driver does not tell."""
        try:
            return float(self._value(self._HIGH) - self.before)
        except (AttributeError, OSError):
            return float("nan")
