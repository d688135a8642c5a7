"""The elementwise losses, each by its name in the list: beside the reference and PyTorch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import innerloop as il
from innerloop import _core
from innerloop.reference import LOSSES
from support import DTYPES, LAYOUTS, equal_bits, fma_isas, numbers, sizes_around

NAMES = list(il.losses.NAMES)
UNIT = {"binary_cross_entropy"}  # predictions must lie in [0, 1]
REDUCTIONS = ("mean", "sum", "none")
TOLERANCE = {"float32": 2e-6, "float64": 2e-14}
INF, NAN = np.inf, np.nan
# Parameters to try beside the defaults.
PARAMETERS: dict[str, list[dict[str, Any]]] = {
    "smooth_l1_loss": [{"beta": 0.0}, {"beta": 0.3}, {"beta": 4}],
    "huber_loss": [{"delta": 0.3}, {"delta": 4}],
    "kl_div": [{"log_target": True}],
    "poisson_nll_loss": [{"full": True}, {"log_input": False, "full": True, "eps": 0.25}],
}


def options_of(name: str) -> list[dict[str, Any]]:
    return [{}, *PARAMETERS.get(name, [])]


def reductions_of(name: str) -> tuple[str, ...]:
    return REDUCTIONS + ("batchmean",) * LOSSES[name].batchmean


def values(
    name: str, shape: int | tuple[int, ...], dtype: str, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and targets that the loss takes."""
    pred, target = (np.asarray(numbers(shape, dtype, s)) for s in (seed, seed + 1))
    if name in ("binary_cross_entropy", "binary_cross_entropy_with_logits"):
        target = il.sigmoid(target)
    if name in UNIT:
        pred = il.sigmoid(pred)
    if name == "kl_div":
        pred, target = -abs(pred), abs(target)
    if name == "poisson_nll_loss":
        pred, target = abs(pred), abs(target)
    pred, target = np.asarray(pred), np.asarray(target)
    return pred, target


def close(actual: Any, want: Any, dtype: str, largest: float = 0.0) -> None:
    """Equal up to rounding, relative to the largest element."""
    actual, want = np.asarray(actual), np.asarray(want)
    assert actual.shape == want.shape and actual.dtype == want.dtype == dtype
    largest = np.abs(want[np.isfinite(want)]).max(initial=largest)
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(actual, want, rtol=tolerance, atol=tolerance * largest)


def both(name: str, pred: np.ndarray, target: np.ndarray, **options: Any) -> tuple[Any, Any]:
    """Loss and gradient, after holding both to the reference; the loss alone has the same bits."""
    function = getattr(il, name)
    loss, grad = function(pred, target, return_grad=True, **options)
    want, want_grad = LOSSES[name].function(pred, target, return_grad=True, **options)
    dtype = pred.dtype.name
    # A sum may cancel: its error is that of its terms.
    terms = np.asarray(LOSSES[name].function(pred, target, **(options | {"reduction": "none"})))
    finite = np.abs(terms[np.isfinite(terms)])
    scale = finite.sum() if options.get("reduction") == "sum" else finite.max(initial=0.0)
    close(loss, want, dtype, scale)
    close(grad, want_grad, dtype)
    assert equal_bits(np.asarray(function(pred, target, **options)), np.asarray(loss))
    return loss, grad


def test_the_list_is_the_references() -> None:
    native = {name: entry for name, *entry in _core.elementwise_losses()}
    assert native == {n: [e.parameters, e.array, e.batchmean] for n, e in LOSSES.items()}
    assert list(native) == NAMES == list(LOSSES)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_options_in_every_combination(target: str, name: str, dtype: str, weighted: bool) -> None:
    for parameters, reduction, shape in itertools.product(
        options_of(name), reductions_of(name), ((), (5, 7), (3, 2100), (2, 3, 4))
    ):
        pred, t = values(name, shape, dtype)
        options = {"reduction": reduction, "grad_scale": -2.5, **parameters}
        if weighted:
            options["sample_weight"] = np.asarray(abs(numbers(shape, dtype, seed=5)))
        loss, grad = both(name, pred, t, **options)
        inout = pred.copy()
        again, same = getattr(il, name)(inout, t, return_grad=True, out=inout, **options)
        assert same is inout
        assert equal_bits(np.asarray(again), np.asarray(loss)) and equal_bits(inout, grad)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_sizes(target: str, name: str, dtype: str) -> None:
    """Around a vector's width, 16 lanes and a block of 2048; an element alone has its bits."""
    width = _core.vector_bytes() // np.dtype(dtype).itemsize
    for n in {*sizes_around(width), *sizes_around(16), 2047, 2048, 2049, 5003}:
        pred, t = values(name, n, dtype)
        losses, grad = both(name, pred, t, reduction="none")
        for reduction in ("mean", "sum"):
            both(name, pred, t, reduction=reduction)
        if n:
            one, one_grad = getattr(il, name)(pred[-1:], t[-1:], reduction="none", return_grad=True)
            assert equal_bits(one, losses[-1:]) and equal_bits(one_grad, grad[-1:])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_layouts_hold_the_same_bits(isa: str, name: str, layout: str) -> None:
    place = LAYOUTS[layout]
    for dtype, shape in itertools.product(DTYPES, ((3, 5, 37), (61, 70), (2, 2100))):
        pred, t = values(name, shape, dtype)
        weight = abs(numbers(shape, dtype, seed=5))
        function = getattr(il, name)
        for reduction in ("mean", "none"):
            options: dict[str, Any] = {"reduction": reduction, "return_grad": True}
            loss, grad = function(pred, t, sample_weight=weight, **options)
            again, placed = function(place(pred), place(t), sample_weight=place(weight), **options)
            assert equal_bits(np.asarray(again), np.asarray(loss)) and equal_bits(placed, grad)
            out = place(np.full_like(pred, 7))
            again, same = function(pred, t, sample_weight=weight, out=out, **options)
            assert same is out and equal_bits(out, grad)
            inout = place(pred)
            again, same = function(inout, place(t), sample_weight=weight, out=inout, **options)
            assert same is inout and equal_bits(inout, grad)
            assert equal_bits(np.asarray(again), np.asarray(loss))


def test_broadcast_inputs(target: str) -> None:
    pred, t = np.broadcast_to(numbers((1, 19), "float64"), (23, 19)), numbers((23, 19), "float64")
    both("mse_loss", pred, t, sample_weight=np.broadcast_to(2.0, (23, 19)))
    both("mse_loss", pred, np.broadcast_to(1.0, (23, 19)), reduction="none")


@pytest.mark.parametrize("name", NAMES)
def test_same_bits_for_any_threads_and_isa(name: str, restore_threads: None) -> None:
    for dtype, shape in itertools.product(DTYPES, ((200_003,), (401, 500))):
        pred, t = values(name, shape, dtype)
        weight = abs(numbers(shape, dtype, seed=5))
        want = None
        for isa, threads in itertools.product(fma_isas(), (1, 2, 5)):
            il.set_num_threads(threads)
            with il.use_isa(isa):
                loss, grad = getattr(il, name)(pred, t, sample_weight=weight, return_grad=True)
            want = want or (loss, grad)
            assert loss == want[0] and equal_bits(grad, want[1])


EDGES = {
    "binary_cross_entropy": ([0.0, 1.0, 0.5, 1e-9, 1e-45, 1 - 6e-8], [0.0, 1.0, 0.3, NAN, 2.0, -1]),
    "kl_div": ([0.0, -INF, INF, NAN, -3.0], [0.0, 1.0, 1e-45, INF, NAN, -1.0, -INF]),
    "poisson_nll_loss": ([0.0, -0.0, 1.0, 5, -88, INF, -INF, NAN], [0.0, 1e-40, 1, 2.5, 7, NAN]),
}
EVERY = ([0.0, -0.0, 1.0, -1.0, INF, -INF, NAN, 1e30, -88.0, 200.0, 1e-40],) * 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_edges(target: str, name: str, dtype: str) -> None:
    """Each special prediction with each special target, at every place in a vector."""
    pairs = np.array(list(itertools.product(*EDGES.get(name, EVERY))), dtype)
    for parameters in options_of(name):
        for first in (0, 1, 5):
            pred, t = pairs[first:, 0].copy(), pairs[first:, 1].copy()
            loss, grad = getattr(il, name)(
                pred, t, reduction="none", return_grad=True, **parameters
            )
            want, want_grad = LOSSES[name].function(
                pred, t, reduction="none", return_grad=True, **parameters
            )
            for a, w in ((loss, want), (grad, want_grad)):
                np.testing.assert_allclose(a, w, rtol=20 * TOLERANCE[dtype], atol=1e-37)


def torch_loss(torch: Any, name: str, pred: Any, target: Any, **options: Any) -> Any:
    if not hasattr(torch.nn.functional, name):
        pytest.skip(f"torch has no {name}")
    return getattr(torch.nn.functional, name)(pred, target, **options)


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_beside_torch(name: str, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    tolerance: dict[str, Any] = {"rtol": 2e-5, "atol": 1e-5}
    if dtype == "float64":
        tolerance = {"rtol": 1e-12, "atol": 1e-13}
    for parameters, reduction, shape in itertools.product(
        options_of(name), reductions_of(name), ((), (6,), (5, 7), (3, 2100), (0, 3))
    ):
        pred, t = values(name, shape, dtype)
        x = torch.tensor(pred, requires_grad=True)
        want = torch_loss(torch, name, x, torch.tensor(t), reduction=reduction, **parameters)
        want.sum().backward()
        loss, grad = getattr(il, name)(
            x.detach(), torch.tensor(t), reduction=reduction, return_grad=True, **parameters
        )
        assert isinstance(loss, torch.Tensor) and isinstance(grad, torch.Tensor)
        assert loss.dtype == want.dtype and loss.shape == want.shape
        np.testing.assert_allclose(loss.numpy(), want.detach().numpy(), **tolerance)
        np.testing.assert_allclose(grad.numpy(), x.grad.numpy(), **tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_edges_are_torchs(name: str) -> None:
    torch = pytest.importorskip("torch")
    pairs = np.array(list(itertools.product(*EDGES.get(name, EVERY))))
    if name == "binary_cross_entropy":  # it refuses targets out of [0, 1]
        pairs = pairs[(pairs[:, 1] >= 0) & (pairs[:, 1] <= 1)]
    if name == "binary_cross_entropy_with_logits":  # ours is torch's with a pos_weight of 1
        pairs = pairs[~np.isinf(pairs[:, 1])]
    tolerance: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-300}  # torch's 1e-12 is a float32
    for parameters in options_of(name):
        x, t = torch.tensor(pairs[:, 0], requires_grad=True), torch.tensor(pairs[:, 1])
        want = torch_loss(torch, name, x, t, reduction="none", **parameters)
        want.sum().backward()
        loss, grad = getattr(il, name)(
            x.detach(), t, reduction="none", return_grad=True, **parameters
        )
        np.testing.assert_allclose(loss.numpy(), want.detach().numpy(), **tolerance)
        np.testing.assert_allclose(grad.numpy(), x.grad.numpy(), **tolerance)


@pytest.mark.parametrize("name", ["binary_cross_entropy", "binary_cross_entropy_with_logits"])
def test_sample_weight_beside_torchs_weight(name: str) -> None:
    """It multiplies as torch's weight does; the mean is the weighted one, which torch's is not."""
    torch = pytest.importorskip("torch")
    pred, t = values(name, (5, 7), "float64")
    weight = abs(numbers((5, 7), "float64", seed=5))
    theirs = getattr(torch.nn.functional, name)
    want = theirs(*map(torch.tensor, (pred, t)), weight=torch.tensor(weight), reduction="sum")
    np.testing.assert_allclose(
        getattr(il, name)(pred, t, sample_weight=weight, reduction="sum"), want.item(), rtol=1e-13
    )
    np.testing.assert_allclose(
        getattr(il, name)(pred, t, sample_weight=weight), want.item() / weight.sum(), rtol=1e-13
    )


def pos_weights(dtype: str) -> Iterator[np.ndarray]:
    for shape in ((), (1,), (7,), (5, 1), (1, 1, 7), (3, 5, 7)):
        yield np.asarray(abs(numbers(shape, dtype, seed=6)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_pos_weight_broadcasts(target: str, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    name = "binary_cross_entropy_with_logits"
    pred, t = values(name, (3, 5, 7), dtype)
    for p, reduction in itertools.product(pos_weights(dtype), REDUCTIONS):
        loss, grad = both(name, pred, t, pos_weight=p, reduction=reduction)
        x = torch.tensor(pred, requires_grad=True)
        want = torch_loss(
            torch, name, x, torch.tensor(t), pos_weight=torch.tensor(p), reduction=reduction
        )
        want.sum().backward()
        tolerance = 1e-5 if dtype == "float32" else 1e-12
        np.testing.assert_allclose(loss, want.detach().numpy(), tolerance, tolerance)
        np.testing.assert_allclose(grad, x.grad.numpy(), tolerance, tolerance)
    for layout in LAYOUTS.values():
        again = both(name, pred, t, pos_weight=layout(p), reduction="none")
        assert equal_bits(again[0], loss) and equal_bits(again[1], grad)
    for shape in ((2,), (5,), (2, 3, 5, 7), (7, 1), (0,)):
        with pytest.raises(ValueError, match=r"pos_weight.*got"):
            il.binary_cross_entropy_with_logits(pred, t, pos_weight=np.ones(shape, dtype))
    with pytest.raises(TypeError, match=r"pos_weight.*got"):
        il.binary_cross_entropy_with_logits(pred, t, pos_weight=np.ones(7, "f2"))


@pytest.mark.parametrize("name", NAMES)
def test_gradient_by_finite_differences(target: str, name: str) -> None:
    for parameters, reduction in itertools.product(options_of(name), reductions_of(name)):
        pred, t = values(name, (3, 7), "float64")
        weight = numbers((3, 7), "float64", seed=5)  # of either sign
        options = {"sample_weight": weight, "reduction": reduction, **parameters}
        function = getattr(il, name)
        _, grad = function(pred, t, return_grad=True, grad_scale=3.0, **options)
        h = 1e-6
        for at in np.ndindex(pred.shape):
            up, down = pred.copy(), pred.copy()
            up[at] += h
            down[at] -= h
            rise = np.sum(function(up, t, **options) - function(down, t, **options))
            np.testing.assert_allclose(grad[at], 3 * rise / (2 * h), rtol=1e-5, atol=1e-7)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_options_beside_the_reference(data: st.DataObject) -> None:
    draw = data.draw
    name = draw(st.sampled_from(NAMES))
    shape = tuple(draw(st.lists(st.integers(0, 21), max_size=4)))
    dtype = draw(st.sampled_from(DTYPES))

    def place(a: np.ndarray) -> np.ndarray:
        return LAYOUTS[draw(st.sampled_from(list(LAYOUTS)))](a) if a.ndim else a

    pred, t = (place(a) for a in values(name, shape, dtype, draw(st.integers(0, 99))))
    options = draw(st.sampled_from(options_of(name))).copy()
    options["reduction"] = draw(st.sampled_from(reductions_of(name)))
    options["grad_scale"] = draw(st.sampled_from([1.0, -3.0]))
    if draw(st.booleans()):
        options["sample_weight"] = place(np.asarray(abs(numbers(shape, dtype, seed=5))))
    if LOSSES[name].array and draw(st.booleans()):
        own = tuple(draw(st.sampled_from([1, n])) for n in shape)[
            draw(st.integers(0, len(shape))) :
        ]
        options[LOSSES[name].array] = place(np.asarray(abs(numbers(own, dtype, seed=6))))
    both(name, pred, t, **options)


def test_the_textbooks_numbers(target: str) -> None:
    one, t = np.ones((2, 2)), np.array([[0.0, 1.0], [2.0, 3.0]])
    assert il.l1_loss(one, t) == 1
    assert il.smooth_l1_loss(one, t) == 0.625
    assert il.mse_loss(one, t) == 1.5
    assert il.binary_cross_entropy(one, t) == -50  # of the logarithms' limit: -100 * (1 - t)
    np.testing.assert_allclose(il.softmax_cross_entropy(one, t), 2.0794, atol=5e-5)
    pred, t = np.array([0.1, 0.9, 0.2, 0.8]), np.array([0.0, 1.0, 0.0, 1.0])
    np.testing.assert_allclose(il.binary_cross_entropy(pred, t), 0.1642519, atol=2e-7)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none", "batchmean"])
def test_empty_arrays(target: str, reduction: str) -> None:
    for name in NAMES:
        if reduction in reductions_of(name):
            both(name, np.zeros((0, 3)), np.zeros((0, 3)), reduction=reduction)
            both(name, np.zeros((3, 0)), np.zeros((3, 0)), reduction=reduction)


def test_a_long_mean_keeps_its_digits(isa: str) -> None:
    """Equal losses, their square no float32: their mean is a loss, however many there are."""
    pred = np.full(3_000_001, 1.1, "float32")
    loss = il.mse_loss(pred, np.zeros_like(pred))
    np.testing.assert_allclose(loss, il.mse_loss(pred[:1], np.zeros_like(pred[:1])), rtol=1e-6)
    huge = np.full(100_000, 1e18, "float32")
    np.testing.assert_allclose(il.mse_loss(huge, np.zeros_like(huge)), 1e36, rtol=1e-5)


@pytest.mark.parametrize("place", LAYOUTS)
@pytest.mark.parametrize("value", [-1e-7, 1.0000001, NAN, INF, -INF])
def test_predictions_out_of_range(target: str, place: str, value: float) -> None:
    for shape, at in (((7, 5), (0, 0)), ((7, 5), (6, 4)), ((90, 1000), (77, 3)), ((), ())):
        if place != "C" and not shape:
            continue
        for return_grad, reduction in itertools.product((False, True), REDUCTIONS):
            pred = np.full(shape, 0.5, "float32")
            pred[at] = value
            pred = LAYOUTS[place](pred)
            out = np.full(shape, 7, "float32")
            options = {"return_grad": True, "out": out} if return_grad else {}
            with pytest.raises(ValueError, match=r"pred must lie in \[0, 1\], got") as error:
                il.binary_cross_entropy(pred, pred, reduction=reduction, **options)
            assert str(at).rstrip(",)") in str(error.value)
            assert (out == 7).all()
    if not np.isnan(value):
        il.binary_cross_entropy(np.full(3, 0.5), np.full(3, value))  # targets may be anything


BAD: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("smooth_l1_loss", {"beta": -0.1}, ValueError, "beta"),
    ("smooth_l1_loss", {"beta": NAN}, ValueError, "beta"),
    ("smooth_l1_loss", {"beta": "1"}, TypeError, "beta"),
    ("smooth_l1_loss", {"delta": 1.0}, TypeError, "delta"),
    ("huber_loss", {"delta": 0.0}, ValueError, "delta"),
    ("huber_loss", {"delta": -1.0}, ValueError, "delta"),
    ("huber_loss", {"delta": NAN}, ValueError, "delta"),
    ("kl_div", {"log_target": 0.5}, ValueError, "log_target"),
    ("kl_div", {"log_target": "yes"}, TypeError, "log_target"),
    ("kl_div", {"reduction": "mass"}, ValueError, "batchmean"),
    ("mse_loss", {"reduction": "batchmean"}, ValueError, "mean, sum, none"),
    ("mse_loss", {"reduction": None}, TypeError, "reduction"),
    ("mse_loss", {"grad_scale": NAN}, ValueError, "grad_scale"),
    ("mse_loss", {"grad_scale": "1"}, TypeError, "grad_scale"),
    ("mse_loss", {"return_grad": False}, ValueError, "return_grad"),
    ("mse_loss", {"return_grad": 2}, TypeError, "return_grad"),
    ("mse_loss", {"weight": None}, TypeError, "weight"),
    ("mse_loss", {"pos_weight": np.ones(5, "f4")}, TypeError, "pos_weight"),
    ("mse_loss", {"sample_weight": np.ones(5, "f4")}, ValueError, "sample_weight"),
    ("mse_loss", {"sample_weight": 1.0}, TypeError, "sample_weight"),
]


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad_options(target: str, case: tuple[str, dict[str, Any], type[Exception], str]) -> None:
    name, changed, error, words = case
    pred, t = values(name, (4, 5), "float32")
    out = np.full_like(pred, 7)
    with pytest.raises(error, match=words):
        getattr(il, name)(pred, t, **({"return_grad": True, "out": out} | changed))
    assert (out == 7).all()
