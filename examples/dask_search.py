"""A search over parameters on a Dask cluster, of which the estimator knows nothing.

joblib sends scikit-learn's fits to the cluster's workers: here two processes of this machine; give
a scheduler's address for others. Needs the package dask[distributed].

    python examples/dask_search.py --scheduler tcp://192.0.2.1:8786
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence

import joblib
from distributed import Client, LocalCluster
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from innerloop.plugins.sklearn import MLPClassifier


def main(argv: Sequence[str] | None = None) -> dict[str, object]:
    """Search; return the best parameters."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scheduler", help="address of a cluster's scheduler")
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
    cluster = None
    if options.scheduler is None:
        cluster = LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        )
    with Client(options.scheduler or cluster) as client:
        with joblib.parallel_config(backend="dask"), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # which scikit-learn sends along
            search.fit(X, y)
        print(f"{len(client.scheduler_info()['workers'])} workers")
    if cluster is not None:
        cluster.close()
    for params, score in zip(
        search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True
    ):
        print(f"{score:.4f} {params}")
    return search.best_params_


if __name__ == "__main__":
    main()
