"""The ``<name>_step`` functions, made from the reference's signatures and docstrings."""

from __future__ import annotations

import inspect
from typing import Any

from . import _core
from .reference import Optimizer as _Entry

ARRAYS = """
params : array or list of arrays, float32, float64, bfloat16 or float16
    The parameters, of any shapes and strides. Written in place.
grads : array or list of arrays
    Their gradients: as many arrays, of the same shapes and dtypes, or float32 beside half
    precision.
"""
_STATE = """{name}s : array or list of arrays{optional}
    State `{name}`, of its parameter's shape: {start} before step 1. float64 beside float64, else
    float32, or bfloat16 in C order, which is rounded stochastically.
    Written in place{needed}.
"""
_STEP = """step : int
    The number of this step, counting from 1. A hyperparameter that is a function, such as those of
    `innerloop.schedules`, is called with it.
"""
_STORED = """masters : array or list of arrays, optional
    Of params of half precision: float32 copies that are stepped in their place, params being their
    rounding; or, of bfloat16, the 16 bits that are missing, in int16. Written in place.
seed : int, default 0
    Of the stochastic rounding of bfloat16 states.
"""
_RAISES = """
Returns
-------
None

Raises
------
TypeError
    If an argument is not an array, or of a dtype that does not fit its parameter's; if a
    hyperparameter is not a number or `step` not an integer.
ValueError
    If numbers of arrays or shapes differ, an array that is written is read-only or shares memory
    with another, a state that is needed is not given, a hyperparameter lies outside its range, or
    `step` is below 1.

Notes
-----
One call is one parallel region over all the arrays, and one before it for the norm where `max_norm`
is given; nothing is written unless all of them fit.
"""


def parts(entry: _Entry) -> tuple[str, str]:
    """Split the reference's docstring into its text and the hyperparameters' descriptions."""
    text, _, described = inspect.cleandoc(entry.function.__doc__ or "").partition(
        "\nParameters\n----------\n"
    )
    return text, described.rstrip() + "\n"


def step_function(entry: _Entry) -> Any:
    """The public function of one optimizer, with its signature and docstring."""
    needed_count = sum(s not in entry.needs for s in entry.states)
    positional, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    plurals = [f"{s}s" for s in entry.states]
    arrays = ["params", "grads", *plurals]
    signature = inspect.Signature(
        [inspect.Parameter(a, positional) for a in arrays[: 2 + needed_count]]
        + [inspect.Parameter(a, positional, default=None) for a in arrays[2 + needed_count :]]
        + [inspect.Parameter("step", keyword)]
        + [inspect.Parameter(h, keyword, default=d) for h, d in entry.hyperparameters.items()]
        + [inspect.Parameter("masters", keyword, default=None)]
        + [inspect.Parameter("seed", keyword, default=0)]
    )
    takes = {"step", *entry.hyperparameters, "masters", "seed"}

    def function(*args: Any, **kwargs: Any) -> None:
        if not (2 + needed_count <= len(args) <= len(arrays) and "step" in kwargs) or (
            not kwargs.keys() <= takes
        ):
            bound = signature.bind(*args, **kwargs).arguments
            args = tuple(bound.pop(a, None) for a in arrays)
            kwargs = bound
        step = kwargs.pop("step")
        kwargs = {k: v(step) if callable(v) else v for k, v in kwargs.items()}
        group = (None, step, kwargs)  # of all params
        max_norm, grad_scale = kwargs.pop("max_norm", None), kwargs.pop("grad_scale", 1.0)
        masters, seed = kwargs.pop("masters", None), kwargs.pop("seed", 0)
        states = (*args[2:], *(None,) * (len(arrays) - len(args)))
        _core.optimizer_step(
            *(entry.name, args[0], args[1], states, [group], max_norm, grad_scale),
            *(masters, None, seed),
        )

    text, described = parts(entry)
    states = "".join(
        _STATE.format(
            name=s,
            optional=", optional" if s in entry.needs else "",
            start=f"`{entry.starts[s]}`s" if s in entry.starts else "zeros",
            needed=f"; needed where `{entry.needs[s]}` is not 0, else left alone"
            if s in entry.needs
            else "",
        )
        for s in entry.states
    )
    function.__doc__ = (
        f"{text}\nParameters\n----------{ARRAYS}{states}{_STEP}{described}{_STORED}{_RAISES}"
    )
    function.__name__ = function.__qualname__ = f"{entry.name}_step"
    function.__signature__ = signature  # type: ignore[attr-defined]
    function.__module__ = "innerloop.optimizers"
    return function
