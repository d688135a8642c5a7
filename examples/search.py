"""A search over parameters, on this machine or on a cluster of which the estimator knows nothing.

joblib sends scikit-learn's fits to workers: processes of this machine by itself; Dask's or Ray's,
with the packages dask[distributed] or ray, here two workers of this machine, or those of a cluster
whose address is given.

    python examples/search.py --backend dask --address tcp://192.0.2.1:8786
"""

from __future__ import annotations

import argparse
import contextlib
import warnings
from collections.abc import Iterator, Sequence

import joblib
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from innerloop.plugins.sklearn import MLPClassifier


@contextlib.contextmanager
def dask_workers(address: str | None) -> Iterator[None]:
    from distributed import Client, LocalCluster

    with contextlib.ExitStack() as stack:
        cluster = address or stack.enter_context(
            LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)
        )
        client = stack.enter_context(Client(cluster))
        yield
        print(f"{len(client.scheduler_info()['workers'])} workers")


@contextlib.contextmanager
def ray_workers(address: str | None) -> Iterator[None]:
    import ray
    from ray.util.joblib import register_ray

    alone = {} if address else {"num_cpus": 2, "include_dashboard": False}
    ray.init(address=address, **alone)
    register_ray()
    yield
    ray.shutdown()


WORKERS = {"loky": contextlib.nullcontext, "dask": dask_workers, "ray": ray_workers}


def main(argv: Sequence[str] | None = None) -> dict[str, object]:
    """Search; return the best parameters."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=WORKERS, default="loky")
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
        n_jobs=-1,
    )
    with (
        WORKERS[options.backend](options.address),
        joblib.parallel_config(backend=options.backend),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", ConvergenceWarning)  # which scikit-learn sends along
        search.fit(X, y)
    for params, score in zip(
        search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True
    ):
        print(f"{score:.4f} {params}")
    return search.best_params_


if __name__ == "__main__":
    main()
