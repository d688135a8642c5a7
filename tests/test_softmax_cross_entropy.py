"""softmax_cross_entropy in every combination of its options, beside the reference and PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import innerloop as il
from innerloop import reference
from support import DTYPES, LAYOUTS, equal_bits, fma_isas, numbers, special_rows

# Of the largest element: a few ULP of the row's terms, the reference being float64 rounded once.
TOLERANCE = {"float32": 4e-6, "float64": 2e-14}
INF, NAN = np.inf, np.nan
LABELS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
# Around 16 lanes, and around the blocks of 2048 in which a long row is read.
LENGTHS = [1, 2, 3, 7, 8, 9, 10, 15, 16, 17, 31, 32, 33, 47, 49, 100, 2047, 2048, 2049, 2063, 4097]


def close(actual: Any, want: Any, dtype: np.dtype, least: float = 0.0) -> None:
    """Equal up to rounding relative to the largest element, or to `least` if that is larger."""
    actual, want = np.asarray(actual), np.asarray(want)
    assert actual.shape == want.shape and actual.dtype == want.dtype == dtype
    largest = np.abs(want[np.isfinite(want)]).max(initial=least)
    tolerance = TOLERANCE[dtype.name]
    np.testing.assert_allclose(actual, want, rtol=tolerance, atol=tolerance * largest)


def targets(kind: str, shape: tuple[int, ...], axis: int, dtype: str) -> np.ndarray:
    """Labels of which some are 2, or probabilities."""
    rng = np.random.default_rng(7)
    if kind == "probabilities":
        t = rng.random(shape)
        return (t / t.sum(axis, keepdims=True)).astype(dtype)
    return np.asarray(rng.integers(0, shape[axis], shape[:axis] + shape[axis + 1 :]))


def both(logits: np.ndarray, target: np.ndarray, **options: Any) -> tuple[Any, Any]:
    """Loss and gradient, after holding both to the reference; the loss alone has the same bits."""
    loss, grad = il.softmax_cross_entropy(logits, target, return_grad=True, **options)
    want, want_grad = reference.softmax_cross_entropy(logits, target, return_grad=True, **options)
    close(loss, want, logits.dtype)
    # A gradient is a difference of terms such as 1 / C, which may cancel.
    close(grad, want_grad, logits.dtype, abs(options.get("grad_scale", 1.0)) / max(logits.size, 1))
    alone = il.softmax_cross_entropy(logits, target, **options)
    assert equal_bits(np.asarray(alone), np.asarray(loss))
    return loss, grad


SHAPES = [((6,), 1), ((6,), -1), ((5, 6), 1), ((4, 6, 3), 1), ((2, 6, 3, 5), 1), ((19, 40), 1)]
SHAPES += [((5, 6), 0), ((3, 2, 7), -1), ((40, 33), 0), ((3, 21, 18), 1), ((7, 2, 3), 0)]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["labels", "ignored", "probabilities"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_options_in_every_combination(
    target: str, dtype: str, kind: str, weighted: bool, smoothing: float, reduction: str
) -> None:
    for shape, axis in SHAPES:
        along = 0 if len(shape) == 1 else axis % len(shape)
        logits, t = numbers(shape, dtype), targets(kind, shape, along, dtype)
        options: dict[str, Any] = {
            "reduction": reduction,
            "label_smoothing": smoothing,
            "axis": axis,
            "grad_scale": -2.5,
            "ignore_index": 2 if kind == "ignored" and t.size > 1 else -100,
        }
        if weighted:
            options["weight"] = (numbers(shape[along], dtype, seed=3) ** 2 + 0.1).astype(dtype)
        loss, grad = both(logits, t, **options)
        if kind != "probabilities":
            ignored = np.expand_dims(t == options["ignore_index"], along)
            assert (grad[np.broadcast_to(ignored, shape)] == 0).all()
        inout = logits.copy()
        again, same = il.softmax_cross_entropy(inout, t, return_grad=True, out=inout, **options)
        assert same is inout
        assert equal_bits(np.asarray(again), np.asarray(loss)) and equal_bits(inout, grad)


@pytest.mark.parametrize("kind", ["labels", "smoothed", "probabilities"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", LENGTHS)
def test_lengths(isa: str, length: int, dtype: str, weighted: bool, kind: str) -> None:
    logits, t = numbers((37, length), dtype), targets(kind, (37, length), 1, dtype)
    t[1:4] = t[0]
    if kind != "probabilities":
        t[:4] = [0, length - 1, length // 2, -100]
    options: dict[str, Any] = {"reduction": "none", "label_smoothing": 0.1 * (kind == "smoothed")}
    if weighted:
        options["weight"] = (numbers(length, dtype, seed=3) ** 2 + 0.1).astype(dtype)
    loss, grad = both(logits, t, **options)
    for r in (0, 3, 36):  # a row alone has the bits that it has in a batch
        row_loss, row_grad = il.softmax_cross_entropy(
            logits[r], t[r, ...], return_grad=True, **options
        )
        assert equal_bits(row_loss, loss[r, ...]) and equal_bits(row_grad, grad[r])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["labels", "smoothed", "probabilities"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts_hold_the_same_bits(isa: str, dtype: str, kind: str, layout: str) -> None:
    place = LAYOUTS[layout]
    for shape in ((3, 5, 37), (21, 18, 2), (2, 2100, 3)):
        for axis in range(3):
            logits, t = numbers(shape, dtype), targets(kind, shape, axis, dtype)
            weight = numbers(shape[axis], dtype, seed=3) ** 2
            options: dict[str, Any] = {
                "axis": axis,
                "label_smoothing": 0.1 * (kind == "smoothed"),
                "return_grad": True,
            }
            loss, grad = il.softmax_cross_entropy(logits, t, weight=weight, **options)
            options["weight"] = place(weight)
            again, placed = il.softmax_cross_entropy(place(logits), place(t), **options)
            assert again == loss and equal_bits(placed, grad)
            out = place(np.full_like(logits, 7))
            again, same = il.softmax_cross_entropy(logits, t, out=out, **options)
            assert same is out and again == loss and equal_bits(out, grad)
            inout = place(logits)
            again, same = il.softmax_cross_entropy(inout, place(t), out=inout, **options)
            assert same is inout and again == loss and equal_bits(inout, grad)


def test_broadcast_inputs(target: str) -> None:
    logits = np.broadcast_to(numbers((1, 19), "float64"), (23, 19))
    t = np.broadcast_to(np.array(3), 23)
    _, grad = both(logits, t, weight=np.broadcast_to(2.0, 19))
    assert equal_bits(grad[0], grad[22])


@pytest.mark.parametrize("dtype", LABELS)
def test_label_types(target: str, dtype: str) -> None:
    logits = numbers((5, 130), "float32")
    t = np.array([3, 0, 127, 100, 3])
    want = both(logits, t, ignore_index=3)
    got = both(logits, t.astype(dtype), ignore_index=3)
    assert got[0] == want[0] and equal_bits(got[1], want[1])
    both(logits, t.astype(dtype))  # -100 is no unsigned label


def test_ignore_index_is_compared_by_value(target: str) -> None:
    logits = numbers((2, 3), "float32")
    for dtype, label in (("uint8", 156), ("uint64", 2**64 - 100), ("uint32", 2**32 - 100)):
        with pytest.raises(IndexError, match=str(label)):
            il.softmax_cross_entropy(logits, np.array([0, label], dtype))
    with pytest.raises(IndexError, match="-100"):
        il.softmax_cross_entropy(logits, np.array([0, -100], "int8"), ignore_index=156)
    loss = il.softmax_cross_entropy(logits, np.array([0, 255], "uint8"), ignore_index=255)
    assert loss == il.softmax_cross_entropy(logits[:1], np.array([0]))


@pytest.mark.parametrize("kind", ["labels", "smoothed", "evenly", "probabilities"])
@pytest.mark.parametrize("n", [2, 10, 16, 17, 40, 2049, 5000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_special_rows(target: str, dtype: str, n: int, kind: str) -> None:
    logits = special_rows(n, dtype)
    options = {"label_smoothing": {"smoothed": 0.1, "evenly": 1.0}.get(kind, 0.0)}
    for label in (0, n // 2, n - 1):
        t = np.full(len(logits), label)
        if kind == "probabilities":
            t = np.eye(n, dtype=dtype)[t]
        for r in range(len(logits)):
            both(logits[r], t[r, ...], reduction="none", **options)
        both(logits, t, **options)


@pytest.mark.parametrize("kind", ["labels", "smoothed", "probabilities"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_maximum_that_comes_late(target: str, dtype: str, kind: str) -> None:
    """Each block may raise the maximum, by much or little; the first may be masked out whole."""
    n = 9001
    i = np.arange(n)
    logits = np.stack(
        [
            np.linspace(-500, 500, n),
            np.linspace(-2, 2, n),
            np.where(i < 5000, -1e9, 0.0),
            np.where(i == n - 1, 300.0, 0.0),
            np.where(i == n - 1, 59.0, 0.0),
            np.where(i % 2048 == 2047, i, -1e4),
            *([np.where(i < 5000, -INF, 0.0)] if kind == "labels" else []),
        ]
    ).astype(dtype)
    for label in (0, 2047, 2048, n - 1):
        t = np.full(len(logits), label)
        if kind == "probabilities":
            t = np.eye(n, dtype=dtype)[t]
        options = {"reduction": "none", "label_smoothing": 0.1 * (kind == "smoothed")}
        for r in range(len(logits)):
            loss, grad = both(logits[r], t[r, ...], **options)
            inout = logits[r].copy()
            again, _ = il.softmax_cross_entropy(
                inout, t[r, ...], return_grad=True, out=inout, **options
            )
            assert equal_bits(again, loss) and equal_bits(inout, grad)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [10, 32_000, 200_000])
def test_a_confident_row_keeps_its_digits(isa: str, dtype: str, length: int) -> None:
    """Loss and gradient where the label has nearly all probability, at the row's end."""
    logits = np.zeros((1, length), dtype)
    logits[0, -1] = 12 + np.log(length)
    loss, grad = il.softmax_cross_entropy(logits, np.array([length - 1]), return_grad=True)
    others = np.exp(-np.float64(logits[0, -1]))
    total = 1 + (length - 1) * others
    epsilon = np.finfo(dtype).eps
    np.testing.assert_allclose(loss, np.log(total), atol=2 * epsilon)
    np.testing.assert_allclose(grad[0, -1], 1 / total - 1, atol=2 * epsilon)
    np.testing.assert_allclose(grad[0, 0], others / total, rtol=20 * epsilon)


def test_long_sums_keep_their_digits(isa: str) -> None:
    """Equal logits: the loss is log(C), however many are summed in float32."""
    for classes in (1000, 128_256, 1 << 21):
        logits = np.full((1, classes), 0.3, "float32")
        for smoothing in (0.0, 0.1):
            loss = il.softmax_cross_entropy(logits, np.array([5]), label_smoothing=smoothing)
            np.testing.assert_allclose(loss, np.log(classes), rtol=2e-6 if smoothing else 3e-7)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_ignored_rows_count_for_nothing(
    target: str, dtype: str, smoothing: float, reduction: str
) -> None:
    for n in (3, 16, 50, 3000):
        logits, t = numbers((4, n), dtype), np.array([0, -100, 2, -100], "int32")
        logits[1], logits[3] = NAN, INF
        options = {"reduction": reduction, "label_smoothing": smoothing}
        loss, grad = both(logits, t, **options)
        kept, kept_grad = both(logits[::2], t[::2], **options)
        assert equal_bits(grad[::2].copy(), kept_grad) and not grad[1::2].any()
        want = np.array([kept[0], 0, kept[1], 0], dtype) if reduction == "none" else kept
        assert equal_bits(np.asarray(loss), np.asarray(want))
        inout = logits.copy()
        il.softmax_cross_entropy(inout, t, return_grad=True, out=inout, **options)
        assert equal_bits(inout, grad)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(0, 4), (3, 4), (2, 4, 0), (0, 4, 2)])
def test_no_rows_that_count(
    target: str, shape: tuple[int, ...], smoothing: float, reduction: str
) -> None:
    """The mean is NaN, as in PyTorch; the gradient 0."""
    t = np.full(shape[:1] + shape[2:], -100)
    logits = numbers(shape, "float32")
    _, grad = both(logits, t, reduction=reduction, label_smoothing=smoothing)
    assert not grad.any()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0), (2, 4, 0), (0,)])
def test_probabilities_of_no_elements(target: str, shape: tuple[int, ...], reduction: str) -> None:
    logits = np.zeros(shape)
    both(logits, logits.copy(), reduction=reduction)


def test_weights_of_zero(target: str) -> None:
    logits, weight = numbers((3, 4), "float64"), np.array([0.0, 0.0, 1.0, 2.0])
    for t in (np.array([0, 1, 0]), np.array([0, 1, 2])):
        both(logits, t, weight=weight)


@pytest.mark.parametrize("kind", ["labels", "smoothed", "probabilities"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(20_011, 10), (257, 1003), (9, 40_000), (50, 7, 1000)])
def test_same_bits_for_any_threads_and_isa(
    shape: tuple[int, ...], dtype: str, kind: str, restore_threads: None
) -> None:
    logits, t = numbers(shape, dtype), targets(kind, shape, 1, dtype)
    weight = numbers(shape[1], dtype, seed=3) ** 2
    want = None
    for isa in fma_isas():
        for threads in (1, 2, 3, 7):
            il.set_num_threads(threads)
            with il.use_isa(isa):
                loss, grad = il.softmax_cross_entropy(
                    logits,
                    t,
                    weight=weight,
                    label_smoothing=0.1 * (kind == "smoothed"),
                    return_grad=True,
                )
            want = want or (loss, grad)
            assert loss == want[0] and equal_bits(grad, want[1])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["ignored", "probabilities"])
def test_gradient_by_finite_differences(
    target: str, kind: str, smoothing: float, reduction: str
) -> None:
    logits, t = numbers((5, 6, 3), "float64"), targets(kind, (5, 6, 3), 1, "float64")
    options: dict[str, Any] = {
        "weight": numbers(6, "float64", seed=3) ** 2,
        "ignore_index": 2,
        "label_smoothing": smoothing,
        "reduction": reduction,
    }
    _, grad = il.softmax_cross_entropy(logits, t, return_grad=True, grad_scale=3.0, **options)
    h = 1e-5
    for at in np.ndindex(logits.shape):
        up, down = logits.copy(), logits.copy()
        up[at] += h
        down[at] -= h
        rise = il.softmax_cross_entropy(up, t, **options)
        rise = np.sum(rise - il.softmax_cross_entropy(down, t, **options))
        np.testing.assert_allclose(grad[at], 3 * rise / (2 * h), rtol=1e-6, atol=3e-7)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["ignored", "probabilities"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_beside_torch(
    target: str, dtype: str, kind: str, weighted: bool, smoothing: float, reduction: str
) -> None:
    torch = pytest.importorskip("torch")
    for shape in ((6,), (9, 6), (4, 40, 3), (3, 2100)):
        axis = min(1, len(shape) - 1)
        logits, t = numbers(shape, dtype), targets(kind, shape, axis, dtype)
        options: dict[str, Any] = {"reduction": reduction, "label_smoothing": smoothing}
        if kind == "ignored" and t.size > 1:
            options["ignore_index"] = 2
        weight = (numbers(shape[axis], dtype, seed=3) ** 2).astype(dtype) if weighted else None
        z = torch.tensor(logits, requires_grad=True)
        want = torch.nn.functional.cross_entropy(
            z, torch.tensor(t), torch.tensor(weight) if weighted else None, **options
        )
        want.sum().backward()
        loss, grad = il.softmax_cross_entropy(
            z.detach(), torch.tensor(t), weight=weight, return_grad=True, **options
        )
        assert isinstance(loss, torch.Tensor) and isinstance(grad, torch.Tensor)
        assert loss.dtype == want.dtype and loss.shape == want.shape
        tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == "float32" else {"rtol": 1e-12}
        np.testing.assert_allclose(loss.numpy(), want.detach().numpy(), **tolerance)
        np.testing.assert_allclose(grad.numpy(), z.grad.numpy(), **{"atol": 1e-12, **tolerance})


def test_many_rows_of_huge_losses(isa: str) -> None:
    """The sum over rows is taken in float64: the mean of equal losses is that loss."""
    logits = np.zeros((300_000, 3), "float32")
    loss = il.softmax_cross_entropy(logits, np.zeros(300_000, "int64"))
    assert loss == il.softmax_cross_entropy(logits[:1], np.zeros(1, "int64"))


# Arrays that every bad case reads and may try to write. None of them changes.
Z = numbers((3, 4), "float32")
T = np.array([0, 1, 3])
P = np.full((3, 4), 0.25, "float32")
OUT = np.full((3, 4), 7, "float32")
READ_ONLY = np.full((3, 4), 7, "float32")
READ_ONLY.flags.writeable = False
BIG = np.full((5, 4), 0.5, "float32")
W = np.ones(4, "float32")
LONG = np.array([0, 0, 0, 0, 0])


def labels(*values: int, dtype: str = "int64") -> dict[str, Any]:
    return {"target": np.array(values, dtype)}


BAD: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "label C": (IndexError, r"got 4 at \(2,\)", labels(0, 1, 4)),
    "label -1": (IndexError, r"got -1 at \(0,\)", labels(-1, 1, 3)),
    "label far out": (IndexError, "4", labels(0, 2**62, 0)),
    "label far below": (IndexError, "4", labels(0, 0, -(2**63))),
    "label of uint64": (IndexError, "1844", labels(0, 2**64 - 1, 0, dtype="uint64")),
    "label of int8": (IndexError, "got -128", labels(0, -128, 0, dtype="int8")),
    "label not ignored": (IndexError, "-100", {**labels(0, -100, 0), "ignore_index": -1}),
    "label, no gradient": (IndexError, "4", {**labels(0, 1, 4), "return_grad": False, "out": None}),
    "label, in place": (IndexError, "4", {**labels(0, 1, 4), "out": Z}),
    "label, none": (IndexError, "4", {**labels(0, 1, 4), "reduction": "none"}),
    "label, smoothed": (IndexError, "4", {**labels(0, 1, 4), "label_smoothing": 0.1}),
    "label, weighted": (IndexError, "4", {**labels(0, 1, 4), "weight": W}),
    "label of no classes": (
        IndexError,
        "from 0 to 0",
        {"logits": np.empty((3, 0), "f4"), **labels(0, 0, 0), "out": None},
    ),
    "logits a list": (TypeError, "logits", {"logits": [[1.0]]}),
    "logits of integers": (TypeError, "logits", {"logits": np.ones((3, 4), "i4")}),
    "half logits, float32 out": (TypeError, "out", {"logits": Z.astype("f2")}),
    "logits 0-d": (ValueError, "logits", {"logits": np.array(1.0)}),
    "target a number": (TypeError, "target", {"target": 3}),
    "target of bool": (TypeError, "target.*bool", {"target": T > 1}),
    "target one too many": (ValueError, "target", {"target": np.array([0, 1, 3, 0])}),
    "target a column": (ValueError, "target", {"target": T[:, None]}),
    "target of logits' shape": (ValueError, "target", {"target": np.zeros((3, 4), "i8")}),
    "float labels": (ValueError, "target", {"target": T.astype("f4")}),
    "probabilities of another shape": (ValueError, "target", {"target": P.T}),
    "probabilities of another dtype": (TypeError, "target", {"target": P.astype("f8")}),
    "weight of another shape": (ValueError, "weight", {"weight": np.ones(3, "f4")}),
    "weight 2-D": (ValueError, "weight", {"weight": np.ones((1, 4), "f4")}),
    "weight of another dtype": (TypeError, "weight", {"weight": np.ones(4)}),
    "weight a list": (TypeError, "weight", {"weight": [1.0] * 4}),
    "reduction unknown": (ValueError, "mean, sum, none", {"reduction": "avg"}),
    "reduction None": (TypeError, "reduction", {"reduction": None}),
    "smoothing below": (ValueError, "label_smoothing", {"label_smoothing": -0.1}),
    "smoothing above": (ValueError, "label_smoothing", {"label_smoothing": 1.1}),
    "smoothing NaN": (ValueError, "label_smoothing", {"label_smoothing": NAN}),
    "smoothing a string": (TypeError, "label_smoothing", {"label_smoothing": "0.1"}),
    "grad_scale None": (TypeError, "grad_scale", {"grad_scale": None}),
    "ignore_index a float": (TypeError, "ignore_index", {"ignore_index": 1.0}),
    "ignore_index huge": (ValueError, "ignore_index", {"ignore_index": 1 << 64}),
    "axis 2 of 2": (ValueError, "axis", {"axis": 2}),
    "axis -3 of 2": (ValueError, "axis", {"axis": -3}),
    "axis 2 of 1": (ValueError, "axis", {"logits": Z[0], "target": np.array(1), "axis": 2}),
    "axis a float": (TypeError, "axis", {"axis": 1.0}),
    "out without return_grad": (ValueError, "return_grad", {"return_grad": False}),
    "out of another shape": (ValueError, "out", {"out": BIG}),
    "out of another dtype": (TypeError, "out", {"out": np.empty((3, 4))}),
    "out read-only": (ValueError, "out", {"out": READ_ONLY}),
    "out a list": (TypeError, "out", {"out": [[0.0] * 4] * 3}),
    "out over itself": (
        ValueError,
        "out",
        {"out": np.lib.stride_tricks.as_strided(BIG, (3, 4), (0, 4))},
    ),
    "out overlapping logits": (ValueError, "overlap", {"logits": BIG[1:4], "out": BIG[:3]}),
    "out reversed logits": (ValueError, "overlap", {"logits": OUT[::-1], "out": OUT}),
    "out the probabilities": (ValueError, "overlap", {"target": OUT, "out": OUT}),
    "out over the labels": (
        ValueError,
        "overlap",
        {
            "logits": np.ones((5, 2), "f4"),
            "target": LONG,
            "out": LONG.view("f4").reshape(5, 2),
        },
    ),
    "out over the weight": (ValueError, "overlap", {"weight": OUT[1]}),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_and_nothing_written(target: str, case: str) -> None:
    error, words, changed = BAD[case]
    arguments = {"logits": Z, "target": T, "return_grad": True, "out": OUT, **changed}
    arrays = [Z, T, P, OUT, READ_ONLY, BIG, W, LONG]
    before = [a.tobytes() for a in arrays]
    with pytest.raises(error, match=words):
        il.softmax_cross_entropy(arguments.pop("logits"), arguments.pop("target"), **arguments)
    assert [a.tobytes() for a in arrays] == before
