"""Optimizers: one step over one parameter array, in place.

To add an optimizer, write its function here; nothing else:

    @optimizer(class_name="Name", needs={"optional_state": "hyperparameter"})
    def name(param, grad, state, optional_state=None, *, step, lr=1e-3, ...): ...

The arrays after `grad` are its states, the keywords after `step` its hyperparameters; `needs` says
which hyperparameter must be truthy for an optional state to be needed, `starts` as which
hyperparameter a state starts, if not as zeros, and `torch_names` what torch.optim calls a state,
where that differs. The docstring is the public one. `step` counts from 1. What every optimizer
takes, `maximize` to `grad_scale`, is no function's own: gradients.py has done it to the
gradient before. The semantics are those of `torch.optim`.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import registry
from .gradients import prepare
from .registry import OPTIMIZERS as OPTIMIZERS


def _gradient(param: NDArray, grad: NDArray, weight_decay: float) -> NDArray:
    """Return the gradient with the L2 penalty's share."""
    return grad + weight_decay * param if weight_decay else grad


def _decay(
    param: NDArray, grad: NDArray, lr: float, weight_decay: float, decoupled: bool
) -> tuple[NDArray, NDArray]:
    """Return what weight decay makes of param, where it is decoupled, or else of the gradient."""
    if decoupled:
        return param * (1.0 - lr * weight_decay), grad
    return param, _gradient(param, grad, weight_decay)


def _moments(
    g: NDArray, exp_avg: NDArray, exp_avg_sq: NDArray, betas: tuple[float, float]
) -> tuple[NDArray, NDArray]:
    """Return the running means of the gradient and of its square."""
    beta1, beta2 = betas
    return beta1 * exp_avg + (1.0 - beta1) * g, beta2 * exp_avg_sq + (1.0 - beta2) * g * g


optimizer = functools.partial(registry.optimizer, common=prepare)


@optimizer(class_name="SGD", needs={"momentum_buffer": "momentum"})
def sgd(
    param: NDArray,
    grad: NDArray,
    momentum_buffer: NDArray | None = None,
    *,
    step: int,
    lr: float = 1e-3,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> Any:
    """Stochastic gradient descent, with optional (Nesterov) momentum.

    Update, where ``g = grad + weight_decay * param``::

        momentum_buffer = momentum * momentum_buffer + (1 - dampening) * g      (g at step 1)
        d = momentum_buffer, or g + momentum * momentum_buffer with nesterov, or g without momentum
        param = param - lr * d

    Source: I. Sutskever et al., "On the importance of initialization and momentum in deep
    learning", ICML 2013, in the form of `torch.optim.SGD`.

    Parameters
    ----------
    lr : float, default 1e-3
        Learning rate.
    momentum : float, default 0.0
        Share of the last step's direction that is kept.
    dampening : float, default 0.0
        How much less the gradient adds to the momentum, from step 2 on.
    weight_decay : float, default 0.0
        L2 penalty: this much of param is added to the gradient.
    nesterov : bool, default False
        Look ahead along the momentum. Needs momentum, and no dampening.
    """
    g = _gradient(param, grad, weight_decay)
    if momentum:
        assert momentum_buffer is not None
        first = step == 1  # whatever the buffer holds then is not read
        momentum_buffer = g if first else momentum * momentum_buffer + (1.0 - dampening) * g
        g = g + momentum * momentum_buffer if nesterov else momentum_buffer
    return param - lr * g, momentum_buffer


def _adam(
    param: NDArray,
    g: NDArray,
    exp_avg: NDArray,
    exp_avg_sq: NDArray,
    max_exp_avg_sq: NDArray | None,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    amsgrad: bool,
    bias_correction: bool,
) -> tuple[NDArray, NDArray, NDArray, NDArray | None]:
    """Kingma and Ba's Algorithm 1, for Adam and AdamW."""
    beta1, beta2 = betas
    exp_avg, exp_avg_sq = _moments(g, exp_avg, exp_avg_sq, betas)
    correction1 = 1.0 - beta1**step if bias_correction else 1.0
    correction2 = 1.0 - beta2**step if bias_correction else 1.0
    square = exp_avg_sq
    if amsgrad:
        assert max_exp_avg_sq is not None
        square = max_exp_avg_sq = np.maximum(max_exp_avg_sq, exp_avg_sq)
    update = (exp_avg / correction1) / (np.sqrt(square / correction2) + eps)
    return param - lr * update, exp_avg, exp_avg_sq, max_exp_avg_sq


@optimizer(class_name="Adam", needs={"max_exp_avg_sq": "amsgrad"})
def adam(
    param: NDArray,
    grad: NDArray,
    exp_avg: NDArray,
    exp_avg_sq: NDArray,
    max_exp_avg_sq: NDArray | None = None,
    *,
    step: int,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    bias_correction: bool = True,
) -> Any:
    """Adam: steps scaled by running means of the gradient and of its square.

    Update, where ``g = grad + weight_decay * param``::

        exp_avg = beta1 * exp_avg + (1 - beta1) * g
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g**2
        m = exp_avg / (1 - beta1**step),  v = exp_avg_sq / (1 - beta2**step)
        param = param - lr * m / (sqrt(v) + eps)

    Source: D. Kingma and J. Ba, "Adam: a method for stochastic optimization", ICLR 2015,
    Algorithm 1.

    Parameters
    ----------
    lr : float, default 1e-3
        Learning rate.
    betas : tuple of two floats, default (0.9, 0.999)
        Decay of the running means of the gradient and of its square.
    eps : float, default 1e-8
        Added to the denominator. 0 is allowed.
    weight_decay : float, default 0.0
        L2 penalty: this much of param is added to the gradient.
    amsgrad : bool, default False
        Let the largest exp_avg_sq so far, kept as max_exp_avg_sq, stand for the last one (Reddi et
        al., "On the convergence of Adam and beyond", ICLR 2018).
    bias_correction : bool, default True
        Correct the running means for their start at zero (m and v above); else use them as they
        are.
    """
    g = _gradient(param, grad, weight_decay)
    moments = (exp_avg, exp_avg_sq, max_exp_avg_sq)
    return _adam(param, g, *moments, step, lr, betas, eps, amsgrad, bias_correction)


@optimizer(class_name="AdamW", needs={"max_exp_avg_sq": "amsgrad"})
def adamw(
    param: NDArray,
    grad: NDArray,
    exp_avg: NDArray,
    exp_avg_sq: NDArray,
    max_exp_avg_sq: NDArray | None = None,
    *,
    step: int,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    amsgrad: bool = False,
    bias_correction: bool = True,
) -> Any:
    """Adam with weight decay that is decoupled from the gradient.

    Update::

        param = param - lr * weight_decay * param
        then Adam's update, without weight decay

    Source: I. Loshchilov and F. Hutter, "Decoupled weight decay regularization", ICLR 2019,
    Algorithm 2.

    Parameters
    ----------
    lr : float, default 1e-3
        Learning rate.
    betas : tuple of two floats, default (0.9, 0.999)
        Decay of the running means of the gradient and of its square.
    eps : float, default 1e-8
        Added to the denominator. 0 is allowed.
    weight_decay : float, default 1e-2
        Share of param, times lr, that each step takes away.
    amsgrad : bool, default False
        Let the largest exp_avg_sq so far, kept as max_exp_avg_sq, stand for the last one (Reddi et
        al., "On the convergence of Adam and beyond", ICLR 2018).
    bias_correction : bool, default True
        Correct the running means for their start at zero, as in Adam.
    """
    param, g = _decay(param, grad, lr, weight_decay, True)
    moments = (exp_avg, exp_avg_sq, max_exp_avg_sq)
    return _adam(param, g, *moments, step, lr, betas, eps, amsgrad, bias_correction)


@optimizer(class_name="RMSprop", needs={"grad_avg": "centered", "momentum_buffer": "momentum"})
def rmsprop(
    param: NDArray,
    grad: NDArray,
    square_avg: NDArray,
    grad_avg: NDArray | None = None,
    momentum_buffer: NDArray | None = None,
    *,
    step: int,
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    centered: bool = False,
) -> Any:
    """RMSprop: steps scaled by a running mean of the gradient's square.

    Update, where ``g = grad + weight_decay * param``::

        square_avg = alpha * square_avg + (1 - alpha) * g**2
        v = square_avg
        with centered:  grad_avg = alpha * grad_avg + (1 - alpha) * g,  v = max(v - grad_avg**2, 0)
        d = g / (sqrt(v) + eps)
        with momentum:  momentum_buffer = momentum * momentum_buffer + d,  d = momentum_buffer
        param = param - lr * d

    Source: G. Hinton, "Neural networks for machine learning", lecture 6e, 2012. Centered: A.
    Graves, "Generating sequences with recurrent neural networks", arXiv:1308.0850. In the form of
    `torch.optim.RMSprop`, which does not keep v from falling below 0.

    Parameters
    ----------
    lr : float, default 1e-2
        Learning rate.
    alpha : float, default 0.99
        Decay of the running means.
    eps : float, default 1e-8
        Added to the denominator. 0 is allowed.
    weight_decay : float, default 0.0
        L2 penalty: this much of param is added to the gradient.
    momentum : float, default 0.0
        Share of the last step's direction that is kept.
    centered : bool, default False
        Scale by the running estimate of the gradient's variance instead.
    """
    g = _gradient(param, grad, weight_decay)
    square_avg = alpha * square_avg + (1.0 - alpha) * g * g
    v = square_avg
    if centered:
        assert grad_avg is not None
        grad_avg = alpha * grad_avg + (1.0 - alpha) * g
        v = np.maximum(v - grad_avg * grad_avg, 0.0)  # a variance, whatever rounding makes of it
    d = g / (np.sqrt(v) + eps)
    if momentum:
        assert momentum_buffer is not None
        momentum_buffer = momentum * momentum_buffer + d
        d = momentum_buffer
    return param - lr * d, square_avg, grad_avg, momentum_buffer


@optimizer(
    class_name="Adagrad",
    starts={"state_sum": "initial_accumulator_value"},
    torch_names={"state_sum": "sum"},
)
def adagrad(
    param: NDArray,
    grad: NDArray,
    state_sum: NDArray,
    *,
    step: int,
    lr: float = 1e-2,
    lr_decay: float = 0.0,
    weight_decay: float = 0.0,
    initial_accumulator_value: float = 0.0,
    eps: float = 1e-10,
) -> Any:
    """Adagrad: steps scaled by the sum of all squares of the gradient.

    Update, where ``g = grad + weight_decay * param``::

        state_sum = state_sum + g**2
        param = param - lr / (1 + (step - 1) * lr_decay) * g / (sqrt(state_sum) + eps)

    Source: J. Duchi, E. Hazan and Y. Singer, "Adaptive subgradient methods for online learning and
    stochastic optimization", JMLR 12, 2011, in the form of `torch.optim.Adagrad`.

    Parameters
    ----------
    lr : float, default 1e-2
        Learning rate.
    lr_decay : float, default 0.0
        How the learning rate falls with the steps.
    weight_decay : float, default 0.0
        L2 penalty: this much of param is added to the gradient.
    initial_accumulator_value : float, default 0.0
        What the class's state_sums start as; a step does not read it.
    eps : float, default 1e-10
        Added to the denominator. 0 is allowed.
    """
    g = _gradient(param, grad, weight_decay)
    state_sum = state_sum + g * g
    rate = lr / (1.0 + (step - 1) * lr_decay)
    return param - rate * g / (np.sqrt(state_sum) + eps), state_sum


@optimizer(class_name="Adadelta")
def adadelta(
    param: NDArray,
    grad: NDArray,
    square_avg: NDArray,
    acc_delta: NDArray,
    *,
    step: int,
    lr: float = 1.0,
    rho: float = 0.9,
    eps: float = 1e-6,
    weight_decay: float = 0.0,
) -> Any:
    """Adadelta: steps as large as the last ones, relative to the gradient's size.

    Update, where ``g = grad + weight_decay * param``::

        square_avg = rho * square_avg + (1 - rho) * g**2
        d = sqrt(acc_delta + eps) / sqrt(square_avg + eps) * g
        acc_delta = rho * acc_delta + (1 - rho) * d**2
        param = param - lr * d

    Source: M. Zeiler, "ADADELTA: an adaptive learning rate method", arXiv:1212.5701, Algorithm 1.
    The learning rate is that of `torch.optim.Adadelta`.

    Parameters
    ----------
    lr : float, default 1.0
        Learning rate.
    rho : float, default 0.9
        Decay of the running means.
    eps : float, default 1e-6
        Added to the running means under the roots. 0 is allowed.
    weight_decay : float, default 0.0
        L2 penalty: this much of param is added to the gradient.
    """
    g = _gradient(param, grad, weight_decay)
    square_avg = rho * square_avg + (1.0 - rho) * g * g
    d = np.sqrt(acc_delta + eps) / np.sqrt(square_avg + eps) * g
    acc_delta = rho * acc_delta + (1.0 - rho) * d * d
    return param - lr * d, square_avg, acc_delta


@optimizer(class_name="Adamax")
def adamax(
    param: NDArray,
    grad: NDArray,
    exp_avg: NDArray,
    exp_inf: NDArray,
    *,
    step: int,
    lr: float = 2e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> Any:
    """Adamax: steps scaled by a running mean of the gradient and its running maximum.

    Update, where ``g = grad + weight_decay * param``::

        exp_avg = beta1 * exp_avg + (1 - beta1) * g
        exp_inf = max(beta2 * exp_inf, |g| + eps)
        param = param - lr / (1 - beta1**step) * exp_avg / exp_inf

    Source: D. Kingma and J. Ba, "Adam: a method for stochastic optimization", ICLR 2015,
    Algorithm 2, in the form of `torch.optim.Adamax`.

    Parameters
    ----------
    lr : float, default 2e-3
        Learning rate.
    betas : tuple of two floats, default (0.9, 0.999)
        Decay of the running mean of the gradient and of its running maximum.
    eps : float, default 1e-8
        Added to the gradient's size. 0 is allowed.
    weight_decay : float, default 0.0
        L2 penalty: this much of param is added to the gradient.
    """
    beta1, beta2 = betas
    g = _gradient(param, grad, weight_decay)
    exp_avg = beta1 * exp_avg + (1.0 - beta1) * g
    exp_inf = np.maximum(beta2 * exp_inf, np.abs(g) + eps)
    return param - lr / (1.0 - beta1**step) * exp_avg / exp_inf, exp_avg, exp_inf


def nadam_mu(t: Any, beta1: float, momentum_decay: float) -> Any:
    """Return the momentum mu(t) of NAdam."""
    return beta1 * (1.0 - 0.5 * 0.96 ** (t * momentum_decay))


def nadam_momentum(t: int, beta1: float, momentum_decay: float) -> tuple[float, float]:
    """Return mu(t) of NAdam and the product of mu(1) .. mu(t)."""
    # Of a million factors below 1 - 0.5 * 0.96**(k * momentum_decay), either the product is 0 by
    # then, or the rest are all beta1.
    early = np.arange(1.0, min(t, 10**6) + 1)
    with np.errstate(under="ignore"):
        product = np.prod(nadam_mu(early, beta1, momentum_decay)) * beta1 ** (t - len(early))
    return nadam_mu(t, beta1, momentum_decay), float(product)


@optimizer(class_name="NAdam")
def nadam(
    param: NDArray,
    grad: NDArray,
    exp_avg: NDArray,
    exp_avg_sq: NDArray,
    *,
    step: int,
    lr: float = 2e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum_decay: float = 4e-3,
    decoupled_weight_decay: bool = False,
) -> Any:
    """NAdam: Adam with Nesterov's look ahead, and a momentum that grows with the steps.

    Update, where ``g = grad + weight_decay * param``::

        mu(t) = beta1 * (1 - 0.96**(t * momentum_decay) / 2),  M(t) = mu(1) * ... * mu(t)
        exp_avg = beta1 * exp_avg + (1 - beta1) * g
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g**2
        d = (1 - mu(step)) / (1 - M(step)) * g + mu(step + 1) / (1 - M(step + 1)) * exp_avg
        param = param - lr * d / (sqrt(exp_avg_sq / (1 - beta2**step)) + eps)

    Source: T. Dozat, "Incorporating Nesterov momentum into Adam", ICLR workshop 2016, in the form
    of `torch.optim.NAdam`, which keeps M as a state; here it follows from the step.

    Parameters
    ----------
    lr : float, default 2e-3
        Learning rate.
    betas : tuple of two floats, default (0.9, 0.999)
        Decay of the running means of the gradient and of its square.
    eps : float, default 1e-8
        Added to the denominator. 0 is allowed.
    weight_decay : float, default 0.0
        L2 penalty: this much of param is added to the gradient.
    momentum_decay : float, default 4e-3
        How fast the momentum grows from half of beta1.
    decoupled_weight_decay : bool, default False
        Let weight_decay take ``lr * weight_decay * param`` off param instead, as in AdamW.
    """
    beta1, beta2 = betas
    mu, product = nadam_momentum(step, beta1, momentum_decay)
    mu_next, product_next = nadam_momentum(step + 1, beta1, momentum_decay)
    param, g = _decay(param, grad, lr, weight_decay, decoupled_weight_decay)
    exp_avg, exp_avg_sq = _moments(g, exp_avg, exp_avg_sq, betas)
    d = (1.0 - mu) / (1.0 - product) * g + mu_next / (1.0 - product_next) * exp_avg
    update = d / (np.sqrt(exp_avg_sq / (1.0 - beta2**step)) + eps)
    return param - lr * update, exp_avg, exp_avg_sq


@optimizer(class_name="RAdam")
def radam(
    param: NDArray,
    grad: NDArray,
    exp_avg: NDArray,
    exp_avg_sq: NDArray,
    *,
    step: int,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
) -> Any:
    """RAdam: Adam that only trusts its estimate of the gradient's size once it has a variance.

    Update, where ``g = grad + weight_decay * param``::

        exp_avg = beta1 * exp_avg + (1 - beta1) * g
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g**2
        m = exp_avg / (1 - beta1**step),  n = 2 / (1 - beta2) - 1
        k = n - 2 * step * beta2**step / (1 - beta2**step)
        where k > 5:  r = sqrt((k - 4) * (k - 2) * n / ((n - 4) * (n - 2) * k))
                      param = param - lr * r * m * sqrt(1 - beta2**step) / (sqrt(exp_avg_sq) + eps)
        else:         param = param - lr * m

    Source: L. Liu et al., "On the variance of the adaptive learning rate and beyond", ICLR 2020,
    Algorithm 2, in the form of `torch.optim.RAdam` (which has 5 where the paper has 4).

    Parameters
    ----------
    lr : float, default 1e-3
        Learning rate.
    betas : tuple of two floats, default (0.9, 0.999)
        Decay of the running means of the gradient and of its square.
    eps : float, default 1e-8
        Added to the denominator. 0 is allowed.
    weight_decay : float, default 0.0
        L2 penalty: this much of param is added to the gradient.
    decoupled_weight_decay : bool, default False
        Let weight_decay take ``lr * weight_decay * param`` off param instead, as in AdamW.
    """
    beta1, beta2 = betas
    param, g = _decay(param, grad, lr, weight_decay, decoupled_weight_decay)
    exp_avg, exp_avg_sq = _moments(g, exp_avg, exp_avg_sq, betas)
    update = exp_avg / (1.0 - beta1**step)
    n, corrected = 2.0 / (1.0 - beta2) - 1.0, 1.0 - beta2**step
    k = n - 2.0 * step * beta2**step / corrected
    if k > 5.0:
        r = np.sqrt((k - 4.0) * (k - 2.0) * n / ((n - 4.0) * (n - 2.0) * k))
        update = update * r * np.sqrt(corrected) / (np.sqrt(exp_avg_sq) + eps)
    return param - lr * update, exp_avg, exp_avg_sq


@optimizer(class_name="Lion")
def lion(
    param: NDArray,
    grad: NDArray,
    exp_avg: NDArray,
    *,
    step: int,
    lr: float = 1e-4,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0,
) -> Any:
    """Lion: steps of one size along the sign of an interpolated momentum.

    Update::

        c = sign(beta1 * exp_avg + (1 - beta1) * grad)
        exp_avg = beta2 * exp_avg + (1 - beta2) * grad
        param = param - lr * (c + weight_decay * param)

    Source: X. Chen et al., "Symbolic discovery of optimization algorithms", arXiv:2302.06675,
    Algorithm 2.

    Parameters
    ----------
    lr : float, default 1e-4
        Learning rate: what each element moves by.
    betas : tuple of two floats, default (0.9, 0.99)
        Share of the momentum in the step's direction, and its decay.
    weight_decay : float, default 0.0
        Share of param, times lr, that each step takes away (decoupled, as in AdamW).
    """
    beta1, beta2 = betas
    direction = np.sign(beta1 * exp_avg + (1.0 - beta1) * grad)
    exp_avg = beta2 * exp_avg + (1.0 - beta2) * grad
    return param - lr * (direction + weight_decay * param), exp_avg
