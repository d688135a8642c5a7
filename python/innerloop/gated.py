"""The gated pairs: one public function and its ``_backward`` for each entry of the native list.

Their names and docstrings come from the reference, their arithmetic from ``csrc/rules/gated.h``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from . import _core
from .reference import GATED

_AXIS = """axis : int, default -1
    The axis that is split into halves; its length must be even."""
_FORWARD = f"""
Parameters
----------
x : array of at least one axis, float32, float64, bfloat16 or float16
{_AXIS}
out : array of x's dtype, and of its shape but half as long along the axis, optional
    Where to write the result; it may not overlap `x`.

Returns
-------
array of x's dtype, half as long along the axis

Raises
------
TypeError
    If an argument is not an array, or not of a floating dtype, or `axis` is no integer.
ValueError
    If x has no such axis or one of odd length, or `out` has another shape, is read-only, or
    overlaps x.
"""
_BACKWARD = f"""
Parameters
----------
dy : array of x's dtype, half as long along the axis
    Gradient with respect to the output.
x : array of at least one axis, float32, float64, bfloat16 or float16
    The input of the forward pass.
{_AXIS}
out : array of x's shape and dtype, optional
    Where to write the result; it may not overlap an input.

Returns
-------
array of x's shape and dtype

Raises
------
TypeError
    If an argument is not an array, not of a floating dtype, or of another dtype than x, or `axis`
    is no integer.
ValueError
    If x has no such axis or one of odd length, dy has not the shape of the result, or `out` has
    another shape than x, is read-only, or overlaps an input.
"""


def _finish(function: Callable[..., Any], name: str, document: str | None, rest: str) -> None:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"{inspect.cleandoc(document or '')}\n{rest}"


def _public(name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The two functions of a pair."""

    def forward(x: Any, axis: int = -1, *, out: Any = None) -> Any:
        return _core.gated_forward(name, x, axis, out)

    def backward(dy: Any, x: Any, axis: int = -1, *, out: Any = None) -> Any:
        return _core.gated_backward(name, dy, x, axis, out)

    _finish(forward, name, GATED[name].forward.__doc__, _FORWARD)
    _finish(backward, f"{name}_backward", GATED[name].backward.__doc__, _BACKWARD)
    return forward, backward


NAMES: tuple[str, ...] = tuple(name for name, _, _ in _core.gated_pairs())

__all__: list[str] = []

for _name in NAMES:
    globals()[_name], globals()[f"{_name}_backward"] = _public(_name)
    __all__ += [_name, f"{_name}_backward"]
