"""Draw the pages' figures: ``python docs/learn/figures.py [PAGE ...]``.

Each is drawn from what its page's code left behind, so that page and figure cannot disagree.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pages import HERE, run

import innerloop as il

Names = dict[str, Any]  # what a page left behind

# The same file for the same numbers, whoever draws it: no date, no random ids. Text stays text.
matplotlib.rcParams.update(
    {
        "svg.hashsalt": "innerloop",
        "svg.fonttype": "none",
        "font.size": 8,
        "lines.linewidth": 1.2,
    }
)
_METADATA = {"svg": {"Date": None}, "png": {"Software": None}}


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def activations(page: Names) -> Figure:
    """Every activation of the library, and its derivative."""
    x = np.linspace(-5, 7, 241)
    names = il.activations.NAMES
    columns = 4
    rows = -(-len(names) // columns)
    figure, grid = _figure(rows, columns, (8, 1.5 * rows))
    for axes, name in zip(grid.ravel(), names, strict=False):
        axes.axhline(0, color="0.8", linewidth=0.6)
        axes.axvline(0, color="0.8", linewidth=0.6)
        axes.plot(x, il.activation(x, name))
        axes.plot(x, il.activation_backward(np.ones_like(x), x, name), "--")
        axes.set(title=name, ylim=(-2, 3), xlim=(-5, 7))
    for axes in grid.ravel()[len(names) :]:
        axes.remove()
    return figure


def losses(page: Names) -> Figure:
    """The elementwise losses over the difference, binary cross-entropy over the prediction."""
    d = np.linspace(-3, 3, 121)
    figure, grid = _figure(1, 3, (8, 2.6))
    both, slopes, bce = grid[0]
    for name in ("l1_loss", "smooth_l1_loss", "mse_loss"):
        loss = getattr(il, name)
        value, slope = loss(d, np.zeros_like(d), reduction="none", return_grad=True)
        both.plot(d, value, label=name)
        slopes.plot(d, slope, label=name)
    both.set(title="loss", xlabel="prediction - target", ylim=(-0.2, 5))
    slopes.set(title="its derivative", xlabel="prediction - target")
    p = np.linspace(0.01, 0.99, 99)
    for t in (0.0, 1.0):
        value = il.binary_cross_entropy(p, np.full_like(p, t), reduction="none")
        bce.plot(p, value, label=f"target {t:.0f}")
    bce.set(title="binary_cross_entropy", xlabel="prediction")
    both.legend()
    bce.legend()
    return figure


def _paths(page: Names, kind: str, x: tuple[float, float], y: tuple[float, float]) -> Figure:
    """The paths of all optimizers, the later ones drawn over the earlier."""
    figure, grid = _figure(1, 1, (8, 3.6))
    axes: Axes = grid[0, 0]
    a, b = np.meshgrid(np.linspace(*x, 80), np.linspace(*y, 80))
    height = page[kind](a, b)[0]
    axes.contour(a, b, height, levels=10, colors="0.8", linewidths=0.6)
    for name, points in page[f"{kind}_paths"].items():
        axes.plot(*points.T, ".-", markersize=3, linewidth=0.8, label=name)
    axes.plot(*next(iter(page[f"{kind}_paths"].values()))[0], "ko", markersize=5)
    axes.set(xlim=x, ylim=y, xlabel="x", ylabel="y")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def valley(page: Names) -> Figure:
    """The paths down the valley."""
    return _paths(page, "valley", (-3.2, 1.0), (-1.1, 1.1))


def saddle(page: Names) -> Figure:
    """The paths past the saddle."""
    return _paths(page, "saddle", (-1.6, 0.8), (-0.4, 1.4))


def batch_size(page: Names) -> Figure:
    """What an update, an epoch and the accuracy were for each size of batch."""
    figure, grid = _figure(1, 3, (8, 2.2))
    names = [str(batch) for batch in page["results"]]
    update, epoch, _, accuracy = zip(*page["results"].values(), strict=True)
    for axes, title, values in (
        (grid[0, 0], "milliseconds an update", np.array(update) * 1e3),
        (grid[0, 1], "milliseconds an epoch", np.array(epoch) * 1e3),
        (grid[0, 2], "test accuracy", np.array(accuracy)),
    ):
        axes.bar(names, values, width=0.6)
        axes.set(title=title, xlabel="batch size")
    return figure


def weight_decay(page: Names) -> Figure:
    """The weights that each penalty leaves, beside the true ones."""
    figure, grid = _figure(1, 3, (8, 2.2))
    for axes, (name, w) in zip(grid[0], page["weights"].items(), strict=True):
        axes.axhline(0, color="0.8", linewidth=0.6)
        axes.stem(range(len(w)), w.ravel(), basefmt=" ", markerfmt=".")
        axes.plot(range(len(w)), page["true_w"], "_", color="C1")
        axes.set(title=name, xlabel="weight", ylim=(-2, 2.6))
    return figure


def schedules(page: Names) -> Figure:
    """A picture of each schedule, and of one with warm-up."""
    s, steps = il.schedules, np.arange(1, 102)
    lines = {
        "constant": s.constant(0.1),
        "step_decay": s.step_decay(0.1, 25, 0.5),
        "multi_step": s.multi_step(0.1, [20, 60, 80], 0.5),
        "exponential": s.exponential(0.1, 0.96),
        "inverse_time": s.inverse_time(0.1, 0.1),
        "polynomial, power 2": s.polynomial(0.1, 100, 2.0),
        "cosine": s.cosine(0.1, 100),
        "cosine_restarts, t_mult 2": s.cosine_restarts(0.1, 15, t_mult=2),
        "one_cycle": s.one_cycle(0.1, 101),
        "warmup before cosine": page["schedule"],
        "warmup before inverse_time": s.warmup(s.inverse_time(0.1, 0.1), 20),
    }
    figure, grid = _figure(3, 4, (8, 4.2))
    for axes, (name, schedule) in zip(grid.ravel(), lines.items(), strict=False):
        axes.plot(steps, schedule(steps))
        axes.set(title=name, ylim=(-0.005, 0.105))
        axes.label_outer()
    plateau = s.reduce_on_plateau(0.1, factor=0.5, patience=5)
    rates = []
    for step in steps:
        plateau.update(max(0.3, 1 - 0.03 * step))  # a loss that falls until step 24
        rates.append(plateau(int(step)))
    grid[2, 3].plot(steps, rates)
    grid[2, 3].set(title="reduce_on_plateau", ylim=(-0.005, 0.105))
    grid[2, 3].label_outer()
    return figure


def mlp(page: Names) -> Figure:
    """The loss on the training data and on held-back data, without and with dropout."""
    figure, grid = _figure(1, 2, (8, 2.6))
    for axes, (p, (_, curves)) in zip(grid[0], page["results"].items(), strict=True):
        axes.semilogy(curves[:, 0], label="training")
        axes.semilogy(curves[:, 1], label="held back")
        best = int(curves[:, 1].argmin())
        axes.axvline(best, color="0.6", linestyle=":", label="kept")
        axes.set(title=f"dropout {p}", xlabel="epoch", ylabel="loss", ylim=(0.005, 3))
        axes.legend()
    return figure


def autoencoder(page: Names) -> Figure:
    """Scans of the test set, and what comes back of them."""
    figure, grid = _figure(3, 10, (8, 2.6))
    for row, name in zip(grid, ("test", "back", "linear"), strict=True):
        for axes, pixels in zip(row, page[name], strict=False):
            axes.imshow(pixels.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
    for axes, text in zip(grid[:, 0], ("scan", "autoencoder", "components"), strict=True):
        axes.set_ylabel(text)
    return figure


FIGURES: dict[str, dict[str, Callable[[Names], Figure]]] = {
    "02-activations.md": {"activations.png": activations},
    "03-losses.md": {"losses.svg": losses},
    "05-optimizers.md": {"valley.png": valley, "saddle.png": saddle},
    "06-batch-size.md": {"batch-size.svg": batch_size},
    "07-weight-decay.md": {"weight-decay.svg": weight_decay},
    "08-schedules.md": {"schedules.svg": schedules},
    "09-mlp.md": {"mlp.svg": mlp},
    "10-autoencoder.md": {"autoencoder.png": autoencoder},
}
"""The figures of each page that has any: how each is drawn from the page's names."""


def draw(page: str, names: Names, folder: Path) -> list[Path]:
    """Write the figures of a page that has run, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, function in FIGURES.get(page, {}).items():
        path = folder / name
        function(names).savefig(path, dpi=100, metadata=_METADATA[path.suffix[1:]])
        paths.append(path)
    return paths


if __name__ == "__main__":
    for name in [Path(a).name for a in sys.argv[1:]] or FIGURES:
        for path in draw(name, run(HERE / name), HERE / "figures"):
            print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")
