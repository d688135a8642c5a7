"""Normalisation of rows, and the rectifier whose slope is learned: operators with parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ... import _core
from ._operator import (
    Operator,
    check,
    check_shape,
    compute_dtype,
    filled,
    leading,
    unfilled_like,
    widest,
)

__all__ = ["layer_norm", "prelu", "rms_norm"]


def _define_norm(name: str) -> Operator:
    """The operator of a norm: one of mean and deviation, or of the root mean square alone."""
    has_bias = name == "layer_norm"
    vectors = ("weight", "bias") if has_bias else ("weight",)
    defaults = (*(None for _ in vectors), 1e-5)
    schema = f"(Tensor x, {', '.join(f'Tensor? {v}=None' for v in vectors)}, float eps=1e-5)"

    def split(rest: Sequence[Any]) -> tuple[list[Tensor | None], float]:
        """The parameters and eps."""
        *parameters, eps = filled(rest, defaults)
        return parameters, eps

    def check_forward(x: Tensor, *rest: Any) -> Tensor:
        parameters, eps = split(rest)
        check(x, "x")
        if x.ndim == 0:
            raise ValueError("x must have an axis, the last of which is normalised, got a 0-d one")
        for value, vector in zip(parameters, vectors, strict=True):
            if value is not None:
                check(value, vector, x)
                check_shape(value, vector, x.shape[-1:], "one for each element of x's last axis")
        if not eps >= 0:
            raise ValueError(f"eps must not be negative or NaN, got {eps}")
        return x.new_empty(x.shape)

    def check_with_saved(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        y = check_forward(x, *rest)
        rows = math.prod(x.shape[:-1])
        shape = (2, rows) if has_bias else (rows,)
        return y, x.new_empty(shape, dtype=compute_dtype(x.dtype))

    def forward(x: Tensor, *rest: Any) -> Tensor:
        parameters, eps = split(rest)
        weight, bias = (*parameters, None)[:2]
        return _core.row_norm_forward(name, x, weight, bias, eps, None, False)

    def with_saved(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        parameters, eps = split(rest)
        weight, bias = (*parameters, None)[:2]
        return _core.row_norm_forward(name, x, weight, bias, eps, None, True)

    def backward(
        dy: Tensor, x: Tensor, saved: Tensor, weight: Tensor | None, bias: bool
    ) -> tuple[Tensor | None, ...]:
        return _core.row_norm_backward(name, dy, x, saved, weight, bias, None)

    def check_backward(
        dy: Tensor, x: Tensor, saved: Tensor, weight: Tensor | None, bias: bool
    ) -> tuple[Tensor, ...]:
        check(x, "x")
        check(dy, "dy", x)
        check_shape(dy, "dy", x.shape, "that of x")
        length = x.shape[-1]
        has = (weight is not None, bias)[: len(vectors)]
        return x.new_empty(x.shape), *(x.new_empty(length if h else 0) for h in has)

    def setup(ctx: Any, inputs: Any, output: Any) -> None:
        x, weight = inputs[:2]
        ctx.save_for_backward(x, output[1], weight)
        ctx.bias = has_bias and inputs[2] is not None
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    def differentiate(ctx: Any, dy: Tensor | None, dsaved: Tensor | None) -> Any:
        if dy is None:
            return (None,) * (2 + len(vectors))
        x, saved, weight = ctx.saved_tensors
        gradients = gradient(dy, x, saved, weight, ctx.bias)
        wanted = ctx.needs_input_grad
        return *(g if w else None for g, w in zip(gradients, wanted, strict=False)), None

    results = ", ".join(["Tensor"] * (1 + len(vectors)))
    gradient = Operator(
        f"{name}_backward(Tensor dy, Tensor x, Tensor saved, Tensor? weight, bool bias) "
        f"-> ({results})",
        backward,
        check_backward,
    )
    training = Operator(
        f"{name}_with_saved{schema} -> (Tensor, Tensor)",
        with_saved,
        check_with_saved,
        setup=setup,
        backward=differentiate,
    )
    return Operator(
        f"{name}{schema} -> Tensor",
        forward,
        check_forward,
        training=training,
        cast=widest,
        vmap=leading,
    )


_LAYER_NORM, _RMS_NORM = _define_norm("layer_norm"), _define_norm("rms_norm")


def _normalised(
    norm: Operator,
    x: Tensor,
    normalized_shape: Any,
    parameters: Sequence[Tensor | None],
    eps: float,
) -> Tensor:
    """Over the last axes, which the norm sees as one."""
    if normalized_shape is None or normalized_shape == x.shape[-1:]:
        return norm(x, *parameters, eps)
    check(x, "x")
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or tuple(x.shape[-len(shape) :]) != shape:
        raise ValueError(
            f"normalized_shape must be the end of x's shape, {tuple(x.shape)}, got {shape}"
        )
    for value, name in zip(parameters, ("weight", "bias"), strict=False):
        if value is not None:
            check(value, name)
            check_shape(value, name, shape, "normalized_shape")
    if len(shape) == 1:
        return norm(x, *parameters, eps)
    rows = x.reshape(*x.shape[: -len(shape)], math.prod(shape))
    flat = [None if p is None else p.reshape(-1) for p in parameters]
    return norm(rows, *flat, eps).reshape(x.shape)


def layer_norm(
    x: Tensor,
    normalized_shape: int | Sequence[int] | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each row to mean 0 and variance 1.

    Formula: ``y = (x - mean) / sqrt(var + eps) * weight + bias``; see `innerloop.layer_norm`.
    Under autocast x and the parameters meet in the widest of their dtypes.

    Parameters
    ----------
    x : Tensor, shape (..., *normalized_shape), float32, float64, bfloat16 or float16
    normalized_shape : int or sequence of int, optional
        The last axes of x, which are normalised together; None is the last one.
    weight, bias : Tensor, shape normalized_shape, dtype of x, optional
    eps : float, default 1e-5
        Not negative.

    Returns
    -------
    Tensor of x's shape and dtype, contiguous

    Raises
    ------
    TypeError
        If an argument is not a strided tensor of these dtypes on the CPU, or their dtypes differ.
    ValueError
        If shapes do not fit, or eps is negative or NaN.
    """
    return _normalised(_LAYER_NORM, x, normalized_shape, (weight, bias), eps)


def rms_norm(
    x: Tensor,
    normalized_shape: int | Sequence[int] | None = None,
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """Divide each row by its root mean square.

    Formula: ``y = x / sqrt(mean(x**2) + eps) * weight``; see `innerloop.rms_norm`.

    Parameters
    ----------
    x, normalized_shape, weight
        As in `layer_norm`.
    eps : float, optional
        Not negative. None is the distance from 1 to the next number of x's dtype, or of float32 for
        half precision, as in `torch.nn.functional.rms_norm`.

    Returns
    -------
    Tensor of x's shape and dtype, contiguous

    Raises
    ------
    TypeError, ValueError
        As `layer_norm`.
    """
    if eps is None:
        check(x, "x")
        eps = torch.finfo(compute_dtype(x.dtype)).eps
    return _normalised(_RMS_NORM, x, normalized_shape, (weight,), eps)


def _prelu(x: Tensor, weight: Tensor) -> Tensor:
    return _core.prelu_forward(x, weight, None)


def _check_prelu(x: Tensor, weight: Tensor) -> Tensor:
    check(x, "x")
    check(weight, "weight", x)
    channels = x.shape[1] if x.ndim > 1 else 1
    if weight.ndim > 1 or weight.numel() not in (1, channels):
        raise ValueError(
            f"weight must hold one slope, or one for each of {channels} channels, "
            f"got {tuple(weight.shape)}"
        )
    return unfilled_like(x)


def _prelu_backward(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return _core.prelu_backward(dy, x, weight, None)


def _check_prelu_backward(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    check(dy, "dy", x)
    check_shape(dy, "dy", x.shape, "that of x")
    return _check_prelu(x, weight), weight.new_empty(weight.shape)


def _prelu_setup(ctx: Any, inputs: Any, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _prelu_differentiate(ctx: Any, dy: Tensor) -> Any:
    return _PRELU_BACKWARD(dy, *ctx.saved_tensors)


_PRELU_BACKWARD = Operator(
    "prelu_backward(Tensor dy, Tensor x, Tensor weight) -> (Tensor, Tensor)",
    _prelu_backward,
    _check_prelu_backward,
)
_PRELU = Operator(
    "prelu(Tensor x, Tensor weight) -> Tensor",
    _prelu,
    _check_prelu,
    setup=_prelu_setup,
    backward=_prelu_differentiate,
    cast=widest,
)


def prelu(x: Tensor, weight: Tensor) -> Tensor:
    """Rectified linear unit with a learned slope for negative inputs: see `innerloop.prelu`.

    Parameters
    ----------
    x : Tensor of any shape, float32, float64, bfloat16 or float16
    weight : Tensor of x's dtype, shape (), (1,) or (C,)
        One slope, or one for each index of x's axis 1.

    Returns
    -------
    Tensor of x's shape and dtype, contiguous

    Raises
    ------
    TypeError
        If an argument is not a strided tensor of these dtypes on the CPU, or their dtypes differ.
    ValueError
        If `weight` does not fit x.
    """
    return _PRELU(x, weight)
