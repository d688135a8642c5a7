"""A regression with outliers: which loss follows them, and which does not.

The function is Friedman's first, of five of ten features; every twentieth target is far off. The
features are scaled in a Pipeline, training stops by itself on rows set aside.

    python examples/regression.py --rows 4000
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from sklearn.datasets import make_friedman1
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from innerloop.plugins.sklearn import MLPRegressor


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Train with each loss; return its coefficient of determination on clean rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=300)
    options = parser.parse_args(argv)

    X, y = make_friedman1(options.rows, noise=0.5, random_state=0)
    spoilt = y.copy()
    spoilt[::20] += 100.0
    clean_x, clean_y = make_friedman1(1000, random_state=1)
    scores = {}
    for loss in ("squared_error", "huber", "absolute_error"):
        model = make_pipeline(
            StandardScaler(),
            MLPRegressor(
                loss,
                (64, 32),
                "gelu",
                batch_size=64,
                learning_rate_init=0.003,
                max_iter=options.epochs,
                early_stopping=True,
                n_iter_no_change=20,
                random_state=0,
            ),
        )
        model.fit(X.astype(np.float32), spoilt)
        scores[loss] = r2_score(clean_y, model.predict(clean_x.astype(np.float32)))
        print(f"{loss:15} {model[-1].n_iter_:4} epochs, R2 on clean rows {scores[loss]:.3f}")
    return scores


if __name__ == "__main__":
    main()
