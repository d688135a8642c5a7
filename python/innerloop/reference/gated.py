"""The gated pairs: one half of an axis, through an activation, multiplies the other half.

To add one, write its line here, naming its activation, and its line in ``csrc/rules/gated.h``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ._precision import round_to
from .registry import ACTIVATIONS

__all__ = ["GATED", "GatedPair"]


@dataclass(frozen=True)
class GatedPair:
    """A gated pair's entry in the registry.

    Attributes
    ----------
    name : str
    activation : str
        The gate's, one of `ACTIVATIONS`.
    gate_is_first : bool
        Whether the gate is the first half of the axis; else it is the second.
    forward : callable
        ``forward(x, axis=-1) -> y``. Its docstring is the public one.
    backward : callable
        ``backward(dy, x, axis=-1) -> dx``.
    """

    name: str
    activation: str
    gate_is_first: bool
    forward: Callable[..., NDArray]
    backward: Callable[..., NDArray]


GATED: dict[str, GatedPair] = {}
"""Every gated pair by name, in the order of ``csrc/rules/gated.h``."""


def gated_pair(name: str, activation: str, source: str, *, gate: int) -> None:
    """Register the pair whose gate is half number `gate`, 0 or 1, of an axis."""
    act = ACTIVATIONS[activation]

    def halves(x: NDArray, axis: int) -> tuple[NDArray, NDArray]:
        a, b = np.split(x.astype(np.float64), 2, axis=axis)
        return (a, b) if gate == 0 else (b, a)

    def forward(x: NDArray, axis: int = -1) -> NDArray:
        g, v = halves(x, axis)
        with np.errstate(all="ignore"):
            return round_to(act.forward(g) * v, x.dtype)

    def backward(dy: NDArray, x: NDArray, axis: int = -1) -> NDArray:
        g, v = halves(x, axis)
        with np.errstate(all="ignore"):
            dg, dv = act.backward(dy * v, g), dy * act.forward(g)
            return round_to(np.concatenate([dg, dv] if gate == 0 else [dv, dg], axis), x.dtype)

    product = f"{activation}(a) * b" if gate == 0 else f"a * {activation}(b)"
    which = ("first", "second")[gate]
    forward.__name__, backward.__name__ = name, f"{name}_backward"
    forward.__doc__ = f"""Gate one half of an axis by {activation} of the other.

Formula: ``y = {product}``, where a is the first half of x along the axis and b the second. The gate
is the {which} half.

Source: {source}.
"""
    slope = f"{activation}'"
    da, db = (f"dy * b * {slope}(a)", f"dy * {activation}(a)")
    if gate == 1:
        da, db = (f"dy * {activation}(b)", f"dy * a * {slope}(b)")
    backward.__doc__ = f"""Return the gradient of {name} with respect to its input.

Formula: ``{da}`` in the first half of dx along the axis, ``{db}`` in the second, where a and b are
those halves of x.
"""
    GATED[name] = GatedPair(name, activation, gate == 0, forward, backward)


_DAUPHIN = """Y. Dauphin, A. Fan, M. Auli and D. Grangier, "Language modeling with gated
convolutional networks", arXiv:1612.08083; the halves as in PyTorch"""
_SHAZEER = 'N. Shazeer, "GLU variants improve transformer", arXiv:2002.05202'

gated_pair("glu", "sigmoid", _DAUPHIN, gate=1)
gated_pair("swiglu", "silu", _SHAZEER, gate=0)
gated_pair("geglu", "gelu", _SHAZEER, gate=0)
