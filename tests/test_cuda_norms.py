"""Norms and elementwise functions of arrays on an emulated CUDA device.

What the kernels do with every size and option is tested by tests/cpp/cuda_norms_test.cpp and
tests/cpp/cuda_elementwise_test.cpp; here, what Python adds: layouts, checks and results.
"""

from __future__ import annotations

from typing import Any

import device_arrays as device
import numpy as np
import pytest
from device_arrays import DeviceArray, asarray

import innerloop as il
from innerloop.losses import LOSSES

pytestmark = [
    pytest.mark.skipif(device.memory() is None, reason="no emulated innerloop._cuda"),
    pytest.mark.usefixtures("cuda_unchecked"),
]

DTYPES = ["float32", "float64", "bfloat16", "float16"]
TOLERANCE = {"float32": 1e-5, "float64": 1e-13, "bfloat16": 2.0**-6, "float16": 2.0**-9}


def numbers(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.asarray(rng.normal(size=shape), getattr(device, dtype))


def computed(dtype: str) -> str:
    return "float64" if dtype == "float64" else "float32"


def same(actual: Any, want: Any) -> None:
    assert isinstance(actual, DeviceArray)
    got = actual.numpy()
    assert got.dtype == want.dtype and got.shape == want.shape
    np.testing.assert_array_equal(got.astype("f8"), want.astype("f8"))


def close(actual: Any, want: Any, dtype: str) -> None:
    if want is None:
        assert actual is None
        return
    assert isinstance(actual, DeviceArray)
    got, wide = actual.numpy(), np.asarray(want)
    assert got.dtype == wide.dtype and got.shape == wide.shape
    largest = np.abs(wide[np.isfinite(wide.astype("f8"))].astype("f8")).max(initial=0)
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(
        got.astype("f8"), wide.astype("f8"), rtol=tolerance, atol=tolerance * largest
    )


def last(ndim: int) -> tuple[int, ...]:
    """The order of axes that has the channels innermost."""
    return (0, *range(2, ndim), 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout(dtype: str) -> None:
    for shape in [(), (0, 3), (7,), (5, 3, 11)]:
        x = numbers(shape, dtype)
        want = il.dropout(x, 0.4, seed=3, offset=2**40)
        there = asarray(x, offset=1)
        same(il.dropout(there, 0.4, seed=3, offset=2**40), want)
        same(il.dropout_backward(there, 0.4, seed=3, offset=2**40), want)
        assert il.dropout(there, 0.4, seed=3, offset=2**40, out=there) is there
        same(there, want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["glu", "swiglu", "geglu"])
def test_gated(name: str, dtype: str) -> None:
    function, backward = getattr(il, name), getattr(il, f"{name}_backward")
    for shape, axis in [((6,), 0), ((5, 8), -1), ((3, 4, 5), 1), ((4, 0, 2), 0), ((2, 0), 1)]:
        x = numbers(shape, dtype)
        there = asarray(x, offset=len(shape) % 2)
        want = function(x, axis)
        same(function(there, axis), want)
        dy, out = numbers(want.shape, dtype, 1), device.empty_like(there)
        assert backward(asarray(dy), there, axis, out=out) is out
        same(out, backward(dy, x, axis))


@pytest.mark.parametrize("dtype", DTYPES)
def test_prelu(dtype: str) -> None:
    for shape, slopes in [((7,), ()), ((4, 3), (1,)), ((40, 3), (3,)), ((2, 5, 3, 7), (5,))]:
        x, dy = numbers(shape, dtype), numbers(shape, dtype, 1)
        weight = numbers(slopes, dtype, 2)
        want = il.prelu(x, weight)
        want_dx, want_dweight = il.prelu_backward(dy, x, weight)
        for order in {tuple(range(len(shape))), last(len(shape)) if len(shape) > 1 else (0,)}:
            there, on_dy = asarray(x, order=order), asarray(dy, order=order)
            same(il.prelu(there, asarray(weight)), want)
            dx, dweight = il.prelu_backward(on_dy, there, asarray(weight), out=(on_dy, None))
            assert dx is on_dy
            same(dx, want_dx)
            close(dweight, want_dweight, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_row_norms(name: str, dtype: str) -> None:
    function, backward = getattr(il, name), getattr(il, f"{name}_backward")
    for shape in [(6,), (4, 7), (3, 2, 700), (0, 5), (3, 0)]:
        x, dy = numbers(shape, dtype), numbers(shape, dtype, 1)
        columns = [numbers(shape[-1:], dtype, 2 + i) for i in range(1 + (name == "layer_norm"))]
        for given in ([], columns):
            there, placed = asarray(x), [asarray(a, offset=1) for a in given]
            want, want_saved = function(x, *given, return_saved=True)
            y, saved = function(there, *placed, return_saved=True)
            close(y, want, dtype)
            close(saved, want_saved, computed(dtype))
            close(function(there, *placed, eps=0.5), function(x, *given, eps=0.5), dtype)
            wanted = backward(dy, x, want_saved, *given[:1])
            for held in (saved, asarray(want_saved)):
                got = backward(asarray(dy), there, held, *placed[:1])
                assert len(got) == len(wanted)
                for a, b in zip(got, wanted, strict=True):
                    close(a, b, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm(training: bool, dtype: str) -> None:
    for shape in [(6, 3), (4, 5, 3), (3, 2, 5, 7), (0, 3, 2)]:
        x, dy = numbers(shape, dtype), numbers(shape, dtype, 1)
        weight, bias = (numbers((shape[1],), dtype, seed) for seed in (2, 3))
        for order in (tuple(range(len(shape))), last(len(shape))):
            mean = numbers((shape[1],), computed(dtype), 4)
            statistics = [mean, mean * mean + 1]
            placed = [asarray(a) for a in statistics]
            there, options = asarray(x, order=order), {"training": training, "momentum": 0.3}
            on_weight, on_bias = asarray(weight), asarray(bias)
            want, want_saved = il.batch_norm(
                x, *statistics, weight, bias, return_saved=True, **options
            )
            y, saved = il.batch_norm(
                there, *placed, on_weight, on_bias, return_saved=True, **options
            )
            close(y, want, dtype)
            if x.size > 0:
                close(saved, want_saved, computed(dtype))
            for got, expected in zip(placed, statistics, strict=True):
                close(got, expected, computed(dtype))
            wanted = il.batch_norm_backward(dy, x, want_saved, weight, training=training)
            on_dy = asarray(dy, order=order)
            got = il.batch_norm_backward(
                on_dy, there, asarray(want_saved), on_weight, training=training
            )
            for a, b in zip(got, wanted, strict=True):
                close(a, b, dtype)
            dx, dweight, _ = il.batch_norm_backward(
                on_dy, there, asarray(want_saved), training=training, out=(there, None, None)
            )
            assert dx is there and dweight is None


def placed_array(name: str, shape: tuple[int, ...], dtype: str) -> dict[str, np.ndarray]:
    if "logits" not in name:
        return {}
    weight = numbers(shape, dtype, 5)
    return {"pos_weight": np.asarray(np.abs(weight), weight.dtype)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", list(LOSSES))
def test_losses(name: str, dtype: str) -> None:
    function = getattr(il, name)
    shape = (4, 3, 5)
    pred, target = numbers(shape, dtype), np.abs(numbers(shape, dtype, 1))
    if name == "binary_cross_entropy":
        pred = np.asarray(np.abs(np.sin(pred.astype("f4"))), pred.dtype)
    weights = np.asarray(np.random.default_rng(2).integers(1, 9, shape) / 8, computed(dtype))
    for reduction in ["mean", "sum", "none"] + ["batchmean"] * (name == "kl_div"):
        for sample_weight in (None, weights):
            for extra in [(), (5,), (3, 1), (1, 1, 5), shape]:
                arrays = placed_array(name, extra, dtype)
                options: dict[str, Any] = {"reduction": reduction, "grad_scale": 2.0}
                want, want_grad = function(
                    pred,
                    target,
                    sample_weight=sample_weight,
                    return_grad=True,
                    **arrays,
                    **options,
                )
                there = asarray(pred, offset=1)
                on = {key: asarray(value) for key, value in arrays.items()}
                if sample_weight is not None:
                    on["sample_weight"] = asarray(sample_weight)
                loss, grad = function(
                    there, asarray(target), return_grad=True, out=there, **on, **options
                )
                assert grad is there
                same(grad, want_grad)
                close(loss, want, computed(dtype))
                if not arrays:
                    break
    transposed, of_target = (asarray(a, order=(2, 0, 1)) for a in (pred, target))
    loss, grad = function(transposed, of_target, return_grad=True)
    want, want_grad = function(pred, target, return_grad=True)
    same(grad, want_grad)
    close(loss, want, computed(dtype))
    empty = asarray(np.zeros((0, 2), "f4"))
    assert np.isnan(function(empty, empty).numpy())
    assert function(empty, empty, reduction="sum").numpy() == 0


def test_prediction_out_of_range() -> None:
    pred, target = asarray(np.array([0.5, 1.5, 1], "f4")), asarray(np.ones(3, "f4"))
    losses, grad = il.binary_cross_entropy(pred, target, reduction="none", return_grad=True)
    for array in (losses, grad):
        np.testing.assert_array_equal(np.isnan(array.numpy()), [False, True, False])
    text = r"must lie in \[0, 1\], got 1.5, whose loss is NaN"
    with pytest.raises(ValueError, match=f"pred of an earlier call {text}"):
        il.relu(target)
    il.relu(target)
    il.set_cuda_checked(True)
    with pytest.raises(ValueError, match=f"pred of this call {text}"):
        il.binary_cross_entropy(pred, target)


def test_refused() -> None:
    x = asarray(numbers((4, 6, 2), "float32"))
    before = x.numpy()
    other = asarray(numbers((4, 6, 2), "float32"), order=(2, 1, 0))
    ones, wide = asarray(np.ones(2, "f4")), asarray(np.ones(4, "f4"))
    six, like = asarray(np.ones(6, "f4")), device.empty_like(x)
    saved = asarray(np.ones((2, 6), "f4"))
    refused: list[tuple[type[Exception], str, Any]] = [
        (ValueError, "x must be C-contiguous", lambda: il.dropout(other, 0.5, seed=1, out=x)),
        (ValueError, "x must be C-contiguous", lambda: il.glu(other, 1)),
        (ValueError, "x must be C-contiguous", lambda: il.layer_norm(other, out=x)),
        (ValueError, "weight must lie without gaps", lambda: il.rms_norm(x, wide[::2], out=x)),
        (ValueError, "out must lie in memory", lambda: il.prelu(other, ones[:1], out=x)),
        (TypeError, "weight must lie on a CUDA", lambda: il.prelu(x, np.ones(6, "f4"), out=x)),
        (ValueError, "weight must be one slope", lambda: il.prelu(x, ones, out=x)),
        (
            ValueError,
            "dy must lie in memory in the order of x",
            lambda: il.batch_norm_backward(other, x, saved, six, out=(x, None, None)),
        ),
        (
            TypeError,
            "running_mean must be",
            lambda: il.batch_norm(x, None, None, six, out=x),
        ),
        (
            ValueError,
            "target must lie in memory in the order of pred",
            lambda: il.mse_loss(x, other, return_grad=True, out=x),
        ),
        (
            ValueError,
            "pos_weight must be repeated along leading and trailing axes only",
            lambda: il.binary_cross_entropy_with_logits(
                x, like, pos_weight=asarray(np.ones((4, 1, 2), "f4")), return_grad=True, out=x
            ),
        ),
        (
            ValueError,
            "overlap",
            lambda: il.batch_norm(x, six, six, training=True, out=x),
        ),
    ]
    for error, text, call in refused:
        with pytest.raises(error, match=text):
            call()
    assert x.numpy().tobytes() == before.tobytes()


def test_out_of_memory() -> None:
    x, weight = asarray(numbers((9, 4), "float32")), asarray(np.ones(4, "f4"))
    dy, saved = asarray(numbers((9, 4), "float32", 1)), asarray(np.ones((2, 9), "f4"))
    weights, more = asarray(np.ones((9, 4), "f4")), asarray(np.ones((2, 4), "f4"))
    before = x.numpy()
    calls: list[Any] = [
        lambda: il.layer_norm_backward(dy, x, saved, weight, out=(x, None, None)),
        lambda: il.batch_norm(x, None, None, training=True, out=x),
        lambda: il.batch_norm_backward(dy, x, more, weight, training=True, out=(x, None, None)),
        lambda: il.prelu_backward(dy, x, weight, out=(x, None)),
        lambda: il.mse_loss(x, dy, sample_weight=weights, return_grad=True, out=x),
    ]
    for call in calls:
        x.set(before)
        for after in range(5):
            with device.failing_allocations(after):
                try:
                    call()
                    break
                except (RuntimeError, MemoryError):
                    assert x.numpy().tobytes() == before.tobytes()
        assert 0 < after < 4
