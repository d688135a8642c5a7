"""What the tests of the PyTorch plug-in's operators share: leaves, tolerances, a comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

TORCH = {
    "identity": lambda x: x * 1,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "hardsigmoid": lambda x: F.relu6(x + 3) / 6,  # PyTorch's own derivative has float32's 1/6
}
SIZES = [0, 1, 7, 8, 9]
TOLERANCE = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.float32: {"rtol": 2e-5, "atol": 2e-5},
    torch.float16: {"rtol": 4e-3, "atol": 4e-3},
    torch.bfloat16: {"rtol": 4e-2, "atol": 4e-2},
}
DTYPES = list(TOLERANCE)


def theirs(name: str) -> Callable[..., Any]:
    return TORCH.get(name) or getattr(F, name)


def randn(*shape: int, dtype: Any = torch.float64, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)


def leaf(*shape: int, dtype: Any = torch.float64, seed: int = 0) -> Any:
    return randn(*shape, dtype=dtype, seed=seed).requires_grad_()


def close(a: Any, b: Any, dtype: Any = torch.float64) -> None:
    torch.testing.assert_close(a, b, **TOLERANCE[dtype], equal_nan=True, check_dtype=False)


def compare(
    ours: Callable[..., Any], peer: Callable[..., Any], *inputs: Any, dtype: Any = torch.float64
) -> None:
    """Results and gradients of all inputs that require them, for a dy that is not constant."""
    wide = [
        i.detach().double().requires_grad_(i.requires_grad) if i.is_floating_point() else i
        for i in inputs
    ]
    y, expected = ours(*inputs), peer(*wide)
    close(y, expected.to(y.dtype), dtype)
    dy = randn(*y.shape, dtype=y.dtype, seed=9)
    asked = [i for i in inputs if i.requires_grad]
    got = torch.autograd.grad(y, asked, dy)
    want = torch.autograd.grad(expected, [w for w in wide if w.requires_grad], dy.double())
    for g, w, i in zip(got, want, asked, strict=True):
        assert g.dtype == i.dtype and g.shape == i.shape
        assert g.numel() == 0 or w.abs().max() == 0 or g.abs().max() > 0
        close(g, w.to(g.dtype), dtype)
