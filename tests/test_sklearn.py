"""`innerloop.plugins.sklearn` beside scikit-learn's own perceptrons."""

from __future__ import annotations

import doctest
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

import joblib
import sklearn.neural_network as theirs
from scipy import sparse
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits, make_multilabel_classification, make_regression
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import innerloop as il
from innerloop.plugins import sklearn as ours
from innerloop.plugins._sklearn_network import threads_of

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning",
    "ignore::sklearn.exceptions.SkipTestWarning",
)

X, LABELS = load_digits(return_X_y=True)
X, LABELS = X[:400] / 16.0, LABELS[:400]
MANY_X, MANY = make_multilabel_classification(200, random_state=0)
REAL_X, REAL = make_regression(300, 10, n_targets=2, random_state=0)
REAL = REAL / 100.0
WEIGHTS = np.random.RandomState(1).uniform(0.1, 2.0, 400)
CLASSIFIER, REGRESSOR = "MLPClassifier", "MLPRegressor"


def arrays(model: Any) -> list[np.ndarray]:
    return [*model.coefs_, *model.intercepts_]


SMALL: dict[str, Any] = {"hidden_layer_sizes": (20, 8), "max_iter": 12, "random_state": 3}


def mine(name: str, **params: Any) -> Any:
    return getattr(ours, name)(**{**SMALL, **params})


def both(name: str, **params: Any) -> tuple[Any, Any]:
    return mine(name, **params), getattr(theirs, name)(**{**SMALL, **params})


def assert_equal(a: Any, b: Any, tolerance: float = 1e-9) -> None:
    """All that both have: weights and curves to rounding, counts exactly."""
    for p, q in zip(arrays(a), arrays(b), strict=True):
        np.testing.assert_allclose(p, q, rtol=tolerance, atol=tolerance)
    for name in [n for n in vars(b) if n.endswith("_") and n not in ("coefs_", "intercepts_")]:
        value, wanted = getattr(a, name), getattr(b, name)
        if wanted is None or isinstance(wanted, (str, int)) or name == "classes_":
            assert np.all(value == wanted), name
        else:
            np.testing.assert_allclose(value, wanted, rtol=tolerance, err_msg=name)


@parametrize_with_checks([ours.MLPClassifier(max_iter=100), ours.MLPRegressor(max_iter=100)])
def test_scikit_learns_checks_of_any_estimator(estimator: Any, check: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


PRIVATE = {"test_gradient": "calls _loss_grad_lbfgs, a private method"}


def test_scikit_learns_own_tests_by_substitution(tmp_path: Path) -> None:
    tests = Path(theirs.__file__).parent / "tests" / "test_mlp.py"
    if not tests.exists():
        pytest.skip("scikit-learn is installed without its tests")
    paths = [str(Path(il.__file__).parent.parent), str(Path(__file__).parent)]
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "sklearn_substitution"),
            *("-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(tmp_path), str(tests)),
            *(f"--deselect={tests}::{name}" for name in PRIVATE),
            *("-k", "not (" + " or ".join(PRIVATE) + ")"),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*paths, *sys.path])},
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed and int(passed[1]) >= 40, run.stdout[-500:]


CASES: dict[str, dict[str, Any]] = {
    "adam": {},
    "adam, as the rows come": {"shuffle": False},
    "adam, logistic": {"activation": "logistic"},
    "adam, numbers": {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3, "batch_size": 33},
    "sgd": {"solver": "sgd"},
    "sgd, tanh, heavy ball": {"solver": "sgd", "nesterovs_momentum": False, "activation": "tanh"},
    "sgd without momentum": {"solver": "sgd", "momentum": 0, "activation": "identity"},
    "sgd, invscaling": {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.1},
    "sgd, adaptive": {
        **{"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.3},
        **{"max_iter": 40, "tol": 0.05, "n_iter_no_change": 2},
    },
    "lbfgs": {"solver": "lbfgs"},
    "early stopping": {"early_stopping": True, "max_iter": 30, "learning_rate_init": 0.01},
    "early stopping, sgd": {"early_stopping": True, "solver": "sgd", "n_iter_no_change": 3},
    "no hidden layer": {"hidden_layer_sizes": ()},
}
TARGETS: dict[str, tuple[str, Any, Any]] = {
    "classes": (CLASSIFIER, X, LABELS),
    "two classes": (CLASSIFIER, X, np.array(["a", "b"])[(LABELS > 4).astype(int)]),
    "several labels": (CLASSIFIER, MANY_X, MANY),
    "numbers": (REGRESSOR, REAL_X, REAL[:, 0]),
    "several numbers": (REGRESSOR, REAL_X, REAL),
}


@pytest.mark.parametrize("weighted", [False, True], ids=["", "sample_weight"])
@pytest.mark.parametrize("target_name", TARGETS)
@pytest.mark.parametrize("case", CASES)
def test_weights_and_curves_are_scikit_learns(case: str, target_name: str, weighted: bool) -> None:
    name, x, y = TARGETS[target_name]
    a, b = both(name, **CASES[case])
    weights = {"sample_weight": WEIGHTS[: len(x)]} if weighted else {}
    a.fit(x, y, **weights)
    b.fit(x, y, **weights)
    assert_equal(a, b)
    np.testing.assert_array_equal(a.predict(x[:9]).shape, b.predict(x[:9]).shape)
    if name == CLASSIFIER:
        np.testing.assert_array_equal(a.predict(x), b.predict(x))
        np.testing.assert_allclose(a.predict_proba(x), b.predict_proba(x), atol=1e-8)
    else:
        np.testing.assert_allclose(a.predict(x), b.predict(x), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "sample_weight"])
def test_poisson_is_scikit_learns(solver: str, weighted: bool) -> None:
    a, b = both(REGRESSOR, loss="poisson", solver=solver, batch_size=70)
    weights = {"sample_weight": WEIGHTS[:300]} if weighted else {}
    y = np.abs(REAL).round()
    assert_equal(a.fit(REAL_X, y, **weights), b.fit(REAL_X, y, **weights))
    np.testing.assert_allclose(a.predict(REAL_X), b.predict(REAL_X), rtol=1e-7)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_partial_fit_and_warm_start_go_on_as_scikit_learns(solver: str) -> None:
    kwargs = {"learning_rate": "invscaling", "learning_rate_init": 0.02}
    a, b = both(CLASSIFIER, solver=solver, warm_start=True, **kwargs)
    for _ in range(2):
        assert_equal(a.fit(X, LABELS), b.fit(X, LABELS))
    a, b = both(CLASSIFIER, solver=solver, **kwargs)
    for i in range(6):
        if i == 3:  # on a copy, with the optimizer's state
            a = pickle.loads(pickle.dumps(a))
        some = slice(60 * i, 60 * i + 60)
        for model in (a, b):
            model.partial_fit(X[some], LABELS[some], classes=np.arange(10))
        assert_equal(a, b)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("name", [CLASSIFIER, REGRESSOR])
def test_from_and_to_scikit_learn_with_the_optimizers_state(name: str, solver: str) -> None:
    y = LABELS if name == CLASSIFIER else LABELS / 10.0
    _, b = both(name, solver=solver, learning_rate="invscaling", max_iter=3)
    classes = {"classes": np.arange(10)} if name == CLASSIFIER else {}
    for _ in range(3):
        b.partial_fit(X, y, **classes)
    a = getattr(ours, name).from_sklearn(b)
    assert_equal(a, b)
    back = a.to_sklearn()
    assert type(back) is type(b)
    for _ in range(2):
        for model in (a, b, back):
            model.partial_fit(X, y)
        assert_equal(a, b)
        assert_equal(back, b)
    np.testing.assert_allclose(a.to_sklearn().predict(X), b.predict(X), atol=1e-8)


def test_the_modules_example() -> None:
    assert doctest.testmod(ours).failed == 0


def test_conversion_refuses_what_has_no_counterpart() -> None:
    with pytest.raises(TypeError, match="MLPClassifier"):
        ours.MLPClassifier.from_sklearn(theirs.MLPRegressor())
    for params in ({"dropout": 0.5}, {"solver": "lion"}, {"activation": "gelu"}):
        with pytest.raises(ValueError, match=re.escape(next(iter(params)))):
            ours.MLPRegressor(**params).to_sklearn()
    with pytest.raises(ValueError, match="loss"):
        ours.MLPRegressor(loss="huber").to_sklearn()
    fresh = ours.MLPClassifier((7,), alpha=0.5, activation="sigmoid").to_sklearn()
    assert fresh.get_params()["alpha"] == 0.5 and fresh.activation == "logistic"


BAD: dict[str, Any] = {
    "nan": lambda m: m.fit(np.full((4, 2), np.nan), [0, 1, 0, 1]),
    "infinity": lambda m: m.fit(np.full((4, 2), np.inf), [0, 1, 0, 1]),
    "no rows": lambda m: m.fit(np.ones((0, 2)), []),
    "one axis": lambda m: m.fit(np.ones(4), [0, 1, 0, 1]),
    "lengths": lambda m: m.fit(np.ones((4, 2)), [0, 1, 0]),
    "ragged": lambda m: m.fit([[1, 2], [3]], [0, 1]),
    "complex": lambda m: m.fit(np.ones((2, 2)) * 1j, [0, 1]),
    "features": lambda m: m.fit(X, LABELS).predict(X[:, :3]),
    "features, one row": lambda m: m.fit(X, LABELS).predict(X[:1, :3].copy()),
    "nan to predict": lambda m: m.fit(X, LABELS).predict(np.full((1, 64), np.nan)),
    "infinity to predict": lambda m: m.fit(X, LABELS).predict(np.full((1, 64), -np.inf)),
    "features of partial_fit": lambda m: m.fit(X, LABELS).partial_fit(X[:, :3], LABELS),
    "hidden": lambda m: m.set_params(hidden_layer_sizes=(3, 0)).fit(X, LABELS),
    "small split": lambda m: m.set_params(early_stopping=True).fit(REAL_X[:3], [0, 1, 2]),
    "weights": lambda m: m.fit(X, LABELS, sample_weight=np.ones(3)),
    "partial with early stopping": lambda m: (
        m.set_params(early_stopping=True).fit(X, LABELS).partial_fit(X, LABELS)
    ),
    "not fitted": lambda m: m.predict(X),
    "parameter": lambda m: m.set_params(momentum=2.0).fit(X, LABELS),
    "parameter's type": lambda m: m.set_params(tol="small").fit(X, LABELS),
}
BAD_LABELS: dict[str, Any] = {
    "unseen": lambda m: m.fit(X, LABELS).partial_fit(X[:2], [3, 11]),
    "no classes": lambda m: m.partial_fit(X, LABELS),
    "other classes": lambda m: m.partial_fit(X, LABELS, classes=np.arange(10)).partial_fit(
        X, LABELS, classes=[1, 2]
    ),
    "warm start": lambda m: m.set_params(warm_start=True).fit(X, LABELS).fit(X, LABELS % 4),
    "class of one": lambda m: m.set_params(early_stopping=True).fit(X[:9], [0] * 8 + [1]),
}


@pytest.mark.parametrize(
    ("name", "what"),
    [(name, what) for name in (CLASSIFIER, REGRESSOR) for what in BAD]
    + [(CLASSIFIER, what) for what in BAD_LABELS],
)
def test_errors_are_scikit_learns(name: str, what: str) -> None:
    raised = []
    for model in both(name, max_iter=2):
        with pytest.raises(Exception) as info:
            (BAD | BAD_LABELS)[what](model)
        raised.append((info.type, str(info.value)))
    assert raised[0] == raised[1]


def test_warnings_are_scikit_learns() -> None:
    told = []
    for model in both(CLASSIFIER, max_iter=2, batch_size=4000):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(X, LABELS[:, None])
        told.append([(w.category, str(w.message)) for w in caught])
    assert told[0] == told[1] and len(told[0]) == 3
    a = mine(CLASSIFIER, solver="lbfgs", max_iter=2)
    with pytest.warns(ConvergenceWarning, match=r"lbfgs failed to converge after 2 iteration\(s\)"):
        a.fit(X, LABELS)


@pytest.mark.parametrize("params", [{}, {"early_stopping": True}, {"learning_rate": "adaptive"}])
def test_verbose_prints_scikit_learns_lines(params: Any, capsys: Any) -> None:
    lines = []
    for model in both(
        CLASSIFIER, solver="sgd", verbose=True, tol=0.1, n_iter_no_change=2, max_iter=60, **params
    ):
        model.fit(X, LABELS)
        lines.append(capsys.readouterr().out)
    assert lines[0] == lines[1] and "Iteration 2, loss = " in lines[0]


def test_ctrl_c_warns_and_leaves_a_model() -> None:
    model = ours.MLPClassifier((32,), max_iter=10**7, tol=0.0, n_iter_no_change=np.inf)
    timer = threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        model.fit(X, LABELS)
    timer.join()
    assert 0 < len(model.loss_curve_) < 10**7
    assert np.isfinite(model.predict_proba(X)).all()


# Beyond scikit-learn.


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("name", [CLASSIFIER, REGRESSOR])
def test_float32_stays_float32(name: str, solver: str) -> None:
    y = LABELS if name == CLASSIFIER else LABELS / 10.0
    single = mine(name, solver=solver)
    double = mine(name, solver=solver)
    single.fit(X.astype(np.float32), y)
    double.fit(X, y)
    assert {a.dtype for a in arrays(single)} == {np.dtype(np.float32)}
    assert single.predict(X[:3]).dtype in (np.float32, np.int64)
    np.testing.assert_allclose(single.loss_, double.loss_, rtol=1e-4)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("make", [sparse.csr_matrix, sparse.csc_array])
def test_sparse_is_as_dense_in_chunks(
    make: Any, solver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    densified: list[int] = []
    original = sparse.csr_matrix.toarray
    for cls in (sparse.csr_matrix, sparse.csr_array):
        monkeypatch.setattr(
            cls, "toarray", lambda self: densified.append(self.shape[0]) or original(self)
        )
    monkeypatch.setattr("innerloop.plugins._sklearn_network.CHUNK", 64 * 70)
    dense = mine(CLASSIFIER, solver=solver, batch_size=30)
    model = clone(dense)
    dense.fit(X, LABELS, sample_weight=WEIGHTS)
    model.fit(make(X), LABELS, sample_weight=WEIGHTS)
    for p, q in zip(arrays(model), arrays(dense), strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(model.predict_proba(make(X)), dense.predict_proba(X), rtol=1e-9)
    assert densified and max(densified) <= 70


def test_every_solver_learns_with_its_own_parameters() -> None:
    rates = {"sgd": 0.1, "adadelta": 1.0, "adagrad": 0.05, "lion": 1e-3}
    for solver in il.optimizers.NAMES:
        rate = rates.get(solver, 0.01)
        model = ours.MLPClassifier(
            (16,),
            solver=solver,
            learning_rate_init=rate,
            batch_size=50,
            max_iter=40,
            random_state=0,
        )
        assert model.fit(X, LABELS).score(X, LABELS) > 0.9, solver
    decayed = ours.MLPClassifier(
        *((16,),), solver="adamw", solver_params={"weight_decay": 5.0}, max_iter=40, random_state=0
    ).fit(X, LABELS)
    plain = clone(decayed).set_params(solver_params=None).fit(X, LABELS)
    assert np.abs(decayed.coefs_[0]).sum() < np.abs(plain.coefs_[0]).sum()


def test_every_activation_fits_and_may_differ_by_layer() -> None:
    for name in il.activations.NAMES:
        model = ours.MLPClassifier((16,), name, max_iter=60, learning_rate_init=0.01)
        model.set_params(random_state=0)
        assert model.fit(X, LABELS).score(X, LABELS) > 0.9, name
    mixed = ours.MLPClassifier(
        (16, 12), ["gelu", ("leaky_relu", {"negative_slope": 0.2})], max_iter=40, random_state=0
    ).fit(X, LABELS)
    h = il.gelu(X @ mixed.coefs_[0] + mixed.intercepts_[0])
    h = h @ mixed.coefs_[1] + mixed.intercepts_[1]
    h = np.where(h > 0, h, 0.2 * h)
    logits = h @ mixed.coefs_[2] + mixed.intercepts_[2]
    np.testing.assert_array_equal(mixed.predict(X), logits.argmax(axis=1))


def test_class_weight_is_a_sample_weight() -> None:
    counts = np.bincount(LABELS % 3)
    balanced = len(LABELS) / (3 * counts)
    for given, each in (("balanced", balanced), ({0: 5.0, 2: 0.5}, np.array([5.0, 1.0, 0.5]))):
        a = mine(CLASSIFIER, class_weight=given)
        b = mine(CLASSIFIER)
        a.fit(X, LABELS % 3, sample_weight=WEIGHTS)
        b.fit(X, LABELS % 3, sample_weight=WEIGHTS * each[LABELS % 3])
        np.testing.assert_allclose(a.loss_curve_, b.loss_curve_, rtol=1e-12)
    several = mine(CLASSIFIER, class_weight=[{0: 1.0, 1: 3.0}] * MANY.shape[1])
    plain = mine(CLASSIFIER)
    several.fit(MANY_X, MANY)
    plain.fit(MANY_X, MANY, sample_weight=3.0 ** MANY.sum(axis=1))
    np.testing.assert_allclose(several.loss_curve_, plain.loss_curve_, rtol=1e-12)
    with pytest.raises(ValueError, match="class_weight 'balanced' is not supported for partial"):
        ours.MLPClassifier(class_weight="balanced").partial_fit(X, LABELS, classes=np.arange(10))


def test_dropout_is_of_training_only_and_goes_on_after_pickling() -> None:
    model = ours.MLPClassifier((32,), dropout=0.5, max_iter=5, random_state=0).fit(X, LABELS)
    again = clone(model).fit(X, LABELS)
    without = clone(model).set_params(dropout=0.0).fit(X, LABELS)
    assert model.loss_curve_ == again.loss_curve_ != without.loss_curve_
    np.testing.assert_array_equal(model.predict_proba(X), model.predict_proba(X))
    copied = pickle.loads(pickle.dumps(model))
    for each in (model, copied):
        each.partial_fit(X, LABELS)
    for p, q in zip(arrays(model), arrays(copied), strict=True):
        np.testing.assert_array_equal(p, q)


def test_losses_of_the_regressor() -> None:
    a, b = mine(REGRESSOR, loss="huber", huber_delta=1e6), mine(REGRESSOR)
    assert_equal(a.fit(REAL_X, REAL), b.fit(REAL_X, REAL))  # within delta it is that
    y = REAL[:, 0].copy()
    y[::20] += 100.0  # outliers, which a robust loss does not follow
    clean = np.arange(300) % 20 != 0
    errors = {}
    for loss in ("squared_error", "huber", "absolute_error"):
        model = ours.MLPRegressor(loss, (), max_iter=500, learning_rate_init=0.05, random_state=0)
        errors[loss] = np.abs(model.fit(REAL_X, y).predict(REAL_X) - y)[clean].mean()
    assert errors["huber"] < 0.2 * errors["squared_error"], errors
    assert errors["absolute_error"] < 0.2 * errors["squared_error"], errors


def test_predictions_see_weights_that_the_user_changes() -> None:
    model = mine(CLASSIFIER)
    before = model.fit(X, LABELS).predict_proba(X)
    model.coefs_[0][...] *= 0.5  # in place
    halved = model.predict_proba(X)
    model.coefs_[0] = np.asfortranarray(model.coefs_[0] * 2.0)  # another array
    np.testing.assert_allclose(model.predict_proba(X), before, rtol=1e-12)
    assert not np.allclose(halved, before)
    model.partial_fit(X, LABELS)
    assert model.coefs_[0].flags.c_contiguous and np.isfinite(model.loss_)


def test_the_reference_backend_trains_to_the_same_weights() -> None:
    params: dict[str, Any] = {"max_iter": 3, "batch_size": 100, "dropout": 0.25}
    native = mine(CLASSIFIER, **params).fit(X, LABELS)
    with il.use_backend("reference"):
        plain = mine(CLASSIFIER, **params).fit(X, LABELS)
        np.testing.assert_allclose(plain.predict_proba(X), native.predict_proba(X), rtol=1e-6)
    for p, q in zip(arrays(native), arrays(plain), strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-9, atol=1e-12)


def test_rows_of_other_kinds_predict_the_same() -> None:
    model = mine(CLASSIFIER, early_stopping=True).fit(sparse.csr_array(X), LABELS)
    wanted = model.predict_proba(X)
    for rows in (np.asfortranarray(X), X[::-1][::-1], X.astype(">f8"), X.astype(np.longdouble)):
        np.testing.assert_array_equal(model.predict_proba(rows), wanted)
    whole = np.round(X * 16).astype(np.int32)
    np.testing.assert_array_equal(
        model.predict_proba(whole), model.predict_proba(whole.astype(float))
    )


def test_threads_change_no_bit() -> None:
    models = [mine(CLASSIFIER, n_threads=n).fit(X, LABELS) for n in (1, 2, None)]
    for other in models[1:]:
        for p, q in zip(arrays(models[0]), arrays(other), strict=True):
            np.testing.assert_array_equal(p, q)


# Among scikit-learn's tools.


def _threads_here(_: int) -> tuple[int | None, int]:
    return threads_of(None), il.get_num_threads()


def test_a_worker_of_joblibs_uses_its_share_of_the_cores() -> None:
    assert threads_of(None) is None and threads_of(3) == 3
    threads = joblib.Parallel(n_jobs=2, backend="threading")
    assert [n for n, _ in threads(joblib.delayed(_threads_here)(i) for i in range(3))] == [1] * 3
    share = max(joblib.cpu_count() // 2, 1)
    if "OMP_NUM_THREADS" in os.environ or "INNERLOOP_NUM_THREADS" in os.environ:
        pytest.skip("the environment says how many threads there are")
    processes = joblib.Parallel(n_jobs=2, backend="loky")
    for wanted, limit in processes(joblib.delayed(_threads_here)(i) for i in range(3)):
        assert (wanted or limit) <= share


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_grid_search_of_a_pipeline(backend: str) -> None:
    pipeline = make_pipeline(StandardScaler(), ours.MLPClassifier((16,), random_state=0))
    grid = {"mlpclassifier__max_iter": [1, 15], "mlpclassifier__activation": ["relu", "gelu"]}
    search = GridSearchCV(pipeline, grid, cv=3, n_jobs=2)
    with joblib.parallel_config(backend=backend), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search.fit(X, LABELS)
    assert search.best_params_["mlpclassifier__max_iter"] == 15
    alone = clone(pipeline).set_params(**search.best_params_).fit(X, LABELS)
    np.testing.assert_array_equal(search.predict_proba(X), alone.predict_proba(X))


def test_cross_validation_and_calibration() -> None:
    model = ours.MLPClassifier((16,), max_iter=40, learning_rate_init=0.01, random_state=0)
    assert cross_val_score(model, X, LABELS, cv=3).min() > 0.8
    calibrated = CalibratedClassifierCV(model, cv=3).fit(X, LABELS)
    np.testing.assert_allclose(calibrated.predict_proba(X).sum(axis=1), 1.0)
    assert calibrated.score(X, LABELS) > 0.9


def test_copies_predict_the_same_bits(tmp_path: Path) -> None:
    model = mine(CLASSIFIER)
    with pytest.raises(NotFittedError):
        clone(model.fit(X, LABELS)).predict(X)
    joblib.dump(model, tmp_path / "model")
    copies = [
        pickle.loads(pickle.dumps(model)),
        joblib.load(tmp_path / "model"),
        joblib.load(tmp_path / "model", mmap_mode="r"),
    ]
    for copied in copies:
        np.testing.assert_array_equal(copied.predict_proba(X), model.predict_proba(X))
        copied.partial_fit(X, LABELS)
    for copied in copies[1:]:
        assert_equal(copied, copies[0], 0.0)


def test_one_row_is_as_many_rows() -> None:
    model = mine(CLASSIFIER)
    many = model.fit(X, LABELS).predict_proba(X)
    for i in (0, 7):
        np.testing.assert_array_equal(model.predict_proba(X[i : i + 1])[0], many[i])
        np.testing.assert_array_equal(model.predict_proba(X[i : i + 1].tolist())[0], many[i])
    big = np.full((1, 64), 1e308)  # whose sum is infinite, but which is finite
    np.testing.assert_array_equal(np.isnan(model.predict_proba(big)).shape, (1, 10))


def test_names_of_features_are_kept() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=[f"pixel {i}" for i in range(64)])
    model = mine(CLASSIFIER, early_stopping=True)
    model.fit(frame, LABELS)
    assert list(model.feature_names_in_) == list(frame.columns)
    np.testing.assert_array_equal(model.predict(frame), model.predict(frame))
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        model.predict(X)
