"""Activation functions and softmax, with their derivatives.

To add an activation, write its forward and its backward here; nothing else:

    @in_float64
    def name(x, parameter=default): ...

    @backward_of(name)
    def name_backward(dy, x, parameter=default): ...

The forward's signature gives the parameters and their defaults, its docstring is the public one.
A backward that also takes ``*, y=None`` can work from the output ``y = name(x)`` alone: `linear`
then keeps y instead of the input. ``x`` may be None where ``y`` is given.

Derivatives at kinks, and at NaN and infinity, are PyTorch's.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ._precision import in_float64
from .registry import ACTIVATIONS as ACTIVATIONS
from .registry import backward_of


@in_float64
def identity(x: NDArray) -> NDArray:
    """Return x unchanged.

    Formula: ``y = x``.
    """
    return x


@backward_of(identity)
def identity_backward(dy: NDArray, x: NDArray | None = None) -> NDArray:
    """Return ``dx = dy``; x is not needed."""
    return dy


@in_float64
def relu(x: NDArray) -> NDArray:
    """Rectified linear unit.

    Formula: ``y = max(x, 0)``. NaN stays NaN.

    Source: V. Nair and G. Hinton, "Rectified linear units improve restricted Boltzmann machines",
    ICML 2010.
    """
    return np.maximum(x, 0.0)


@backward_of(relu)
def relu_backward(dy: NDArray, x: NDArray, *, y: NDArray | None = None) -> NDArray:
    """Return ``dx = dy where x > 0, else 0`` (0 at 0; dy where x is NaN)."""
    # y > 0 exactly where x > 0. Written with <= so that NaN passes dy on.
    return np.where((x if y is None else y) <= 0.0, 0.0, dy)


@in_float64
def leaky_relu(x: NDArray, negative_slope: float = 0.01) -> NDArray:
    """Rectified linear unit with a small slope for negative inputs.

    Formula: ``y = x where x > 0, else negative_slope * x``.

    Source: A. Maas, A. Hannun and A. Ng, "Rectifier nonlinearities improve neural network acoustic
    models", ICML 2013.
    """
    return np.where(x > 0.0, x, negative_slope * x)


@backward_of(leaky_relu)
def leaky_relu_backward(dy: NDArray, x: NDArray, negative_slope: float = 0.01) -> NDArray:
    """Return ``dx = dy where x > 0, else negative_slope * dy`` (the slope at 0)."""
    # A negative slope would make the sign of y ambiguous, so the input is what is saved.
    return np.where(x > 0.0, dy, negative_slope * dy)


def _sigmoid(x: NDArray) -> NDArray:
    """1 / (1 + exp(-x)) without overflow: exp is only ever taken of -|x|."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0.0, 1.0, e) / (1.0 + e)


@in_float64
def sigmoid(x: NDArray) -> NDArray:
    """Logistic sigmoid.

    Formula: ``y = 1 / (1 + exp(-x))``.
    """
    return _sigmoid(x)


@backward_of(sigmoid)
def sigmoid_backward(dy: NDArray, x: NDArray, *, y: NDArray | None = None) -> NDArray:
    """Return ``dx = dy * y * (1 - y)``, where ``y = sigmoid(x)``."""
    # 1 - sigmoid(x) = sigmoid(-x), which keeps its digits where sigmoid(x) is close to 1.
    return dy * (_sigmoid(x) * _sigmoid(-x) if y is None else y * (1.0 - y))


@in_float64
def tanh(x: NDArray) -> NDArray:
    """Hyperbolic tangent.

    Formula: ``y = (exp(x) - exp(-x)) / (exp(x) + exp(-x))``.
    """
    return np.tanh(x)


@backward_of(tanh)
def tanh_backward(dy: NDArray, x: NDArray, *, y: NDArray | None = None) -> NDArray:
    """Return ``dx = dy * (1 - y**2)``, where ``y = tanh(x)``."""
    if y is not None:
        return dy * ((1.0 - y) * (1.0 + y))
    # 1 - tanh(x)^2 = 4 sigmoid(2x) sigmoid(-2x), without cancellation for large |x|.
    return dy * (4.0 * _sigmoid(2.0 * x) * _sigmoid(-2.0 * x))


def _normal_cdf(x: NDArray) -> NDArray:
    """Phi(x) = erfc(-x / sqrt(2)) / 2; erfc, not 1 + erf, to keep the digits of the lower tail."""
    z = x / -math.sqrt(2.0)
    return 0.5 * np.fromiter(map(math.erfc, z.flat), np.float64, z.size).reshape(z.shape)


@in_float64
def gelu(x: NDArray) -> NDArray:
    """Gaussian error linear unit.

    Formula: ``y = x * Phi(x) = x / 2 * (1 + erf(x / sqrt(2)))``.

    Source: D. Hendrycks and K. Gimpel, "Gaussian error linear units", arXiv:1606.08415.
    """
    return x * _normal_cdf(x)


@backward_of(gelu)
def gelu_backward(dy: NDArray, x: NDArray) -> NDArray:
    """Return ``dx = dy * (Phi(x) + x * phi(x))``, where ``phi(x) = exp(-x**2/2) / sqrt(2 pi)``."""
    density = np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
    return dy * (_normal_cdf(x) + x * density)


def _gelu_tanh_argument(x: NDArray) -> tuple[NDArray, NDArray]:
    """2u and its derivative, where u = sqrt(2/pi) (x + 0.044715 x^3).

    sigmoid(2u) is exactly 0 or 1 in float64 far inside |x| = 1000: the clip keeps x^3 finite.
    """
    x = np.clip(x, -1e3, 1e3)
    scale = 2.0 * math.sqrt(2.0 / math.pi)
    return scale * (x + 0.044715 * x**3), scale * (1.0 + 3.0 * 0.044715 * x * x)


@in_float64
def gelu_tanh(x: NDArray) -> NDArray:
    """Gaussian error linear unit, by its approximation with tanh.

    Formula: ``y = x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))``.

    Source: D. Hendrycks and K. Gimpel, "Gaussian error linear units", arXiv:1606.08415.
    """
    # (1 + tanh(u)) / 2 = sigmoid(2u), without cancellation for negative u.
    return x * _sigmoid(_gelu_tanh_argument(x)[0])


@backward_of(gelu_tanh)
def gelu_tanh_backward(dy: NDArray, x: NDArray) -> NDArray:
    """Return ``dx = dy * (s + x * s * (1 - s) * 2u')``, where ``s = (1 + tanh(u)) / 2``.

    Here ``u = sqrt(2 / pi) * (x + 0.044715 * x**3)`` and u' is its derivative.
    """
    argument, slope = _gelu_tanh_argument(x)
    s = _sigmoid(argument)
    return dy * (s + x * s * _sigmoid(-argument) * slope)


@in_float64
def silu(x: NDArray) -> NDArray:
    """Sigmoid linear unit, also called swish.

    Formula: ``y = x * sigmoid(x) = x / (1 + exp(-x))``.

    Source: S. Elfwing, E. Uchibe and K. Doya, "Sigmoid-weighted linear units for neural network
    function approximation in reinforcement learning", arXiv:1702.03118.
    """
    return x * _sigmoid(x)


@backward_of(silu)
def silu_backward(dy: NDArray, x: NDArray) -> NDArray:
    """Return ``dx = dy * s * (1 + x * (1 - s))``, where ``s = sigmoid(x)``."""
    return dy * (_sigmoid(x) * (1.0 + x * _sigmoid(-x)))


@in_float64
def elu(x: NDArray, alpha: float = 1.0) -> NDArray:
    """Exponential linear unit. Any number but NaN is an alpha.

    Formula: ``y = x where x > 0, else alpha * (exp(x) - 1)``.

    Source: D. Clevert, T. Unterthiner and S. Hochreiter, "Fast and accurate deep network learning
    by exponential linear units (ELUs)", arXiv:1511.07289.
    """
    return np.where(x > 0.0, x, alpha * np.expm1(x))


@backward_of(elu)
def elu_backward(dy: NDArray, x: NDArray, alpha: float = 1.0) -> NDArray:
    """Return ``dx = dy * alpha * exp(x) where x <= 0, else dy`` (alpha at 0)."""
    # A negative alpha would make the sign of y ambiguous, so the input is what is saved.
    return np.where(x <= 0.0, dy * alpha * np.exp(x), dy)


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848, 1.0507009873554804934


@in_float64
def selu(x: NDArray) -> NDArray:
    """Scaled exponential linear unit, which keeps mean 0 and variance 1 from layer to layer.

    Formula: ``y = scale * (x where x > 0, else alpha * (exp(x) - 1))``, with
    ``alpha = 1.6732632423543772848`` and ``scale = 1.0507009873554804934``.

    Source: G. Klambauer, T. Unterthiner, A. Mayr and S. Hochreiter, "Self-normalizing neural
    networks", arXiv:1706.02515.
    """
    return _SELU_SCALE * np.where(x > 0.0, x, _SELU_ALPHA * np.expm1(x))


@backward_of(selu)
def selu_backward(dy: NDArray, x: NDArray, *, y: NDArray | None = None) -> NDArray:
    """Return ``dx = dy * scale * (alpha * exp(x) where x <= 0, else 1)``."""
    if y is None:
        return dy * _SELU_SCALE * np.where(x <= 0.0, _SELU_ALPHA * np.exp(x), 1.0)
    return dy * np.where(y <= 0.0, y + _SELU_SCALE * _SELU_ALPHA, _SELU_SCALE)


@in_float64
def celu(x: NDArray, alpha: float = 1.0) -> NDArray:
    """Continuously differentiable exponential linear unit.

    Formula: ``y = x where x > 0, else alpha * (exp(x / alpha) - 1)``, alpha from
    1.17549435e-38, the smallest normal float32, to the largest.

    Source: J. Barron, "Continuously differentiable exponential linear units", arXiv:1704.07483.
    """
    return np.where(x > 0.0, x, alpha * np.expm1(x / alpha))


@backward_of(celu)
def celu_backward(
    dy: NDArray, x: NDArray, alpha: float = 1.0, *, y: NDArray | None = None
) -> NDArray:
    """Return ``dx = dy * exp(x / alpha) where x <= 0, else dy``."""
    if y is None:
        return np.where(x <= 0.0, dy * np.exp(x / alpha), dy)
    return np.where(y <= 0.0, dy * (1.0 + y / alpha), dy)


@in_float64
def mish(x: NDArray) -> NDArray:
    """Self-regularized smooth unit.

    Formula: ``y = x * tanh(log(1 + exp(x)))``, and 0 at -inf.

    Source: D. Misra, "Mish: a self regularized non-monotonic activation function",
    arXiv:1908.08681.
    """
    x = np.maximum(x, -1e3)  # where y is 0; infinity times 0 is no number
    return x * np.tanh(np.log1p(np.exp(x)))


@backward_of(mish)
def mish_backward(dy: NDArray, x: NDArray) -> NDArray:
    """Return ``dx = dy * (t + x * sigmoid(x) * (1 - t**2))``, where ``t = tanh(softplus(x))``."""
    x = np.clip(x, -1e3, 1e3)  # where dx has its limits
    t = np.tanh(np.log1p(np.exp(x)))
    return dy * (t + x * _sigmoid(x) * (1.0 - t * t))


@in_float64
def softplus(x: NDArray, beta: float = 1.0, threshold: float = 20.0) -> NDArray:
    """Smooth form of relu.

    Formula: ``y = x where beta * x > threshold, else log(1 + exp(beta * x)) / beta``, beta from
    1.17549435e-38, the smallest normal float32, to the largest.

    Source: C. Dugas, Y. Bengio, F. Belisle, C. Nadeau and R. Garcia, "Incorporating second-order
    functional knowledge for better option pricing", NIPS 2000.
    """
    u = beta * x
    # log(1 + exp(u)) without overflow, whatever the threshold
    return np.where(u > threshold, x, (np.maximum(u, 0.0) + np.log1p(np.exp(-np.abs(u)))) / beta)


@backward_of(softplus)
def softplus_backward(
    dy: NDArray, x: NDArray, beta: float = 1.0, threshold: float = 20.0
) -> NDArray:
    """Return ``dx = dy where beta * x > threshold, else dy * sigmoid(beta * x)``."""
    return np.where(beta * x > threshold, dy, dy * _sigmoid(beta * x))


@in_float64
def softsign(x: NDArray) -> NDArray:
    """Sigmoid with polynomial tails.

    Formula: ``y = x / (1 + |x|)``.

    Source: J. Bergstra, G. Desjardins, P. Lamblin and Y. Bengio, "Quadratic polynomials learn
    better image features", technical report 1337, Universite de Montreal, 2009.
    """
    return x / (1.0 + np.abs(x))


@backward_of(softsign)
def softsign_backward(dy: NDArray, x: NDArray) -> NDArray:
    """Return ``dx = dy / (1 + |x|)**2`` (0 at infinity, where y is NaN)."""
    # From y it would be dy * (1 - |y|)**2, with no digits left for a large x.
    return dy / (1.0 + np.abs(x)) ** 2


@in_float64
def hardsigmoid(x: NDArray) -> NDArray:
    """Piecewise linear form of sigmoid.

    Formula: ``y = min(max(x + 3, 0), 6) / 6``.

    Source: A. Howard et al., "Searching for MobileNetV3", arXiv:1905.02244, section 5.2.
    """
    return np.minimum(np.maximum(x + 3.0, 0.0), 6.0) / 6.0


@backward_of(hardsigmoid)
def hardsigmoid_backward(dy: NDArray, x: NDArray) -> NDArray:
    """Return ``dx = dy / 6 where -3 < x < 3, else 0`` (0 also for NaN)."""
    return np.where((x > -3.0) & (x < 3.0), dy / 6.0, 0.0)


@in_float64
def hardswish(x: NDArray) -> NDArray:
    """Piecewise polynomial form of silu.

    Formula: ``y = x * min(max(x + 3, 0), 6) / 6``.

    Source: A. Howard et al., "Searching for MobileNetV3", arXiv:1905.02244, section 5.2.
    """
    return x * (np.minimum(np.maximum(x + 3.0, 0.0), 6.0) / 6.0)


@backward_of(hardswish)
def hardswish_backward(dy: NDArray, x: NDArray) -> NDArray:
    """Return ``dx = dy * (x / 3 + 1 / 2)`` within (-3, 3), 0 from -3 down and dy from 3 up."""
    slope = np.where(x < 3.0, x / 3.0 + 0.5, 1.0)
    return np.where(x <= -3.0, 0.0, dy * slope)


@in_float64
def relu6(x: NDArray) -> NDArray:
    """Rectified linear unit that ends at 6.

    Formula: ``y = min(max(x, 0), 6)``. NaN stays NaN.

    Source: A. Krizhevsky, "Convolutional deep belief networks on CIFAR-10", 2010.
    """
    return np.minimum(np.maximum(x, 0.0), 6.0)


@backward_of(relu6)
def relu6_backward(dy: NDArray, x: NDArray, *, y: NDArray | None = None) -> NDArray:
    """Return ``dx = dy where 0 < x < 6, else 0`` (0 at both; dy where x is NaN)."""
    s = x if y is None else y
    return np.where((s <= 0.0) | (s >= 6.0), 0.0, dy)


# Softmax works along an axis, not element by element, so it is not in the registry. The largest
# element is subtracted first, so that exp cannot overflow. As in PyTorch, a row that holds NaN or
# +inf, or nothing but -inf, gives NaN; a -inf beside finite elements has probability 0.


def _shifted(x: NDArray, axis: int) -> NDArray:
    """Subtract from x its largest element along `axis`, which may be empty (hence `initial`)."""
    return x - x.max(axis=axis, keepdims=True, initial=-np.inf)


@in_float64
def softmax(x: NDArray, axis: int = -1) -> NDArray:
    """Softmax: exponentials normalised to sum 1 along an axis.

    Formula: ``y = exp(x) / sum(exp(x))``.

    Source: J. Bridle, "Probabilistic interpretation of feedforward classification network outputs",
    Neurocomputing, NATO ASI Series F68, 1990.

    Parameters
    ----------
    x : array of any shape
    axis : int, default -1

    Returns
    -------
    array of x's shape
    """
    e = np.exp(_shifted(x, axis))
    return e / e.sum(axis=axis, keepdims=True)


@in_float64
def softmax_backward(dy: NDArray, y: NDArray, axis: int = -1) -> NDArray:
    """Return ``dx = y * (dy - sum(dy * y))``, where ``y = softmax(x, axis)``."""
    return y * (dy - (dy * y).sum(axis=axis, keepdims=True))


@in_float64
def log_softmax(x: NDArray, axis: int = -1) -> NDArray:
    """Logarithm of softmax, without forming the quotient.

    Formula: ``y = x - max(x) - log(sum(exp(x - max(x))))``.

    Parameters
    ----------
    x : array of any shape
    axis : int, default -1

    Returns
    -------
    array of x's shape
    """
    shifted = _shifted(x, axis)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


@in_float64
def log_softmax_backward(dy: NDArray, y: NDArray, axis: int = -1) -> NDArray:
    """Return ``dx = dy - exp(y) * sum(dy)``, where ``y = log_softmax(x, axis)``."""
    return dy - np.exp(y) * dy.sum(axis=axis, keepdims=True)
