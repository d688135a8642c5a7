"""linear, linear_backward and linear_cross_entropy of arrays on an emulated CUDA device.

What the kernels do with every shape, order and dtype is tested by tests/cpp/cuda_linear_test.cpp;
here, what Python adds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import device_arrays as device
import numpy as np
import pytest
from device_arrays import DeviceArray, asarray, empty

import innerloop as il
from innerloop import _core

pytestmark = pytest.mark.skipif(device.memory() is None, reason="no emulated innerloop._cuda")

DTYPES = ["float32", "float64", "bfloat16", "float16"]
TOLERANCE = {"float32": 1e-5, "float64": 1e-13, "bfloat16": 2.0**-6, "float16": 2.0**-9}


@pytest.fixture
def small_parts() -> Iterator[None]:
    """Logits of a few rows at a time."""
    _core.logits_limit(600)
    yield
    _core.logits_limit(0)


def numbers(shape: Any, dtype: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.asarray(rng.normal(size=shape), getattr(device, dtype))


def close(actual: Any, want: Any, dtype: str, *, bits: bool = False) -> None:
    assert isinstance(actual, DeviceArray)
    got, want = actual.numpy(), np.asarray(want)
    assert got.dtype == want.dtype and got.shape == want.shape
    if bits and _core.has_fma():
        assert got.tobytes() == want.tobytes()
    got, want = got.astype("f8"), want.astype("f8")
    largest = np.abs(want[np.isfinite(want)]).max(initial=0)
    np.testing.assert_allclose(got, want, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * largest)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [None, "gelu", "tanh", "leaky_relu"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_forward_and_backward(dtype: str, activation: str | None, dropout: float) -> None:
    x, w, b = (numbers(s, dtype, i) for i, s in enumerate([(3, 7, 33), (33, 18), 18]))
    dy = numbers((3, 7, 18), dtype, 4)
    options: dict[str, Any] = {"activation": activation, "dropout": dropout, "seed": 3}
    if activation == "leaky_relu":
        options["negative_slope"] = 0.3
    y, saved = il.linear(x, w, b, return_saved=True, **options)
    on_device = [asarray(a) for a in (x, w, b, dy)]
    by_columns = asarray(np.ascontiguousarray(w.T)).T
    exact = dtype in ("float32", "float64")
    for weight in (on_device[1], by_columns):
        got, got_saved = il.linear(on_device[0], weight, on_device[2], return_saved=True, **options)
        close(got, y, dtype, bits=exact)
        assert (saved is None) == (got_saved is None)
        if saved is not None:
            close(got_saved, saved, dtype, bits=exact)
            assert (got_saved is got) == (saved is y)
        want = il.linear_backward(dy, x, w, saved, **options)
        gradients = il.linear_backward(on_device[3], on_device[0], weight, got_saved, **options)
        for g, to_be, same in zip(gradients, want, (exact, exact, False), strict=True):
            close(g, to_be, dtype, bits=same)


def test_given_outputs() -> None:
    x, w, dy = (asarray(numbers(s, "float32", 1)) for s in [(9, 5), (5, 6), (9, 6)])
    out = empty((9, 6))
    assert il.linear(x, w, out=out) is out
    close(out, il.linear(x.numpy(), w.numpy()), "float32", bits=True)
    dx, dw = empty((9, 5)), empty((6, 5)).T
    assert il.linear_backward(dy, x, w, bias=False, out=(dx, dw, None)) == (dx, dw, None)
    want = il.linear_backward(dy.numpy(), x.numpy(), w.numpy(), bias=False)
    close(dx, want[0], "float32", bits=True)
    close(dw, want[1], "float32", bits=True)


@pytest.mark.parametrize(("m", "k", "n"), [(0, 3, 4), (3, 0, 4), (3, 4, 0)])
def test_without_elements(m: int, k: int, n: int) -> None:
    x, w, b, dy = (numbers(s, "float32", 1) for s in [(m, k), (k, n), n, (m, n)])
    close(il.linear(asarray(x), asarray(w), asarray(b)), il.linear(x, w, b), "float32", bits=True)
    want = il.linear_backward(dy, x, w)
    for got, to_be in zip(
        il.linear_backward(asarray(dy), asarray(x), asarray(w)), want, strict=True
    ):
        close(got, to_be, "float32", bits=True)


def test_what_is_refused() -> None:
    x, w = asarray(np.ones((4, 2, 3), "f4")), asarray(np.ones((3, 5), "f4"))
    with pytest.raises(TypeError, match="PackedWeight"):
        il.linear(x, il.pack(w.numpy()))
    with pytest.raises(ValueError, match="contiguous"):
        il.linear(asarray(np.ones((4, 2, 3), "f4"), order=(1, 0, 2)), w)
    with pytest.raises(ValueError, match="without gaps"):
        il.linear(asarray(np.ones((4, 6), "f4"))[:, :3], w)
    with pytest.raises(TypeError, match="w must"):
        il.linear(x, w.numpy())
    with pytest.raises(ValueError, match="shape"):
        il.linear(x, asarray(np.ones((4, 5), "f4")))


def test_tf32_is_a_choice() -> None:
    assert il.cuda_tf32() is False
    il.set_cuda_tf32(True)
    try:
        assert il.cuda_tf32() is True
        x, w = (asarray(numbers(s, "float32", 1)) for s in [(8, 16), (16, 8)])
        close(il.linear(x, w), il.linear(x.numpy(), w.numpy()), "float32")
    finally:
        il.set_cuda_tf32(False)
    with pytest.raises(TypeError, match="allowed"):
        il.set_cuda_tf32("yes")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("parts", [True, False])
def test_cross_entropy(
    dtype: str, reduction: str, labels: bool, parts: bool, request: pytest.FixtureRequest
) -> None:
    rows, width, classes = 41, 9, 23
    x, w, b = (
        numbers(s, dtype, i) for i, s in enumerate([(rows, width), (width, classes), classes])
    )
    rng = np.random.default_rng(7)
    target: Any = rng.integers(0, classes, rows)
    target[5] = -100
    if not labels:
        p = rng.random((rows, classes))
        target = np.asarray(p / p.sum(1, keepdims=True), x.dtype)
    sample_weight, weight = (np.asarray(rng.random(n), x.dtype) for n in (rows, classes))
    options: dict[str, Any] = {
        "reduction": reduction,
        "label_smoothing": 0.1,
        "z_loss": 0.01,
        "grad_scale": 3.0,
    }
    want, gradients = il.linear_cross_entropy(
        x, w, target, b, sample_weight=sample_weight, weight=weight, return_grad=True, **options
    )
    if parts:
        request.getfixturevalue("small_parts")
    on = [asarray(a) for a in (x, w, target, b, sample_weight, weight)]
    given = {"sample_weight": on[4], "weight": on[5], **options}
    loss, got = il.linear_cross_entropy(*on[:4], return_grad=True, **given)
    close(loss, want, dtype)
    for g, to_be in zip(got, gradients, strict=True):
        close(g, to_be, dtype)
    close(il.linear_cross_entropy(*on[:4], **given), loss.numpy(), dtype)


def test_cross_entropy_of_no_rows() -> None:
    x, w = np.ones((0, 3), "f4"), np.ones((3, 4), "f4")
    target = np.zeros(0, "i8")
    loss, gradients = il.linear_cross_entropy(
        asarray(x), asarray(w), asarray(target), return_grad=True, reduction="sum"
    )
    assert loss.numpy() == 0
    assert gradients[0].shape == (0, 3) and gradients[2] is None
    assert not gradients[1].numpy().any()
