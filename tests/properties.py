"""What the tests of properties beside PyTorch share.

What PyTorch has for an operation is called in float64 on the same numbers, widened; its autograd
gives the gradients. Every call is made natively and by the reference backend, over random shapes,
options, layouts and dtypes. Importing this skips a module where PyTorch is not installed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st

import innerloop as il
from innerloop.reference import ACTIVATIONS
from support import LAYOUTS

torch = pytest.importorskip("torch")
F = torch.nn.functional

quick = settings(max_examples=25, deadline=None)
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
HALVES = (np.float16, ml_dtypes.bfloat16)
SIDES = st.integers(0, 9) | st.sampled_from([16, 17, 33])
NONEMPTY = SIDES.filter(bool)


def eps(dtype: Any) -> float:
    return float(ml_dtypes.finfo(dtype).eps)


class Case:
    """Draws of one example: its dtype, and arrays of that dtype, each in a layout of its own."""

    def __init__(self, data: st.DataObject, dtypes: Sequence[Any] = DTYPES) -> None:
        self.draw = data.draw
        self.dtype = self.draw(st.sampled_from(dtypes), label="dtype")
        self.rng = np.random.default_rng(self.draw(st.integers(0, 2**32 - 1), label="seed"))

    @property
    def half(self) -> bool:
        return self.dtype in HALVES

    def shape(self, dims: tuple[int, int], sides: st.SearchStrategy[int] = SIDES) -> Any:
        shape = self.draw(st.lists(sides, min_size=dims[0], max_size=dims[1]), label="shape")
        for d in range(len(shape)):  # one long side is enough
            if math.prod(shape) > 30_000:
                shape[d] = min(shape[d], 3)
        return tuple(shape)

    def place(self, values: Any) -> np.ndarray:
        layout = self.draw(st.sampled_from(sorted(LAYOUTS)), label="layout")
        return LAYOUTS[layout](values) if values.ndim else values

    def array(self, values: Any) -> np.ndarray:
        return self.place(np.asarray(values).astype(self.dtype))

    def normal(self, shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
        return self.array(self.rng.normal(size=shape) * scale)

    def uniform(self, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
        return self.array(self.rng.uniform(low, high, shape))

    def maybe(self, make: Callable[[], Any]) -> Any:
        return make() if self.draw(st.booleans()) else None

    def number(self, low: float, high: float) -> float:
        return self.draw(st.floats(low, high))


def tensor(a: Any, grad: bool = True) -> Any:
    """The numbers of an array as a tensor of float64, or of int64; None as None."""
    if a is None:
        return None
    whole = np.issubdtype(a.dtype, np.integer)
    return torch.tensor(np.array(a, "i8" if whole else "f8", order="C"), requires_grad=grad)


def graded(output: Any, inputs: Sequence[Any], dy: Any = None) -> list[Any]:
    """Gradients of an output by its inputs, None for None."""
    there = [t for t in inputs if t is not None]
    found = iter(torch.autograd.grad(output, there, None if dy is None else tensor(dy, False)))
    return [None if t is None else next(found) for t in inputs]


def largest(*arrays: Any) -> float:
    """The largest finite magnitude, of anything that NumPy reads."""
    found = 0.0
    for a in arrays:
        values = np.abs(np.asarray(a).astype("f8"))
        found = max(found, values[np.isfinite(values)].max(initial=0.0))
    return float(found)


def near(got: Any, want: Any, scale: float, stored: Any) -> None:
    """Within a result's own rounding, and that of arithmetic with numbers as large as `scale`.

    `stored`: a half dtype in which something that the result was computed from had been rounded.
    """
    assert (got is None) == (want is None)
    if got is None:
        return
    got, want = np.asarray(got), np.asarray(want).astype("f8")
    assert got.shape == want.shape
    tolerance = 1e-10 if got.dtype == np.float64 else 2e-5
    tolerance = tolerance if stored is None else 3 * eps(stored)
    own = 0.0 if got.dtype in (np.float32, np.float64) else eps(got.dtype)
    tiny = float(ml_dtypes.finfo(got.dtype).smallest_subnormal)
    scale = max(scale, largest(want))
    np.testing.assert_allclose(got.astype("f8"), want, rtol=own, atol=tolerance * scale + tiny)


def check(
    call: Callable[[], tuple[Any, ...]],
    want: Sequence[Any],
    scales: Sequence[float] | None = None,
    stored: Any = None,
) -> None:
    """Results of a call, natively and by the reference, beside PyTorch's and one another's."""
    wants = [None if w is None else w.detach().numpy() for w in want]
    got = call()
    with il.use_backend("reference"):
        expected = call()
    scales = [0.0] * len(wants) if scales is None else scales
    for a, b, w, scale in zip(got, expected, wants, scales, strict=True):
        near(a, w, scale, stored)
        near(b, w, scale, stored)
        near(a, None if b is None else np.asarray(b), scale, stored)
        assert a is None or np.asarray(a).dtype == np.asarray(b).dtype


# --- activations, alone and in the dense layer ----------------------------------------------------

TORCHS: dict[str, Callable[..., Any]] = {
    "identity": lambda x: x * 1,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "elu": F.elu,
    "selu": F.selu,
    # Of F.celu, PyTorch 2.13 rounds 1 / alpha to float32 in the gradient, in float64 as well.
    "celu": lambda x, alpha=1.0: alpha * F.elu(x / alpha),
    "mish": F.mish,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "hardsigmoid": lambda x: F.relu6(x + 3) / 6,  # as F.hardsigmoid rounds the gradient's 1 / 6
    "hardswish": F.hardswish,
    "relu6": F.relu6,
}
RANGES = {  # of the parameters; softplus's beta and celu's alpha must be positive
    "leaky_relu": {"negative_slope": (-1.0, 1.0)},
    "elu": {"alpha": (-2.0, 2.0)},
    "celu": {"alpha": (0.25, 3.0)},
    "softplus": {"beta": (0.25, 3.0), "threshold": (-3.0, 25.0)},
}


def parameters(case: Case, name: str) -> dict[str, float]:
    ranges = RANGES.get(name, {})
    assert ranges.keys() == ACTIVATIONS[name].parameters.keys()
    chosen = {h: case.maybe(partial(case.number, *limits)) for h, limits in ranges.items()}
    return {h: v for h, v in chosen.items() if v is not None}


def kinks(name: str, params: dict[str, float]) -> list[float]:
    """Where a function or its derivative jumps, and rounding or a convention decides."""
    if name == "softplus":
        return [params.get("threshold", 20.0) / params.get("beta", 1.0)]
    return {"hardsigmoid": [-3.0, 3.0], "hardswish": [-3.0, 3.0], "relu6": [0.0, 6.0]}.get(
        name, [0.0]
    )


def near_kink(z: np.ndarray, name: str, params: dict[str, float], distance: float) -> np.ndarray:
    """Mask of the numbers too near a kink to be compared."""
    distances = [abs(z.astype("f8") - k) <= distance * (1 + abs(k)) for k in kinks(name, params)]
    return np.any(distances, axis=0)


def steepness(params: dict[str, float]) -> float:
    return max(2.0, *(abs(v) for v in params.values())) if params else 2.0
