"""What the classifier and the regressor share: checks, training and the way to an output."""

from __future__ import annotations

import math
import warnings
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from .. import activations
from ._sklearn_network import Network, our_activation, threads_of
from ._sklearn_solver import OURS, Stochastic, lbfgs


class Perceptron(BaseEstimator):
    """Base of the estimators; its fitted attributes are scikit-learn's."""

    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012 - scikit-learn's own name
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions({"logistic", *activations.NAMES}), tuple, list],
        "solver": [StrOptions({"lbfgs", *OURS})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left"), "array-like"],
        "solver_params": [dict, None],
        "n_threads": [Interval(Integral, 1, None, closed="left"), None],
    }

    activation: Any
    alpha: float
    batch_size: Any
    class_weight: Any = None
    dropout: Any
    early_stopping: bool
    hidden_layer_sizes: Any
    huber_delta: float = 1.0
    loss: str
    max_iter: int
    n_iter_no_change: float
    n_threads: int | None
    random_state: Any
    shuffle: bool
    solver: str
    tol: float
    validation_fraction: float
    verbose: Any
    warm_start: bool

    _batches = 0  # trained on: where dropout's stream goes on
    _seed = 0  # of dropout

    def _keep(self, given: dict[str, Any]) -> None:
        """Hold what __init__ was given, as it is."""
        for name, value in given.items():
            if name not in ("self", "__class__"):
                setattr(self, name, value)

    # What the two differ in.

    def _validate_input(
        self, X: Any, y: Any, incremental: bool, reset: bool
    ) -> tuple[Any, NDArray, NDArray | None]:
        """X, the network's target, and what a split is stratified by."""
        raise NotImplementedError

    def _judge(self, y: NDArray, output: NDArray, weights: NDArray | None) -> float:
        """The validation score of an output, by the target."""
        raise NotImplementedError

    def _out_activation(self) -> str:
        raise NotImplementedError

    def _loss_kind(self) -> str:
        raise NotImplementedError

    def _outputs_of(self, target: NDArray) -> int:
        return target.shape[1]

    def _weigh(self, target: NDArray, weights: NDArray | None, incremental: bool) -> NDArray | None:
        """The rows' weights, those of their classes in them."""
        return weights

    def _loss_constant(
        self, target: NDArray, weights: NDArray | None, order: NDArray | None, batch: int
    ) -> float:
        """What scikit-learn's loss has more than ours."""
        return 0.0

    # Training.

    def _initialize(self, sizes: list[int], dtype: Any) -> None:
        self.n_iter_ = self.t_ = 0
        self.n_layers_ = len(sizes)
        self.out_activation_ = self._out_activation()
        each = our_activation(self.activation)
        kinds = each if isinstance(each, list) else [each] * (len(sizes) - 2)
        kinds = [kind[0] if isinstance(kind, tuple) else kind for kind in kinds]
        kinds.append(kinds[-1] if kinds else our_activation(self.activation))
        self.coefs_, self.intercepts_ = [], []
        for fan_in, fan_out, kind in zip(sizes, sizes[1:], kinds, strict=False):
            bound = np.sqrt((2.0 if kind == "sigmoid" else 6.0) / (fan_in + fan_out))
            w = self._random_state.uniform(-bound, bound, (fan_in, fan_out))
            b = self._random_state.uniform(-bound, bound, fan_out)
            self.coefs_.append(w.astype(dtype, copy=False))
            self.intercepts_.append(b.astype(dtype, copy=False))
        self._batches = self._seed = 0
        if np.any(self.dropout):  # else its draw would shift scikit-learn's stream
            self._seed = int(self._random_state.randint(2**31 - 1))
        for name in ("_best", "validation_scores_", "best_validation_score_", "best_loss_"):
            self.__dict__.pop(name, None)
        if self.solver != "lbfgs":
            self.loss_curve_: list[float] = []
            self._no_improvement_count = 0
            self._begin_judging()

    def _begin_judging(self) -> None:
        stops = self.early_stopping
        self.best_loss_ = None if stops else np.inf
        self.validation_scores_: list[float] | None = [] if stops else None
        self.best_validation_score_ = -np.inf if stops else None
        if stops:
            self._best = [p.copy() for p in (*self.coefs_, *self.intercepts_)]

    def _training_network(self) -> Network:
        network = vars(self).get("_network")
        if network is None or not network.trains(self):
            network = Network(self, train=True)
            self.coefs_ = list(network.mlp.weights)
            self.intercepts_ = list(network.mlp.biases)
            network.sources = [*self.coefs_, *self.intercepts_]
            self._network = network
        network.mlp.n_threads = threads_of(self.n_threads)
        return network

    def _fit(self, X: Any, y: Any, sample_weight: Any, incremental: bool) -> Any:
        hidden = self.hidden_layer_sizes
        hidden = list(hidden) if hasattr(hidden, "__iter__") else [hidden]
        if np.any(np.array(hidden) <= 0):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {hidden}.")
        first = not hasattr(self, "coefs_") or (not self.warm_start and not incremental)
        X, target, strata = self._validate_input(X, y, incremental, reset=first)
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, X)
        weights = self._weigh(target, weights, incremental)
        if self.early_stopping and incremental and self.solver != "lbfgs":
            raise ValueError("partial_fit does not support early_stopping=True")
        self.n_outputs_ = self._outputs_of(target)
        self._random_state = check_random_state(self.random_state)
        if first:
            self._initialize([X.shape[1], *map(int, hidden), self.n_outputs_], X.dtype)
        network = self._training_network()
        if target.dtype.kind != "i":
            target = target.astype(network.dtype, copy=False)
            target = np.ascontiguousarray(target)
        if weights is not None:
            weights = weights.astype(network.dtype, copy=False)
        X = X.astype(network.dtype, copy=False)
        try:
            if self.solver == "lbfgs":
                lbfgs(self, network, X, target, weights)
            else:
                self._fit_stochastic(network, X, target, weights, strata, incremental)
        finally:
            self._batches = network.mlp.batches
        if not all(np.isfinite(w).all() for w in (*self.coefs_, *self.intercepts_)):
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large"
                " values and need to be preprocessed."
            )
        return self

    def _fit_stochastic(
        self,
        network: Network,
        X: Any,
        target: NDArray,
        weights: NDArray | None,
        strata: NDArray | None,
        incremental: bool,
    ) -> None:
        if not incremental or not hasattr(self, "_optimizer"):
            self._optimizer = Stochastic(self, network.mlp.parameters)
        self._optimizer.bind(network.mlp.parameters)
        train, judge = None, None
        if self.early_stopping:
            train, judge = self._split(X, target, weights, strata)
        if not hasattr(self, "loss_curve_"):  # a warm start after lbfgs, or of others' weights
            self.loss_curve_ = []
        if not hasattr(self, "_no_improvement_count"):
            self._no_improvement_count = 0
        if not hasattr(self, "best_loss_") or (
            self.early_stopping and vars(self).get("validation_scores_") is None
        ):
            self._begin_judging()
        rows = X.shape[0] if train is None else len(train)
        if self.batch_size == "auto":
            batch = min(200, rows)
        else:
            if self.batch_size > rows:
                warnings.warn(
                    "Got `batch_size` less than 1 or larger than sample size. It is going to be"
                    " clipped",
                    stacklevel=4,
                )
            batch = int(np.clip(self.batch_size, 1, rows))
        index = np.arange(rows)
        try:
            self.n_iter_ = 0
            for _ in range(1 if incremental else self.max_iter):
                if self.shuffle:  # as sklearn.utils.shuffle draws
                    mixed = np.arange(rows)
                    self._random_state.shuffle(mixed)
                    index = index[mixed]
                order = index if train is None else train[index]
                loss = network.epoch(
                    *(X, target, weights, self._optimizer.optimizer, batch),
                    order if self.shuffle or train is not None else None,
                )
                self.loss_ = loss + self._loss_constant(target, weights, order, batch)
                self.n_iter_ += 1
                self.t_ += rows
                self.loss_curve_.append(self.loss_)
                if self.verbose:
                    print(f"Iteration {self.n_iter_}, loss = {self.loss_:.8f}")
                self._count_no_improvement(network, judge)
                self._optimizer.iteration_ends(self.t_)
                if self._no_improvement_count > self.n_iter_no_change:
                    what = "Validation score" if self.early_stopping else "Training loss"
                    message = (
                        f"{what} did not improve more than tol={self.tol:f} for "
                        f"{self.n_iter_no_change} consecutive epochs."
                    )
                    if self._optimizer.trigger_stopping(message, self.verbose):
                        break
                    self._no_improvement_count = 0
                if self.n_iter_ == self.max_iter and not incremental:
                    warnings.warn(
                        f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and "
                        "the optimization hasn't converged yet.",
                        ConvergenceWarning,
                        stacklevel=4,
                    )
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=4)
        if self.early_stopping:
            for to, best in zip((*self.coefs_, *self.intercepts_), self._best, strict=True):
                to[...] = best

    def _split(
        self, X: Any, target: NDArray, weights: NDArray | None, strata: NDArray | None
    ) -> tuple[NDArray, tuple[Any, NDArray, NDArray | None]]:
        """Rows to train on, and the data to judge by: the rows that scikit-learn takes."""
        train, held = train_test_split(
            np.arange(X.shape[0]),
            random_state=self._random_state,
            test_size=self.validation_fraction,
            stratify=strata,
        )
        if len(held) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of "
                "your dataset."
            )
        return train, (X[held], target[held], None if weights is None else weights[held])

    def _count_no_improvement(self, network: Network, judge: Any) -> None:
        if judge is None:
            assert self.best_loss_ is not None
            improves = not self.loss_ > self.best_loss_ - self.tol
            self.best_loss_ = self.loss_ if self.loss_ < self.best_loss_ else self.best_loss_
        else:
            assert self.validation_scores_ is not None and self.best_validation_score_ is not None
            x, y, weights = judge
            score = self._judge(y, network.outputs(x), weights)
            self.validation_scores_.append(score)
            if self.verbose:
                print(f"Validation score: {score:f}")
            improves = not score < self.best_validation_score_ + self.tol
            if score > self.best_validation_score_:
                self.best_validation_score_ = score
                for to, now in zip(self._best, (*self.coefs_, *self.intercepts_), strict=True):
                    to[...] = now
        self._no_improvement_count = 0 if improves else self._no_improvement_count + 1

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Fit to some rows.

        Parameters
        ----------
        X : array or sparse matrix, shape (rows, features)
        y : array, shape (rows,) or (rows, outputs)
        sample_weight : array, shape (rows,), optional

        Returns
        -------
        self
        """
        return self._fit(X, y, sample_weight, incremental=False)

    def _check_solver(self) -> bool:
        if self.solver == "lbfgs":
            raise AttributeError(
                "partial_fit is only available for stochastic optimizers. "
                f"{self.solver} is not stochastic."
            )
        return True

    # The way to an output.

    def _outputs(self, X: Any) -> NDArray:
        """Activated outputs of rows, which are checked; quickly, where there is little to check."""
        held = vars(self)
        network = held.get("_network")
        if (
            network is not None
            and type(X) is np.ndarray
            and X.ndim == 2
            and X.dtype == network.dtype
            and X.shape[1] == network.inputs
            and len(X)
            and X.flags.c_contiguous
            and "feature_names_in_" not in held
            and network.fits(self)
        ):
            with np.errstate(over="ignore", invalid="ignore"):
                finite = math.isfinite(np.add.reduce(X, axis=None))
            if finite:
                return network.outputs(X)
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", reset=False)
        if network is None or not network.fits(self):
            network = self._network = Network(self, train=False)
        return network.outputs(X)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        state.pop("_network", None)  # shares the weights, and is built again when wanted
        return state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
