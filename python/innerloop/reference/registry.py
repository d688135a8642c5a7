"""The registries: what an activation, a loss and an optimizer are, and how each is declared once.

Names, parameters and defaults are read off the functions' signatures, so nothing is said twice.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._precision import in_float64, loss_dtype, reduce_losses, round_to

__all__ = [
    "ACTIVATIONS",
    "LOSSES",
    "OPTIMIZERS",
    "Activation",
    "Loss",
    "Optimizer",
    "backward_of",
    "elementwise_loss",
    "optimizer",
]


@dataclass(frozen=True)
class Activation:
    """An activation's entry in the registry.

    Attributes
    ----------
    name : str
    forward : callable
        ``forward(x, **parameters) -> y``. Its docstring is the public one.
    backward : callable
        ``backward(dy, x, **parameters) -> dx``; takes also ``y=`` if `saves_output`.
    parameters : dict of str to float
        The parameters' names and defaults.
    saves_output : bool
        Whether the derivative can be had from the output alone.
    """

    name: str
    forward: Callable[..., NDArray]
    backward: Callable[..., NDArray]
    parameters: dict[str, float]
    saves_output: bool


ACTIVATIONS: dict[str, Activation] = {}
"""Every activation by name, in the order of `activations.py`."""


def backward_of(
    forward: Callable[..., NDArray],
) -> Callable[[Callable[..., NDArray]], Callable[..., NDArray]]:
    """Declare the decorated function as the derivative of `forward`, and register the pair."""

    def register(function: Callable[..., NDArray]) -> Callable[..., NDArray]:
        backward = in_float64(function)
        parameters = {
            name: parameter.default
            for name, parameter in inspect.signature(forward).parameters.items()
            if parameter.default is not inspect.Parameter.empty
        }
        saves_output = "y" in inspect.signature(function).parameters
        ACTIVATIONS[forward.__name__] = Activation(
            forward.__name__, forward, backward, parameters, saves_output
        )
        return backward

    return register


@dataclass(frozen=True)
class Loss:
    """An elementwise loss's entry in the registry.

    Attributes
    ----------
    name : str
    function : callable
        ``function(pred, target, **parameters, sample_weight=, reduction=, return_grad=,
        grad_scale=) -> loss | (loss, gradient)``. Its docstring is the public one.
    parameters : dict of str to object
        The parameters' names and defaults, without the array.
    array : str or None
        Name of an array that it takes beside `pred` and `target`, and that broadcasts to them.
    batchmean : bool
        Whether it has the reduction of that name.
    """

    name: str
    function: Callable[..., Any]
    parameters: dict[str, Any]
    array: str | None
    batchmean: bool


LOSSES: dict[str, Loss] = {}
"""Every elementwise loss by name, in the order of `elementwise_losses.py`."""


def elementwise_loss(
    *, batchmean: bool = False
) -> Callable[[Callable[..., tuple[NDArray, NDArray]]], Callable[..., Any]]:
    """Register the decorated function, and let it be written for float64 and one element.

    It returns the loss and its derivative by `pred`, which are weighted, reduced and rounded here.
    """

    def register(pointwise: Callable[..., tuple[NDArray, NDArray]]) -> Callable[..., Any]:
        @functools.wraps(pointwise)
        def function(
            pred: NDArray,
            target: NDArray,
            *,
            sample_weight: NDArray | None = None,
            reduction: str = "mean",
            return_grad: bool = False,
            grad_scale: float = 1.0,
            **parameters: Any,
        ) -> Any:
            wide = [pred.astype(np.float64), target.astype(np.float64)]
            for name, value in parameters.items():
                if isinstance(value, np.ndarray):
                    parameters[name] = value.astype(np.float64)
            with np.errstate(all="ignore"):
                losses, slopes = pointwise(*wide, **parameters)
                count: Any = losses.size
                if sample_weight is not None:
                    weight = sample_weight.astype(np.float64)
                    losses, slopes, count = losses * weight, slopes * weight, weight.sum()
                if reduction == "batchmean":
                    count = pred.shape[0] if pred.ndim else 1
                loss, scale = reduce_losses(losses, count, reduction)
                gradient = slopes * (scale * grad_scale)
            loss = round_to(loss, loss_dtype(pred.dtype))
            return (loss, round_to(gradient, pred.dtype)) if return_grad else loss

        extra = list(inspect.signature(pointwise).parameters.values())[2:]
        arrays = [p.name for p in extra if p.default is None]
        LOSSES[pointwise.__name__] = Loss(
            pointwise.__name__,
            function,
            {p.name: p.default for p in extra if p.default is not None},
            arrays[0] if arrays else None,
            batchmean,
        )
        return function

    return register


@dataclass(frozen=True)
class Optimizer:
    """An optimizer's entry in the registry.

    Attributes
    ----------
    name : str
        As in ``adam``; the public function is ``adam_step``.
    class_name : str
        As in ``Adam``, the public class.
    function : callable
        ``function(param, grad, *states, step=, **hyperparameters)``, in place. Its docstring is
        the public one.
    states : tuple of str
        The state arrays' names, in order.
    needs : dict of str to str
        For each optional state, the hyperparameter that must be truthy for it to be needed.
    starts : dict of str to str
        For each state that does not start as zeros, the hyperparameter that it starts as.
    torch_names : dict of str to str
        For each state that `torch.optim` keeps under another name, that name.
    hyperparameters : dict of str to object
        The hyperparameters' names and defaults (without `step`), those of `common` last.
    """

    name: str
    class_name: str
    function: Callable[..., None]
    states: tuple[str, ...]
    needs: dict[str, str]
    starts: dict[str, str]
    torch_names: dict[str, str]
    hyperparameters: dict[str, Any]

    def needed_states(self, **hyperparameters: Any) -> tuple[str, ...]:
        """Return the names of the states that a step with these hyperparameters needs."""
        values = self.hyperparameters | hyperparameters
        return tuple(s for s in self.states if s not in self.needs or values[self.needs[s]])


OPTIMIZERS: dict[str, Optimizer] = {}
"""Every optimizer by name, in the order of `optimizers.py`."""


def _keywords(function: Callable[..., Any]) -> list[inspect.Parameter]:
    parameters = inspect.signature(function).parameters.values()
    return [p for p in parameters if p.kind is p.KEYWORD_ONLY]


def optimizer(
    class_name: str,
    common: Callable[..., NDArray],
    needs: Mapping[str, str] | None = None,
    starts: Mapping[str, str] | None = None,
    torch_names: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., tuple]], Callable[..., None]]:
    """Register the decorated function, and let it be written without thought of memory.

    It gets its arrays as float64 (a state that is not given, as None) and returns their new values
    in the same order, without the gradient; these are rounded and written back in place. The
    gradient has been through ``common(param, grad, *, ...)``, whose keywords every optimizer takes
    after its own; its docstring goes on with theirs. A keyword `norm`, of neither, is the norm of
    all gradients where this one is not the only one.
    """

    def register(function: Callable[..., tuple]) -> Callable[..., None]:
        signature = inspect.signature(function)
        parameters = signature.parameters.values()
        arrays = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        states = tuple(arrays[2:])  # after param and grad
        shared = _keywords(common)
        hyperparameters = {p.name: p.default for p in _keywords(function) + shared}
        del hyperparameters["step"]
        names = {p.name for p in shared}

        @functools.wraps(function)
        def in_place(*args: Any, norm: float | None = None, **kwargs: Any) -> None:
            options = {name: kwargs.pop(name) for name in names & kwargs.keys()}
            given = signature.bind(*args, **kwargs).arguments
            wide = {
                name: value.astype(np.float64) if isinstance(value, np.ndarray) else value
                for name, value in given.items()
            }
            with np.errstate(all="ignore"):
                wide["grad"] = common(wide["param"], wide["grad"], norm, **options)
                for name, new in zip(("param", *states), function(**wide), strict=True):
                    if given.get(name) is not None:
                        given[name][...] = new

        in_place.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*parameters, *shared]
        )
        described = inspect.cleandoc(common.__doc__ or "").partition("Parameters\n----------\n")[2]
        own = inspect.cleandoc(function.__doc__ or "")
        in_place.__doc__ = f"{own}\n{described}"
        OPTIMIZERS[function.__name__] = Optimizer(
            function.__name__,
            class_name,
            in_place,
            states,
            dict(needs or {}),
            dict(starts or {}),
            dict(torch_names or {}),
            hyperparameters,
        )
        return in_place

    return register
