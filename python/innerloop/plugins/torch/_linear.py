"""The dense layer with its activation and dropout, as one operator."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from ... import _core
from ...reference import ACTIVATIONS
from ._activations import SAVES_OUTPUT, named, parameter_values
from ._operator import Operator, check, check_shape, filled, leading, lower, transposed
from ._random import seed_tensor, word

__all__ = ["linear"]

_DEFAULTS = (None, "identity", (), 0.0, None, 0)  # bias and what follows it


def _kept(name: str, dropout: float) -> str:
    """What the backward pass reads beside dy, x and weight: "", the "output" or an "array"."""
    if name == "identity":
        return ""
    return "output" if SAVES_OUTPUT[name] and dropout == 0 else "array"


def _check_linear(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    bias, activation, _, dropout, seed, _ = filled(rest, _DEFAULTS)
    check(x, "x")
    check(weight, "weight", x)
    if weight.ndim != 2:
        raise ValueError(
            f"weight must have 2 axes, (out_features, in_features), got {tuple(weight.shape)}"
        )
    if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"x must have the shape (..., {weight.shape[1]}), as weight has {tuple(weight.shape)}, "
            f"got {tuple(x.shape)}"
        )
    if bias is not None:
        check(bias, "bias", x)
        check_shape(bias, "bias", (weight.shape[0],), "one for each row of weight")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if not 0 <= dropout <= 1:
        raise ValueError(f"dropout must lie in [0, 1], got {dropout}")
    if dropout > 0 and seed is None:
        raise TypeError("seed must be a tensor where dropout is not 0, got None")
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _check_linear_with_saved(x: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    y = _check_linear(x, weight, *rest)
    _, name, _, dropout, *_ = filled(rest, _DEFAULTS)
    return y, x.new_empty(y.shape if _kept(name, dropout) == "array" else 0)


def _layer(
    return_saved: bool,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str = "identity",
    parameters: Any = (),
    dropout: float = 0.0,
    seed: Tensor | None = None,
    offset: int = 0,
) -> Any:
    values, number, w = named(activation, parameters), word(seed), transposed(weight)
    result = _core.linear(
        *(x, w, bias, activation, values, None, return_saved, dropout, number, offset)
    )
    if return_saved and _kept(activation, dropout) != "array":
        return result[0], None
    return result


def _linear_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    saved: Tensor | None,
    activation: str,
    parameters: Any,
    dropout: float,
    seed: Tensor | None,
    offset: int,
    wanted: Any,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    values, number = named(activation, parameters), word(seed)
    # The kernel writes it through its transpose, in the layout that the weight has.
    dweight = torch.empty_like(weight, memory_format=torch.contiguous_format) if wanted[1] else None
    if dweight is not None:
        out = None, transposed(dweight), None
        dx, _, db = _core.linear_backward(
            *(dy, x, transposed(weight), saved, activation, values, wanted[2], out),
            *(dropout, number, offset, wanted[0]),
        )
        return dx, dweight, db
    # The fused kernel always makes dweight; a product saved is worth a pass over dy.
    if dropout > 0:
        dy = _core.dropout_backward(dy, dropout, number, offset, None)
    if activation != "identity":
        z, y = (None, saved) if SAVES_OUTPUT[activation] else (saved, None)
        dy = _core.activation_backward(activation, dy, z, values, y, None)
    dx = _product(dy, weight) if wanted[0] else None
    if not wanted[2]:
        return dx, None, None
    rows = math.prod(x.shape[:-1])  # which -1 would not tell where a row has no elements
    dy = dy.reshape(rows, dy.shape[-1])
    # PyTorch's own sum would leave its threads spinning on the cores that the next kernel needs.
    return dx, None, _product(dy.new_ones(1, rows), dy)[0]


def _product(x: Any, w: Tensor) -> Tensor:
    return _core.linear(x, w, None, "identity", {}, None, False, 0.0, None, 0)


def _check_linear_backward(
    dy: Tensor, x: Tensor, weight: Tensor, saved: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    check(x, "x")
    check(weight, "weight", x)
    check(dy, "dy", x)
    check_shape(dy, "dy", (*x.shape[:-1], weight.shape[0]), "that of the layer's output")
    if saved is not None:
        check(saved, "saved", x)
        check_shape(saved, "saved", dy.shape, "that of dy")
    shapes = x.shape, weight.shape, weight.shape[:1]
    return tuple(  # type: ignore[return-value]
        x.new_empty(s if w else (0,)) for s, w in zip(shapes, rest[-1], strict=True)
    )


def _linear_setup(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor | None]) -> None:
    x, weight, _, name, parameters, dropout, seed, offset = inputs
    kept = {"": None, "output": output[0], "array": output[1]}[_kept(name, dropout)]
    ctx.save_for_backward(x, weight, kept, seed)
    ctx.options = name, parameters, dropout, offset
    if output[1] is not None:
        ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _linear_differentiate(ctx: Any, dy: Tensor | None, dsaved: Tensor | None) -> Any:
    if dy is None:
        return (None,) * 8
    x, weight, kept, seed = ctx.saved_tensors
    name, parameters, dropout, offset = ctx.options
    wanted = [*ctx.needs_input_grad, False][:3]  # a bias that is left out is not counted
    gradients = _LINEAR_BACKWARD(
        dy, x, weight, kept, name, parameters, dropout, seed, offset, wanted
    )
    return *(g if w else None for g, w in zip(gradients, wanted, strict=True)), *(None,) * 5


_LAYER = (
    '(Tensor x, Tensor weight, Tensor? bias=None, str activation="identity", '
    "float[] parameters=[], float dropout=0.0, Tensor? seed=None, int offset=0)"
)
_LINEAR_BACKWARD = Operator(
    "linear_backward(Tensor dy, Tensor x, Tensor weight, Tensor? saved, str activation, "
    "float[] parameters, float dropout, Tensor? seed, int offset, bool[] wanted) "
    "-> (Tensor, Tensor, Tensor)",
    _linear_backward,
    _check_linear_backward,
)
_LINEAR_WITH_SAVED = Operator(
    f"linear_with_saved{_LAYER} -> (Tensor, Tensor)",
    functools.partial(_layer, True),
    _check_linear_with_saved,
    setup=_linear_setup,
    backward=_linear_differentiate,
)
_LINEAR = Operator(
    f"linear{_LAYER} -> Tensor",
    functools.partial(_layer, False),
    _check_linear,
    training=_LINEAR_WITH_SAVED,
    cast=lower,
    vmap=leading,
)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    dropout: float = 0.0,
    seed: int | Tensor | None = None,
    offset: int = 0,
    **params: float,
) -> Tensor:
    """Dense layer, with its activation and dropout in the same pass.

    Formula: ``y = dropout(act(x @ weight.T + bias))``; see `innerloop.linear`. Under autocast all
    are cast to its dtype.

    Parameters
    ----------
    x : Tensor, shape (..., K), float32, float64, bfloat16 or float16
    weight : Tensor, shape (N, K)
        As `torch.nn.Linear` keeps it; read in place.
    bias : Tensor, shape (N,), optional
    activation : str, optional
        Such as ``"gelu"``; `innerloop.activations.NAMES` lists them.
    dropout : float, default 0.0
        Probability, in [0, 1], that an element of y is dropped.
    seed : int in [0, 2**64) or Tensor of int64, shape (), optional
        Of the dropout; None takes a fresh one from PyTorch's generator.
    offset : int, default 0
        In [0, 2**63).
    **params : float
        The activation's parameters, such as ``negative_slope``.

    Returns
    -------
    Tensor, shape (..., N)

    Raises
    ------
    TypeError
        If an argument is not a strided tensor of these dtypes on the CPU, their dtypes differ, or
        the activation has no such parameter.
    ValueError
        If shapes do not fit, there is no such activation, or a number is out of its range.
    """
    if type(dropout) is not float and isinstance(dropout, Tensor):
        raise TypeError("dropout must be a number, got a tensor")
    name = activation or "identity"
    values = parameter_values(name, params)
    key = seed_tensor(seed) if dropout else None
    return _LINEAR(x, weight, bias, name, values, dropout, key, offset)
