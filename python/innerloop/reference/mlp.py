"""A network of dense layers: its output, its loss and the gradient of every parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._precision import round_to
from .linear import linear, linear_backward
from .losses import softmax_cross_entropy
from .registry import LOSSES

__all__ = ["Layer", "Objective", "forward", "loss_and_gradients"]


class Layer(NamedTuple):
    """``dropout(act(x @ w + b))``."""

    w: NDArray
    b: NDArray
    activation: str = "identity"
    parameters: Mapping[str, float] = {}
    dropout: float = 0.0


class Objective(NamedTuple):
    """What is minimised over some rows.

    Formula: ``value_scale * sum(loss) / W + penalty``, where W is the sum of the rows' weights that
    count, or their number, and ``penalty = l2 / 2 * sum(w**2) + l1 * sum(|w|)`` over all weights,
    but not the biases, divided by W where `penalty_over_weights`. The gradient is taken with
    `gradient_scale` in `value_scale`'s place, as the two differ in scikit-learn.
    """

    loss: str
    parameters: Mapping[str, float] = {}
    value_scale: float = 1.0
    gradient_scale: float = 1.0
    l1: float = 0.0
    l2: float = 0.0
    penalty_over_weights: bool = False


def _pass(
    layers: Sequence[Layer], x: NDArray, seed: int, offset: int | None
) -> tuple[NDArray, list[NDArray], list[Any], list[dict[str, Any]]]:
    """The output; and of each layer its input, what its backward needs, and its options."""
    inputs, saved, options = [x], [], []
    for i, layer in enumerate(layers):
        dropout: dict[str, Any] = {}
        if offset is not None:
            dropout = {"dropout": layer.dropout, "offset": offset + i}
        options.append(
            {"activation": layer.activation, "seed": seed, **dropout, **layer.parameters}
        )
        y, s = linear(inputs[-1], layer.w, layer.b, return_saved=True, **options[-1])
        inputs.append(y)
        saved.append(s)
    return inputs.pop(), inputs, saved, options


def forward(layers: Sequence[Layer], x: NDArray) -> NDArray:
    """Return the last layer's output, (rows, outputs), without dropout."""
    return _pass(layers, x, 0, None)[0]


@np.errstate(all="ignore")
def loss_and_gradients(
    layers: Sequence[Layer],
    objective: Objective,
    x: NDArray,
    target: NDArray,
    sample_weight: NDArray | None = None,
    *,
    seed: int = 0,
    dropout_offset: int | None = None,
) -> tuple[float, list[NDArray]]:
    """Return the objective, and its gradient by every weight and bias: dw, db, dw, ...

    Parameters
    ----------
    layers : sequence of Layer
    objective : Objective
    x : array, shape (rows, K)
    target : array, shape (rows,) of labels, or (rows, outputs)
    sample_weight : array, shape (rows,), optional
    seed, dropout_offset
        Layer i is dropped out with the offset ``dropout_offset + i``; with None nothing is.
    """
    o = objective
    pred, inputs, saved, options = _pass(layers, x, seed, dropout_offset)
    weights = np.ones(len(x)) if sample_weight is None else sample_weight.astype(np.float64)
    if target.ndim == 1:
        weights = np.where(target == -100, 0.0, weights)  # ignored
    total = weights.sum()
    each = 1.0 / total if total else 0.0
    wanted: dict[str, Any] = {"reduction": "sum", "return_grad": True, **o.parameters}
    wanted["grad_scale"] = o.gradient_scale * each
    rows_weight = None if sample_weight is None else sample_weight.astype(pred.dtype)
    if o.loss == "softmax_cross_entropy":
        value, dy = softmax_cross_entropy(pred, target, sample_weight=rows_weight, **wanted)
    else:
        if rows_weight is not None:
            rows_weight = np.broadcast_to(rows_weight[:, None], pred.shape)
        value, dy = LOSSES[o.loss].function(pred, target, sample_weight=rows_weight, **wanted)
    loss = o.value_scale * each * float(value)

    scale = each if o.penalty_over_weights else 1.0
    gradients: list[NDArray] = []
    for layer, at, kept, given in reversed(list(zip(layers, inputs, saved, options, strict=True))):
        dy, dw, db = linear_backward(dy, at, layer.w, kept, **given)
        w = layer.w.astype(np.float64)
        loss += scale * (o.l2 / 2.0 * (w**2).sum() + o.l1 * np.abs(w).sum())
        dw = round_to(dw + scale * (o.l2 * w + o.l1 * np.sign(w)), w.dtype)
        gradients[:0] = [dw.astype(layer.w.dtype), db]
    return loss, gradients
