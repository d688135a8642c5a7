"""Cross-entropies: the forward pass makes the gradient, too, where one will be asked for.

Not of float16, whose smallest numbers a GradScaler's factor must reach before they are rounded, and
not of a layer's loss for each row, which has as many gradients: `*_backward` go through it again.
"""

from __future__ import annotations

import functools
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
    lower,
    refuse_double,
    traced,
    transposed,
    unfilled_like,
    widest,
)

__all__ = ["linear_cross_entropy", "softmax_cross_entropy"]

_LABELS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_REDUCTIONS = ("mean", "sum", "none")
_OPTIONS = (
    "Tensor? weight=None, Tensor? sample_weight=None, int ignore_index=-100, "
    'float label_smoothing=0.0, float z_loss=0.0, str reduction="mean"'
)
_DEFAULTS = (None, None, -100, 0.0, 0.0, "mean")
_CONSTANTS = ("target", "weight", "sample_weight")
# Whether a graph is kept after its backward pass: not there in older versions of PyTorch.
_keep_graph = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)


def _scaled(gradient: Tensor, by: Tensor, axis: int | None = None) -> Tensor:
    """A gradient made in the forward pass, times that of the loss.

    It is handed out as it is where that is 1 and nobody will ask again: a tensor that another
    backward pass reads must be none that a leaf may take over as its grad and add to.
    """
    if axis is None and not traced() and not torch.is_grad_enabled():
        # To ask a device for the number would be to wait for it.
        if not _keep_graph() and not by.is_cuda and by.item() == 1:
            return gradient.detach()  # saved as an output of the operator, which has a graph
    scale = by if axis is None else by.unsqueeze(axis)
    return (gradient * scale).to(gradient.dtype)


def _by_scale(
    dloss: Tensor, rows: Any, sample_weight: Tensor | None, reduction: str
) -> tuple[Tensor | None, str, float]:
    """sample_weight, reduction and grad_scale whose gradient is that of the loss times dloss."""
    if reduction != "none":
        scale = dloss.item()
        if scale == scale:
            return sample_weight, reduction, scale
        dloss = dloss.expand(rows)  # NaN may be a weight, and no scale
    if dloss.is_cuda:
        dloss = dloss.contiguous()  # no kernel there reads what is expanded
    return dloss if sample_weight is None else dloss * sample_weight, "sum", 1.0


def _check_options(
    logits: Tensor,
    name: str,
    classes: Any,
    rows: Any,
    target: Tensor,
    probabilities: Any,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    label_smoothing: float,
    z_loss: float,
    reduction: str,
) -> Tensor:
    """What both losses check; returns the loss without values."""
    if isinstance(target, Tensor) and target.is_floating_point():
        check(target, "target", logits, like_name=name)
        check_shape(target, "target", probabilities, "that of the logits, for probabilities")
    else:
        check(target, "target", dtypes=_LABELS)
        check_shape(target, "target", rows, "one label for each row")
        if target.device != logits.device:
            raise TypeError(f"target must be on the device {logits.device}, got {target.device}")
    dtypes = {logits.dtype, compute_dtype(logits.dtype)}
    for value, called, shape in (
        (weight, "weight", (classes,)),
        (sample_weight, "sample_weight", rows),
    ):
        if value is not None:
            check(value, called, dtypes=tuple(dtypes))
            check_shape(
                value,
                called,
                shape,
                "one for each class" if called == "weight" else "one for each row",
            )
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must lie in [0, 1], got {label_smoothing}")
    if not 0 <= z_loss < float("inf"):
        raise ValueError(f"z_loss must be finite and at least 0, got {z_loss}")
    if reduction not in _REDUCTIONS:
        raise ValueError(f'reduction must be "mean", "sum" or "none", got {reduction!r}')
    return logits.new_empty(rows if reduction == "none" else (), dtype=compute_dtype(logits.dtype))


def _check_dloss(dloss: Tensor, loss: Tensor) -> None:
    check(dloss, "dloss", dtypes=(loss.dtype,))
    check_shape(dloss, "dloss", loss.shape, "that of the loss")


# Of logits ----------------------------------------------------------------------------------------


def _class_axis(logits: Tensor, axis: int) -> int:
    if not -logits.ndim <= axis < max(logits.ndim, 2) or logits.ndim == 0:
        raise ValueError(f"axis must be one of the {logits.ndim} axes of logits, got {axis}")
    return 0 if logits.ndim == 1 else axis % logits.ndim


def _rows_of(logits: Tensor, axis: int) -> tuple[int, ...]:
    at = _class_axis(logits, axis)
    return (*logits.shape[:at], *logits.shape[at + 1 :])


def _check_loss(logits: Tensor, target: Tensor, *options: Any) -> Tensor:
    weight, sample_weight, _, smoothing, z_loss, reduction, axis = filled(options, (*_DEFAULTS, 1))
    check(logits, "logits")
    return _check_options(
        logits,
        "logits",
        logits.shape[_class_axis(logits, axis)],
        _rows_of(logits, axis),
        target,
        logits.shape,
        weight,
        sample_weight,
        smoothing,
        z_loss,
        reduction,
    )


def _check_loss_with_grad(logits: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    made = logits.dtype != torch.float16
    made_for = unfilled_like(logits) if made else logits.new_empty(0)
    return _check_loss(logits, *rest), made_for


def _loss_of(return_grad: bool, logits: Tensor, target: Tensor, *options: Any) -> Any:
    given = logits, target, *filled(options, (*_DEFAULTS, 1)), return_grad, 1.0, None
    return _core.softmax_cross_entropy(*given)


def _loss_with_grad(logits: Tensor, target: Tensor, *options: Any) -> tuple[Tensor, Tensor | None]:
    if logits.dtype == torch.float16:
        return _loss_of(False, logits, target, *options), None
    return _loss_of(True, logits, target, *options)


def _loss_setup(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor | None]) -> None:
    *_, reduction, axis = inputs
    ctx.later = inputs[0].dtype == torch.float16
    ctx.options = inputs[4:]
    ctx.axis = _class_axis(inputs[0], axis) if reduction == "none" else None
    ctx.save_for_backward(*(inputs[:4] if ctx.later else output[1:]))
    ctx.set_materialize_grads(False)


def _loss_differentiate(ctx: Any, dloss: Tensor | None, ddlogits: Tensor | None) -> Any:
    refuse_double("softmax_cross_entropy", ddlogits)
    if dloss is None:
        return (None,) * 9
    if ctx.later:
        dlogits = _LOSS_BACKWARD(dloss, *ctx.saved_tensors, *ctx.options)
    else:
        (dlogits,) = ctx.saved_tensors
        dlogits = _scaled(dlogits, dloss, ctx.axis)
    return dlogits, *(None,) * 8


def _check_loss_backward(dloss: Tensor, logits: Tensor, target: Tensor, *options: Any) -> Tensor:
    _check_dloss(dloss, _check_loss(logits, target, *options))
    return unfilled_like(logits)


def _loss_backward(dloss: Tensor, logits: Tensor, target: Tensor, *options: Any) -> Tensor:
    weight, sample_weight, *numbers, reduction, axis = filled(options, (*_DEFAULTS, 1))
    rows = _rows_of(logits, axis)
    sample_weight, reduction, scale = _by_scale(dloss, rows, sample_weight, reduction)
    given = logits, target, weight, sample_weight, *numbers, reduction, axis, True, scale, None
    return _core.softmax_cross_entropy(*given)[1]


def _cast_loss(dtype: torch.dtype, *args: Any) -> list[Any]:
    """Under autocast logits stay as they are, as the kernel computes in float32; probabilities
    and weights go with them."""
    logits, target, *rest = args
    if target.is_floating_point():
        logits, target = widest(dtype, logits, target)
    return [logits, target, *rest]


_LOGITS = f"Tensor logits, Tensor target, {_OPTIONS}, int axis=1"
_LOSS_BACKWARD = Operator(
    f"softmax_cross_entropy_backward(Tensor dloss, {_LOGITS}) -> Tensor",
    _loss_backward,
    _check_loss_backward,
)
_LOSS_WITH_GRAD = Operator(
    f"softmax_cross_entropy_with_grad({_LOGITS}) -> (Tensor, Tensor)",
    _loss_with_grad,
    _check_loss_with_grad,
    setup=_loss_setup,
    backward=_loss_differentiate,
)
_LOSS = Operator(
    f"softmax_cross_entropy({_LOGITS}) -> Tensor",
    functools.partial(_loss_of, False),
    _check_loss,
    training=_LOSS_WITH_GRAD,
    constants=_CONSTANTS,
    cast=_cast_loss,
)


def softmax_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
    axis: int = 1,
) -> Tensor:
    """Cross-entropy of softmax(logits) against class labels or class probabilities.

    Formula, options and their meaning: `innerloop.softmax_cross_entropy`. Where a gradient will be
    asked for, it is made in the forward pass and kept in place of the logits; of float16, in the
    backward pass.

    Parameters
    ----------
    logits : Tensor, float32, float64, bfloat16 or float16, of one axis or more
        The classes lie along `axis`.
    target : Tensor
        Class labels: an integer dtype, shape of logits without `axis`; or class probabilities:
        dtype and shape of logits. Not differentiated.
    weight, sample_weight : Tensor, optional
        A weight for each class and for each row. Not differentiated.
    ignore_index, label_smoothing, z_loss, reduction, axis
        As in `innerloop.softmax_cross_entropy`.

    Returns
    -------
    Tensor, dtype of logits, or float32 for half precision
        0-d, or of the shape of logits without `axis` for ``reduction="none"``.

    Raises
    ------
    TypeError
        If an argument is not a strided tensor of such a dtype on the CPU, or one that is not
        differentiated requires grad.
    ValueError
        If shapes do not fit, or a parameter is out of its range.
    IndexError
        If a label is neither a class nor `ignore_index`.
    """
    if not (type(label_smoothing) is type(z_loss) is float and type(ignore_index) is int):
        _check_numbers(label_smoothing=label_smoothing, z_loss=z_loss, ignore_index=ignore_index)
    return _LOSS(
        logits,
        target,
        weight,
        sample_weight,
        ignore_index,
        label_smoothing,
        z_loss,
        reduction,
        axis,
    )


def _check_numbers(**numbers: Any) -> None:
    for name, value in numbers.items():
        if isinstance(value, Tensor):
            raise TypeError(f"{name} must be a number, got a tensor")


# Of a layer ---------------------------------------------------------------------------------------


def _check_layer_loss(
    x: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None = None, *options: Any
) -> Tensor:
    class_weight, sample_weight, _, smoothing, z_loss, reduction = filled(options, _DEFAULTS)
    check(x, "x")
    check(weight, "weight", x)
    if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            "x must have the shape (..., in_features) and weight (classes, in_features), "
            f"got {tuple(x.shape)} and {tuple(weight.shape)}"
        )
    classes = weight.shape[0]
    if bias is not None:
        check(bias, "bias", x)
        check_shape(bias, "bias", (classes,), "one for each row of weight")
    return _check_options(
        x,
        "x",
        classes,
        x.shape[:-1],
        target,
        (*x.shape[:-1], classes),
        class_weight,
        sample_weight,
        smoothing,
        z_loss,
        reduction,
    )


def _gradients_later(x: Tensor, reduction: str) -> bool:
    return reduction == "none" or x.dtype == torch.float16


def _without_values(
    x: Tensor, weight: Tensor, bias: Tensor | None, made: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients' shapes."""
    return (
        x.new_empty(x.shape if made else 0),
        x.new_empty(weight.shape if made else 0),
        x.new_empty(weight.shape[0] if made and bias is not None else 0),
    )


def _check_layer_loss_with_grad(
    x: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None = None, *options: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    loss = _check_layer_loss(x, weight, target, bias, *options)
    made = not _gradients_later(x, filled(options, _DEFAULTS)[-1])
    return loss, *_without_values(x, weight, bias, made)


def _layer_loss(
    x: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None = None, *options: Any
) -> Tensor:
    given = x, transposed(weight), target, bias, *filled(options, _DEFAULTS), False, 1.0, None
    return _core.linear_cross_entropy(*given)


def _made_with_loss(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    options: Any,
    grad_scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    # Written through its transpose, in the layout that the weight has.
    dweight = torch.empty_like(weight, memory_format=torch.contiguous_format)
    out = None, transposed(dweight), None
    given = x, transposed(weight), target, bias, *options, True, grad_scale, out
    loss, (dx, _, db) = _core.linear_cross_entropy(*given)
    return loss, dx, dweight, db


def _layer_loss_with_grad(
    x: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None = None, *options: Any
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    options = tuple(filled(options, _DEFAULTS))
    if _gradients_later(x, options[-1]):
        return _layer_loss(x, weight, target, bias, *options), None, None, None
    return _made_with_loss(x, weight, target, bias, options, 1.0)


def _layer_loss_setup(ctx: Any, inputs: Any, output: tuple[Tensor, ...]) -> None:
    ctx.later = _gradients_later(inputs[0], inputs[-1])
    ctx.options = inputs[6:]
    ctx.no_bias = inputs[3] is None
    ctx.save_for_backward(*(inputs[:6] if ctx.later else output[1:]))
    ctx.set_materialize_grads(False)


def _layer_loss_differentiate(ctx: Any, dloss: Tensor | None, *second: Tensor | None) -> Any:
    refuse_double("linear_cross_entropy", *second)
    if dloss is None:
        return (None,) * 10
    if ctx.later:
        dx, dweight, db = _LAYER_LOSS_BACKWARD(dloss, *ctx.saved_tensors, *ctx.options)
    else:
        dx, dweight, db = (
            _scaled(g, dloss) if wanted else None
            for g, wanted in zip(
                ctx.saved_tensors,
                (*ctx.needs_input_grad[:2], not ctx.no_bias and ctx.needs_input_grad[3]),
                strict=True,
            )
        )
    return dx, dweight, None, None if ctx.no_bias else db, *(None,) * 6


def _check_layer_loss_backward(
    dloss: Tensor,
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    _check_dloss(dloss, _check_layer_loss(x, weight, target, bias, *options))
    return _without_values(x, weight, bias, True)


def _layer_loss_backward(
    dloss: Tensor,
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor | None]:
    class_weight, sample_weight, *numbers, reduction = filled(options, _DEFAULTS)
    sample_weight, reduction, scale = _by_scale(dloss, x.shape[:-1], sample_weight, reduction)
    options = class_weight, sample_weight, *numbers, reduction
    return _made_with_loss(x, weight, target, bias, options, scale)[1:]


def _cast_layer_loss(dtype: torch.dtype, *args: Any) -> list[Any]:
    return [*lower(dtype, *args[:4]), *args[4:]]


_LAYER = "Tensor x, Tensor weight, Tensor target, Tensor? bias=None, " + _OPTIONS.replace(
    "weight=None", "class_weight=None", 1
)
_LAYER_LOSS_BACKWARD = Operator(
    f"linear_cross_entropy_backward(Tensor dloss, {_LAYER}) -> (Tensor, Tensor, Tensor)",
    _layer_loss_backward,
    _check_layer_loss_backward,
)
_LAYER_LOSS_WITH_GRAD = Operator(
    f"linear_cross_entropy_with_grad({_LAYER}) -> (Tensor, Tensor, Tensor, Tensor)",
    _layer_loss_with_grad,
    _check_layer_loss_with_grad,
    setup=_layer_loss_setup,
    backward=_layer_loss_differentiate,
)
_LAYER_LOSS = Operator(
    f"linear_cross_entropy({_LAYER}) -> Tensor",
    _layer_loss,
    _check_layer_loss,
    training=_LAYER_LOSS_WITH_GRAD,
    constants=("target", "class_weight", "sample_weight"),
    cast=_cast_layer_loss,
)


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    *,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy of a last layer, whose logits are never all in memory.

    Formula: ``softmax_cross_entropy(linear(x, weight, bias), target)`` over the last axis; see
    `innerloop.linear_cross_entropy`. Where gradients will be asked for, they are made in the
    forward pass; with ``reduction="none"`` and of float16, in a second one. Under autocast x,
    weight, bias and probabilities are cast to its dtype.

    Parameters
    ----------
    x : Tensor, shape (..., K), float32, float64, bfloat16 or float16
    weight : Tensor, shape (C, K), dtype of x
        As `torch.nn.Linear` keeps it.
    target : Tensor
        Class labels: an integer dtype, shape (...); or class probabilities: dtype of x, shape
        (..., C). Not differentiated.
    bias : Tensor, shape (C,), dtype of x, optional
    class_weight, sample_weight : Tensor, optional
        A weight for each class and for each row. Not differentiated.
    ignore_index, label_smoothing, z_loss, reduction
        As in `innerloop.softmax_cross_entropy`.

    Returns
    -------
    Tensor, dtype of x, or float32 for half precision
        0-d, or of the shape of x without its last axis for ``reduction="none"``.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `softmax_cross_entropy`.
    """
    if not (type(label_smoothing) is type(z_loss) is float and type(ignore_index) is int):
        _check_numbers(label_smoothing=label_smoothing, z_loss=z_loss, ignore_index=ignore_index)
    return _LAYER_LOSS(
        x,
        weight,
        target,
        bias,
        class_weight,
        sample_weight,
        ignore_index,
        label_smoothing,
        z_loss,
        reduction,
    )
