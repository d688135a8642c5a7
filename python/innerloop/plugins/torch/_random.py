"""Dropout, and the seeds that it takes: PyTorch's generator gives one, the kernels the rest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import _core
from ._operator import Operator, check, check_shape

__all__ = ["dropout"]


def fresh_seed() -> Tensor:
    """A seed from PyTorch's generator: a tensor, so that a compiled graph draws it at each run."""
    return torch.randint(2**63 - 1, ())


def seed_tensor(value: Any) -> Tensor:
    """A seed as operators take it: of 64 bits, in a tensor of int64."""
    if value is None:
        return fresh_seed()
    if isinstance(value, Tensor):
        check(value, "seed", dtypes=(torch.int64,))
        check_shape(value, "seed", (), "one number")
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(
            f"seed must be an integer, a tensor of one or None, got {type(value).__name__}"
        )
    if not 0 <= value < 2**64:
        raise ValueError(f"seed must lie in [0, 2**64), got {value}")
    return torch.tensor(value if value < 2**63 else value - 2**64, dtype=torch.int64)


def word(seed: Tensor | None) -> int | None:
    return None if seed is None else seed.item() % 2**64  # type: ignore[return-value]


def _check_dropout(x: Tensor, p: float, seed: Tensor, offset: int = 0) -> Tensor:
    check(x, "x")
    if not 0 <= p <= 1:
        raise ValueError(f"p must lie in [0, 1], got {p}")
    check(seed, "seed", dtypes=(torch.int64,))
    check_shape(seed, "seed", (), "one number")
    if offset < 0:
        raise ValueError(f"offset must not be negative, got {offset}")
    return x.new_empty(x.shape)


def _dropout(x: Tensor, p: float, seed: Tensor, offset: int = 0) -> Tensor:
    return _core.dropout_forward(x, p, word(seed), offset, None)


def _setup(ctx: Any, inputs: Any, output: Tensor) -> None:
    _, ctx.p, seed, ctx.offset = inputs
    ctx.save_for_backward(seed)


def _differentiate(ctx: Any, dy: Tensor) -> Any:
    # It is its own derivative, so that any number of derivatives can be had.
    return _DROPOUT(dy, ctx.p, *ctx.saved_tensors, ctx.offset), None, None, None


_DROPOUT = Operator(
    "dropout(Tensor x, float p, Tensor seed, int offset=0) -> Tensor",
    _dropout,
    _check_dropout,
    setup=_setup,
    backward=_differentiate,
)


def dropout(
    x: Tensor, p: float = 0.5, *, seed: int | Tensor | None = None, offset: int = 0
) -> Tensor:
    """Set elements to 0 with probability p, and divide the others by 1 - p.

    The mask is a function of shape, p, seed and offset alone; see `innerloop.dropout`. It is not
    that of `torch.nn.functional.dropout`.

    Parameters
    ----------
    x : Tensor of any shape, float32, float64, bfloat16 or float16
    p : float, default 0.5
        In [0, 1].
    seed : int in [0, 2**64) or Tensor of int64, shape (), optional
        None takes a fresh one from PyTorch's generator, which `torch.manual_seed` sets.
    offset : int, default 0
        In [0, 2**63).

    Returns
    -------
    Tensor of x's shape and dtype, contiguous

    Raises
    ------
    TypeError
        If `x` is not a strided tensor of these dtypes on the CPU, or `p` or `seed` is no number.
    ValueError
        If a number is out of its range.
    """
    if type(p) is not float and isinstance(p, Tensor):
        raise TypeError("p must be a number, got a tensor")
    return _DROPOUT(x, p, seed_tensor(seed), offset)
