"""What the tests of the NumPy reference share."""

import numpy as np
import pytest

FLOATS = [np.float32, np.float64]
INF, NAN = np.inf, np.nan


def random(*shape, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def close(actual, expected, dtype=np.float64):
    """Same shape and type, and equal up to the rounding of `dtype`; NaN equals NaN."""
    expected = np.asarray(expected)
    assert isinstance(actual, np.ndarray)
    assert actual.shape == expected.shape
    assert actual.dtype == dtype
    assert actual.flags.c_contiguous
    tolerance = 2e-6 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def torch_activation(torch, name, **params):
    f = torch.nn.functional
    return (
        {
            "identity": lambda x: x * 1.0,
            "relu": f.relu,
            "leaky_relu": lambda x: f.leaky_relu(x, **params),
            "sigmoid": torch.sigmoid,
            "tanh": torch.tanh,
            "gelu": f.gelu,
            "gelu_tanh": lambda x: f.gelu(x, approximate="tanh"),
            "silu": f.silu,
        }.get(name)
        or getattr(f, name, None)
        or pytest.skip(f"torch has no {name}")
    )
