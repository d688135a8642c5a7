"""Handwritten digits with scikit-learn's classifier and with ours in its place.

Only the import differs: in float64 both end with the same weights, but for rounding.

    python examples/digits_sklearn.py --epochs 30 --hidden 64
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence

import sklearn.neural_network
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

import innerloop.plugins.sklearn


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Train both; return the accuracy of each on rows not trained on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--hidden", type=int, nargs="+", default=[64])
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args(argv)

    X, y = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        X / 16.0, y, random_state=0, stratify=y, test_size=0.25
    )
    accuracy = {}
    for library in (sklearn.neural_network, innerloop.plugins.sklearn):
        model = library.MLPClassifier(
            options.hidden,
            batch_size=options.batch,
            max_iter=options.epochs,
            random_state=0,
        )
        with warnings.catch_warnings():  # that so few epochs are not all it takes
            warnings.simplefilter("ignore", ConvergenceWarning)
            begin = time.perf_counter()
            model.fit(train_x, train_y)
            seconds = time.perf_counter() - begin
        accuracy[library.__name__] = model.score(test_x, test_y)
        print(
            f"{library.__name__:28} {seconds * 1e3:8.1f} ms, loss {model.loss_:.6f}, "
            f"accuracy {accuracy[library.__name__]:.4f}"
        )
    return accuracy


if __name__ == "__main__":
    main()
