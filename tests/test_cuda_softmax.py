"""softmax, softmax_cross_entropy and nll_loss of arrays on an emulated CUDA device.

Sums are taken in another order there: results are held to a tolerance. What the kernels do with
every shape, option and dtype is tested by tests/cpp/cuda_rows_test.cpp; here, what Python adds.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import device_arrays as device
import numpy as np
import pytest
from device_arrays import DeviceArray, asarray

import innerloop as il

pytestmark = [
    pytest.mark.skipif(device.memory() is None, reason="no emulated innerloop._cuda"),
    pytest.mark.usefixtures("cuda_unchecked"),
]

DTYPES = ["float32", "float64", "bfloat16", "float16"]
TOLERANCE = {"float32": 5e-6, "float64": 1e-14, "bfloat16": 2.0**-7, "float16": 2.0**-10}


def numbers(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.asarray(rng.normal(size=shape) * 3, getattr(device, dtype))


def close(actual: Any, want: Any, dtype: str) -> None:
    assert isinstance(actual, DeviceArray)
    got, wide = actual.numpy(), np.asarray(want)
    assert got.dtype == wide.dtype and got.shape == wide.shape
    narrow, want = got.astype("f8"), wide.astype("f8")
    tolerance = TOLERANCE[dtype]
    largest = np.abs(want[np.isfinite(want)]).max(initial=0)
    np.testing.assert_allclose(narrow, want, rtol=tolerance, atol=tolerance * largest)


def orders(ndim: int) -> list[tuple[int, ...]]:
    """C order, its reverse and channels-last."""
    last = (0, *range(2, ndim), 1) if ndim > 1 else tuple(range(ndim))
    return list(dict.fromkeys([tuple(range(ndim)), tuple(range(ndim))[::-1], last]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax(name: str, dtype: str) -> None:
    function, backward = getattr(il, name), getattr(il, f"{name}_backward")
    for shape in [(), (7,), (5, 9), (3, 1, 4), (2, 6, 4, 3), (0, 3), (3, 0), (2, 1500), (2, 5000)]:
        x, dy = numbers(shape, dtype), numbers(shape, dtype, 1)
        for axis in range(-1, len(shape)):
            want = function(x, axis)
            want_dx = backward(dy, want, axis)
            for order in orders(len(shape)):
                there = asarray(x, order=order, offset=len(shape) % 2)
                close(function(there, axis), want, dtype)
                on_device = asarray(dy, order=order)
                saved = asarray(want, order=order)
                close(backward(on_device, saved, axis), want_dx, dtype)
                assert backward(on_device, saved, axis, out=on_device) is on_device
                close(on_device, want_dx, dtype)
                assert function(there, axis, out=there) is there
                close(there, want, dtype)


def cases() -> Iterator[tuple[tuple[int, ...], int, dict[str, Any]]]:
    for shape, axis in [((6, 10), 1), ((10,), 1), ((3, 5, 4, 2), 1), ((7, 6), 0), ((4, 3, 5), -1)]:
        for i, reduction in enumerate(["mean", "sum", "none"]):
            yield shape, axis, {"reduction": reduction}
            some = {"grad_scale": -0.5, "ignore_index": 2, "weight": True}
            yield shape, axis, {"reduction": reduction, "sample_weight": i != 1, **some}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["labels", "smoothed", "probabilities", "nll_loss"])
def test_losses(kind: str, dtype: str) -> None:
    function = il.nll_loss if kind == "nll_loss" else il.softmax_cross_entropy
    computed = "float64" if dtype == "float64" else "float32"
    for shape, axis, given in cases():
        x = numbers(shape, dtype)
        along = 0 if len(shape) == 1 else axis % len(shape)
        rows, classes = shape[:along] + shape[along + 1 :], shape[along]
        options = {"axis": axis, **given}
        if kind in ("smoothed", "probabilities"):
            options |= {"label_smoothing": 0.2, "z_loss": 0.01}
        rng = np.random.default_rng(2)
        if options.pop("weight", False):  # in either of the dtypes that it may have
            options["weight"] = rng.uniform(0.5, 2, classes).astype(getattr(device, dtype))
        if options.pop("sample_weight", False):
            options["sample_weight"] = rng.uniform(0.5, 2, rows).astype(computed)
        labels = np.asarray(rng.integers(0, classes, rows), ["i8", "u1", "i4"][len(shape) % 3])
        target = numbers(shape, dtype, 3) ** 2 if kind == "probabilities" else labels
        want, want_grad = function(x, target, return_grad=True, **options)
        for order in orders(len(shape)):
            # Arrays of one element a row lie in the order of the rows.
            at = [d - (d > along) for d in order if d != along]
            if given["reduction"] == "none" and at != sorted(at):
                continue
            placed = {
                name: asarray(v, order=None if name == "weight" else at)
                if isinstance(v, np.ndarray)
                else v
                for name, v in options.items()
            }
            there = asarray(x, order=order)
            labels_there = asarray(target, order=order if kind == "probabilities" else at)
            loss, grad = function(there, labels_there, return_grad=True, **placed)
            close(loss, want, computed)
            close(grad, want_grad, dtype)
            close(function(there, labels_there, **placed), want, computed)
            loss, grad = function(there, labels_there, return_grad=True, out=there, **placed)
            assert grad is there
            close(loss, want, computed)
            close(grad, want_grad, dtype)


def test_empty() -> None:
    labels = asarray(np.zeros(0, "i8"))
    for function in (il.softmax_cross_entropy, il.nll_loss):
        assert np.isnan(function(asarray(np.zeros((0, 3), "f4")), labels).numpy())
        total = function(asarray(np.zeros((0, 3), "f4")), labels, reduction="sum")
        assert total.numpy() == 0
    nothing = asarray(np.zeros((3, 0), "f4"))
    assert np.isnan(il.softmax_cross_entropy(nothing, nothing).numpy())
    ignored = asarray(np.full(3, -100))
    assert np.isnan(il.softmax_cross_entropy(nothing, ignored).numpy())


def bad_call(function: Any, label: Any = 3, dtype: str = "i8") -> tuple[Any, DeviceArray]:
    target = np.array([0, label, 2, 1], dtype)
    logits = asarray(numbers((4, 3), "float32"))
    return function(logits, asarray(target), return_grad=True)


@pytest.mark.parametrize("function", [il.softmax_cross_entropy, il.nll_loss])
def test_label_that_is_no_class_at_the_next_call(function: Any) -> None:
    loss, grad = bad_call(function)
    want = function(
        numbers((4, 3), "float32"), np.array([0, -100, 2, 1]), return_grad=True
    )  # as if it were ignored
    close(loss, want[0], "float32")
    close(grad, want[1], "float32")
    x = asarray([1.0, 2.0], "f4")
    with pytest.raises(
        IndexError, match=r"target of an earlier call .* 0 to 3,.*; got 3, whose row"
    ):
        il.relu(x, out=x)
    np.testing.assert_array_equal(il.relu(x, out=x).numpy(), [1, 2])  # reported once


@pytest.mark.parametrize("function", [il.softmax_cross_entropy, il.nll_loss])
def test_label_that_is_no_class_at_once(function: Any) -> None:
    il.set_cuda_checked(True)
    for label, dtype in [(3, "u1"), (-1, "i2"), (2**64 - 100, "u8"), (-(2**63), "i8")]:
        with pytest.raises(IndexError, match=f"target of this call .* got {label}, whose row"):
            bad_call(function, label, dtype)
    bad_call(function, 1)


def test_checked_mode() -> None:
    assert il.cuda_checked() is False
    il.set_cuda_checked(True)
    assert il.cuda_checked() is True
    with pytest.raises(TypeError, match="checked"):
        il.set_cuda_checked("yes")  # type: ignore[arg-type]
    assert il.cuda_checked() is True


@pytest.mark.parametrize(("value", "want"), [("1", True), ("0", False), ("", False)])
def test_checked_mode_of_the_environment(value: str, want: bool) -> None:
    command = [sys.executable, "-c", "import innerloop; print(innerloop.cuda_checked())"]
    environment = {**os.environ, "INNERLOOP_CUDA_CHECKED": value}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(want)


def test_refused() -> None:
    logits, labels = asarray(numbers((4, 3, 5), "float32")), asarray(np.zeros((4, 5), "i8"))
    before = logits.numpy()
    refused: list[tuple[type[Exception], str, Any]] = [
        (
            ValueError,
            "logits must lie without gaps",
            lambda: il.softmax_cross_entropy(
                asarray(numbers((4, 3, 10), "float32"))[:, :, ::2], labels
            ),
        ),
        (ValueError, "x must lie without gaps", lambda: il.softmax(logits[:, :, ::2])),
        (
            ValueError,
            "target must lie in memory in the order",
            lambda: il.softmax_cross_entropy(
                logits, asarray(np.zeros((4, 5), "i8"), order=(1, 0)), return_grad=True, out=logits
            ),
        ),
        (
            ValueError,
            "sample_weight must lie",
            lambda: il.softmax_cross_entropy(
                logits,
                labels,
                sample_weight=asarray(np.ones((4, 5), "f4"), order=(1, 0)),
                return_grad=True,
                out=logits,
            ),
        ),
        (
            ValueError,
            "weight must",
            lambda: il.nll_loss(
                logits, labels, weight=asarray(np.ones(6, "f4"))[::2], return_grad=True, out=logits
            ),
        ),
        (
            ValueError,
            "out must lie in memory in the order",
            lambda: il.softmax(logits, out=asarray(np.zeros((4, 3, 5), "f4"), order=(2, 1, 0))),
        ),
        (
            TypeError,
            "target must lie on a CUDA device",
            lambda: il.softmax_cross_entropy(
                logits, np.zeros((4, 5), "i8"), return_grad=True, out=logits
            ),
        ),
        (TypeError, "target must hold class labels", lambda: il.nll_loss(logits, logits)),
        (ValueError, "target must have the shape", lambda: il.nll_loss(logits, logits_labels())),
        (
            ValueError,
            "overlap",
            lambda: il.softmax_cross_entropy(logits, logits, return_grad=True, out=logits[:, :, :]),
        ),
    ]
    for error, text, call in refused:
        with pytest.raises(error, match=text):
            call()
    assert logits.numpy().tobytes() == before.tobytes()


def logits_labels() -> DeviceArray:
    return asarray(np.zeros((4, 4), "i8"))


def test_out_of_memory() -> None:
    logits, labels = asarray(numbers((4, 3), "float32")), asarray(np.zeros(4, "i8"))
    before = logits.numpy()
    for after in range(8):  # the loss, then the scratch
        with device.failing_allocations(after):
            try:
                il.softmax_cross_entropy(logits, labels, return_grad=True, out=logits)
            except (RuntimeError, MemoryError):
                assert logits.numpy().tobytes() == before.tobytes()
                continue
        break
    assert after == 2
