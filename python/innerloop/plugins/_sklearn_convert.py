"""Estimators made of scikit-learn's, and the way back: parameters, weights and optimizer."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import sklearn.neural_network
from numpy.typing import NDArray
from sklearn.base import is_classifier

from ._sklearn_solver import Stochastic

_NO_MATTER = ("n_threads", "huber_delta")  # the latter without its loss, which is refused
_PRIVATE = ("_label_binarizer", "_no_improvement_count", "_random_state")


def _theirs(estimator: Any) -> Any:
    name = "MLPClassifier" if is_classifier(estimator) else "MLPRegressor"
    return getattr(sklearn.neural_network, name)


def _copy_fitted(source: Any, to: Any) -> None:
    for name, value in vars(source).items():
        if name in _PRIVATE or (name.endswith("_") and not name.startswith("_")):
            setattr(to, name, copy.deepcopy(value))


def _by_turns(coefs: list[NDArray], intercepts: list[NDArray]) -> list[NDArray]:
    """scikit-learn's order, all weights and then all biases, as ours: by turns."""
    return [p for pair in zip(coefs, intercepts, strict=True) for p in pair]


def _halves(parameters: list[NDArray]) -> list[NDArray]:
    return [*parameters[0::2], *parameters[1::2]]


def from_sklearn(cls: Any, estimator: Any) -> Any:
    """Return an estimator of ours that equals one of scikit-learn's."""
    theirs = _theirs(cls())
    if not isinstance(estimator, theirs):
        raise TypeError(f"estimator must be scikit-learn's {theirs.__name__}, got {estimator!r}")
    ours = cls(**estimator.get_params(deep=False))
    _copy_fitted(estimator, ours)
    if not hasattr(estimator, "coefs_"):
        return ours
    if estimator.early_stopping and hasattr(estimator, "_best_coefs"):
        ours._best = [p.copy() for p in (*estimator._best_coefs, *estimator._best_intercepts)]
    their = getattr(estimator, "_optimizer", None)
    if their is None:
        return ours
    parameters = _by_turns(ours.coefs_, ours.intercepts_)
    ours._optimizer = Stochastic(ours, parameters)
    optimizer = ours._optimizer.optimizer
    assert optimizer is not None
    count = len(ours.coefs_)
    if estimator.solver == "adam":
        optimizer.steps = int(their.t)
        held = {"exp_avgs": (their.ms, 1.0), "exp_avg_sqs": (their.vs, 1.0)}
    else:
        ours._optimizer.learning_rate = optimizer.lr = float(their.learning_rate)  # type: ignore[attr-defined]
        optimizer.steps = 1  # only the first differs, which would not read the velocities
        held = {"momentum_buffers": (their.velocities, -1.0 / their.learning_rate)}
    for name, (values, scale) in held.items():
        for to, value in zip(
            optimizer.state.get(name, []),
            _by_turns(values[:count], values[count:]),
            strict=False,
        ):
            if to is not None:
                to[...] = scale * value
    return ours


def to_sklearn(ours: Any) -> Any:
    """Return scikit-learn's estimator that equals one of ours."""
    theirs = _theirs(ours)
    known, defaults = theirs().get_params(), type(ours)().get_params()
    params = ours.get_params(deep=False)
    for name in params.keys() - known.keys():
        value = params.pop(name)
        if name not in _NO_MATTER and value is not defaults[name] and np.any(value):
            raise ValueError(f"scikit-learn's {theirs.__name__} has no {name}")
    if params["activation"] == "sigmoid":
        params["activation"] = "logistic"
    estimator = theirs(**params)
    try:
        estimator._validate_params()
    except ValueError as error:
        raise ValueError(f"scikit-learn's {theirs.__name__} has no such thing: {error}") from None
    _copy_fitted(ours, estimator)
    if not hasattr(ours, "coefs_"):
        return estimator
    best = getattr(ours, "_best", [*ours.coefs_, *ours.intercepts_])
    layers = len(ours.coefs_)
    estimator._best_coefs = [p.copy() for p in best[:layers]]
    estimator._best_intercepts = [p.copy() for p in best[layers:]]
    if hasattr(ours, "_optimizer"):
        estimator._optimizer = _their_optimizer(ours, estimator)
    return estimator


def _their_optimizer(ours: Any, estimator: Any) -> Any:
    from sklearn.neural_network import _stochastic_optimizers as made

    held = ours._optimizer
    held.bind(_by_turns(ours.coefs_, ours.intercepts_))
    state, steps = held.optimizer.state, held.optimizer.steps
    parameters = [*estimator.coefs_, *estimator.intercepts_]
    if ours.solver == "adam":
        adam = made.AdamOptimizer(
            *(parameters, ours.learning_rate_init, ours.beta_1, ours.beta_2, ours.epsilon)
        )
        adam.t = steps
        if steps:
            adam.ms = [np.array(m) for m in _halves(state["exp_avgs"])]
            adam.vs = [np.array(v) for v in _halves(state["exp_avg_sqs"])]
        return adam
    sgd = made.SGDOptimizer(
        *(parameters, ours.learning_rate_init, ours.learning_rate, ours.momentum),
        *(ours.nesterovs_momentum, ours.power_t),
    )
    sgd.learning_rate = held.learning_rate
    if steps and state.get("momentum_buffers"):
        sgd.velocities = [-held.learning_rate * b for b in _halves(state["momentum_buffers"])]
    return sgd
