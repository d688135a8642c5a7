"""Dropout: one mask for a seed and an offset, on every backend, layout and number of threads."""

from __future__ import annotations

from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import innerloop as il
from innerloop import _core, reference
from support import DTYPES, LAYOUTS, equal_bits, numbers, sizes_around

# The known answers of the authors' Random123 1.14, kat_vectors: counter, key, result.
PI = ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0")  # its digits
KNOWN = [
    (" ".join(["0" * 8] * 4), " ".join(["0" * 8] * 2), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    (" ".join(["f" * 8] * 4), " ".join(["f" * 8] * 2), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (*PI, "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_philox_known_answers(isa: str, counter: str, key: str, result: str) -> None:
    c, k = words(counter), words(key)
    seed, offset, block = k[0] | k[1] << 32, c[2] | c[3] << 32, c[0] | c[1] << 32
    assert reference.philox(seed, offset, block, 4).tolist() == words(result)
    for before in range(70):  # in every lane
        found = _core.philox(seed, offset, (block - before) % 2**64, 4 * before + 4)
        assert found[-4:].tolist() == words(result)


@pytest.mark.parametrize("block", [0, 5, 2**32 - 7, 2**64 - 9])
def test_philox_counts_over_words(isa: str, block: int) -> None:
    for n in (0, 1, 3, 4, 5, 63, 64, 65, 1000):
        want = reference.philox(2**63 + 1, 12345678901, block, n)
        np.testing.assert_array_equal(_core.philox(2**63 + 1, 12345678901, block, n), want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [0.0, 2.0**-33, 0.1, 0.5, 0.9, 1 - 2.0**-33, 1.0])
def test_sizes(target: str, p: float, dtype: str) -> None:
    for n in (*sizes_around(16), 1023, 1024, 1025, 4099, 70001):
        x = numbers(n, dtype)
        y = il.dropout(x, p, seed=3, offset=4)
        want = reference.dropout(x, p, seed=3, offset=4)
        assert y.dtype == x.dtype and np.array_equal(y == 0, want == 0)
        np.testing.assert_allclose(y, want, rtol=3e-7 if dtype == "float32" else 1e-15)
        dx = il.dropout_backward(x, p, seed=3, offset=4)
        assert equal_bits(dx, y)


def test_the_mask_is_a_function_of_the_element_alone(target: str) -> None:
    """Not of dtype, shape, offset into a task, or what came before."""
    mask = il.dropout(np.ones((7, 30, 11)), 0.4, seed=9) != 0
    flat = il.dropout(np.ones(7 * 30 * 11, "f4"), 0.4, seed=9) != 0
    assert np.array_equal(mask.reshape(-1), flat)
    assert np.array_equal(il.dropout(np.ones(1000, "f4"), 0.4, seed=9) != 0, flat[:1000])
    words = reference.philox(9, 0, 0, flat.size)
    assert np.array_equal(flat, words >= np.ceil(0.4 * 2**32))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts_hold_the_same_bits(target: str, dtype: str, layout: str) -> None:
    place = LAYOUTS[layout]
    for shape in ((3, 5, 37), (21, 18, 2), (1, 700), (700, 1)):
        x = numbers(shape, dtype)
        y = il.dropout(x, 0.3, seed=1)
        assert equal_bits(il.dropout(place(x), 0.3, seed=1), y)
        out = place(np.full_like(x, 7))
        assert il.dropout(x, 0.3, seed=1, out=out) is out and equal_bits(out, y)
        inout = place(x)
        assert il.dropout_backward(inout, 0.3, seed=1, out=inout) is inout
        assert equal_bits(inout, y)
    x = np.broadcast_to(numbers((1, 19), dtype), (23, 19))
    assert equal_bits(il.dropout(x, 0.3, seed=1), il.dropout(x.copy(), 0.3, seed=1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_for_any_threads_and_isa(dtype: str, restore_threads: None) -> None:
    x = numbers((3, 100_003), dtype)
    with il.use_backend("reference"):
        mask = il.dropout(x, 0.25, seed=2**64 - 1, offset=2**64 - 1) != 0
    want = None
    for isa in il.isas():  # no fused multiply-add is used, so v2 has the same bits
        with il.use_isa(isa):
            for threads in (1, 2, 3, 7):
                il.set_num_threads(threads)
                y = il.dropout(x, 0.25, seed=2**64 - 1, offset=2**64 - 1)
                want = y if want is None else want
                assert equal_bits(y, want) and np.array_equal(y != 0, mask)


def test_written_around_the_caches() -> None:
    """A large output is streamed: any alignment, and the same bits."""
    x = numbers(9_000_001, "float32")
    want = il.dropout(x[:100_000], 0.5, seed=1)
    for start in (0, 1, 5):
        y = np.empty(x.size + 5, "f4")[start:][: x.size]
        il.dropout(x, 0.5, seed=1, out=y)
        assert equal_bits(y[:100_000], want)
        assert np.array_equal(
            y[-3:] != 0, reference.philox(1, 0, 9_000_001 // 4 - 1, 5)[-3:] >= 2**31
        )


def test_p_0_keeps_and_p_1_drops_whatever_x_holds(target: str) -> None:
    x = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-40, 3.0], "f4")
    assert equal_bits(il.dropout(x, 0.0, seed=5), x)
    assert equal_bits(il.dropout(x, 1.0, seed=5), np.zeros_like(x))
    x = np.resize(x, 600)
    y, kept = il.dropout(x, 0.5, seed=5), il.dropout(np.ones(600, "f4"), 0.5, seed=5) != 0
    assert equal_bits(y, np.where(kept, x * np.float32(2), np.float32(0)))


def test_the_words_are_random(target: str) -> None:
    n = 200_000
    for p in (0.1, 0.5, 0.75):
        kept = il.dropout(np.ones(n, "f4"), p, seed=11) != 0
        assert abs(kept.mean() - (1 - p)) < 5 * np.sqrt(p * (1 - p) / n)
        lagged = np.mean(kept[1:] & kept[:-1]) - (1 - p) ** 2
        assert abs(lagged) < 5 * np.sqrt(p * (1 - p) / n)
    ones = np.ones(n, "f4")
    masks = [il.dropout(ones, 0.5, seed=s, offset=o) for s, o in ((0, 0), (1, 0), (0, 1), (1, 1))]
    for i in range(4):
        for j in range(i):
            assert abs(np.mean(masks[i] == masks[j]) - 0.5) < 5 * 0.5 / np.sqrt(n)


def test_beside_torch(target: str) -> None:
    """PyTorch has a mask of its own; what it does with the elements is the same."""
    torch = pytest.importorskip("torch")
    x = abs(numbers(5000, "float32")) + 1
    for p in (0.0, 0.3, 1.0):
        theirs = torch.nn.functional.dropout(torch.from_numpy(x), p).numpy()
        ours = il.dropout(x, p, seed=0)
        both = (ours != 0) & (theirs != 0)
        assert both.any() == (p < 1)
        np.testing.assert_allclose(ours[both], theirs[both], rtol=3e-7)
        assert not ours.any() == (p == 1) and not theirs.any() == (p == 1)
    y = il.dropout(torch.from_numpy(x), 0.3, seed=0)
    assert isinstance(y, torch.Tensor) and equal_bits(y.numpy(), il.dropout(x, 0.3, seed=0))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_properties(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(0, 40), min_size=0, max_size=4)))
    seed, offset = (data.draw(st.integers(0, 2**64 - 1)) for _ in range(2))
    p = data.draw(st.floats(0, 1))
    dtype = data.draw(st.sampled_from(DTYPES))
    x = np.asarray(numbers(shape, dtype))
    y, want = (f(x, p, seed=seed, offset=offset) for f in (il.dropout, reference.dropout))
    assert y.shape == shape and np.array_equal(y == 0, want == 0)
    np.testing.assert_allclose(y, want, rtol=3e-7 if dtype == "float32" else 1e-15)


# --- in linear's epilogue ------------------------------------------------------------------------

DROP = {"seed": 2**40 + 3, "offset": 5}
# Few rows, roles swapped, whole tiles and their edges, several tasks, nothing.
SHAPES = [
    *((1, 70, 33), (3, 5, 1), (5, 67, 65), (23, 300, 17), (61, 1100, 130), (200, 47, 2)),
    *((300, 20, 261), (0, 3, 4), (4, 0, 7), (4, 3, 0)),
]


def same(target: str, a: np.ndarray, b: np.ndarray) -> bool:
    """Equal bits, but for the reference, whose activations see more digits than float32 keeps."""
    if target == "reference":
        return a.shape == b.shape and np.allclose(a, b, rtol=1e-5, atol=1e-4)
    return equal_bits(a.astype("f8"), b.astype("f8")) and a.dtype == b.dtype


@pytest.mark.parametrize("activation", [None, "relu", "sigmoid", "gelu"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", ml_dtypes.bfloat16])
def test_linear_is_the_two_calls(
    target: str, dtype: Any, shape: tuple[int, int, int], activation: str | None
) -> None:
    m, k, n = shape
    x, w, b = (numbers(s, "f4", i, 0.5).astype(dtype) for i, s in enumerate([(m, k), (k, n), n]))
    plain, saved = il.linear(x, w, b, activation=activation, return_saved=True)
    for p in (0.3, 1.0):
        want = il.dropout(plain, p, **DROP)
        for weight in (w, np.asfortranarray(w), il.pack(w)):
            y, kept = il.linear(
                x, weight, b, activation=activation, dropout=p, return_saved=True, **DROP
            )
            assert same(target, y, want)
            assert (kept is None) == (saved is None) and kept is not y
            assert saved is None or same(target, kept, saved)
        for place in LAYOUTS.values():
            out = place(np.zeros_like(want))
            assert il.linear(x, w, b, activation=activation, dropout=p, out=out, **DROP) is out
            assert same(target, out, want)
        dy = numbers((m, n), "f4", 7).astype(dtype)
        got = il.linear_backward(dy, x, w, saved, activation=activation, dropout=p, **DROP)
        dz = il.dropout_backward(dy, p, **DROP)
        wanted = il.linear_backward(dz, x, w, saved, activation=activation)
        assert all(same(target, g, v) for g, v in zip(got, wanted, strict=True))


def test_linear_without_dropout_is_as_before(target: str) -> None:
    x, w = numbers((5, 7), "float32"), numbers((7, 6), "float32", 1)
    y, saved = il.linear(x, w, activation="relu", dropout=0.0, return_saved=True)
    assert saved is y and equal_bits(y, il.linear(x, w, activation="relu", dropout=0, seed=3))


def test_linear_over_leading_axes_and_threads(restore_threads: None) -> None:
    x, w = numbers((6, 50, 40), "float32"), numbers((40, 70), "float32", 1)
    want = il.dropout(il.linear(x, w), 0.5, seed=1)
    for isa in il.isas():
        for threads in (1, 2, 3, 7):
            il.set_num_threads(threads)
            with il.use_isa(isa):
                got = il.linear(x, w, dropout=0.5, seed=1)
                turned = il.linear(np.moveaxis(x, 0, 1), w, dropout=0.5, seed=1)
                plain = il.dropout(il.linear(np.moveaxis(x, 0, 1), w), 0.5, seed=1)
            assert np.array_equal(got != 0, want != 0) and equal_bits(turned, plain)


BAD_LAYERS = {
    "no seed": (TypeError, "seed", {"dropout": 0.5}),
    "p above 1": (ValueError, "dropout", {"dropout": 1.5, "seed": 0}),
    "p NaN": (ValueError, "dropout", {"dropout": float("nan"), "seed": 0}),
    "p no number": (TypeError, "dropout", {"dropout": "some", "seed": 0}),
    "seed too large": (ValueError, "seed", {"dropout": 0.5, "seed": 2**64}),
    "bad seed unused": (TypeError, "seed", {"seed": 0.5}),
    "offset below 0": (ValueError, "offset", {"dropout": 0.5, "seed": 0, "offset": -1}),
}


@pytest.mark.parametrize("case", BAD_LAYERS)
def test_bad_numbers_in_linear(target: str, case: str) -> None:
    error, message, options = BAD_LAYERS[case]
    for call in (il.linear, partial(il.linear_backward, X[:, :3])):
        out = np.ones((3, 3), "f4")
        given = (X, np.ones((4, 3), "f4"))
        with pytest.raises(error, match=message):
            call(*given, **options, **({"out": out} if call is il.linear else {}))
        assert (out == 1).all()


X = np.ones((3, 4), "float32")
BAD = {
    "p below 0": (ValueError, "p must", lambda f: f(X, -1e-9, seed=0)),
    "p above 1": (ValueError, "p must", lambda f: f(X, 1.0000001, seed=0)),
    "p NaN": (ValueError, "p must", lambda f: f(X, float("nan"), seed=0)),
    "p no number": (TypeError, "p must", lambda f: f(X, "half", seed=0)),
    "no seed": (TypeError, "seed", lambda f: f(X, 0.5)),
    "seed None": (TypeError, "seed", lambda f: f(X, 0.5, seed=None)),
    "seed a float": (TypeError, "seed", lambda f: f(X, 0.5, seed=1.0)),
    "seed a bool": (TypeError, "seed", lambda f: f(X, 0.5, seed=True)),
    "seed below 0": (ValueError, "seed", lambda f: f(X, 0.5, seed=-1)),
    "seed too large": (ValueError, "seed", lambda f: f(X, 0.5, seed=2**64)),
    "offset too large": (ValueError, "offset", lambda f: f(X, 0.5, seed=0, offset=2**64)),
    "offset below 0": (ValueError, "offset", lambda f: f(X, 0.5, seed=0, offset=-(2**70))),
    "offset a string": (TypeError, "offset", lambda f: f(X, 0.5, seed=0, offset="1")),
}


@pytest.mark.parametrize("function", [il.dropout, il.dropout_backward])
@pytest.mark.parametrize("case", BAD)
def test_bad_numbers(target: str, case: str, function: object) -> None:
    error, message, call = BAD[case]
    with pytest.raises(error, match=message):
        call(function)


def test_numpy_integers_are_seeds(target: str) -> None:
    want = il.dropout(X, 0.5, seed=2**63, offset=7)
    assert equal_bits(
        il.dropout(X, np.float64(0.5), seed=np.uint64(2**63), offset=np.int8(7)), want
    )
