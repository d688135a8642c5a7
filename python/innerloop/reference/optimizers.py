"""Optimizers: one step over one parameter array, in place.

To add an optimizer, write its function here; nothing else:

    @optimizer(class_name="Name", needs={"optional_state": "hyperparameter"})
    def name(param, grad, state, optional_state=None, *, step, lr=1e-3, ...): ...

The arrays after `grad` are its states, the keywords after `step` its hyperparameters; `needs` says
which hyperparameter must be truthy for an optional state to be needed. The docstring is the public
one. States start as zeros; `step` counts from 1. The semantics are those of `torch.optim`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .registry import OPTIMIZERS as OPTIMIZERS
from .registry import optimizer


def _gradient(param: NDArray, grad: NDArray, weight_decay: float, maximize: bool) -> NDArray:
    """Return the gradient to descend, with the L2 penalty's share."""
    g = -grad if maximize else grad
    return g + weight_decay * param if weight_decay else g


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
    maximize: bool = False,
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
    maximize : bool, default False
        Step up the gradient instead of down.
    """
    g = _gradient(param, grad, weight_decay, maximize)
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
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    bias_correction: bool,
) -> tuple[NDArray, NDArray, NDArray]:
    """Kingma and Ba's Algorithm 1, for Adam and AdamW."""
    beta1, beta2 = betas
    exp_avg = beta1 * exp_avg + (1.0 - beta1) * g
    exp_avg_sq = beta2 * exp_avg_sq + (1.0 - beta2) * g * g
    correction1 = 1.0 - beta1**step if bias_correction else 1.0
    correction2 = 1.0 - beta2**step if bias_correction else 1.0
    update = (exp_avg / correction1) / (np.sqrt(exp_avg_sq / correction2) + eps)
    return param - lr * update, exp_avg, exp_avg_sq


@optimizer(class_name="Adam")
def adam(
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
    bias_correction: bool = True,
    maximize: bool = False,
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
    bias_correction : bool, default True
        Correct the running means for their start at zero (m and v above); else use them as they
        are.
    maximize : bool, default False
        Step up the gradient instead of down.
    """
    g = _gradient(param, grad, weight_decay, maximize)
    return _adam(param, g, exp_avg, exp_avg_sq, step, lr, betas, eps, bias_correction)


@optimizer(class_name="AdamW")
def adamw(
    param: NDArray,
    grad: NDArray,
    exp_avg: NDArray,
    exp_avg_sq: NDArray,
    *,
    step: int,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    bias_correction: bool = True,
    maximize: bool = False,
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
    bias_correction : bool, default True
        Correct the running means for their start at zero, as in Adam.
    maximize : bool, default False
        Step up the gradient instead of down.
    """
    param = param * (1.0 - lr * weight_decay)
    g = -grad if maximize else grad
    return _adam(param, g, exp_avg, exp_avg_sq, step, lr, betas, eps, bias_correction)


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
    maximize: bool = False,
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
    maximize : bool, default False
        Step up the gradient instead of down.
    """
    g = _gradient(param, grad, weight_decay, maximize)
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
