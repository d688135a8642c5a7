"""What moves an estimator's weights: our optimizers under scikit-learn's schedules, and L-BFGS."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scipy.optimize
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from .. import optimizers, reference
from ._sklearn_network import Network

OURS = tuple(reference.OPTIMIZERS)


class AdamEps:
    """Adam's epsilon at a step, where scikit-learn adds it before the bias correction.

    Its update is ``lr * sqrt(1 - b**t) / (1 - b1**t) * m / (sqrt(v) + eps)``; ours divides by
    ``sqrt(v / (1 - b**t)) + eps``, so that eps / sqrt(1 - b**t) there is the same.
    """

    def __init__(self, eps: float, beta_2: float) -> None:
        self.eps, self.beta_2 = float(eps), float(beta_2)

    def __call__(self, step: int) -> float:
        return self.eps / (1.0 - self.beta_2**step) ** 0.5


class Stochastic:
    """An optimizer and its learning rate, which scikit-learn changes between epochs only."""

    def __init__(self, estimator: Any, parameters: list[NDArray]) -> None:
        e = estimator
        self.solver = e.solver
        self.learning_rate_init = self.learning_rate = float(e.learning_rate_init)
        self.lr_schedule = "constant" if e.solver == "adam" else e.learning_rate
        self.power_t = e.power_t
        self.numbers: dict[str, Any] = {}
        if e.solver == "sgd":
            nesterov = bool(e.nesterovs_momentum and e.momentum > 0)
            self.numbers = {"momentum": float(e.momentum), "nesterov": nesterov}
        elif e.solver == "adam":
            betas = (float(e.beta_1), float(e.beta_2))
            self.numbers = {"betas": betas, "eps": AdamEps(e.epsilon, e.beta_2)}
        self.numbers |= e.solver_params or {}
        self.held: dict[str, NDArray] | None = None  # the state, while there is no optimizer
        self.optimizer: optimizers.Optimizer | None = None
        self.bind(parameters)

    def bind(self, parameters: list[NDArray]) -> None:
        """Go on over these arrays, with the state as it is."""
        old = self.optimizer
        if old is not None:
            if all(a is b for a, b in zip(old.params, parameters, strict=True)):
                return
            self.held = old.state_dict()
        cls = getattr(optimizers, reference.OPTIMIZERS[self.solver].class_name)
        self.optimizer = cls(parameters, **{"lr": self.learning_rate, **self.numbers})
        if self.held is not None:
            self.optimizer.load_state_dict(self.held)
        self.held = None

    def _set(self, learning_rate: float) -> None:
        """Take another learning rate.

        scikit-learn's velocity has the learning rate in it, -lr times our buffer, so that the
        buffer is rescaled to leave the velocity what it was.
        """
        assert self.optimizer is not None
        if self.solver == "sgd":
            for buffer in self.optimizer.state.get("momentum_buffers", []):
                if buffer is not None:
                    buffer *= self.learning_rate / learning_rate
        self.learning_rate = self.optimizer.lr = learning_rate  # type: ignore[attr-defined]

    def iteration_ends(self, rows_seen: int) -> None:
        """Do what the schedule does at an epoch's end."""
        if self.lr_schedule == "invscaling":
            self._set(self.learning_rate_init / (rows_seen + 1) ** self.power_t)

    def trigger_stopping(self, message: str, verbose: Any) -> bool:
        """Whether to stop, as nothing improves any more; else the learning rate is less now."""
        more = " Stopping."
        stops = self.lr_schedule != "adaptive"
        if not stops and self.learning_rate <= 1e-6:
            stops, more = True, " Learning rate too small. Stopping."
        if not stops:
            self._set(self.learning_rate / 5.0)
            more = f" Setting learning rate to {self.learning_rate:f}"
        if verbose:
            print(message + more)
        return stops

    def __getstate__(self) -> dict[str, Any]:
        held = self.held if self.optimizer is None else self.optimizer.state_dict()
        return {**self.__dict__, "optimizer": None, "held": held}


def lbfgs(
    estimator: Any, network: Network, X: Any, target: NDArray, weights: NDArray | None
) -> None:
    """Minimise over all rows at once; in double precision, which the line search needs."""
    e = estimator
    double = network
    if network.dtype != np.float64:
        double = Network(e, dtype=np.float64, train=True)
        X = X.astype(np.float64)
        target = target.astype(np.float64) if target.dtype.kind == "f" else target
        weights = None if weights is None else weights.astype(np.float64)
    own = [*double.mlp.weights, *double.mlp.biases]
    packed = np.concatenate([p.ravel() for p in own])
    gradient = np.empty_like(packed)
    ends = np.cumsum([p.size for p in own])
    views = [
        gradient[end - p.size : end].reshape(p.shape) for p, end in zip(own, ends, strict=True)
    ]
    layers = len(double.mlp.weights)
    by_turns = [v for pair in zip(views[:layers], views[layers:], strict=True) for v in pair]
    constant = e._loss_constant(target, weights, None, len(target))

    def put(values: NDArray, to: list[NDArray]) -> None:
        for p, end in zip(to, ends, strict=True):
            p[...] = values[end - p.size : end].reshape(p.shape)

    def loss_and_gradient(values: NDArray) -> tuple[float, NDArray]:
        put(values, own)
        loss = double.loss(X, target, weights, by_turns) + constant
        return loss, gradient.copy()

    count = 0

    def show(intermediate_result: Any) -> None:
        nonlocal count
        count += 1
        print(f"Iteration {count}, loss = {intermediate_result.fun:.8f}")

    found = scipy.optimize.minimize(
        loss_and_gradient,
        packed,
        method="L-BFGS-B",
        jac=True,
        callback=show if e.verbose else None,
        options={"maxfun": e.max_fun, "maxiter": e.max_iter, "gtol": e.tol},
    )
    put(found.x, [*network.mlp.weights, *network.mlp.biases])
    e.n_iter_ = min(found.nit, e.max_iter)
    e.loss_ = found.fun
    if found.status != 0:
        advice = ""
        if e.n_iter_ == e.max_iter:
            advice = (
                "\nIncrease the number of iterations to improve the convergence "
                f"(max_iter={e.max_iter})."
            )
        warnings.warn(
            f"lbfgs failed to converge after {e.n_iter_} iteration(s) "
            f"(status={found.status}):\n{found.message}\n{advice}\n"
            "You might also want to scale the data.",
            ConvergenceWarning,
            stacklevel=2,
        )
