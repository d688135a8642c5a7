"""A search over parameters on a Ray cluster, of which the estimator knows nothing.

joblib sends scikit-learn's fits to Ray's workers: here of this machine. Needs the package ray.

    python examples/ray_search.py --address auto
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence

import joblib
import ray
from ray.util.joblib import register_ray
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from innerloop.plugins.sklearn import MLPClassifier


def main(argv: Sequence[str] | None = None) -> dict[str, object]:
    """Search; return the best parameters."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", help="of a running cluster")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--rows", type=int, default=1797)
    options = parser.parse_args(argv)

    X, y = load_digits(return_X_y=True)
    X, y = X[: options.rows] / 16.0, y[: options.rows]
    search = GridSearchCV(
        MLPClassifier((32,), max_iter=options.epochs, tol=0.0, random_state=0),
        {"activation": ["relu", "gelu"], "learning_rate_init": [1e-4, 1e-2]},
        cv=3,
    )
    alone = {} if options.address else {"num_cpus": 2, "include_dashboard": False}
    ray.init(address=options.address, **alone)
    register_ray()
    with joblib.parallel_config(backend="ray", n_jobs=-1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # which scikit-learn sends along
        search.fit(X, y)
    ray.shutdown()
    for params, score in zip(
        search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True
    ):
        print(f"{score:.4f} {params}")
    return search.best_params_


if __name__ == "__main__":
    main()
