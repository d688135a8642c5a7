"""Arrays of other libraries: read in place, handed back in kind, and not believed blindly."""

from __future__ import annotations

import array
import ctypes
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import innerloop as il
from innerloop import _core
from innerloop._arrays import cuda_module
from support import numbers

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


class Exports:
    """A producer of DLPack capsules that understands only these keywords."""

    def __init__(self, array: Any, *keywords: str, device: tuple[int, int] = (1, 0)) -> None:
        self.array, self.keywords, self.device = array, keywords, device

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, **given: Any) -> Any:
        if not given.keys() <= {*self.keywords}:
            raise TypeError(f"unexpected keywords in {given}")
        lent = _core.Lent(self.array, self.array.dtype == BFLOAT16)
        return lent.__dlpack__(max_version=given.get("max_version"))


def same_place(a: np.ndarray, b: np.ndarray) -> bool:
    return (a.ctypes.data, a.shape, a.strides) == (b.ctypes.data, b.shape, b.strides)


def imported(value: Any) -> np.ndarray:
    return _core.from_dlpack(value, BFLOAT16)


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i1", "u2", "i4", "i8", "u8", "?", BFLOAT16])
def test_versioned_capsules_are_read_in_place(dtype: Any) -> None:
    a = np.zeros((3, 4, 5), dtype)
    for view in (a, a.T, a[::2, ::-1], a[:0], a[0, 0, 0:1].reshape(())):
        got = imported(Exports(view, "max_version", "copy"))
        assert got.dtype == view.dtype and got.flags.writeable
        assert got.shape == view.shape and (view.size == 0 or same_place(got, view))


def test_read_only_is_honoured() -> None:
    a = np.zeros(3, "f4")
    a.flags.writeable = False
    assert not imported(Exports(a, "max_version", "copy")).flags.writeable
    with pytest.raises(ValueError, match="out must be writeable"):
        il.relu(np.ones(3, "f4"), out=Exports(a, "max_version", "copy"))


def test_older_producers_are_asked_with_fewer_keywords() -> None:
    a = numbers(5, "float32")
    assert imported(Exports(a, "max_version")).flags.writeable
    legacy = imported(Exports(a))
    assert same_place(legacy, a) and not legacy.flags.writeable  # a legacy capsule cannot say
    np.testing.assert_array_equal(il.relu(Exports(a)), np.maximum(a, 0))


def test_other_devices_are_refused() -> None:
    cuda = [] if cuda_module() else [(2, 0)]  # tests/test_cuda.py has what becomes of those
    for device in (*cuda, (10, 1), (99, 0)):
        with pytest.raises(TypeError, match=rf"x must be .*type {device[0]}, not on the CPU"):
            il.relu(Exports(np.ones(3, "f4"), "max_version", "copy", device=device))


def test_memory_lives_as_long_as_its_readers() -> None:
    a = np.arange(4, dtype="f4")
    count = sys.getrefcount(a)
    kept = imported(Exports(a, "max_version", "copy"))
    assert sys.getrefcount(a) > count
    del kept
    lent = _core.Lent(a, False)
    unused = lent.__dlpack__(max_version=(1, 0))  # nobody takes it
    del unused, lent
    assert sys.getrefcount(a) == count


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class Versioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    ]


def capsule_of(managed: Versioned) -> Any:
    """Return a capsule without a deleter: what it says lives as long as `managed`."""
    new = ctypes.pythonapi.PyCapsule_New
    new.restype = ctypes.py_object
    new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return new(ctypes.addressof(managed), b"dltensor_versioned", None)


class Forged:
    """A producer whose capsule says whatever a test wants."""

    def __init__(
        self, shape: Any = (2, 3), strides: Any = None, major: int = 1, **fields: Any
    ) -> None:
        self.memory = (ctypes.c_float * 64)(*range(64))
        self.managed = Versioned(major=major)
        tensor = self.managed.tensor
        tensor.data = ctypes.addressof(self.memory)
        tensor.device_type, tensor.ndim = 1, len(shape or ())
        tensor.code, tensor.bits, tensor.lanes = 2, 32, 1
        if shape is not None:
            tensor.shape = (ctypes.c_int64 * len(shape))(*shape)
        if strides is not None:
            tensor.strides = (ctypes.c_int64 * len(strides))(*strides)
        for name, value in fields.items():
            setattr(tensor, name, value)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __dlpack__(self, **_: Any) -> Any:
        return capsule_of(self.managed)


def test_capsules_without_strides_and_with_an_offset() -> None:
    forged = Forged()  # kept: its capsule has no deleter
    np.testing.assert_array_equal(imported(forged), [[0, 1, 2], [3, 4, 5]])
    forged = Forged(byte_offset=8)
    np.testing.assert_array_equal(imported(forged), [[2, 3, 4], [5, 6, 7]])
    forged = Forged(strides=(1, 2))
    np.testing.assert_array_equal(imported(forged), [[0, 2, 4], [1, 3, 5]])
    forged = Forged(shape=(), byte_offset=12)
    assert imported(forged) == 3
    forged = Forged(shape=(0, 2**40, 8), data=None)
    assert imported(forged).shape == (0, 2**40, 8)


@pytest.mark.parametrize(
    "forged",
    [
        Forged(ndim=-1),
        Forged(ndim=65),
        Forged(shape=None, ndim=2),
        Forged(shape=(2, -3)),
        Forged(shape=(2**31, 2**31, 2**31)),
        Forged(shape=(2**62, 2)),
        Forged(shape=(2, 2), strides=(2**62, 1)),
        Forged(shape=(2**40, 2**40), strides=(2**30, 2**30)),
        Forged(shape=(1, 2), strides=(-(2**61), 1)),
        Forged(data=None),
        Forged(device_type=2),
        Forged(lanes=4),
        Forged(bits=12),
        Forged(bits=24),
        Forged(code=9),
        Forged(major=2),
    ],
    ids=lambda forged: "",
)
def test_forged_capsules_are_refused(forged: Forged) -> None:
    with pytest.raises(TypeError, match=r"x must be an array that can be read .* capsule"):
        il.relu(forged)


def test_no_capsule() -> None:
    class Liar(Forged):
        def __dlpack__(self, **_: Any) -> Any:
            return "capsule"

    with pytest.raises(TypeError, match=r"x must be .*no DLPack capsule"):
        il.relu(Liar())


def test_results_are_of_the_callers_library(target: str) -> None:
    torch = pytest.importorskip("torch")
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        x = torch.randn(6, 7).to(dtype)
        for view in (x, x.T, x[::2], x[:, 1], x[1, 2]):
            y = il.relu(view)
            assert type(y) is torch.Tensor and y.dtype == dtype and torch.equal(y, view.relu())
        out = torch.empty(7, 6, dtype=dtype)
        assert il.relu(x.T, out=out) is out and torch.equal(out, x.T.relu())


def test_numpy_bfloat16(target: str) -> None:
    x = numbers((4, 5), "float32").astype(BFLOAT16)
    y = il.relu(x)
    assert type(y) is np.ndarray and y.dtype == BFLOAT16
    np.testing.assert_array_equal(y, np.maximum(x, BFLOAT16.type(0)))


def test_jax_arrays(target: str) -> None:
    jax = pytest.importorskip("jax")
    for dtype in ("float32", "float16", "bfloat16"):
        x = jax.numpy.array(numbers((4, 9), "float32"), dtype=dtype)
        y = il.relu(x)
        assert isinstance(y, jax.Array) and y.dtype == dtype
        np.testing.assert_array_equal(np.asarray(y, "f4"), np.maximum(np.asarray(x, "f4"), 0))
        with pytest.raises(ValueError, match="out must be writeable"):  # JAX arrays do not change
            il.relu(np.asarray(x).copy(), out=y)


@pytest.mark.parametrize("wrap", [memoryview, lambda a: array.array("f", a)])
def test_buffers(target: str, wrap: Any) -> None:
    x = numbers(9, "float32")
    y = il.relu(wrap(x))
    assert type(y) is np.ndarray
    np.testing.assert_array_equal(y, np.maximum(x, 0))


def test_array_interface(target: str) -> None:
    x = numbers((3, 4), "float32")

    class Wrapped:
        __array_interface__ = x.__array_interface__

    np.testing.assert_array_equal(il.relu(Wrapped()), np.maximum(x, 0))
    out = Wrapped()
    assert il.relu(x, out=out) is out
    assert (x >= 0).all()


def test_a_tensor_that_requires_grad_is_refused() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"x must be .*requires grad.*innerloop\.plugins\.torch"):
        il.relu(torch.ones(3, requires_grad=True))


def test_a_negated_view_is_refused() -> None:
    torch = pytest.importorskip("torch")
    negated = torch.imag(torch.conj(torch.tensor([1 + 2j, 3 - 4j])))
    with pytest.raises(TypeError, match=r"x must be .* negated view: call resolve_neg\(\)"):
        il.identity(negated)
    assert torch.equal(il.identity(negated.resolve_neg()), negated)


def test_tensors_that_cannot_be_read_in_place_are_refused() -> None:
    torch = pytest.importorskip("torch")
    for tensor in (torch.ones(3).to_sparse(), torch.ones(3, device="meta")):
        with pytest.raises(TypeError, match="x must be an array that can be read in place"):
            il.relu(tensor)


def test_a_tensor_is_read_anew_in_every_call() -> None:
    torch = pytest.importorskip("torch")
    param, grad = torch.ones(6), torch.ones(6)
    optimizer = il.SGD(param, lr=1.0)
    optimizer.step(grad)
    param.data = torch.full((6,), 5.0)  # moved
    optimizer.step(grad)
    assert torch.equal(param, torch.full((6,), 4.0))
    param.resize_(7)
    with pytest.raises(ValueError, match="grads must have the shape"):
        optimizer.step(grad)
    freed = torch.ones(6)
    freed.untyped_storage().resize_(0)
    with pytest.raises(TypeError, match="grads must be an array that can be read in place"):
        optimizer.step(freed)
    grad.requires_grad_()
    with pytest.raises(TypeError, match="requires grad"):
        optimizer.step(grad)


def test_a_tensor_type_that_overrides_dlpack_is_asked() -> None:
    torch = pytest.importorskip("torch")

    class Doubled(torch.Tensor):
        def __dlpack__(self, **options: Any) -> Any:
            return (self.as_subclass(torch.Tensor) * 2).__dlpack__(**options)

    x = torch.arange(3.0)
    np.testing.assert_array_equal(np.asarray(il.relu(x)), [0, 1, 2])
    np.testing.assert_array_equal(np.asarray(il.relu(x.as_subclass(Doubled))), [0, 2, 4])


def test_a_call_keeps_no_tensor() -> None:
    torch = pytest.importorskip("torch")
    memory = np.ones(1000, np.float32)
    before = sys.getrefcount(memory)
    x = torch.from_numpy(memory)
    for _ in range(3):
        il.relu(x)
    del x
    assert sys.getrefcount(memory) == before


def test_tensors_that_require_grad_are_read_where_autograd_records_nothing() -> None:
    torch = pytest.importorskip("torch")
    for x in (torch.ones(3, requires_grad=True), torch.nn.Parameter(torch.ones(3))):
        with torch.no_grad():
            y = il.relu(x)
        assert torch.equal(y, torch.ones(3)) and not y.requires_grad


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (5,), (2, 1, 3), (300, 300)])
def test_results_for_tensors_are_tensors_of_their_own_memory(shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        x = torch.full(shape, 2.0, dtype=dtype)
        ys = [il.relu(x) for _ in range(3)]
        ys[0] += 1
        assert ys[1].is_contiguous() and ys[1].shape == x.shape and ys[1].dtype == dtype
        assert torch.equal(ys[0], x + 1) and torch.equal(ys[1], x) and torch.equal(ys[2], x)
        part = ys[1][..., 1:] if x.ndim else ys[1]
        del ys
        assert torch.equal(part, x[..., 1:] if x.ndim else x)  # a view keeps it


def test_the_memory_of_results_goes_back_to_the_cache() -> None:
    torch = pytest.importorskip("torch")
    il.empty_cache()
    y = il.relu(torch.ones(1 << 18))
    assert _core.buffer_cache_held() == 0
    del y
    assert _core.buffer_cache_held() >= 1 << 20


def test_errors_of_tensors_name_the_argument() -> None:
    torch = pytest.importorskip("torch")
    x = torch.ones(3, 4)
    with pytest.raises(ValueError, match="out must not overlap"):
        il.softmax(x[:, :3], out=x[:, 1:])
    with pytest.raises(TypeError, match="out must be float32"):
        il.relu(x, out=x.double())
    with pytest.raises(TypeError, match="x must be"):
        il.relu(x.to(torch.complex64))
