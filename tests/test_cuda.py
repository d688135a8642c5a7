"""Arrays of CUDA devices. What needs the module skips without it, what needs a device without one.

The kernels' arithmetic is tested without either, by tests/cpp/cuda_test.cpp.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import device_arrays
import numpy as np
import pytest
from test_arrays import Forged

import innerloop as il
from innerloop._arrays import cuda_module
from innerloop.activations import NAMES
from innerloop.reference import OPTIMIZERS
from support import numbers

HAS_MODULE = cuda_module() is not None
HAS_DEVICE = HAS_MODULE and il.info()["cuda"].startswith("built, on")
needs_module = pytest.mark.skipif(not HAS_MODULE, reason="innerloop._cuda is not built")
needs_device = pytest.mark.skipif(
    not HAS_DEVICE, reason="no CUDA device that innerloop._cuda finds"
)

DTYPES = ["float32", "float64", "bfloat16", "float16"]


class OnDevice(Forged):
    """An array that says of itself that it lies on a CUDA device; its memory is the host's."""

    def __init__(self, shape: Any = (2, 3), strides: Any = None, device: int = 0, **fields: Any):
        super().__init__(shape, strides, device_type=2, device_id=device, **fields)
        self.device = device

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, self.device)

    def values(self) -> list[float]:
        return list(self.memory)


class Interface:
    """An array with __cuda_array_interface__ alone."""

    def __init__(self, array: np.ndarray, **given: Any) -> None:
        self.array = array
        self.__cuda_array_interface__ = {**array.__array_interface__, "version": 3, **given}


def over(array: OnDevice, **fields: Any) -> OnDevice:
    """Another array over the memory of the first."""
    other = OnDevice(**fields)
    other.memory = array.memory
    other.managed.tensor.data = ctypes.addressof(array.memory)
    return other


def test_info_tells_of_cuda() -> None:
    assert il.info()["cuda"].startswith("built" if HAS_MODULE else "not built")


@pytest.mark.skipif(HAS_MODULE, reason="innerloop._cuda is built")
@pytest.mark.parametrize("array", [OnDevice(), Interface(np.ones(3, "f4"))])
def test_without_the_module_they_are_refused(array: Any) -> None:
    with pytest.raises(TypeError, match="x must be an array that can be read in place on the CPU"):
        il.gelu(array)
    with pytest.raises(TypeError, match="must be an array that can be read in place on the CPU"):
        il.adam_step(array, array, array, array, step=1)


@pytest.mark.skipif(not HAS_MODULE or HAS_DEVICE, reason="needs the module and no device")
def test_without_a_device_a_call_says_so() -> None:
    x, y = OnDevice(), OnDevice()
    before = y.values()
    for call in (
        lambda: il.gelu(x, out=y),
        lambda: il.tanh_backward(x, None, y=y, out=y),
        lambda: il.adam_step(y, x, OnDevice(), OnDevice(), step=1),
        lambda: il.relu(Interface(np.ones(3, "f4"))),
    ):
        with pytest.raises(RuntimeError, match="no CUDA device can be used"):
            call()
    assert y.values() == before


@needs_module
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: il.gelu(x, out=np.ones((2, 3), "f4")), TypeError, "out must lie on a CUDA dev"),
        (lambda x: il.gelu(np.ones((2, 3), "f4"), out=x), TypeError, "of CUDA devices go together"),
        (lambda x: il.gelu(x, out=OnDevice(device=1)), ValueError, "out must lie on the device of"),
        (lambda x: il.gelu(x, out=OnDevice((3, 2))), ValueError, "out must have the shape"),
        (lambda x: il.gelu(x, out=OnDevice(bits=64)), TypeError, "out must be float32"),
        (lambda x: il.gelu(OnDevice(code=0), out=x), TypeError, "x must be float32, float64"),
        (lambda x: il.gelu(OnDevice(code=5, bits=64)), TypeError, "x must be an array of a native"),
        (lambda x: il.gelu(OnDevice((2, 3), (6, 2)), out=x), ValueError, "x must lie without gaps"),
        (lambda x: il.gelu(OnDevice((2, 3), (-3, 1)), out=x), ValueError, "x must lie without gap"),
        (lambda x: il.gelu(x, out=OnDevice((2, 3), (1, 2))), ValueError, "out must lie in memory"),
        (lambda x: il.gelu(x, out=OnDevice((2, 3), (0, 1))), ValueError, "out must store each"),
        (lambda x: il.gelu(x, out=over(x, byte_offset=4)), ValueError, "out must not overlap x"),
        (lambda x: il.gelu(OnDevice(byte_offset=2), out=x), ValueError, "x must begin at a mult"),
        (lambda x: il.gelu(x), TypeError, "out must be given for arrays of test_cuda"),
        (lambda x: il.gelu(OnDevice((-1,)), out=x), TypeError, "x: its DLPack capsule has an axis"),
        (lambda x: il.gelu(x, out=5), TypeError, "out must be an array, got int"),
        (lambda x: il.leaky_relu(x, 1j, out=x), TypeError, "negative_slope must be a number"),
        (lambda x: il.relu_backward(x, x, y=OnDevice((3,)), out=x), ValueError, "y must have the"),
        (lambda x: il.pack(x), TypeError, "to what innerloop._cuda has a kernel for"),
        (lambda x: il.adam_step(x, x, OnDevice(), OnDevice(), step=1), ValueError, "params must n"),
        (lambda x: il.adam_step([x], [OnDevice()], [OnDevice()], [], step=1), ValueError, "exp_av"),
        (lambda x: il.adam_step(x, OnDevice(bits=64), x, x, step=1), TypeError, "grads must have"),
        (lambda x: il.adam_step(x, OnDevice(), OnDevice(bits=16), x, step=1), TypeError, "exp_avg"),
        (lambda x: il.adam_step(x, OnDevice(), None, None, step=1), ValueError, "exp_avgs must be"),
        (lambda x: il.adam_step(x, OnDevice(), x, x, step=0), ValueError, "step must count from"),
        (lambda x: il.sgd_step([x], [None], step=1), TypeError, r"grads\[0\] must be an array"),
        (lambda x: il.sgd_step(x, OnDevice(), step=1, max_norm=1), TypeError, "has no dtype float"),
        (lambda x: il.sgd_step(x, OnDevice(), step=1, masters=OnDevice()), TypeError, "masters mu"),
        (lambda x: il.sgd_step(x, OnDevice(device=1), step=1), ValueError, "grads must lie on the"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(
    call: Callable[[Any], Any], error: type[Exception], message: str
) -> None:
    x = OnDevice()
    before = x.values()
    with pytest.raises(error, match=message):
        call(x)
    assert x.values() == before


@needs_module
def test_interfaces_are_not_believed() -> None:
    x = OnDevice()
    a = np.ones((2, 3), "f4")
    for given, error, message in (
        ({"mask": a}, TypeError, "must be an array without a mask"),
        ({"strides": (12, 2)}, ValueError, "must have strides of whole elements"),
        ({"strides": (4,)}, TypeError, "other strides than axes"),
        ({"typestr": ">f4"}, TypeError, "must be an array of a native dtype"),
        ({"typestr": "<c8"}, TypeError, "must be an array of a native float or integer dtype"),
        ({"shape": (2, 1 << 62)}, TypeError, "more memory than there is"),
    ):
        with pytest.raises(error, match=message):
            il.relu(x, out=Interface(a, **given))


@needs_module
def test_the_reference_takes_none() -> None:
    with il.use_backend("reference"), pytest.raises(TypeError, match="read in place on the CPU"):
        il.gelu(OnDevice())


@pytest.fixture
def cuda() -> Any:
    """PyTorch with a device, or the test is skipped."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch finds no CUDA device")
    return torch


class OfPyTorch:
    """PyTorch's tensors on a device."""

    large = 100_003

    def __init__(self, torch: Any) -> None:
        self.torch = torch

    def put(self, values: np.ndarray, offset: int = 0) -> Any:
        dtype, bits = getattr(self.torch, values.dtype.name), f"i{values.dtype.itemsize}"
        made = self.torch.empty(values.size + offset, dtype=dtype, device="cuda")[offset:]
        made = made.view(values.shape)
        from_host = self.torch.from_numpy(values.view(bits))
        made.view(from_host.dtype).copy_(from_host)
        return made

    def get(self, array: Any) -> np.ndarray:
        assert array.is_cuda
        dtype = getattr(device_arrays, str(array.dtype).partition(".")[2])
        bits = getattr(self.torch, f"int{8 * dtype.itemsize}")
        return array.cpu().view(bits).numpy().view(dtype)

    def empty_like(self, array: Any) -> Any:
        return self.torch.empty_like(array)


class Emulated:
    """Those of tests/device_arrays.py."""

    large = 1003  # tests/cpp/cuda_test.cpp has larger ones

    def put(self, values: np.ndarray, offset: int = 0) -> Any:
        return device_arrays.asarray(values, offset=offset)

    def get(self, array: Any) -> np.ndarray:
        return array.numpy()

    def empty_like(self, array: Any) -> Any:
        return device_arrays.empty_like(array)


@pytest.fixture(params=["PyTorch", "emulated"])
def library(request: pytest.FixtureRequest) -> Any:
    """Puts arrays on a device and gets them back."""
    if request.param == "PyTorch":
        return OfPyTorch(request.getfixturevalue("cuda"))
    if device_arrays.memory() is None:
        pytest.skip("innerloop._cuda is not the emulated one")
    return Emulated()


def random(n: int, dtype: str, seed: int) -> np.ndarray:
    return numbers(n, "float32", seed).astype(getattr(device_arrays, dtype))


def assert_same(library: Any, got: Any, want: np.ndarray) -> None:
    values = library.get(got)
    assert values.dtype == want.dtype
    np.testing.assert_array_equal(values.astype("f8"), want.astype("f8"))


@needs_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_activations_equal_the_cpu(library: Any, name: str, dtype: str) -> None:
    forward, backward = getattr(il, name), getattr(il, f"{name}_backward")
    for n in (0, 1, 7, 8, 9, library.large):
        for offset in (0, 1):
            x, dy = (random(n, dtype, seed) for seed in (0, 1))
            on_x, on_dy = (library.put(values, offset) for values in (x, dy))
            want = forward(x)
            assert_same(library, forward(on_x), want)
            assert_same(library, backward(on_dy, on_x), backward(dy, x))
            y = library.put(want)
            assert_same(library, backward(on_dy, on_x, y=y), backward(dy, x, y=want))
            out = library.empty_like(on_x)
            assert forward(on_x, out=out) is out
            assert_same(library, out, want)
            assert_same(library, forward(on_x, out=on_x), want)


@needs_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_equal_the_cpu(library: Any, name: str, dtype: str) -> None:
    step, states = getattr(il, f"{name}_step"), OPTIMIZERS[name].states
    kept = "float64" if dtype == "float64" else "float32"
    sizes = [1, 5, 4096, library.large, *range(1, 80)]
    here = [[random(n, dtype, i + o) for i, n in enumerate(sizes)] for o in (0, 1000)]
    here += [[np.zeros(n, kept) for n in sizes] for _ in states]
    there = [[library.put(a) for a in operand] for operand in here]
    options = {"momentum": 0.9} if name in ("sgd", "rmsprop") else {}
    for count in (1, 2, 3):
        step(*here, step=count, weight_decay=0.01, l1=1e-3, grad_scale=2.0, **options)
        step(*there, step=count, weight_decay=0.01, l1=1e-3, grad_scale=2.0, **options)
    for operand, want in zip(there, here, strict=True):
        for got, expected in zip(operand, want, strict=True):
            assert_same(library, got, expected)


needs_emulator = pytest.mark.skipif(
    device_arrays.memory() is None, reason="innerloop._cuda is not the emulated one"
)


@needs_emulator
def test_arrays_of_any_layout_without_gaps() -> None:
    x = random(24, "float32", 0).reshape(2, 3, 4)
    on = device_arrays.asarray(x, order=(1, 2, 0))
    out = device_arrays.empty_like(on)
    assert out.strides == on.strides == (4, 32, 8)
    np.testing.assert_array_equal(il.tanh(on, out=out).numpy(), il.tanh(x))
    np.testing.assert_array_equal(il.tanh(on.T).numpy(), il.tanh(x.T))
    for bad in (on[:, :, ::2], on[:, :, 1:], on[::-1]):
        with pytest.raises(ValueError, match="x must lie without gaps"):
            il.tanh(bad)
    lent, y = (device_arrays.WithInterface(array) for array in (on, out))
    il.relu(lent, out=y)
    np.testing.assert_array_equal(out.numpy(), il.relu(x))


@needs_emulator
def test_what_there_is_no_memory_for_is_not_begun() -> None:
    params, grads = (device_arrays.asarray(random(100, "float32", seed)) for seed in (0, 1))
    before, arrays = params.numpy(), device_arrays.memory().emulator_array_count()
    with device_arrays.failing_allocations(after=1), pytest.raises(RuntimeError, match="memory"):
        il.sgd_step(params, grads, step=1, max_norm=1.0)
    with device_arrays.failing_allocations(), pytest.raises(MemoryError):
        il.tanh(params)
    np.testing.assert_array_equal(params.numpy(), before)
    assert device_arrays.memory().emulator_array_count() == arrays


def assert_equal(torch: Any, got: Any, want: Any) -> None:
    assert got.is_cuda and torch.equal(got.cpu(), want)


@needs_device
def test_calls_are_captured_in_graphs_and_follow_the_stream(cuda: Any) -> None:
    x, y = cuda.randn(1000, device="cuda"), cuda.empty(1000, device="cuda")
    p, g = cuda.ones(1000, device="cuda"), cuda.ones(1000, device="cuda")
    il.gelu(x, out=y)
    graph = cuda.cuda.CUDAGraph()
    with cuda.cuda.graph(graph):
        il.gelu(x, out=y)
        il.sgd_step(p, g, step=1, lr=0.5)
    x.fill_(2.0)
    p.fill_(1.0)
    graph.replay()
    cuda.cuda.synchronize()
    assert_equal(cuda, y, il.gelu(cuda.full((1000,), 2.0)))
    assert bool((p == 0.5).all())


@needs_device
def test_the_context_survives_bad_input(cuda: Any) -> None:
    x = cuda.randn(64, 64, device="cuda")
    for bad in (x[:, ::2], x.t()[::2]):
        with pytest.raises(ValueError, match="x must lie without gaps"):
            il.gelu(bad)
    with pytest.raises(TypeError, match="out must lie on a CUDA device"):
        il.gelu(x, out=cuda.empty(64, 64))
    with pytest.raises(TypeError, match="no autograd follows"):
        il.gelu(x.clone().requires_grad_())
    assert_equal(cuda, il.gelu(x.t()), il.gelu(x.t().cpu()))
