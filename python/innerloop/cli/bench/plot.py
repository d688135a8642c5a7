"""``--plot FILE``: the roofline, and how much of its limit each case reaches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .harness import OURS

KINDS = tuple(sorted(FigureCanvasAgg.get_supported_filetypes()))


def draw(record: dict[str, Any], path: Path) -> None:
    """Write a picture of a noun's record; its kind is the file's suffix."""
    cases, about = record["cases"], record["context"]
    counted = any(case["flops"] for case in cases)
    height = max(4.5, 0.17 * len(cases) + 1.5)
    figure = Figure(figsize=(14 if counted else 9, height), layout="constrained")
    axes = figure.subplots(1, 2 if counted else 1, squeeze=False)[0]
    if counted:
        peaks = {dtype: seen["best"] for dtype, seen in about["peaks"].items()}
        _roofline(axes[0], cases, peaks, about["machine"]["gb_per_s"])
    _bars(axes[-1], cases)
    figure.suptitle(
        f"innerloop {about['innerloop']} at {about['commit']}: {record['noun']}, "
        f"{about['processor']}, {about['isa']}, {about['threads']} threads",
        fontsize=10,
    )
    figure.savefig(path, dpi=120)


def _roofline(
    axes: Any,
    cases: list[dict[str, Any]],
    peaks: dict[str, float],
    bandwidths: dict[str, dict[str, float]],
) -> None:
    counted = [case for case in cases if case["flops"]]
    intensity = np.array([case["flops"] / case["bytes"] for case in counted])
    x = np.geomspace(min(intensity.min() / 2, 0.1), max(intensity.max() * 2, 100), 200)
    used = sorted({case["dtype"] for case in counted})
    for dtype in used:
        peak = peaks[dtype]
        axes.axhline(peak, color="black", linewidth=0.6)
        axes.annotate(f"{dtype} {peak:.0f} GFLOP/s", (x[0], peak), fontsize=7, va="bottom")
    top = max(peaks[dtype] for dtype in used)
    for size, rates in bandwidths.items():
        best = max(rates.values())
        label = f"{int(size) / 2**20:g} MiB: {best:.0f} GB/s"
        axes.plot(x, np.minimum(best * x, top), linewidth=0.8, label=label)
    for group in dict.fromkeys(case["group"] for case in counted):
        chosen = [case for case in counted if case["group"] == group]
        axes.scatter(
            [case["flops"] / case["bytes"] for case in chosen],
            [case["flops"] / case["seconds"][OURS]["median"] / 1e9 for case in chosen],
            s=14,
            label=group,
            zorder=3,
        )
    axes.set(xscale="log", yscale="log", xlabel="operations a byte", ylabel="GFLOP/s")
    axes.legend(fontsize=6)
    axes.set_title("roofline", fontsize=9)


def _bars(axes: Any, cases: list[dict[str, Any]]) -> None:
    groups = list(dict.fromkeys(case["group"] for case in cases))
    names = [f"{case['group']}: {case['case']}" for case in cases]
    colors = [f"C{groups.index(case['group']) % 10}" for case in cases]
    axes.barh(names, [100 * case["of_limit"] for case in cases], color=colors)
    axes.axvline(100, color="black", linewidth=0.6)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=6)
    axes.set_xlabel("% of the limit")
    axes.set_title("reached", fontsize=9)
