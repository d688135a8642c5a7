"""The reference's softmax against PyTorch, and at the edges."""

import numpy as np
import pytest
from reference_cases import FLOATS, INF, NAN, close, random

from innerloop import reference

pytestmark = pytest.mark.usefixtures("no_numpy_warnings")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_is_torchs(torch, name, axis, dtype):
    x, dy = random(4, 5, 6, dtype=dtype) * 10, random(4, 5, 6, dtype=dtype, seed=1)
    tx = torch.tensor(x, requires_grad=True)
    ty = getattr(torch, name)(tx, axis)
    ty.backward(torch.tensor(dy))
    y = getattr(reference, name)(x, axis=axis)
    close(y, ty.detach().numpy(), dtype)
    dx = getattr(reference, f"{name}_backward")(dy, y, axis=axis)
    np.testing.assert_allclose(dx, tx.grad.numpy(), rtol=1e-4 if dtype == np.float32 else 1e-10,
                               atol=1e-6)  # fmt: skip


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_of_special_rows(torch, name):
    x = np.array([[INF, 0, 1], [-INF, 0, 1], [-INF] * 3, [NAN, 0, 1], [1e300, -1e300, 0]])
    close(getattr(reference, name)(x), getattr(torch, name)(torch.tensor(x), 1).numpy())


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 3), (1,)])
def test_softmax_shapes(torch, name, shape):
    x = np.zeros(shape)
    y = getattr(reference, name)(x)
    close(y, getattr(torch, name)(torch.tensor(x), -1).numpy())
    assert getattr(reference, f"{name}_backward")(x, y).shape == shape
