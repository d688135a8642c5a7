"""The activations: an operator for each of innerloop's list, and for its derivative."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ... import _core
from ...reference import ACTIVATIONS
from ._operator import Operator, check, check_shape, elementwise, unfilled_like

__all__ = ["activation", "check_activation"]

_PARAMETERS = {name: tuple(entry.parameters) for name, entry in ACTIVATIONS.items()}
_DEFAULTS = {name: tuple(entry.parameters.values()) for name, entry in ACTIVATIONS.items()}
SAVES_OUTPUT = {name: saves for name, _, saves in _core.activations()}


def parameter_values(name: str, given: dict[str, float]) -> list[float]:
    """All parameters of an activation, in order, from those given by name."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {name!r}")
    names = _PARAMETERS[name]
    if not given:
        return list(_DEFAULTS[name])
    for key, value in given.items():
        if key not in names:
            have = f"the parameters {', '.join(names)}" if names else "no parameters"
            raise TypeError(f"{name} takes {have}, got {key}")
        if not isinstance(value, int | float):
            raise TypeError(f"{key} must be a number, got {type(value).__name__}")
    return [
        float(given.get(key, default)) for key, default in zip(names, _DEFAULTS[name], strict=True)
    ]


def named(name: str, values: Any) -> dict[str, float]:
    return dict(zip(_PARAMETERS[name], values, strict=False)) if values else {}


def _define_activation(name: str) -> Operator:
    """The operator of an activation and of its derivative: one mechanism for the whole list."""
    saves_output = SAVES_OUTPUT[name]
    kept = "y" if saves_output else "x"
    parameters = "".join(
        f", float {key}={default!r}" for key, default in ACTIVATIONS[name].parameters.items()
    )

    def forward(x: Tensor, *values: float) -> Tensor:
        return _core.activation_forward(name, x, named(name, values), None)

    def check_forward(x: Tensor, *values: float) -> Tensor:
        check(x, "x")
        return unfilled_like(x)

    def backward(dy: Tensor, saved: Tensor, *values: float) -> Tensor:
        x, y = (None, saved) if saves_output else (saved, None)
        return _core.activation_backward(name, dy, x, named(name, values), y, None)

    def check_backward(dy: Tensor, saved: Tensor, *values: float) -> Tensor:
        check(dy, "dy")
        check(saved, kept, dy, like_name="dy")
        check_shape(saved, kept, dy.shape, "that of dy")
        return unfilled_like(dy)

    def setup(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(output if saves_output else inputs[0])
        ctx.values = inputs[1:]

    def differentiate(ctx: Any, dy: Tensor) -> Any:
        (saved,) = ctx.saved_tensors
        return gradient(dy, saved, *ctx.values), *(None for _ in ctx.values)

    gradient = Operator(
        f"{name}_backward(Tensor dy, Tensor {kept}{parameters}) -> Tensor",
        backward,
        check_backward,
        vmap=elementwise,
    )
    return Operator(
        f"{name}(Tensor x{parameters}) -> Tensor",
        forward,
        check_forward,
        setup=setup,
        backward=differentiate,
        vmap=elementwise,
    )


_ACTIVATIONS = {name: _define_activation(name) for name in ACTIVATIONS}


def activation(x: Tensor, name: str, **params: float) -> Tensor:
    """Apply the activation called `name`.

    Each is also ``torch.ops.innerloop.<name>(x, *parameters)``.

    Parameters
    ----------
    x : Tensor of any shape, float32, float64, bfloat16 or float16
    name : str
        As in ``"gelu"``; `innerloop.activations.NAMES` lists them.
    **params : float
        The activation's parameters, such as ``negative_slope``.

    Returns
    -------
    Tensor of x's shape and dtype, contiguous

    Raises
    ------
    TypeError
        If `x` is not a strided tensor of these dtypes on the CPU, or the activation has no such
        parameter.
    ValueError
        If there is no activation of that name, or a parameter is out of its range.
    """
    values = parameter_values(name, params)
    return _ACTIVATIONS[name](x, *values)


def check_activation(name: str | None, params: dict[str, float]) -> None:
    """Raise, naming the argument, if there is no such activation, or no such parameter of it."""
    parameter_values(name or "identity", params)
