"""What this machine is: processor, caches, memory, versions, and the commit that runs."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import psutil


def cpu_model() -> str:
    """Return the processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cpus() -> int:
    """Return the number of logical processors that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else (os.cpu_count() or 1)


def caches() -> list[str]:
    """Return the first processor's caches, as ``"L2 512K"``; none where the system is silent."""
    found = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = (
                (index / name).read_text().strip() for name in ("level", "type", "size")
            )
        except OSError:
            continue
        suffix = {"Data": "d", "Instruction": "i"}.get(kind, "")
        found.append(f"L{level}{suffix} {size}")
    return found


def last_level_bytes(folder: Path = Path("/sys/devices/system/cpu")) -> int:
    """Return the size of all last-level caches that this process may use; 0 where unknown."""
    affinity = getattr(os, "sched_getaffinity", lambda pid: range(cpus()))
    found: dict[tuple[int, str], int] = {}
    for cpu in affinity(0):
        for index in (folder / f"cpu{cpu}" / "cache").glob("index*"):
            try:
                level, size, shared = (
                    (index / name).read_text().strip()
                    for name in ("level", "size", "shared_cpu_list")
                )
                found[int(level), shared] = int(size.removesuffix("K")) << 10
            except (OSError, ValueError):
                continue
    last = max((level for level, _ in found), default=0)
    return sum(size for (level, _), size in found.items() if level == last)


def memory_bytes() -> int:
    """Return the size of the machine's memory."""
    return int(psutil.virtual_memory().total)


def load_average() -> float | None:
    """Return how many processes wanted to run in the last minute: other work spoils a timing."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def is_busy() -> bool:
    """Say whether others want more processors than this process leaves them."""
    return (load_average() or 0.0) > cpus()


def version_of(distribution: str) -> str | None:
    """Return a distribution's version, or None where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """Return the commit of the checkout that this package runs from, or None outside of one."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here.parent), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # not merely inside somebody's repository
        # From the checkout's top, and but for what the benchmark itself writes.
        others = ("--", ":/", ":(exclude,top)bench/results")
        changed = "+changes" if git("status", "--porcelain", "-uno", *others) else ""
        return git("rev-parse", "--short=10", "HEAD") + changed
    except (OSError, subprocess.SubprocessError):
        return None
