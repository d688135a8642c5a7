"""Data larger than memory: `partial_fit` over chunks of a memory-mapped file.

The file is written first, a chunk at a time; then each epoch maps it and reads it once, in blocks
whose order is drawn anew. Only a block's pages are in memory at a time.

    python examples/out_of_core.py --rows 1000000 --epochs 2
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from innerloop.plugins.sklearn import MLPClassifier

FEATURES, CLASSES = 32, 4
DTYPE = np.dtype([("x", np.float32, FEATURES), ("y", np.int64)])


def rows_of(count: int, seed: int, centres: np.ndarray) -> np.ndarray:
    """Some rows of a made-up problem: classes on two rings each."""
    rng = np.random.default_rng(seed)
    rows = np.empty(count, DTYPE)
    rows["y"] = rng.integers(CLASSES, size=count)
    side = rng.choice([-1.0, 1.0], size=(count, 1))
    rows["x"] = side * centres[rows["y"]] + 2.0 * rng.standard_normal((count, FEATURES))
    return rows


def main(argv: Sequence[str] | None = None) -> float:
    """Write, train, and return the accuracy on rows not trained on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--chunk", type=int, default=50_000)
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args(argv)
    centres = np.random.default_rng(0).standard_normal((CLASSES, FEATURES))
    begins = np.arange(0, options.rows, options.chunk)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows"
        with open(path, "wb") as file:
            for i, begin in enumerate(begins):
                rows_of(min(options.chunk, options.rows - begin), i + 1, centres).tofile(file)
        print(f"{path.stat().st_size / 2**20:.1f} MiB of data, read {options.chunk} rows at a time")

        model = MLPClassifier((64,), batch_size=256, learning_rate_init=0.003, random_state=0)
        test = rows_of(10_000, 0, centres)
        rng = np.random.default_rng(0)
        for epoch in range(options.epochs):
            start = time.perf_counter()
            data = np.memmap(path, DTYPE, mode="r")
            for begin in rng.permutation(begins):
                some = data[begin : begin + options.chunk]
                model.partial_fit(
                    np.ascontiguousarray(some["x"]), some["y"], classes=np.arange(CLASSES)
                )
            seconds = time.perf_counter() - start
            del data, some
            accuracy = model.score(np.ascontiguousarray(test["x"]), test["y"])
            print(f"epoch {epoch + 1}: {seconds:.2f} s, accuracy {accuracy:.4f}")
    return accuracy


if __name__ == "__main__":
    main()
