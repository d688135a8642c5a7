"""Losses: the value and, where asked for, its gradient from one pass over memory.

The elementwise losses grow from the native list: names, parameters and docstrings come from the
reference, their arithmetic from ``csrc/rules/losses.h``; there is nothing to add here for one.
"""

from __future__ import annotations

import inspect
from typing import Any

from . import _core
from .reference import LOSSES

__all__ = ["nll_loss", "softmax_cross_entropy"]


def softmax_cross_entropy(
    logits: Any,
    target: Any,
    *,
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
    axis: int = 1,
    return_grad: bool = False,
    grad_scale: float = 1.0,
    out: Any = None,
) -> Any:
    """Cross-entropy of softmax(logits) against class labels or class probabilities.

    Formula: a row z of C logits with target probabilities t has the loss
    ``-sum(q * log_softmax(z))``, where ``q = weight * ((1 - label_smoothing) * t +
    label_smoothing / C)``, and the gradient ``softmax(z) * sum(q) - q``. A label is the t that is
    1 at its class and 0 elsewhere. `z_loss` adds ``z_loss * lse**2``, weighted as the row is, where
    ``lse = log(sum(exp(z)))``, and to the gradient ``2 * z_loss * lse * softmax(z)``. The row's
    weight is that of its label times its sample weight, and multiplies both parts.

    Source: C. Szegedy et al., "Rethinking the Inception architecture for computer vision",
    CVPR 2016, section 7 (label smoothing); A. Chowdhery et al., "PaLM: scaling language modeling
    with pathways", arXiv:2204.02311, section 5 (z_loss); otherwise as
    `torch.nn.functional.cross_entropy`.

    Parameters
    ----------
    logits : array, float32, float64, bfloat16 or float16, of one axis or more
        The classes lie along `axis`; every other position is a row. A logit of -inf is a class of
        probability 0, whose loss as the label, or with label_smoothing, is infinite. A row with
        +inf, or with -inf alone, gives NaN.
    target : array
        Class labels: any integer dtype, shape of logits without `axis`. Or class probabilities:
        dtype and shape of logits; they are not checked for their range.
    weight : array, shape (C,), dtype of logits or of the loss, optional
        A weight for each class.
    sample_weight : array, shape of logits without `axis`, dtype as weight, optional
        A weight for each row. Any number: one of 0 still lets NaN through, as 0 * NaN does;
        `ignore_index` does not.
    ignore_index : int, default -100
        Rows with this label have loss 0 and gradient 0, whatever they hold.
    label_smoothing : float, default 0.0
        Share of the target that is spread evenly over the classes, in [0, 1].
    z_loss : float, default 0.0
        Weight of the squared logarithm of the softmax's normaliser: finite, at least 0.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean over labels divides by the sum of the weights of the rows that are not ignored,
        ``weight[label] * sample_weight``; over probabilities, by the sum of the sample weights, or
        the number of rows without them. Where that is 0, as with no rows or all of them ignored,
        the mean is NaN.
    axis : int, default 1
        The class axis; 1 means 0 for 1-D logits.
    return_grad : bool, default False
        Return also the gradient of the reduced loss (of the sum, for "none").
    grad_scale : float, default 1.0
        Multiplies the gradient.
    out : array of logits' shape and dtype, optional
        Where to write the gradient; may be `logits`. Needs `return_grad`.

    Returns
    -------
    loss : scalar or array, dtype of logits, or float32 for half precision
        0-d, or of the shape of logits without `axis` for ``reduction="none"``.
    dlogits : array of logits' shape and dtype
        If `return_grad`.

    Raises
    ------
    TypeError
        If an argument is not an array, or has the wrong dtype.
    ValueError
        If shapes do not fit, a parameter is out of its range or NaN, `out` comes without
        `return_grad`, is read-only, overlaps `target` or a weight, or overlaps `logits` without
        being them.
    IndexError
        If a label is neither in [0, C) nor `ignore_index`. Nothing has been written then.
    """
    return _core.softmax_cross_entropy(
        logits,
        target,
        weight,
        sample_weight,
        ignore_index,
        label_smoothing,
        z_loss,
        reduction,
        axis,
        return_grad,
        grad_scale,
        out,
    )


def nll_loss(
    log_probs: Any,
    target: Any,
    *,
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    axis: int = 1,
    return_grad: bool = False,
    grad_scale: float = 1.0,
    out: Any = None,
) -> Any:
    """Negative log-likelihood of class labels, given the classes' log-probabilities.

    Formula: ``-weight[label] * sample_weight * log_probs[label]`` for each row; the gradient is
    ``-weight[label] * sample_weight`` at the label, and 0 elsewhere.

    Source: as `torch.nn.functional.nll_loss`.

    Parameters
    ----------
    log_probs : array, float32, float64, bfloat16 or float16, of one axis or more
        The classes lie along `axis`; every other position is a row.
    target : array of any integer dtype, shape of log_probs without `axis`
        Class labels.
    weight : array, shape (C,), dtype of log_probs or of the loss, optional
        A weight for each class.
    sample_weight : array, shape of target, dtype as weight, optional
        A weight for each row. Any finite number.
    ignore_index : int, default -100
        Rows with this label have loss 0 and gradient 0, whatever they hold.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean divides by the sum of the weights of the rows that are not ignored,
        ``weight[label] * sample_weight``. Where that is 0, as with no rows or all of them ignored,
        the mean is NaN.
    axis : int, default 1
        The class axis; 1 means 0 for 1-D `log_probs`.
    return_grad : bool, default False
        Return also the gradient of the reduced loss (of the sum, for "none").
    grad_scale : float, default 1.0
        Multiplies the gradient.
    out : array of log_probs' shape and dtype, optional
        Where to write the gradient; may be `log_probs`. Needs `return_grad`.

    Returns
    -------
    loss : scalar or array, dtype of log_probs, or float32 for half precision
        0-d, or of the shape of `target` for ``reduction="none"``.
    gradient : array of log_probs' shape and dtype
        If `return_grad`.

    Raises
    ------
    TypeError
        If an argument is not an array, or has the wrong dtype.
    ValueError
        If shapes do not fit, a parameter is out of its range or NaN, `out` comes without
        `return_grad`, is read-only, overlaps `target` or a weight, or overlaps `log_probs` without
        being them.
    IndexError
        If a label is neither in [0, C) nor `ignore_index`. Nothing has been written then.
    """
    return _core.nll_loss(
        log_probs,
        target,
        weight,
        sample_weight,
        ignore_index,
        reduction,
        axis,
        return_grad,
        grad_scale,
        out,
    )


_DOCUMENT = """{summary}

Parameters
----------
pred : array of any shape, float32, float64, bfloat16 or float16
target : array of pred's shape and dtype
{parameters}sample_weight : array of target's shape and dtype, optional
    A weight for each element, which multiplies its loss. Any finite number.
reduction : {{{reductions}}}, default "mean"
    The mean divides by the number of elements or, where there are sample weights, by their sum;
    where that is 0, as for empty arrays, it is NaN.{batchmean}
return_grad : bool, default False
    Return also the gradient, with respect to `pred`, of the reduced loss (of the sum, for "none").
grad_scale : float, default 1.0
    Multiplies the gradient.
out : array of pred's shape and dtype, optional
    Where to write the gradient; may be `pred`. Needs `return_grad`.

Returns
-------
loss : scalar or array, dtype of pred, or float32 for half precision
    0-d, or of pred's shape for ``reduction="none"``.
gradient : array of pred's shape and dtype
    If `return_grad`.

Raises
------
TypeError
    If an argument is not an array or number, or has the wrong dtype.
ValueError
    If shapes do not fit, a parameter is out of its range or NaN, predictions that must lie in a
    range do not, `out` comes without `return_grad`, is read-only, overlaps another array, or
    overlaps `pred` without being it. Nothing has been written then.
"""
_BATCHMEAN = """ "batchmean" divides the sum by the length of
    the first axis, weights or not: the divergence by its definition."""
_COMMON: dict[str, Any] = {
    "sample_weight": None,
    "reduction": "mean",
    "return_grad": False,
    "grad_scale": 1.0,
    "out": None,
}


def _public(name: str) -> Any:
    """The function `name`(pred, target, *, parameters and what all losses take), documented."""
    entry = LOSSES[name]
    array = [entry.array] if entry.array else []
    own: dict[str, Any] = entry.parameters | dict.fromkeys(array)
    signature = inspect.Signature(
        [inspect.Parameter(a, inspect.Parameter.POSITIONAL_OR_KEYWORD) for a in ("pred", "target")]
        + [
            inspect.Parameter(p, inspect.Parameter.KEYWORD_ONLY, default=default)
            for p, default in (own | _COMMON).items()
        ]
    )
    known = frozenset(own | _COMMON)
    common = tuple(_COMMON.items())

    def function(*args: Any, **given: Any) -> Any:
        if len(args) != 2 or not known.issuperset(given):
            try:
                given = signature.bind(*args, **given).arguments
            except TypeError as error:
                raise TypeError(f"{name}{signature}: {error}") from None
            args = given.pop("pred"), given.pop("target")
        parameters = {p: given[p] for p in entry.parameters if p in given}
        third = given.get(entry.array) if entry.array else None
        rest = (given.get(option, default) for option, default in common)
        return _core.elementwise_loss(name, *args, parameters, third, *rest)

    function.__name__ = function.__qualname__ = name
    function.__module__ = __name__
    function.__signature__ = signature  # type: ignore[attr-defined]
    lines = [
        f"{p} : {type(default).__name__}, default {default}\n"
        for p, default in entry.parameters.items()
    ]
    lines += [f"{a} : array of pred's dtype that broadcasts to target, optional\n" for a in array]
    reductions = ["mean", "sum", "none"] + ["batchmean"] * entry.batchmean
    function.__doc__ = _DOCUMENT.format(
        summary=inspect.getdoc(entry.function),
        parameters="".join(lines),
        reductions=", ".join(f'"{r}"' for r in reductions),
        batchmean=_BATCHMEAN if entry.batchmean else "",
    )
    return function


NAMES: tuple[str, ...] = tuple(entry[0] for entry in _core.elementwise_losses())

for _name in NAMES:
    globals()[_name] = _public(_name)
    __all__ += [_name]
