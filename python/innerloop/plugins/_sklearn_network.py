"""The network behind an estimator: built from its `coefs_` and `intercepts_`, which it shares."""

from __future__ import annotations

import multiprocessing
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from .. import activations
from ..mlp import MLP
from ..softmax import softmax

# What a chunk of rows may hold, in its widest layer: 16 or 32 MiB. Larger ones gain no speed.
CHUNK = 2**22

# Of a loss: ours, its scale in the value and in the gradient, both times the number of outputs
# where "outputs" says so. scikit-learn's value of the squared error is the mean over the outputs,
# its gradient that of their sum; what is not in scikit-learn follows that.
_LOSSES = {
    "squared_error": ("mse_loss", 0.5, 0.5),
    "huber": ("huber_loss", 1.0, 1.0),
    "absolute_error": ("l1_loss", 1.0, 1.0),
    "poisson": ("poisson_nll_loss", 1.0, 1.0),
    "softmax": ("softmax_cross_entropy", 1.0, 1.0),
    "logistic": ("binary_cross_entropy_with_logits", 1.0, 1.0),
}
_MEAN_OVER_OUTPUTS = ("squared_error", "huber", "absolute_error")


class Network:
    """An `MLP` over an estimator's own arrays, and what it was built from."""

    def __init__(self, estimator: Any, *, dtype: Any = None, train: bool) -> None:
        self.made_for = _settings(estimator)
        self.sources = [*estimator.coefs_, *estimator.intercepts_]
        dtype = np.result_type(*self.sources) if dtype is None else np.dtype(dtype)
        if dtype not in (np.float32, np.float64):
            dtype = np.dtype(np.float64)
        arrays = [np.require(a, dtype, ["C", "W"] if train else ["C"]) for a in self.sources]
        layers = len(estimator.coefs_)
        kind = estimator._loss_kind()
        loss, value, gradient = _LOSSES[kind]
        sizes = [arrays[0].shape[0], *(b.shape[0] for b in arrays[layers:])]
        self.mlp = MLP(
            sizes,
            our_activation(estimator.activation),
            loss=loss,
            loss_params={"delta": estimator.huber_delta} if kind == "huber" else None,
            dropout=estimator.dropout
            if np.ndim(estimator.dropout) == 0
            else tuple(estimator.dropout),
            seed=estimator._seed,
            dtype=dtype,
        )
        self.mlp._take(arrays[:layers], arrays[layers:])
        self.mlp._set_objective(
            self.mlp._objective._replace(
                value_scale=value / (sizes[-1] if kind in _MEAN_OVER_OUTPUTS else 1),
                gradient_scale=gradient,
                l2=float(estimator.alpha),
                penalty_over_weights=True,
            )
        )
        self.mlp.batches = estimator._batches
        self.out_activation = estimator.out_activation_
        self.dtype = self.mlp.dtype
        self.inputs = sizes[0]
        self.rows = max(1, CHUNK // max(sizes))

    def fits(self, estimator: Any) -> bool:
        """Whether the estimator still has the arrays and activations that this predicts with."""
        if estimator.activation is not self.made_for[0]:
            return False
        coefs, intercepts, sources = estimator.coefs_, estimator.intercepts_, self.sources
        k = len(coefs)
        if k + len(intercepts) != len(sources):
            return False
        for i in range(k):
            if coefs[i] is not sources[i] or intercepts[i] is not sources[k + i]:
                return False
        return True

    def trains(self, estimator: Any) -> bool:
        """Whether it may train, too: writable, and with the settings of now."""
        own = [*self.mlp.weights, *self.mlp.biases]
        return (
            self.fits(estimator)
            and all(a is b for a, b in zip(own, self.sources, strict=True))
            and all(a.flags.writeable for a in own)
            and self.made_for == _settings(estimator)
        )

    def outputs(self, X: Any) -> NDArray:
        """Return the last layer's activated output of every row; a sparse X is read by chunks."""
        if not issparse(X):
            with np.errstate(over="ignore"):  # of float64 in a float32 network
                y = self.mlp.forward(X.astype(self.dtype, copy=False))
        else:
            y = np.empty((X.shape[0], self.mlp.sizes[-1]), self.dtype)
            for begin in range(0, X.shape[0], self.rows):
                some = slice(begin, begin + self.rows)
                y[some] = self.mlp.forward(dense(X[some], self.dtype))
        if self.out_activation == "softmax":
            return softmax(y, 1, out=y)
        if self.out_activation == "logistic":
            return activations.activation(y, "sigmoid", out=y)
        if self.out_activation == "exp":
            with np.errstate(over="ignore", under="ignore"):
                return np.exp(y, out=y)
        return y

    def epoch(
        self,
        X: Any,
        target: NDArray,
        weights: NDArray | None,
        optimizer: Any,
        batch: int,
        order: NDArray | None,
    ) -> float:
        """Train on the rows of `order`, or on all; return the mean of their batches' losses."""
        if not issparse(X):
            return self.mlp.fit_epoch(
                *(X, target, optimizer, batch), sample_weight=weights, shuffle=False, order=order
            )
        rows = X.shape[0] if order is None else len(order)
        block = max(self.rows // batch, 1) * batch  # whole batches: as if it were dense
        total = 0.0
        for begin in range(0, rows, block):
            some: Any = slice(begin, min(begin + block, rows))
            count = some.stop - begin
            some = some if order is None else order[some]
            total += count * self.mlp.fit_epoch(
                *(dense(X[some], self.dtype), target[some], optimizer, batch),
                sample_weight=None if weights is None else weights[some],
                shuffle=False,
            )
        return total / rows

    def loss(
        self, X: Any, target: NDArray, weights: NDArray | None, gradients: list[NDArray]
    ) -> float:
        """Return the loss over all rows, its gradients written."""
        if not issparse(X):
            return self.mlp._loss(X, target, weights, gradients, None)
        whole = self.mlp._objective
        some = [np.empty_like(g) for g in gradients]
        for g in gradients:
            g[...] = 0
        value, mass = 0.0, 0.0
        self.mlp._set_objective(whole._replace(l2=0.0))
        try:
            for begin in range(0, X.shape[0], self.rows):
                at = slice(begin, begin + self.rows)
                w = None if weights is None else weights[at]
                x = dense(X[at], self.dtype)
                one = self.mlp._loss(x, target[at], w, some, None)
                share = float(len(x) if w is None else w.sum(dtype=np.float64))
                value, mass = value + share * one, mass + share
                for to, g in zip(gradients, some, strict=True):
                    to += share * g
        finally:
            self.mlp._set_objective(whole)
        each = 1.0 / mass if mass else 0.0
        for i, to in enumerate(gradients):
            if i % 2 == 0:
                w = self.mlp.parameters[i]
                value += 0.5 * whole.l2 * float(np.vdot(w, w))
                to += whole.l2 * w
            to *= each
        return value * each


def _settings(estimator: Any) -> tuple[Any, ...]:
    """What else than the arrays a network is built from."""
    dropout = estimator.dropout if np.ndim(estimator.dropout) == 0 else tuple(estimator.dropout)
    return (
        *(estimator.activation, estimator.out_activation_, estimator._loss_kind()),
        *(estimator.alpha, dropout, estimator.huber_delta, estimator._seed),
    )


def our_activation(given: Any) -> Any:
    """scikit-learn's name for the sigmoid, in ours."""
    if isinstance(given, list):
        return [our_activation(item) for item in given]
    return "sigmoid" if isinstance(given, str) and given == "logistic" else given


def dense(X: Any, dtype: Any) -> NDArray:
    """Some rows of a matrix that may be sparse."""
    return X.toarray().astype(dtype, copy=False) if issparse(X) else X


def threads_of(wanted: int | None) -> int | None:
    """How many threads training may use; None: as many as pay.

    A worker of joblib's gets one, but for its processes (loky), which joblib has told their share
    of the cores through OMP_NUM_THREADS.
    """
    if wanted is not None:
        return int(wanted)
    level = getattr(joblib.parallel.get_active_backend()[0], "nesting_level", 0) or 0
    told = multiprocessing.current_process().name.startswith("Loky")
    return None if level == 0 or (told and level == 1) else 1
