"""scikit-learn's multi-layer perceptrons, trained natively.

The parameters, attributes, messages and random streams are scikit-learn 1.9's, so that with float64
data and the same `random_state` the weights and the loss curve agree to rounding. The parameters
that scikit-learn's have not are marked "Beyond scikit-learn".

Examples
--------
>>> from sklearn.datasets import load_digits
>>> from innerloop.plugins.sklearn import MLPClassifier
>>> X, y = load_digits(return_X_y=True)
>>> model = MLPClassifier((64,), batch_size=32, tol=1e-2, random_state=0).fit(X / 16, y)
>>> bool(model.score(X / 16, y) > 0.98)
True
"""

from __future__ import annotations

from numbers import Real
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy
from sklearn.base import ClassifierMixin, RegressorMixin, _fit_context
from sklearn.metrics import r2_score
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels
from sklearn.utils.validation import validate_data

from . import _sklearn_convert as _convert
from ._sklearn_base import Perceptron

__all__ = ["MLPClassifier", "MLPRegressor"]

_FLOATS = (np.float64, np.float32)

_SHARED = """hidden_layer_sizes : array of int, default (100,)
    Units of each hidden layer.
activation : str, (str, dict), or a list of these, default "relu"
    Of the hidden layers: "identity", "logistic", "tanh", "relu"; or any other of
    `innerloop.activations.NAMES`, maybe with its parameters; or one a hidden layer.
solver : str, default "adam"
    "lbfgs" (SciPy's, with our gradient), "sgd", "adam", or the name of any other optimizer:
    "adamw", "rmsprop", "adagrad", "adadelta", "adamax", "nadam", "radam", "lion".
alpha : float, default 0.0001
    Strength of the L2 penalty on the weights, which is divided by a batch's number of rows.
batch_size : int or "auto", default "auto"
    Rows of a step; "auto" is ``min(200, rows)``. Not for "lbfgs".
learning_rate : {{"constant", "invscaling", "adaptive"}}, default "constant"
    Whether it stays; falls with the number of rows seen, to the power of `power_t`; or is divided
    by 5 whenever the loss, or the validation score, no longer improves. Not for "adam", "lbfgs".
learning_rate_init : float, default 0.001
    The learning rate to begin with. Not for "lbfgs".
power_t : float, default 0.5
    Exponent of "invscaling".
max_iter : int, default 200
    Epochs at most; of "lbfgs", iterations.
shuffle : bool, default True
    Take the rows in another order each epoch.
random_state : int, RandomState or None, default None
    Of the first weights, the split and the shuffles, which are scikit-learn's; and of dropout.
tol : float, default 1e-4
    What counts as an improvement of the loss or score; of "lbfgs", the gradient to end at.
verbose : bool or int, default False
    Print a line an epoch.
warm_start : bool, default False
    Let `fit` go on from the weights of the last call.
momentum, nesterovs_momentum : float, default 0.9, and bool, default True
    Of "sgd".
early_stopping : bool, default False
    Set some rows aside, stop where the score on them no longer improves, and keep the best weights.
validation_fraction : float, default 0.1
    The share of the rows to set aside.
beta_1, beta_2, epsilon : float, default 0.9, 0.999, 1e-8
    Of "adam".
n_iter_no_change : int or infinity, default 10
    How many epochs without improvement in a row are borne.
max_fun : int, default 15000
    How often "lbfgs" may evaluate the loss.
dropout : float or sequence of float, default 0.0
    Beyond scikit-learn. Probability that a hidden unit is dropped in training; one for all hidden
    layers or one a hidden layer. Not for "lbfgs".
solver_params : dict, optional
    Beyond scikit-learn. More of the optimizer's own hyperparameters: ``{{"weight_decay": 0.01}}``.
n_threads : int, optional
    Beyond scikit-learn. That training may use, which changes no bit. None: one or all, whichever is
    faster; in a worker of joblib's its share, at most.
{more}
Attributes
----------
coefs_, intercepts_ : list of arrays
    Weights (inputs, outputs) and biases of each layer. May be written, in place.
loss_, best_loss_ : float
    The last epoch's loss and the lowest; the latter None with `early_stopping`.
loss_curve_ : list of float
    The loss of each epoch.
validation_scores_, best_validation_score_ : list of float, and float
    With `early_stopping`: {score} on the rows set aside; else None.
n_iter_, t_ : int
    Epochs of the last call, and rows seen by all of them.
n_features_in_, n_layers_, n_outputs_ : int
out_activation_ : str
    The last layer's.
feature_names_in_ : array of str
    Where X had names of features.

Notes
-----
The objective, its gradient, the schedules and the order of random draws are those of scikit-learn
1.9's estimators of these names, as are the exceptions that methods raise. Data of float32 are
trained on in float32, and so are the predictions of such a network. Sparse data are made dense some
rows at a time.
"""

Self = TypeVar("Self", bound=Perceptron)


def _binarizer(y: NDArray) -> LabelBinarizer:
    """One that is fitted to labels; to plain integers without its checks, of most of a ms."""
    made = LabelBinarizer()
    if y.ndim != 1 or y.dtype.kind not in "iub":
        return made.fit(y)
    made.classes_ = np.unique(y)
    made.y_type_ = "multiclass" if len(made.classes_) > 2 else "binary"
    made.sparse_input_ = False
    return made


class MLPClassifier(ClassifierMixin, Perceptron):
    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012
        **Perceptron._parameter_constraints,
        "class_weight": [dict, list, StrOptions({"balanced"}), None],
    }
    loss = "log_loss"

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        class_weight: Any = None,
        dropout: Any = 0.0,
        solver_params: dict[str, Any] | None = None,
        n_threads: int | None = None,
    ) -> None:
        self._keep(locals())

    def _validate_input(
        self, X: Any, y: Any, incremental: bool, reset: bool
    ) -> tuple[Any, NDArray, NDArray | None]:
        X, y = validate_data(
            *(self, X, y), accept_sparse="csr", multi_output=True, dtype=_FLOATS, reset=reset
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if not hasattr(self, "classes_") or (not self.warm_start and not incremental):
            self._label_binarizer = _binarizer(y)
            self.classes_ = self._label_binarizer.classes_
        else:
            classes = unique_labels(y)
            if self.warm_start:
                if set(classes) != set(self.classes_):
                    raise ValueError(
                        "warm_start can only be used where `y` has the same classes as in the "
                        f"previous call to fit. Previously got {self.classes_}, `y` has {classes}"
                    )
            elif len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
                raise ValueError(
                    "`y` has classes not in `self.classes_`. "
                    f"`self.classes_` has {self.classes_}. 'y' has {classes}."
                )
        kind = self._label_binarizer.y_type_
        if y.ndim == 2 or kind.startswith("multilabel"):
            return X, self._label_binarizer.transform(y).astype(bool), None
        labels = np.searchsorted(self.classes_, y)
        if kind == "multiclass":
            return X, labels.astype(np.int64, copy=False), None
        binary = labels.astype(bool)[:, None]
        return X, binary, binary

    def _out_activation(self) -> str:
        return "softmax" if self._label_binarizer.y_type_ == "multiclass" else "logistic"

    def _loss_kind(self) -> str:
        return self.out_activation_

    def _outputs_of(self, target: NDArray) -> int:
        return len(self.classes_) if target.ndim == 1 else target.shape[1]

    def _weigh(self, target: NDArray, weights: NDArray | None, incremental: bool) -> NDArray | None:
        if self.class_weight is None:
            return weights
        if incremental and isinstance(self.class_weight, str):
            raise ValueError(
                "class_weight 'balanced' is not supported for partial_fit, which sees only some of "
                "the rows: pass a dict, such as compute_class_weight finds over all of them."
            )
        if target.ndim == 2 and target.shape[1] > 1:
            more = compute_sample_weight(self.class_weight, target.astype(int))
        else:
            labels = target.ravel().astype(np.int64)
            each = compute_class_weight(
                self.class_weight, classes=self.classes_, y=self.classes_[labels]
            )
            more = each[labels]
        return more if weights is None else weights * more

    def _judge(self, y: NDArray, output: NDArray, weights: NDArray | None) -> float:
        if y.ndim == 1:
            hits = output.argmax(axis=1) == y
        else:
            hits = ((output > 0.5) == (y > 0.5)).all(axis=1)
        return float(np.average(hits, weights=weights))

    def predict(self, X: Any) -> NDArray:
        """Return each row's class, or of several labels which it has.

        Parameters
        ----------
        X : array or sparse matrix, shape (rows, features)

        Returns
        -------
        array, shape (rows,) or (rows, labels)
        """
        output = self._outputs(X)
        if self.out_activation_ == "softmax":
            return self.classes_.take(output.argmax(axis=1))
        if self.n_outputs_ == 1:
            output = output.ravel()
        return self._label_binarizer.inverse_transform(output)

    def predict_proba(self, X: Any) -> NDArray:
        """Return the probability of each class, in the order of `classes_`.

        Parameters
        ----------
        X : array or sparse matrix, shape (rows, features)

        Returns
        -------
        array, shape (rows, classes)
        """
        output = self._outputs(X)
        if self.n_outputs_ != 1:
            return output
        both = np.empty((len(output), 2), output.dtype)
        both[:, 1] = output[:, 0]
        np.subtract(1.0, both[:, 1], out=both[:, 0])
        return both

    def predict_log_proba(self, X: Any) -> NDArray:
        """Return the logarithm of `predict_proba`.

        Parameters
        ----------
        X : array or sparse matrix, shape (rows, features)

        Returns
        -------
        array, shape (rows, classes)
        """
        probabilities = self.predict_proba(X)
        return np.log(probabilities, out=probabilities)

    @available_if(lambda self: self._check_solver())
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Any:
        """Train on some rows once, going on from where the last call ended.

        Parameters
        ----------
        X : array or sparse matrix, shape (rows, features)
        y : array, shape (rows,) or (rows, labels)
        sample_weight : array, shape (rows,), optional
        classes : array, optional
            All classes that there are. Needed in the first call.

        Returns
        -------
        self
        """
        if _check_partial_fit_first_call(self, classes):
            several = type_of_target(y).startswith("multilabel")
            self._label_binarizer = LabelBinarizer().fit(y if several else classes)
        return self._fit(X, y, sample_weight, incremental=True)

    @classmethod
    def from_sklearn(cls: type[Self], estimator: Any) -> Self:
        """Return the same of scikit-learn's `MLPClassifier`; fitted if it is, going on likewise.

        Parameters
        ----------
        estimator : sklearn.neural_network.MLPClassifier

        Raises
        ------
        TypeError
            If it is none.
        """
        return _convert.from_sklearn(cls, estimator)

    def to_sklearn(self) -> Any:
        """Return the same as scikit-learn's `MLPClassifier`; fitted if it is, going on likewise.

        Raises
        ------
        ValueError
            If scikit-learn has no such thing: an activation, a solver, dropout, class_weight.
        """
        return _convert.to_sklearn(self)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class MLPRegressor(RegressorMixin, Perceptron):
    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012
        **Perceptron._parameter_constraints,
        "loss": [StrOptions({"squared_error", "poisson", "huber", "absolute_error"})],
        "huber_delta": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        huber_delta: float = 1.0,
        dropout: Any = 0.0,
        solver_params: dict[str, Any] | None = None,
        n_threads: int | None = None,
    ) -> None:
        self._keep(locals())

    def _validate_input(
        self, X: Any, y: Any, incremental: bool, reset: bool
    ) -> tuple[Any, NDArray, NDArray | None]:
        X, y = validate_data(
            *(self, X, y),
            accept_sparse="csr",
            multi_output=True,
            y_numeric=True,
            dtype=_FLOATS,
            reset=reset,
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        y = y.toarray() if hasattr(y, "toarray") else y
        return X, (y[:, None] if y.ndim == 1 else y).astype(float, copy=False), None

    def _out_activation(self) -> str:
        return "exp" if self.loss == "poisson" else "identity"

    def _loss_kind(self) -> str:
        return self.loss

    def _loss_constant(
        self, target: NDArray, weights: NDArray | None, order: NDArray | None, batch: int
    ) -> float:
        if self.loss != "poisson":
            return 0.0
        each = (xlogy(target, target) - target).sum(axis=1, dtype=np.float64)
        if order is not None:
            each = each[order]
        if weights is None:
            return float(each.mean())
        w = weights.astype(np.float64) if order is None else weights[order].astype(np.float64)
        begins = np.arange(0, len(each), batch)  # a batch's mean is over its own weights
        masses = np.add.reduceat(w, begins)
        sums = np.add.reduceat(w * each, begins)
        rows = np.diff([*begins, len(each)])
        means = np.divide(sums, masses, out=np.zeros_like(sums), where=masses != 0)
        return float((rows * means).sum() / len(each))

    def _judge(self, y: NDArray, output: NDArray, weights: NDArray | None) -> float:
        if not np.isfinite(output).all():
            return np.nan
        return r2_score(y, output, sample_weight=weights)

    def predict(self, X: Any) -> NDArray:
        """Return each row's output.

        Parameters
        ----------
        X : array or sparse matrix, shape (rows, features)

        Returns
        -------
        array, shape (rows,) or (rows, outputs)
        """
        output = self._outputs(X)
        return output.ravel() if output.shape[1] == 1 else output

    @available_if(lambda self: self._check_solver())
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Train on some rows once, going on from where the last call ended.

        Parameters
        ----------
        X : array or sparse matrix, shape (rows, features)
        y : array, shape (rows,) or (rows, outputs)
        sample_weight : array, shape (rows,), optional

        Returns
        -------
        self
        """
        return self._fit(X, y, sample_weight, incremental=True)

    @classmethod
    def from_sklearn(cls: type[Self], estimator: Any) -> Self:
        """Return the same of scikit-learn's `MLPRegressor`; fitted if it is, going on likewise.

        Parameters
        ----------
        estimator : sklearn.neural_network.MLPRegressor

        Raises
        ------
        TypeError
            If it is none.
        """
        return _convert.from_sklearn(cls, estimator)

    def to_sklearn(self) -> Any:
        """Return the same as scikit-learn's `MLPRegressor`; fitted if it is, going on likewise.

        Raises
        ------
        ValueError
            If scikit-learn has no such thing: an activation, a solver, a loss, dropout.
        """
        return _convert.to_sklearn(self)


MLPClassifier.__doc__ = "A multi-layer perceptron that classifies.\n\nParameters\n----------\n" + (
    _SHARED.format(
        score="the accuracy",
        more="""class_weight : dict, list of dicts, "balanced" or None, default None
    Beyond scikit-learn. Weight of the rows of each class, by its label; "balanced" gives all
    classes the same weight together; a list has one dict a label, of several labels.
""",
    )
)
MLPRegressor.__doc__ = """A multi-layer perceptron that predicts numbers.

Parameters
----------
loss : {"squared_error", "poisson", "huber", "absolute_error"}, default "squared_error"
    Half the squared error; half the Poisson deviance, with the exponential of the output as the
    prediction. The other two are beyond scikit-learn. The value is the mean over several outputs
    (Poisson's: the sum), the gradient that of the sum, as scikit-learn's.
""" + _SHARED.format(
    score="the coefficient of determination",
    more="""huber_delta : float, default 1.0
    Beyond scikit-learn. Where "huber" turns from the square to the absolute value.
""",
)
