"""An optimizer's step over arrays that are not all kept in what it computes in.

Parameters of half precision, with or without a master copy, and states of fewer bits are widened,
stepped by the optimizer's own function, and rounded back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import rounding


def step(
    function: Callable[..., None],
    param: NDArray,
    grad: NDArray,
    states: Mapping[str, NDArray],
    scales: Mapping[str, NDArray],
    below_0: Mapping[str, bool],
    keys: Mapping[str, int],
    master: NDArray | None,
    numbers: Mapping[str, Any],
) -> None:
    """Step one parameter, in place.

    Parameters
    ----------
    function : callable
        The optimizer's, as in ``OPTIMIZERS["adam"].function``.
    param, grad : arrays
    states : dict of arrays
        float32; bfloat16, rounded stochastically; or uint8 codes, with their `scales`.
    scales : dict of float32 arrays
        One for each `rounding.BLOCK` codes.
    below_0 : dict of bool
        Whether each state may be negative.
    keys : dict of int
        Of each state's stochastic rounding: `rounding.state_key`.
    master : array or None
        float32: it is stepped, and param is its rounding. int16: the lower halves of param.
    numbers : dict
        What else `function` takes.
    """
    halves = master if master is not None and master.dtype == np.int16 else None
    if halves is not None:
        wide = np.array(rounding.join(param.view(np.uint16), halves), np.float64)
    else:
        wide = np.array(param if master is None else master, np.float64)
    wide_states = {
        name: np.array(
            rounding.from_8_bits(a, scales[name], below_0[name]) if a.dtype == np.uint8 else a,
            np.float64,
        )
        for name, a in states.items()
    }
    function(wide, grad, **wide_states, **numbers)
    with np.errstate(all="ignore"):
        new = np.asarray(wide, np.float32)
        if halves is not None:
            param.view(np.uint16)[...], halves[...] = rounding.split(new)
        else:
            if master is not None:
                master[...] = new
            param[...] = new.astype(param.dtype)
        for name, a in states.items():
            value = np.asarray(wide_states[name], np.float32)
            if a.dtype == np.uint8:
                a[...], scales[name][...] = rounding.to_8_bits(value, below_0[name], keys[name])
            elif a.dtype.itemsize == 2:
                a.view(np.uint16)[...] = rounding.to_bfloat16(value, keys[name])
            else:
                a[...] = value
