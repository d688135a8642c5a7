"""Every kernel of selftest's cases on an emulated CUDA device, beside the NumPy reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import device_arrays as device
import numpy as np
import pytest

from innerloop.cli import selftest

pytestmark = pytest.mark.skipif(device.memory() is None, reason="no emulated innerloop._cuda")


@pytest.mark.parametrize("noun", selftest.NOUNS, ids=lambda noun: noun.__name__)
def test_within_the_bounds_of_the_reference(
    noun: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    launches = device.memory().emulator_launch_count()
    monkeypatch.setattr(selftest, "NOUNS", (noun,))
    there = selftest.OnDevice(device.asarray, device.DeviceArray.numpy)
    outcomes = selftest.compare((1, 16, 67), {"cuda": there})
    assert device.memory().emulator_launch_count() > launches
    assert outcomes
    errors = {(o.kernel, o.dtype): o.errors["cuda"] for o in outcomes}
    beyond = {k: e for k, e in errors.items() if not e <= selftest.DEVICE_TOLERANCE[k[1]]}
    assert not beyond


def test_a_wrong_number_is_noticed() -> None:
    there = selftest.OnDevice(device.asarray, lambda array: array.numpy() + 1)
    x = np.ones(3, np.float32)
    assert selftest.largest_difference(there.relu(x.copy()), x) > selftest.TOLERANCE["float32"]
