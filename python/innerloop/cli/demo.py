"""``python -m innerloop demo``: a 64-256-128-10 network learns to read handwritten digits.

The data are the 1,797 scans that come with scikit-learn. The first step's loss and gradients are
held against the NumPy reference; scikit-learn's MLPClassifier then trains on the same.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import innerloop as il

from . import machine
from .console import console, human_time, show_table
from .demo_check import TOLERANCE, Difference, first_step_differences

SIZES = (64, 256, 128, 10)
GOAL = 0.95  # test accuracy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""

    def positive(text: str) -> int:
        value = int(text)
        if value < 1:
            raise ValueError
        return value

    positive.__name__ = "positive integer"  # argparse names it in its message
    parser.add_argument("--epochs", type=positive, default=30)
    parser.add_argument("--batch-size", type=positive, default=32)
    parser.add_argument("--lr", type=float, default=1e-3, help="Adam's learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", metavar="FILE", help="save the loss curves as a picture")
    parser.add_argument(
        "--skip-sklearn", action="store_true", help="do not train scikit-learn's network"
    )


@dataclass
class Data:
    """Images as rows of 64 pixels in [0, 1], and their digits."""

    x: NDArray[np.float32]
    digits: NDArray[np.int64]
    test_x: NDArray[np.float32]
    test_digits: NDArray[np.int64]


def load_data() -> Data:
    """Return the digits, one fifth of each kind kept for the test; the same split every time."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]

    pixels, digits = load_digits(return_X_y=True)
    x, test_x, y, test_y = train_test_split(
        (pixels / 16.0).astype(np.float32), digits, test_size=0.2, random_state=0, stratify=digits
    )
    return Data(x, y, test_x, test_y)


@dataclass
class Result:
    """What one library reached."""

    name: str
    seconds: float
    accuracy: float
    losses: list[float] = field(repr=False)  # one an epoch


def train(network: il.MLP, data: Data, options: argparse.Namespace) -> Result:
    """Train with Adam; the clock runs while an epoch does, not while the progress bar is drawn."""
    optimizer = il.Adam(network.parameters, lr=options.lr)
    losses: list[float] = []
    seconds = 0.0
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epochs, loss {task.fields[loss]:.4f}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        bar = progress.add_task("", total=options.epochs, loss=math.nan)
        for _ in range(options.epochs):
            start = time.perf_counter()
            losses.append(network.fit_epoch(data.x, data.digits, optimizer, options.batch_size))
            seconds += time.perf_counter() - start
            progress.update(bar, advance=1, loss=losses[-1], refresh=True)
    accuracy = float((network.predict(data.test_x) == data.test_digits).mean())
    return Result("innerloop", seconds, accuracy, losses)


def train_sklearn(data: Data, options: argparse.Namespace) -> Result:
    """Train scikit-learn's MLPClassifier: same shape, batches, epochs, rule and float32 data."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]
    from sklearn.neural_network import MLPClassifier  # type: ignore[import-untyped]

    def classifier(epochs: int) -> MLPClassifier:
        return MLPClassifier(
            hidden_layer_sizes=SIZES[1:-1],
            activation="relu",
            solver="adam",
            alpha=0.0,
            batch_size=min(options.batch_size, len(data.x)),
            learning_rate_init=options.lr,
            max_iter=epochs,
            n_iter_no_change=epochs + 1,  # no early stop
            tol=0.0,
            random_state=options.seed,
        )

    with warnings.catch_warnings():
        # "Maximum iterations reached": that is what was asked for.
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier(1).fit(data.x, data.digits)  # imports and threads, as innerloop's first step
        model = classifier(options.epochs)
        start = time.perf_counter()
        model.fit(data.x, data.digits)
        seconds = time.perf_counter() - start
    accuracy = float(model.score(data.test_x, data.test_digits))
    return Result("scikit-learn", seconds, accuracy, list(model.loss_curve_))


def report_check(differences: list[Difference]) -> bool:
    """Print how far the first step is from the reference's; return whether that is near enough."""
    worst = max(differences, key=lambda d: d.relative)
    right = worst.relative <= TOLERANCE
    console.print(
        f"first step: loss and {len(differences) - 1} gradients "
        f"{'agree' if right else 'DO NOT AGREE'} with the NumPy reference; largest difference "
        f"{max(d.absolute for d in differences):.1e}, or {worst.relative:.1e} of the largest "
        f"element ({worst.name})"
    )
    return right


def report_results(results: list[Result]) -> None:
    """Print what was reached."""
    ours = results[0]
    rows = [
        (
            r.name,
            f"{'!' if r is ours and r.accuracy < GOAL else ''}{r.accuracy:.4f}",
            f"{r.losses[-1]:.4f}",
            human_time(r.seconds),
            f"{r.seconds / ours.seconds:.2f}x",
        )
        for r in results
    ]
    show_table("", ["", "test accuracy", "last loss", "training time", "relative"], rows)
    for r in results[1:]:
        ratio = r.seconds / ours.seconds
        console.print(f"innerloop trains at {ratio:.2f} times {r.name}'s speed.")


def save_plot(path: str, results: list[Result]) -> None:
    """Save the loss curves."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for r in results:
        axes.semilogy(range(1, len(r.losses) + 1), r.losses, label=f"{r.name}, {r.seconds:.2f} s")
    axes.set(
        xlabel="epoch", ylabel="mean training loss", title="Digits, " + "-".join(map(str, SIZES))
    )
    axes.legend()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def run(options: argparse.Namespace) -> int:
    """Train, compare, report. The status is 0 if the gradients agree and the goal is reached."""
    if options.plot:
        import matplotlib  # noqa: F401  missing: say so before training

    busy = machine.is_busy()
    data = load_data()
    network = il.MLP(SIZES, seed=options.seed)
    console.print(
        f"digits: {len(data.x)} to train on, {len(data.test_x)} to test on, float32; network "
        f"{'-'.join(map(str, SIZES))} with relu; Adam, lr {options.lr:g}, batches of "
        f"{options.batch_size}; instruction set {il.info()['isa']}, {il.get_num_threads()} threads"
    )
    batch = slice(options.batch_size)
    differences = first_step_differences(network, data.x[batch], data.digits[batch])
    right = report_check(differences)
    results = [train(network, data, options)]
    if not options.skip_sklearn:
        console.print("training scikit-learn's MLPClassifier ...")
        results.append(train_sklearn(data, options))
    report_results(results)
    if busy:
        console.print("Other work was running on this machine: its times mean little.")
    if options.plot:
        save_plot(options.plot, results)
        console.print(f"loss curves saved as {options.plot}")
    return 0 if right and results[0].accuracy >= GOAL else 1
