"""`linear` and `linear_backward`: every layout, size and activation on every instruction set.

The product is held to the bit by the textbook loop with fma, compiled here, and the gradients by
the reference, finite differences and PyTorch.
"""

import ctypes
import itertools
import shutil
import subprocess

import numpy as np
import pytest

import innerloop as il
from innerloop import _core, reference

FLOATS = [np.float32, np.float64]
ISAS = il.isas()
FMA_ISAS = [isa for isa in ISAS if isa != "v2"]
ACTIVATIONS = list(il.activations.NAMES)
INF, NAN = np.inf, np.nan


@pytest.fixture(params=ISAS)
def isa(request):
    with il.use_isa(request.param):
        yield request.param


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture
def threads():
    """A setter of the number of threads, undone at the end."""
    before = il.get_num_threads()
    yield il.set_num_threads
    il.set_num_threads(before)


def random(*shape, dtype=np.float64, seed=0):
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(dtype)


def layer(m, k, n, dtype, seed=0):
    x, w = random(m, k, dtype=dtype, seed=seed), random(k, n, dtype=dtype, seed=seed + 1)
    return x, (w / max(k, 1) ** 0.5).astype(dtype), random(n, dtype=dtype, seed=seed + 2)


def close(actual, expected, terms):
    """Equal up to the rounding of a sum of `terms` terms of size about 1."""
    assert actual.shape == expected.shape and actual.dtype == expected.dtype
    tolerance = 8 * np.finfo(actual.dtype).eps * max(terms, 4) ** 0.5
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def same_bits(a, b):
    assert a.shape == b.shape and a.dtype == b.dtype
    np.testing.assert_array_equal(
        np.ascontiguousarray(a).view(f"u{a.itemsize}"),
        np.ascontiguousarray(b).view(f"u{b.itemsize}"),
    )


# --- layouts -------------------------------------------------------------------------------------


def misaligned(a):
    """A copy of `a` whose address is no multiple of its item size."""
    raw = np.zeros(a.nbytes + 1, np.uint8)[1:]
    view = np.ndarray(a.shape, a.dtype, raw.data)
    view[...] = a
    return view


def odd_strides(a):
    """A copy of `a` in the fields of a packed record: strides that are no multiple of the item."""
    record = np.zeros(a.shape, np.dtype([("pad", "u1"), ("value", a.dtype)]))
    record["value"] = a
    return record["value"]


def every_second(a):
    wide = np.full(tuple(2 * s for s in a.shape), NAN, a.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in a.shape)]
    view[...] = a
    return view


LAYOUTS = {
    "c": np.ascontiguousarray,
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "strided": every_second,
    "reversed": lambda a: np.ascontiguousarray(np.flip(a)).view()[
        tuple([slice(None, None, -1)] * a.ndim)
    ],
    "misaligned": misaligned,
    "transposed misaligned": lambda a: misaligned(np.ascontiguousarray(a.T)).T,
    "odd strides": odd_strides,
}


# --- the exact oracle ----------------------------------------------------------------------------

ORACLE = r"""
#include <math.h>
#define ORACLE(name, T, fma)                                                                     \
  void name(long m, long k, long n, const T *x, const T *w, const T *b, T *y) {                  \
    for (long i = 0; i < m; i++)                                                                 \
      for (long j = 0; j < n; j++) {                                                             \
        T sum = 0;                                                                               \
        for (long p = 0; p < k; p++) sum = fma(x[i * k + p], w[p * n + j], sum);                 \
        y[i * n + j] = b ? sum + b[j] : sum;                                                     \
      }                                                                                          \
  }
ORACLE(oracle_float32, float, fmaf)
ORACLE(oracle_float64, double, fma)
"""


@pytest.fixture(scope="session")
def oracle(tmp_path_factory):
    """x @ w + b, each element one chain of fma over k in order."""
    compiler = next((c for c in ("cc", "gcc", "g++", "clang") if shutil.which(c)), None)
    if compiler is None:
        pytest.skip("no C compiler at hand")
    folder = tmp_path_factory.mktemp("oracle")
    source, library = folder / "oracle.c", folder / "oracle.so"
    source.write_text(ORACLE)
    command = [compiler, "-x", "c", "-O1", "-ffp-contract=off", "-shared", "-fPIC"]
    subprocess.run([*command, str(source), "-o", str(library), "-lm"], check=True)
    loaded = ctypes.CDLL(str(library))

    def product(x, w, b=None):
        x, w = np.ascontiguousarray(x), np.ascontiguousarray(w)
        y = np.empty((x.shape[0], w.shape[1]), x.dtype)
        arrays = [x, w, None if b is None else np.ascontiguousarray(b), y]
        pointers = [None if a is None else ctypes.c_void_p(a.ctypes.data) for a in arrays]
        sizes = [ctypes.c_long(s) for s in (*x.shape, w.shape[1])]
        getattr(loaded, f"oracle_{x.dtype.name}")(*sizes, *pointers)
        return y

    return product


# Around the edges of every instruction set's tiles, panels and blocks: 1 to 12 rows, 4 to 64
# columns, 256 or 512 steps of k; and the paths for few rows and for one or two columns.
EDGES = [
    *[(m, 19, 33) for m in (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 17, 25, 65)],
    *[(7, 10, n) for n in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130)],
    *[(m, k, 17) for m in (1, 3, 10) for k in (1, 2, 7, 8, 9, 15, 16, 17, 31, 257, 513, 1030)],
    *[(m, 600, n) for m in (1, 2, 4, 5, 8, 100) for n in (1, 2, 70)],
    (130, 40, 30),
    (300, 513, 130),
]


@pytest.mark.parametrize("isa", FMA_ISAS, indirect=True)
@pytest.mark.parametrize("stored", ["c", "transposed", "packed"])
def test_every_size_has_the_bits_of_the_textbook_loop(isa, dtype, stored, oracle):
    for m, k, n in EDGES:
        x, w, b = layer(m, k, n, dtype)
        given = il.pack(w) if stored == "packed" else LAYOUTS[stored](w)
        same_bits(il.linear(x, given, b), oracle(x, w, b))
        same_bits(il.linear(x, given), oracle(x, w))


@pytest.mark.parametrize("isa", FMA_ISAS, indirect=True)
@pytest.mark.parametrize(
    "m, k, n", [(1, 530, 70), (3, 40, 70), (6, 530, 70), (40, 530, 37), (33, 20, 1)]
)
def test_every_layout_has_the_bits_of_the_textbook_loop(isa, dtype, m, k, n, oracle):
    x, w, b = layer(m, k, n, dtype)
    expected = oracle(x, w, b)
    for name_x, name_w in itertools.product(LAYOUTS, LAYOUTS):
        y = il.linear(LAYOUTS[name_x](x), LAYOUTS[name_w](w), LAYOUTS[name_w](b))
        same_bits(y, expected)
    for name_out, name_w in itertools.product(LAYOUTS, ["c", "transposed"]):
        out = LAYOUTS[name_out](np.full((m, n), NAN, dtype))
        assert il.linear(x, LAYOUTS[name_w](w), b, out=out) is out
        same_bits(out, expected)
    same_bits(il.linear(x, il.pack(LAYOUTS["strided"](w)), b), expected)


def test_broadcast_inputs(isa, dtype):
    row, column = random(40, dtype=dtype), random(40, dtype=dtype)
    x = np.broadcast_to(row, (9, 40))
    w = np.broadcast_to(column[:, None], (40, 21))
    b = np.broadcast_to(dtype(0.5), (21,))
    same_bits(il.linear(x, w, b), il.linear(x.copy(), w.copy(), b.copy()))
    same_bits(il.linear(x, w.copy("F"), b), il.linear(x.copy(), w.copy(), b.copy()))


def test_leading_axes_are_rows_wherever_they_lie(isa, dtype):
    base = random(5, 4, 9, 24, dtype=dtype)
    w, b = random(24, 19, dtype=dtype), random(19, dtype=dtype)
    for x in [
        base,
        base[:, :, 1:],  # leading axes that do not merge
        base[::-1, :, ::2],
        base.transpose(2, 0, 1, 3),
        np.broadcast_to(base[:, :1], base.shape),
        base[:, 0, 0],
        base[2, 3, 4],
        base[:, :, :0],
        np.ascontiguousarray(base.transpose(3, 0, 2, 1)).transpose(1, 3, 2, 0)[:, 1:],
    ]:
        rows = np.ascontiguousarray(x).reshape(-1, 24)
        for weight in (w, w.copy("F"), il.pack(w)):
            expected, saved = il.linear(rows, weight, b, activation="gelu", return_saved=True)
            y, z = il.linear(x, weight, b, activation="gelu", return_saved=True)
            assert y.shape == z.shape == (*x.shape[:-1], 19)
            same_bits(y.reshape(-1, 19), expected)
            same_bits(z.reshape(-1, 19), saved)
            dy = random(*y.shape, dtype=dtype)
            gradients = il.linear_backward(dy, x, weight, z, activation="gelu")
            flat = il.linear_backward(dy.reshape(-1, 19), rows, weight, saved, activation="gelu")
            same_bits(gradients[0].reshape(-1, 24), flat[0])
            for a, e in zip(gradients[1:], flat[1:], strict=True):
                same_bits(a, e)
        store = np.full((6, 5, 10, 19), NAN, dtype)
        if x.ndim == 4 and x.shape[:3] == (5, 4, 9):
            out = store[:5, :4, 1:]
            assert il.linear(x, w, b, out=out) is out
            same_bits(out.reshape(-1, 19), il.linear(rows, w, b))
            assert np.isnan(store[5:]).all() and np.isnan(store[:, 4:]).all()
            assert np.isnan(store[:, :, :1]).all()


@pytest.mark.parametrize("m, n", [(5, 21), (9, 2)])
def test_nothing_beside_a_view_is_written(isa, dtype, m, n):
    x, w, b = layer(m, 30, n, dtype)
    for weight in (w, w.copy("F"), il.pack(w)):
        for axis_step in [(1, 1), (2, 1), (1, 2), (2, 3)]:
            store = np.full((m * axis_step[0] + 4, n * axis_step[1] + 40), 7.0, dtype)
            inside = (
                slice(2, 2 + m * axis_step[0], axis_step[0]),
                slice(20, 20 + n * axis_step[1], axis_step[1]),
            )
            il.linear(x, weight, b, out=store[inside])
            same_bits(np.ascontiguousarray(store[inside]), il.linear(x, weight, b))
            store[inside] = 7.0
            assert (store == 7.0).all()


# --- activations ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("m, k, n", [(1, 30, 21), (6, 30, 21), (40, 530, 35), (20, 30, 1)])
def test_forward_is_the_product_and_then_the_activation(isa, dtype, name, m, k, n):
    x, w, b = layer(m, k, n, dtype)
    for weight in (w, w.copy("F"), il.pack(w)):
        z = il.linear(x, weight, b)
        y, saved = il.linear(x, weight, b, activation=name, return_saved=True)
        same_bits(y, il.activation(z, name))
        same_bits(y, il.linear(x, weight, b, activation=name))
        if name == "identity":
            assert saved is None
        elif reference.ACTIVATIONS[name].saves_output:
            assert saved is y
        else:
            same_bits(saved, z)
        expected, expected_saved = reference.linear(x, w, b, activation=name, return_saved=True)
        close(y, expected, k)
        assert (saved is None) == (expected_saved is None)
        out = LAYOUTS["transposed"](np.zeros((m, n), dtype))
        y, saved_out = il.linear(x, weight, b, activation=name, return_saved=True, out=out)
        assert y is out
        same_bits(out, il.activation(z, name))
        if saved is not None:
            same_bits(saved_out, saved)


def test_parameters_reach_the_activation(isa, dtype):
    x, w, b = layer(5, 12, 9, dtype)
    y, z = il.linear(x, w, b, activation="leaky_relu", negative_slope=0.3, return_saved=True)
    same_bits(y, il.leaky_relu(z, negative_slope=0.3))
    dy = random(5, 9, dtype=dtype)
    got = il.linear_backward(dy, x, w, z, activation="leaky_relu", negative_slope=0.3)
    expected = reference.linear_backward(dy, x, w, z, activation="leaky_relu", negative_slope=0.3)
    for a, e in zip(got, expected, strict=True):
        close(a, e, 12)


# --- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_backward_is_the_reference(isa, dtype, name):
    for m, k, n in [(1, 9, 33), (7, 9, 17), (40, 65, 35), (530, 13, 7), (3, 530, 600), (13, 1, 1)]:
        x, w, b = layer(m, k, n, dtype)
        _, saved = il.linear(x, w, b, activation=name, return_saved=True)
        dy = random(m, n, dtype=dtype)
        expected = reference.linear_backward(dy, x, w, saved, activation=name)
        got = il.linear_backward(dy, x, w, saved, activation=name)
        for a, e, terms in zip(got, expected, (n * 4, m * 4, m * 4), strict=True):
            close(a, e, terms)
        for weight in (w.copy("F"), il.pack(w)):
            again = il.linear_backward(dy, x, weight, saved, activation=name)
            for a, e in zip(again, got, strict=True):
                same_bits(a, e)
        dx, dw, db = il.linear_backward(dy, x, w, saved, activation=name, bias=False)
        assert db is None
        same_bits(dx, got[0])
        same_bits(dw, got[1])
        for order in "CF":  # as the PyTorch plug-in asks for a first layer's
            out = None, np.full((k, n), NAN, dtype, order), None
            no_dx = dy, x, il.pack(w), saved, name, {}, True, out, 0.0, None, 0, False
            dx, dw, db = _core.linear_backward(*no_dx)
            assert dx is None and dw is out[1]
            same_bits(dw, got[1])
            same_bits(db, got[2])


@pytest.mark.parametrize("isa", FMA_ISAS, indirect=True)
@pytest.mark.parametrize("name", ["identity", "sigmoid", "silu"])
def test_backward_has_the_bits_of_the_textbook_loops(isa, dtype, name, oracle):
    for m, k, n in [(7, 9, 17), (1, 70, 33), (100, 65, 40), (700, 20, 9)]:
        x, w, b = layer(m, k, n, dtype)
        _, saved = il.linear(x, w, b, activation=name, return_saved=True)
        dy = random(m, n, dtype=dtype)
        dz = dy
        if saved is not None:
            keep = reference.ACTIVATIONS[name].saves_output
            dz = il.activation_backward(dy, saved, name, y=saved if keep else None)
        dx, dw, db = il.linear_backward(dy, x, w, saved, activation=name)
        same_bits(dx, oracle(dz, w.T))
        same_bits(dw, oracle(x.T, dz))
        total = np.zeros(n, dtype)
        for row in dz:
            total = total + row
        same_bits(db, total)


@pytest.mark.parametrize("name_dy", LAYOUTS)
@pytest.mark.parametrize("name_x", LAYOUTS)
def test_backward_reads_every_layout(isa, dtype, name_dy, name_x):
    x, w, b = layer(21, 18, 35, dtype)
    _, z = il.linear(x, w, b, activation="gelu", return_saved=True)
    dy = random(21, 35, dtype=dtype)
    expected = il.linear_backward(dy, x, w, z, activation="gelu")
    saved = LAYOUTS[name_x](z)
    got = il.linear_backward(
        LAYOUTS[name_dy](dy), LAYOUTS[name_x](x), LAYOUTS[name_dy](w), saved, activation="gelu"
    )
    for a, e in zip(got, expected, strict=True):
        same_bits(a, e)
    dx, dw, db = il.linear_backward(LAYOUTS[name_dy](dy), LAYOUTS[name_x](x), LAYOUTS[name_dy](w))
    for a, e in zip((dx, dw, db), il.linear_backward(dy, x, w), strict=True):
        same_bits(a, e)


@pytest.mark.parametrize("name", [a for a in ACTIVATIONS if a not in ("relu", "leaky_relu")])
def test_gradients_are_finite_differences(isa, name):
    x, w, b = layer(4, 5, 3, np.float64)
    dy = random(4, 3)
    _, saved = il.linear(x, w, b, activation=name, return_saved=True)
    gradients = il.linear_backward(dy, x, w, saved, activation=name)
    for array, gradient in zip((x, w, b), gradients, strict=True):
        for index in np.ndindex(array.shape):
            keep, values = array[index], []
            for step in (1e-6, -1e-6):
                array[index] = keep + step
                values.append((dy * il.linear(x, w, b, activation=name)).sum())
            array[index] = keep
            assert gradient[index] == pytest.approx(
                (values[0] - values[1]) / 2e-6, rel=1e-6, abs=1e-8
            )


def test_pytorch_agrees(isa, dtype):
    torch = pytest.importorskip("torch")
    x, weight, b = (torch.tensor(a) for a in (random(33, 70), random(20, 70) / 8, random(20)))
    x, weight, b = (
        a.to(torch.float32 if dtype == np.float32 else torch.float64) for a in (x, weight, b)
    )
    for a in (x, weight, b):
        a.requires_grad_()
    z = torch.nn.functional.linear(x, weight, b)
    y = torch.nn.functional.gelu(z)
    dy = torch.randn_like(y)
    y.backward(dy)
    with torch.no_grad():
        got, saved = il.linear(
            x.detach(), weight.detach().T, b.detach(), activation="gelu", return_saved=True
        )
        assert type(got) is torch.Tensor and type(saved) is torch.Tensor
        gradients = il.linear_backward(dy, x.detach(), weight.detach().T, saved, activation="gelu")
    close(got.numpy(), y.detach().numpy(), 70)
    for a, e in zip(gradients, (x.grad, weight.grad.T, b.grad), strict=True):
        assert type(a) is torch.Tensor
        close(a.numpy(), e.numpy(), 200)


# --- the same bits -------------------------------------------------------------------------------

SHAPES = [(1, 784, 256), (32, 784, 256), (130, 300, 200), (2000, 64, 16), (9, 700, 1030)]


@pytest.mark.parametrize("stored", ["c", "transposed", "packed"])
def test_threads_do_not_change_a_bit(isa, dtype, stored, threads):
    for m, k, n in SHAPES:
        x, w, b = layer(m, k, n, dtype)
        weight = il.pack(w) if stored == "packed" else LAYOUTS[stored](w)
        dy = random(m, n, dtype=dtype)
        results = []
        for count in (1, 2, 3, 8):
            threads(count)
            y, z = il.linear(x, weight, b, activation="silu", return_saved=True)
            results.append([y, z, *il.linear_backward(dy, x, weight, z, activation="silu")])
        for other in results[1:]:
            for a, e in zip(other, results[0], strict=True):
                same_bits(a, e)


@pytest.mark.parametrize("stored", ["c", "transposed", "packed"])
def test_a_row_of_a_batch_is_the_row_alone(isa, dtype, stored):
    x, w, b = layer(200, 530, 45, dtype)
    weight = il.pack(w) if stored == "packed" else LAYOUTS[stored](w)
    whole = il.linear(x, weight, b, activation="tanh")
    for m in (1, 2, 3, 4, 5, 7, 8, 9, 31, 64, 65, 100):
        same_bits(il.linear(x[20 : 20 + m], weight, b, activation="tanh"), whole[20 : 20 + m])
    same_bits(il.linear(x[3], weight, b, activation="tanh"), whole[3])


@pytest.mark.parametrize("m", [9, 12, 13, 40, 72, 73])
def test_a_weight_that_comes_from_memory(isa, dtype, threads, m):
    """Row-major and beyond 1 MB, it is packed in slices while the last block is multiplied."""
    k, n = 531, 1003  # neither a multiple of a block nor of a panel
    x, w, b = layer(m, k, n, dtype)
    dy, padded = random(m, k, dtype=dtype), np.zeros((k, n + 3), dtype)
    padded[:, :n] = w
    expected = il.linear(x, w.copy("F"), b, activation="silu")
    dx = il.linear(random(m, n, dtype=dtype), w.T)
    for count in (1, 2, 5):
        threads(count)
        same_bits(il.linear(x, w, b, activation="silu"), expected)
        same_bits(il.linear(x.copy("F"), w, b, activation="silu"), expected)
        same_bits(il.linear(x, padded[:, :n], b, activation="silu"), expected)
        same_bits(il.linear_backward(random(m, n, dtype=dtype), x, w)[0], dx)
        same_bits(il.linear(x, w[:, :9], b[:9]), il.linear(x, w[:, :9].copy(), b[:9]))
        same_bits(il.linear_backward(dy, random(m, n, dtype=dtype), w.T)[0], il.linear(dy, w))


@pytest.mark.skipif(len(FMA_ISAS) < 2, reason="one instruction set with fma on this machine")
def test_instruction_sets_agree_to_the_bit(dtype):
    for m, k, n in SHAPES:
        x, w, b = layer(m, k, n, dtype)
        dy, results = random(m, n, dtype=dtype), []
        for isa in FMA_ISAS:
            with il.use_isa(isa):
                y, z = il.linear(x, w.copy("F"), b, activation="gelu", return_saved=True)
                results.append([y, z, *il.linear_backward(dy, x, w, z, activation="gelu")])
        for other in results[1:]:
            for a, e in zip(other, results[0], strict=True):
                same_bits(a, e)


# --- packed weights ------------------------------------------------------------------------------


def test_a_packed_weight_is_a_copy_that_can_be_read_back(isa, dtype):
    for shape in [(7, 5), (40, 70), (1, 1), (0, 4), (4, 0)]:
        w = random(*shape, dtype=dtype)
        packed = il.pack(w.copy("F"))
        assert packed.shape == shape and packed.dtype == dtype
        assert repr(packed) == f"PackedWeight(shape={shape}, dtype={np.dtype(dtype).name})"
        same_bits(packed.unpack(), w)
        assert isinstance(packed, il.PackedWeight)
    before = packed = il.pack(w := random(6, 9, dtype=dtype))
    expected = il.linear(random(2, 6, dtype=dtype), before)
    w[...] = 0
    same_bits(il.linear(random(2, 6, dtype=dtype), packed), expected)


def test_a_packed_weight_serves_every_instruction_set(dtype):
    x, w, b = layer(13, 40, 70, dtype)
    dy = random(13, 70, dtype=dtype)
    for first in ISAS:
        with il.use_isa(first):
            packed = il.pack(w)
        for isa in ISAS:
            with il.use_isa(isa):
                same_bits(il.linear(x, packed, b), il.linear(x, w, b))
                for a, e in zip(
                    il.linear_backward(dy, x, packed), il.linear_backward(dy, x, w), strict=True
                ):
                    same_bits(a, e)
        same_bits(packed.unpack(), w)


# --- special values and empty arrays -------------------------------------------------------------


@pytest.mark.parametrize("m", [1, 3, 6, 40])
def test_nan_and_infinity_stay_in_their_rows_and_columns(isa, dtype, m):
    x, w, b = layer(m, 30, 37, dtype)
    for weight in (w, w.copy("F")):
        clean = il.linear(x, weight, b, activation="relu")
        for bad in (NAN, INF):
            spoilt = x.copy()
            spoilt[0, 4] = bad
            y = il.linear(spoilt, weight, b, activation="relu")
            same_bits(y[1:], clean[1:])
            if np.isnan(bad):
                assert np.isnan(y[0]).all()
            else:
                np.testing.assert_array_equal(y[0], np.where(w[4] > 0, INF, 0))
        spoilt = weight.copy("K")
        spoilt[7, 36] = NAN
        y = il.linear(x, spoilt, b)
        assert np.isnan(y[:, 36]).all() and not np.isnan(y[:, :36]).any()
    dy = random(m, 37, dtype=dtype)
    dy[0, 5] = NAN
    dx, dw, db = il.linear_backward(dy, x, w)
    assert np.isnan(dx[0]).all() and not np.isnan(dx[1:]).any()
    assert np.isnan(dw[:, 5]).all() and np.isnan(dw).sum() == 30
    assert np.isnan(db[5]) and np.isnan(db).sum() == 1


def test_a_sum_of_nothing_is_positive_zero(isa, dtype):
    y = il.linear(np.full((3, 2), -1, dtype), np.zeros((2, 5), dtype))
    assert not np.signbit(y).any()


@pytest.mark.parametrize("name", [None, "sigmoid", "gelu"])
def test_empty_arrays(isa, dtype, name):
    for shape, n in itertools.product(
        [(0, 4), (3, 0), (0, 0), (2, 0, 4), (0, 3, 0), (0,), (4,)], [0, 1, 5]
    ):
        x, w, b = np.ones(shape, dtype), np.ones((shape[-1], n), dtype), np.full(n, 0.5, dtype)
        for weight, bias in itertools.product((w, w.copy("F"), il.pack(w)), (b, None)):
            y, saved = il.linear(x, weight, bias, activation=name, return_saved=True)
            expected, _ = reference.linear(x, w, bias, activation=name, return_saved=True)
            assert y.shape == (*shape[:-1], n)
            close(y, expected, 4)
            dy = np.ones_like(y)
            got = il.linear_backward(dy, x, weight, saved, activation=name)
            for a, e in zip(
                got, reference.linear_backward(dy, x, w, saved, activation=name), strict=True
            ):
                close(a, e, 4)


# --- the reference backend -----------------------------------------------------------------------


def test_the_reference_backend_takes_the_same_calls(dtype):
    x, w, b = layer(6, 20, 9, dtype)
    dy = random(6, 9, dtype=dtype)
    with il.use_backend("reference"):
        for weight in (w, il.pack(w)):
            out = np.empty((6, 9), dtype)
            for name in ACTIVATIONS:
                y, saved = il.linear(x, weight, b, activation=name, return_saved=True, out=out)
                assert y is out
                expected = reference.linear(x, w, b, activation=name, return_saved=True)
                same_bits(y, expected[0])
                if saved is not None:
                    same_bits(saved, expected[1])
                got = il.linear_backward(dy, x, weight, saved, activation=name)
                expected = reference.linear_backward(dy, x, w, saved, activation=name)
                for a, e in zip(got, expected, strict=True):
                    same_bits(a, e)
        assert il.linear_backward(dy, x, w, bias=False)[2] is None
        no_dx = dy, x, w, None, None, {}, True, None, 0.0, None, 0, False
        assert _core.linear_backward(*no_dx)[0] is None
    with pytest.raises(ValueError, match="out has a dx, which with_dx=False does without"):
        _core.linear_backward(*no_dx[:7], (np.empty_like(x), None, None), *no_dx[8:])


def test_public_names_and_native_ones():
    assert il.linear is not _core.linear
    for name in ("linear", "linear_backward", "pack", "PackedWeight"):
        assert hasattr(il, name)
