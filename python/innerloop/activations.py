"""The activations: one public function and its ``_backward`` for each entry of the native list.

Their names, parameters and docstrings come from the reference, their arithmetic from
``csrc/rules/activations.h``; there is nothing to add here when an activation is added there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from . import _core
from .reference import ACTIVATIONS

_ARRAYS = {
    "x": """array of any shape, float32, float64, bfloat16 or float16
    The input of the forward pass.""",
    "dy": """array
    Gradient with respect to the output.""",
    "y": """array of dy's shape and dtype, optional
    The forward pass's output: read instead of `x`, which may then be None, by the activations
    whose derivative is had from it.""",
    "out": """array of the result's shape and dtype, optional
    Where to write the result; it may be an input itself. A fresh array otherwise.""",
}
_RETURNS = """
Returns
-------
array of the first argument's shape, dtype and library

Raises
------
TypeError
    If an argument is not an array, not of these dtypes, or of another one than the first.
ValueError
    If shapes differ, or `out` is read-only or overlaps an input without being it.
"""


def _document(
    summary: str | None, arrays: list[str], parameters: dict[str, float], extra: list[str]
) -> str:
    """The reference's docstring, with the sections that all activations share."""
    lines = [f"{a} : {_ARRAYS[a]}" for a in arrays]
    lines += [f"{p} : float, default {default}" for p, default in parameters.items()]
    lines += [f"{e} : {_ARRAYS[e]}" for e in extra]
    listed = "\n".join(lines)
    return f"{inspect.cleandoc(summary or '')}\n\nParameters\n----------\n{listed}\n{_RETURNS}"


def _public(native: Callable[..., Any], name: str, arrays: list[str], extra: list[str]) -> Any:
    """A function `name`(*arrays, **parameters, *, extra...) over `native`, documented."""
    entry = ACTIVATIONS[name.removesuffix("_backward")]
    taken = [*arrays, *(f"{p}={default!r}" for p, default in entry.parameters.items())]
    taken += ["*", *(f"{e}=None" for e in extra)]
    given = ", ".join(f"{p!r}: {p}" for p in entry.parameters)
    passed = ", ".join([repr(entry.name), *arrays, f"{{{given}}}", *extra])
    # From source, as the standard library makes its dataclasses: a signature that was bound at each
    # call would take longer than the rest of a small one.
    scope = {"native": native, "__name__": __name__}
    exec(f"def {name}({', '.join(taken)}):\n    return native({passed})", scope)
    function: Any = scope[name]
    summary = (entry.forward if name == entry.name else entry.backward).__doc__
    function.__doc__ = _document(summary, arrays, entry.parameters, extra)
    return function


def activation(x: Any, name: str, *, out: Any = None, **params: float) -> Any:
    """Apply the activation called `name`.

    Parameters
    ----------
    x : array of any shape, float32, float64, bfloat16 or float16
    name : str
        As in ``"gelu"``; `innerloop.activations.NAMES` lists them.
    out : array of x's shape and dtype, optional
        Where to write the result; may be `x`.
    **params : float
        The activation's parameters, such as ``negative_slope``.

    Returns
    -------
    array of x's shape and dtype

    Raises
    ------
    TypeError
        If `x` is not an array of these dtypes, or the activation has no such parameter.
    ValueError
        If there is no activation of that name, or `out` does not fit.
    """
    return _core.activation_forward(name, x, params, out)


def activation_backward(
    dy: Any, x: Any, name: str, *, y: Any = None, out: Any = None, **params: float
) -> Any:
    """Return the gradient of the activation called `name` with respect to its input.

    Parameters
    ----------
    dy : array
        Gradient with respect to the output.
    x : array of dy's shape and dtype
        The input of the forward pass.
    name : str
    y : array, optional
        The output of the forward pass: read instead of `x` where the derivative is had from it.
    out : array of dy's shape and dtype, optional
        Where to write the result; may be any of the inputs.
    **params : float

    Returns
    -------
    array of dy's shape and dtype

    Raises
    ------
    TypeError, ValueError
        As `activation`.
    """
    return _core.activation_backward(name, dy, x, params, y, out)


NAMES: tuple[str, ...] = tuple(name for name, _, _ in _core.activations())

__all__ = ["activation", "activation_backward"]

for _name in NAMES:
    _forward = _public(_core.activation_forward, _name, ["x"], ["out"])
    _backward = _public(_core.activation_backward, f"{_name}_backward", ["dy", "x"], ["y", "out"])
    globals()[_name], globals()[f"{_name}_backward"] = _forward, _backward
    __all__ += [_name, f"{_name}_backward"]
