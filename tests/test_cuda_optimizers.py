"""The optimizers' classes over arrays of an emulated CUDA device, beside the CPU's."""

from __future__ import annotations

from typing import Any

import device_arrays as device
import numpy as np
import pytest

import innerloop as il
from innerloop.reference import OPTIMIZERS

pytestmark = pytest.mark.skipif(device.memory() is None, reason="no emulated innerloop._cuda")

SIZES = (1, 5, 4097)


def numbers(seed: int, dtype: Any = "f4") -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(size).astype(dtype) for size in SIZES]


def to_device(arrays: list[np.ndarray]) -> list[device.DeviceArray]:
    return [device.asarray(a) for a in arrays]


def assert_same(there: Any, here: Any) -> None:
    for a, b in zip(there, here, strict=True):
        np.testing.assert_array_equal(a.numpy(), b)


@pytest.mark.parametrize("entry", OPTIMIZERS.values(), ids=lambda entry: entry.class_name)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, device.bfloat16])
def test_steps_and_states_equal_the_cpu(entry: Any, dtype: Any) -> None:
    made = getattr(il, entry.class_name)
    options = {"momentum": 0.9} if "momentum" in entry.hyperparameters else {}
    if dtype is device.bfloat16:
        options["master"] = "float32"
    here = numbers(1, dtype)
    there = to_device(here)
    on_cpu, on_device = made(here, lr=0.01, **options), made(there, lr=0.01, **options)
    for step in range(3):
        grads = numbers(10 + step, dtype)
        on_cpu.step(grads)
        on_device.step(to_device(grads))
    assert_same(there, here)
    for name, arrays in on_cpu.state.items():
        assert_same(on_device.state[name], arrays)
    saved, expected = on_device.state_dict(), on_cpu.state_dict()
    assert saved.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(saved[name], value)

    again = to_device(here)
    resumed = made(again, lr=0.5, **options)
    resumed.load_state_dict(saved)
    grads = numbers(20, dtype)
    resumed.step(to_device(grads))
    on_cpu.step(grads)
    assert_same(again, here)


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [("f8", s) for s in (1.0, 1e-20, 1e20, 1e-200, 1e200)]
    + [("f4", s) for s in (1.0, 1e-20, 1e20)],
)
def test_clipping_is_that_of_the_cpu(dtype: str, scale: float) -> None:
    grads = [g * np.dtype(dtype).type(scale) for g in numbers(3, dtype)]
    there = to_device(grads)
    norm = il.clip_grad_norm(there, scale)
    expected = il.clip_grad_norm(grads, scale)
    assert norm.shape == () and norm.dtype == np.dtype(dtype)
    close = {"rtol": 1e-6 if dtype == "f4" else 1e-14}
    np.testing.assert_allclose(norm.numpy(), expected, **close)
    for a, b in zip(there, grads, strict=True):
        np.testing.assert_allclose(a.numpy(), b, **close)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_norms_of_what_is_not_finite(bad: float) -> None:
    for dtype in ("f4", "f8"):
        norm = il.clip_grad_norm([device.asarray(np.array([1e30, 1e-30, bad, 2]), dtype)], 1.0)
        assert np.isnan(norm.numpy()) if np.isnan(bad) else norm.numpy() == np.inf


def test_a_fused_clip_leaves_the_gradients() -> None:
    here, grads = numbers(1), numbers(2)
    there, their_grads = to_device(here), to_device(grads)
    steps = il.AdamW(here, lr=0.1, max_norm=0.5), il.AdamW(there, lr=0.1, max_norm=0.5)
    steps[0].step(grads)
    steps[1].step(their_grads)
    assert_same(their_grads, grads)
    np.testing.assert_allclose(steps[1].grad_norm.numpy(), steps[0].grad_norm, rtol=1e-6)
    for a, b in zip(there, here, strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-6)


def test_what_does_not_fit_is_refused() -> None:
    params = to_device(numbers(1))
    for options in ({"state_dtype": "bfloat16"}, {"state_dtype": "uint8"}):
        with pytest.raises(ValueError, match="for params on a CUDA device"):
            il.Adam(params, **options)
    with pytest.raises(ValueError, match="must not overlap"):
        il.Adam([params[2], params[2]])
    with pytest.raises(TypeError, match="must lie on a CUDA device"):
        il.Adam([params[0], numbers(1)[1]])
    optimizer = il.Adam(params)
    before = [p.numpy() for p in params]
    with pytest.raises(TypeError, match=r"grads\[0\] must lie on a CUDA device"):
        optimizer.step(numbers(2))
    assert_same(params, before)
    assert optimizer.steps == 0
