"""layer_norm, rms_norm and batch_norm, forward and backward, over ISA x dtype x layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import innerloop as il
from innerloop import reference
from support import DTYPES, LAYOUTS, equal_bits, fma_isas, numbers

INF, NAN = np.inf, np.nan
NAMES = ["layer_norm", "rms_norm"]
# Relative to the largest element: the native arithmetic is the dtype's own, else float64.
TOLERANCE = {"float32": 3e-6, "float64": 1e-13}
# Around 16 lanes, and around the blocks of 2048 in which a long row is read.
LENGTHS = [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 100, 2047, 2048, 2049, 4097]


def close(actual: Any, want: Any, dtype: str, slack: float = 1.0) -> None:
    for a, w in zip(actual, want, strict=True):
        a, w = np.asarray(a), np.asarray(w)
        assert a.shape == w.shape and a.dtype == w.dtype
        finite = abs(w[np.isfinite(w)])
        scale = max(1.0, finite.max(initial=0.0))
        np.testing.assert_allclose(a / scale, w / scale, rtol=0, atol=TOLERANCE[dtype] * slack)


def same(target: str, a: Any, b: Any) -> bool:
    """Whether results agree as promised: in every bit, but for the reference in float64's."""
    if isinstance(a, tuple):
        return len(a) == len(b) and all(same(target, x, y) for x, y in zip(a, b, strict=True))
    if a is None or b is None:
        return a is b
    if target == "reference":
        return a.shape == b.shape and np.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True)
    return equal_bits(np.asarray(a), np.asarray(b))


def row_case(name: str, shape: tuple[int, ...], dtype: str) -> tuple[np.ndarray, Any, np.ndarray]:
    """x, the arrays after it, and dy."""
    weight = numbers(shape[-1], dtype, seed=2)
    vectors = (weight, numbers(shape[-1], dtype, seed=3)) if name == "layer_norm" else (weight,)
    return numbers(shape, dtype), vectors, numbers(shape, dtype, seed=1)


def forward(name: str, module: Any = il, **options: Any) -> Callable:
    return lambda *a: getattr(module, name)(*a, **options, return_saved=True)


def backward(name: str, module: Any = il) -> Callable:
    return getattr(module, f"{name}_backward")


# --- rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_lengths(target: str, name: str, dtype: str, length: int) -> None:
    x, vectors, dy = row_case(name, (5, length), dtype)
    y, saved = forward(name)(x, *vectors)
    close((y, saved), forward(name, reference)(x, *vectors), dtype)
    gradients = backward(name)(dy, x, saved, vectors[0])
    close(gradients, backward(name, reference)(dy, x, saved, vectors[0]), dtype, 4)
    plain, plain_saved = forward(name)(x)
    close((plain, plain_saved), forward(name, reference)(x), dtype)
    dx, *rest = backward(name)(dy, x, saved)
    assert rest == [None] * len(rest)
    close([dx], backward(name, reference)(dy, x, saved)[:1], dtype, 4)
    assert same(target, plain_saved, saved)
    for r in range(5):  # a row alone has the bits that it has in a batch
        alone, its = forward(name)(x[r], *vectors)
        assert same(target, alone, y[r]) and same(target, its[..., 0], saved[..., r])
        assert same(target, backward(name)(dy[r], x[r], its, vectors[0])[0], gradients[0][r])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_layouts_hold_the_same_bits(target: str, name: str, dtype: str, layout: str) -> None:
    place = LAYOUTS[layout]
    for shape in ((3, 5, 37), (21, 18, 2), (40,)):
        x, vectors, dy = row_case(name, shape, dtype)
        y, saved = forward(name)(x, *vectors)
        want = backward(name)(dy, x, saved, vectors[0])
        there = [place(v) for v in vectors]
        assert same(target, forward(name)(place(x), *there), (y, saved))
        inout = place(x)
        assert forward(name, out=inout)(inout, *there)[0] is inout and same(target, inout, y)
        assert same(target, backward(name)(place(dy), place(x), place(saved), there[0]), want)
        out = tuple(place(np.full_like(w, 7)) for w in want)
        backward(name)(dy, x, saved, vectors[0], out=out)
        assert same(target, out, want)
        for which in (0, 1):  # dx over dy, over x
            arrays = [place(dy), place(x)]
            mixed = (arrays[which], *(None for _ in want[1:]))
            assert same(target, backward(name)(*arrays, saved, vectors[0], out=mixed), want)
    x = np.broadcast_to(numbers((1, 19), dtype), (23, 19))
    assert same(target, forward(name)(x), forward(name)(x.copy()))


@pytest.mark.parametrize("shape", [(257, 1003), (7, 40_000), (100_003, 3), (1, 5), (300, 4, 65)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_same_bits_for_any_threads_and_isa(
    name: str, dtype: str, shape: tuple[int, ...], restore_threads: None
) -> None:
    x, vectors, dy = row_case(name, shape, dtype)
    want = None
    for isa in fma_isas():
        for threads in (1, 2, 3, 7):
            il.set_num_threads(threads)
            with il.use_isa(isa):
                y, saved = forward(name)(x, *vectors)
                got = (y, saved, *backward(name)(dy, x, saved, vectors[0]))
            want = want or got
            assert same(isa, got, want)
    close(want[3:], backward(name, reference)(dy, x, want[1], vectors[0])[1:], dtype, 10)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_beside_torch(target: str, name: str, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    x, vectors, dy = row_case(name, (6, 40, 17), dtype)
    for eps in (1e-5, 0.0, 0.5):
        tensors = [torch.tensor(a, requires_grad=True) for a in (x, *vectors)]
        ty = getattr(torch.nn.functional, name)(tensors[0], [17], *tensors[1:], eps=eps)
        ty.backward(torch.tensor(dy))
        y, saved = forward(name, eps=eps)(x, *vectors)
        close([y], [ty.detach()], dtype)
        gradients = backward(name)(dy, x, saved, vectors[0])
        close(gradients, [t.grad for t in tensors], dtype, 10)
    y, saved = forward(name)(tensors[0].detach(), tensors[1].detach())
    assert isinstance(y, torch.Tensor) and isinstance(saved, torch.Tensor)


@pytest.mark.parametrize("name", NAMES)
def test_derivative_by_finite_differences(target: str, name: str) -> None:
    x, vectors, dy = row_case(name, (4, 9), "float64")
    arrays = [x, *vectors]
    _, saved = forward(name)(*arrays)
    gradients = backward(name)(dy, x, saved, vectors[0])
    check_slopes(lambda *a: getattr(il, name)(*a), arrays, gradients, dy)


def check_slopes(
    function: Callable, arrays: list[np.ndarray], gradients: Any, dy: np.ndarray
) -> None:
    h = 1e-6
    for i, gradient in enumerate(gradients):
        for j in range(arrays[i].size):
            moved = []
            for step in (h, -h):
                other = [a.copy() for a in arrays]
                other[i].reshape(-1)[j] += step
                moved.append(function(*other))
            slope = ((moved[0] - moved[1]) * dy).sum() / (2 * h)
            np.testing.assert_allclose(gradient.reshape(-1)[j], slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("length", [2, 17, 768, 5000])
def test_a_large_mean_costs_no_digits(target: str, length: int) -> None:
    """Mean 1e4 and deviation 1 in float32: the variance keeps its digits, and x - mean too."""
    x = (np.random.default_rng(0).normal(size=(9, length)) + 1e4).astype("f4")
    y, saved = il.layer_norm(x, return_saved=True)
    want, want_saved = reference.layer_norm(x, return_saved=True)
    np.testing.assert_allclose(y, want, rtol=0, atol=3e-6)
    np.testing.assert_allclose(saved[1], want_saved[1], rtol=1e-6)
    channels = np.ascontiguousarray(x.T)[:, :, None]  # (length, 9, 1) and (1, 9, length)
    for batch in (channels, x[None]):
        y, saved = il.batch_norm(batch, None, None, training=True, return_saved=True)
        want, want_saved = reference.batch_norm(batch, None, None, training=True, return_saved=True)
        np.testing.assert_allclose(y, want, rtol=0, atol=3e-6)
        np.testing.assert_allclose(saved[1], want_saved[1], rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_special_rows(target: str, name: str, dtype: str) -> None:
    """As in PyTorch: a row with NaN is NaN, with infinity NaN or (rms_norm) 0 elsewhere."""
    torch = pytest.importorskip("torch")
    for n in (1, 3, 16, 19, 40):
        rows = [np.zeros(n), np.ones(n), np.full(n, NAN), np.full(n, INF), np.arange(n) * 1e-30]
        for value in (NAN, INF, -INF):
            for at in (0, n - 1):
                row = numbers(n, dtype)
                row[at] = value
                rows.append(row)
        x = np.array(rows, dtype)
        for eps in (1e-5, 0.0):
            y = getattr(il, name)(x, eps=eps)
            theirs = getattr(torch.nn.functional, name)(torch.tensor(x), [n], eps=eps).numpy()
            rest = [i for i in range(len(x)) if i != 4 or eps]  # 1e-60 is 0 in float32, not in 64
            np.testing.assert_allclose(y[rest], theirs[rest], rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(
                y[rest], getattr(reference, name)(x, eps=eps)[rest], rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (1,), (2, 0, 3), (0, 0)])
@pytest.mark.parametrize("name", NAMES)
def test_few_elements(target: str, name: str, shape: tuple[int, ...]) -> None:
    x, vectors, dy = row_case(name, shape, "float64")
    y, saved = forward(name)(x, *vectors)
    want, want_saved = forward(name, reference)(x, *vectors)
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(saved, want_saved)
    gradients = backward(name)(dy, x, saved, vectors[0])
    for got, wanted in zip(
        gradients, backward(name, reference)(dy, x, saved, vectors[0]), strict=True
    ):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-13)


def test_which_gradients(target: str) -> None:
    x, (weight, _), dy = row_case("layer_norm", (5, 7), "float32")
    _, saved = il.layer_norm(x, return_saved=True)
    all_three = il.layer_norm_backward(dy, x, saved, weight)
    dx, dweight, dbias = il.layer_norm_backward(dy, x, saved, weight, bias=False)
    assert dbias is None and same(target, (dx, dweight), all_three[:2])
    dx, dweight, dbias = il.layer_norm_backward(dy, x, saved, bias=True)
    assert dweight is None and same(target, dbias, all_three[2])
    for out in ((None, dy[0].copy(), None), (None, None, dy[0].copy())):
        with pytest.raises(ValueError, match="without a"):
            il.layer_norm_backward(dy, x, saved, out=out)
    with pytest.raises(TypeError, match="out"):
        il.layer_norm_backward(dy, x, saved, weight, out=(None, None))
    with pytest.raises(TypeError, match="out"):
        il.rms_norm_backward(dy, x, saved[1], weight, out=[None, None])


# --- channels ------------------------------------------------------------------------------------

# Both ways through memory, and their boundary: 16 elements side by side.
SHAPES = [
    *((2, 3), (3, 1), (17, 5), (40, 33), (300, 70), (1, 2, 2), (5, 3, 15), (5, 3, 16), (1, 4, 17)),
    *((4, 3, 7, 9), (2, 3, 2, 2, 2), (3, 2, 1, 1), (2, 3, 2500)),
]


def batch_case(shape: tuple[int, ...], dtype: str) -> tuple[np.ndarray, list, list, np.ndarray]:
    """x, running mean and variance, weight and bias, dy."""
    vectors = [numbers(shape[1], dtype, seed=s) for s in (2, 3, 4, 5)]
    vectors[1] = abs(vectors[1]) + vectors[1].dtype.type(0.5)
    return numbers(shape, dtype), vectors[:2], vectors[2:], numbers(shape, dtype, seed=1)


def batch(x: np.ndarray, running: list, vectors: list, module: Any = il, **options: Any) -> tuple:
    """y, saved, and the running statistics after."""
    after = [r.copy() for r in running]
    y, saved = module.batch_norm(x, *after, *vectors, **options, return_saved=True)
    return (y, saved, *after)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_norm(target: str, dtype: str, shape: tuple[int, ...], training: bool) -> None:
    torch = pytest.importorskip("torch")
    x, running, vectors, dy = batch_case(shape, dtype)
    for momentum, eps in ((0.1, 1e-5), (0.75, 0.25)):
        options = {"training": training, "momentum": momentum, "eps": eps}
        got = batch(x, running, vectors, **options)
        close(got, batch(x, running, vectors, reference, **options), dtype)
        gradients = il.batch_norm_backward(dy, x, got[1], vectors[0], training=training)
        want = reference.batch_norm_backward(dy, x, got[1], vectors[0], training=training)
        close(gradients, want, dtype, 10)

        tensors = [torch.tensor(a, requires_grad=True) for a in (x, *vectors)]
        stats = [torch.tensor(r) for r in running]
        ty = torch.nn.functional.batch_norm(tensors[0], *stats, *tensors[1:], **options)
        ty.backward(torch.tensor(dy))
        close((got[0], *got[2:]), [ty.detach(), *stats], dtype, 4)
        close(gradients, [t.grad for t in tensors], dtype, 30)
        if not training:
            assert same(target, got[2:], tuple(running))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_layouts_hold_the_same_bits(
    target: str, dtype: str, training: bool, layout: str
) -> None:
    place = LAYOUTS[layout]
    for shape in ((19, 21), (5, 3, 4), (3, 5, 5, 7), (20, 2, 33)):
        x, running, vectors, dy = batch_case(shape, dtype)
        want = batch(x, running, vectors, training=training)
        gradients = il.batch_norm_backward(dy, x, want[1], vectors[0], training=training)
        stats = [place(r) for r in running]
        inout = place(x)
        y, saved = il.batch_norm(
            inout, *stats, *map(place, vectors), training=training, out=inout, return_saved=True
        )
        assert y is inout and same(target, (y, saved, *stats), want)
        out = tuple(place(np.full_like(g, 7)) for g in gradients)
        arrays = (place(dy), place(x), place(saved), place(vectors[0]))
        il.batch_norm_backward(*arrays, training=training, out=out)
        assert same(target, out, gradients)
        for which in (0, 1):  # dx over dy, over x
            mixed = (arrays[which].copy(order="K"), None, None)
            inputs = [mixed[0] if i == which else a for i, a in enumerate(arrays)]
            again = il.batch_norm_backward(*inputs, training=training, out=mixed)
            assert same(target, again, gradients)


@pytest.mark.parametrize("shape", [(4, 6, 5, 7), (4, 6, 3, 2)])
def test_channels_last(target: str, shape: tuple[int, ...]) -> None:
    x, running, vectors, _ = batch_case(shape, "float32")
    last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    want = batch(x, running, vectors, training=True)
    assert same(target, batch(np.moveaxis(last, -1, 1), running, vectors, training=True), want)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "shape", [(1009, 77), (30_011, 3), (5, 40_000), (40, 30, 100), (90, 50, 6)]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_same_bits_for_any_threads_and_isa(
    dtype: str, shape: tuple[int, ...], training: bool, restore_threads: None
) -> None:
    x, running, vectors, dy = batch_case(shape, dtype)
    want = None
    for isa in fma_isas():
        for threads in (1, 2, 3, 7):
            il.set_num_threads(threads)
            with il.use_isa(isa):
                got = batch(x, running, vectors, training=training)
                got += il.batch_norm_backward(dy, x, got[1], vectors[0], training=training)
            want = want or got
            assert same(isa, got, want)
    close(want[:4], batch(x, running, vectors, reference, training=training), dtype)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(6, 3), (3, 2, 4), (2, 2, 16)])
def test_batch_derivative_by_finite_differences(
    target: str, shape: tuple[int, ...], training: bool
) -> None:
    x, running, vectors, dy = batch_case(shape, "float64")
    saved = batch(x, running, vectors, training=training)[1]
    gradients = il.batch_norm_backward(dy, x, saved, vectors[0], training=training)

    def function(x: np.ndarray, *vectors: np.ndarray) -> np.ndarray:
        return batch(x, running, list(vectors), training=training)[0]

    check_slopes(function, [x, *vectors], gradients, dy)


def test_batch_options(target: str) -> None:
    x, running, vectors, dy = batch_case((9, 4), "float32")
    want = batch(x, running, vectors, training=True)
    y, saved = il.batch_norm(x, None, None, *vectors, training=True, return_saved=True)
    assert same(target, (y, saved), want[:2])
    mean = running[0].copy()
    assert same(target, il.batch_norm(x, mean, None, *vectors, training=True), y)
    assert same(target, mean, want[2])
    for momentum, kept in ((0.0, running), (1.0, None)):
        after = batch(x, running, vectors, training=True, momentum=momentum)[2:]
        wanted = kept or (x.mean(0), x.var(0, ddof=1))
        close(after, wanted, "float32")
    plain = il.batch_norm(x, *running)
    close([plain], [(x - running[0]) / np.sqrt(running[1] + np.float32(1e-5))], "float32")
    gradients = il.batch_norm_backward(dy, x, saved, training=True, bias=True)
    assert gradients[1] is None
    close(gradients[2:], [dy.sum(0)], "float32", 4)
    assert il.batch_norm_backward(dy, x, saved)[1:] == (None, None)
    ones = np.ones((4, 2), "f4")
    assert np.isnan(il.batch_norm(ones, None, None, training=True, eps=0.0)).all()
    assert (il.batch_norm(ones, None, None, training=True) == 0).all()


@pytest.mark.parametrize("shape", [(0, 3), (2, 3, 0), (0, 3, 20), (2, 0), (0, 0)])
def test_empty_batches(target: str, shape: tuple[int, ...]) -> None:
    """As in PyTorch: nothing comes out, the running statistics stay, the sums are 0."""
    x, running, vectors, dy = batch_case(shape, "float32")
    for training in (True, False):
        y, saved, *after = batch(x, running, vectors, training=training)
        assert y.shape == shape and same(target, tuple(after), tuple(running))
        assert not training or np.isnan(saved).all()
        dx, dweight, dbias = il.batch_norm_backward(dy, x, saved, vectors[0], training=training)
        assert dx.shape == shape and not dweight.any() and not dbias.any()


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1), (1, 1, 1, 1), (1, 0)])
def test_one_value_a_channel_has_no_variance(target: str, shape: tuple[int, ...]) -> None:
    x, running, vectors, _ = batch_case(shape, "float32")
    before = x.copy()
    with pytest.raises(ValueError, match="one value"):
        il.batch_norm(x, *running, *vectors, training=True, out=x)
    assert equal_bits(x, before)
    assert il.batch_norm(x, *running).shape == shape


# --- half precision ------------------------------------------------------------------------------

HALVES = [np.float16, ml_dtypes.bfloat16]


def in_half(arrays: list, dtype: Any) -> tuple[list, list]:
    """The arrays rounded, and what they hold then, in float32."""
    rounded = [a.astype(dtype) for a in arrays]
    return rounded, [a.astype("f4") for a in rounded]


def agree(got: Any, want: Any, dtype: Any) -> None:
    """The float32 results, rounded once where the result is of half precision."""
    for g, w in zip(got, want, strict=True):
        assert equal_bits(g.astype("f4"), w.astype(g.dtype).astype("f4"))
    assert got[0].dtype == dtype


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", NAMES)
def test_half_is_float32_rounded_once(isa: str, name: str, dtype: Any, layout: str) -> None:
    place = LAYOUTS[layout]
    for shape in ((0, 4), (7, 1), (3, 40, 33), (70, 2, 300), (5, 20_000)):
        x, vectors, dy = row_case(name, shape, "float32")
        (x, dy, *vectors), (wide_x, wide_dy, *wide) = in_half([x, dy, *vectors], dtype)
        y, saved = forward(name)(place(x), *map(place, vectors))
        want = forward(name)(wide_x, *wide)
        agree((y, saved), want, dtype)
        assert saved.dtype == np.float32
        got = backward(name)(place(dy), place(x), place(saved), place(vectors[0]))
        want = backward(name)(wide_dy, wide_x, saved, wide[0])
        agree(got, want, dtype)
        out = tuple(place(np.zeros_like(g)) for g in got)
        backward(name)(dy, x, saved, vectors[0], out=out)
        agree(out, want, dtype)
        dx = place(x)
        assert backward(name)(dy, dx, saved, out=(dx, *(None for _ in want[1:])))[0] is dx


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", HALVES)
def test_half_batch_is_float32_rounded_once(
    isa: str, dtype: Any, layout: str, training: bool
) -> None:
    place = LAYOUTS[layout]
    for shape in ((0, 4), (40, 33), (300, 70), (5, 3, 4, 5), (3, 2, 5, 7), (4, 30, 900)):
        x, running, vectors, dy = batch_case(shape, "float32")
        (x, dy, *vectors), (wide_x, wide_dy, *wide) = in_half([x, dy, *vectors], dtype)
        want = batch(wide_x, running, wide, training=training)
        got = batch(place(x), running, [*map(place, vectors)], training=training)
        agree(got, want, dtype)
        arrays = (place(dy), place(x), place(got[1]), place(vectors[0]))
        gradients = il.batch_norm_backward(*arrays, training=training)
        wanted = il.batch_norm_backward(wide_dy, wide_x, got[1], wide[0], training=training)
        agree(gradients, wanted, dtype)
        out = tuple(place(np.zeros_like(g)) for g in gradients)
        il.batch_norm_backward(*arrays, training=training, out=out)
        agree(out, wanted, dtype)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_properties(data: st.DataObject) -> None:
    """Random shapes and options, against the reference."""
    dims = st.integers(1, 23)
    shape = tuple(data.draw(st.lists(dims, min_size=2, max_size=4)))
    dtype, name = data.draw(st.sampled_from(DTYPES)), data.draw(st.sampled_from(NAMES))
    eps = data.draw(st.sampled_from([1e-5, 1e-2, 1.0]))
    x, vectors, dy = row_case(name, shape, dtype)
    if data.draw(st.booleans()):
        vectors = ()
    y, saved = forward(name, eps=eps)(x, *vectors)
    close((y, saved), forward(name, reference, eps=eps)(x, *vectors), dtype, 4)
    got = backward(name)(dy, x, saved, *vectors[:1])
    want = backward(name, reference)(dy, x, saved, *vectors[:1])
    wanted = [w for g, w in zip(got, want, strict=True) if g is not None]
    close([g for g in got if g is not None], wanted, dtype, 100)

    x, running, vectors, dy = batch_case(shape, dtype)
    training = data.draw(st.booleans()) and x.size > shape[1]
    options = {"training": training, "eps": eps, "momentum": data.draw(st.floats(0, 1))}
    got = batch(x, running, vectors, **options)
    close(got, batch(x, running, vectors, reference, **options), dtype, 4)
    arrays = (dy, x, got[1], vectors[0])
    got = il.batch_norm_backward(*arrays, training=training)
    close(got, reference.batch_norm_backward(*arrays, training=training), dtype, 100)
