"""Properties beside PyTorch in float64 and the reference: random shapes, options, layouts, dtypes.

What PyTorch has for an operation is called on the same numbers, widened; its autograd gives the
gradients. Every call is made natively and by the reference backend.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optimizer_cases import Problem

import innerloop as il
from innerloop.reference import ACTIVATIONS, GATED, LOSSES, OPTIMIZERS
from support import LAYOUTS

torch = pytest.importorskip("torch")
F = torch.nn.functional


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors, of which several threads make slow work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


quick = settings(max_examples=25, deadline=None)
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
HALVES = (np.float16, ml_dtypes.bfloat16)
SIDES = st.integers(0, 9) | st.sampled_from([16, 17, 33])
NONEMPTY = SIDES.filter(bool)


def eps(dtype: Any) -> float:
    return float(ml_dtypes.finfo(dtype).eps)


class Case:
    """Draws of one example: its dtype, and arrays of that dtype, each in a layout of its own."""

    def __init__(self, data: st.DataObject, dtypes: Sequence[Any] = DTYPES) -> None:
        self.draw = data.draw
        self.dtype = self.draw(st.sampled_from(dtypes), label="dtype")
        self.rng = np.random.default_rng(self.draw(st.integers(0, 2**32 - 1), label="seed"))

    @property
    def half(self) -> bool:
        return self.dtype in HALVES

    def shape(self, dims: tuple[int, int], sides: st.SearchStrategy[int] = SIDES) -> Any:
        shape = self.draw(st.lists(sides, min_size=dims[0], max_size=dims[1]), label="shape")
        for d in range(len(shape)):  # one long side is enough
            if math.prod(shape) > 30_000:
                shape[d] = min(shape[d], 3)
        return tuple(shape)

    def place(self, values: Any) -> np.ndarray:
        layout = self.draw(st.sampled_from(sorted(LAYOUTS)), label="layout")
        return LAYOUTS[layout](values) if values.ndim else values

    def array(self, values: Any) -> np.ndarray:
        return self.place(np.asarray(values).astype(self.dtype))

    def normal(self, shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
        return self.array(self.rng.normal(size=shape) * scale)

    def uniform(self, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
        return self.array(self.rng.uniform(low, high, shape))

    def maybe(self, make: Callable[[], Any]) -> Any:
        return make() if self.draw(st.booleans()) else None

    def number(self, low: float, high: float) -> float:
        return self.draw(st.floats(low, high))


def tensor(a: Any, grad: bool = True) -> Any:
    """The numbers of an array as a tensor of float64, or of int64; None as None."""
    if a is None:
        return None
    whole = np.issubdtype(a.dtype, np.integer)
    return torch.tensor(np.array(a, "i8" if whole else "f8", order="C"), requires_grad=grad)


def graded(output: Any, inputs: Sequence[Any], dy: Any = None) -> list[Any]:
    """Gradients of an output by its inputs, None for None."""
    there = [t for t in inputs if t is not None]
    found = iter(torch.autograd.grad(output, there, None if dy is None else tensor(dy, False)))
    return [None if t is None else next(found) for t in inputs]


def largest(*arrays: Any) -> float:
    """The largest finite magnitude, of anything that NumPy reads."""
    found = 0.0
    for a in arrays:
        values = np.abs(np.asarray(a).astype("f8"))
        found = max(found, values[np.isfinite(values)].max(initial=0.0))
    return float(found)


def near(got: Any, want: Any, scale: float, stored: Any) -> None:
    """Within a result's own rounding, and that of arithmetic with numbers as large as `scale`.

    `stored`: a half dtype in which something that the result was computed from had been rounded.
    """
    assert (got is None) == (want is None)
    if got is None:
        return
    got, want = np.asarray(got), np.asarray(want).astype("f8")
    assert got.shape == want.shape
    tolerance = 1e-10 if got.dtype == np.float64 else 2e-5
    tolerance = tolerance if stored is None else 3 * eps(stored)
    own = 0.0 if got.dtype in (np.float32, np.float64) else eps(got.dtype)
    tiny = float(ml_dtypes.finfo(got.dtype).smallest_subnormal)
    scale = max(scale, largest(want))
    np.testing.assert_allclose(got.astype("f8"), want, rtol=own, atol=tolerance * scale + tiny)


def check(
    call: Callable[[], tuple[Any, ...]],
    want: Sequence[Any],
    scales: Sequence[float] | None = None,
    stored: Any = None,
) -> None:
    """Results of a call, natively and by the reference, beside PyTorch's and one another's."""
    wants = [None if w is None else w.detach().numpy() for w in want]
    got = call()
    with il.use_backend("reference"):
        expected = call()
    scales = [0.0] * len(wants) if scales is None else scales
    for a, b, w, scale in zip(got, expected, wants, scales, strict=True):
        near(a, w, scale, stored)
        near(b, w, scale, stored)
        near(a, None if b is None else np.asarray(b), scale, stored)
        assert a is None or np.asarray(a).dtype == np.asarray(b).dtype


# --- activations ----------------------------------------------------------------------------------

TORCHS: dict[str, Callable[..., Any]] = {
    "identity": lambda x: x * 1,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "elu": F.elu,
    "selu": F.selu,
    # Of F.celu, PyTorch 2.13 rounds 1 / alpha to float32 in the gradient, in float64 as well.
    "celu": lambda x, alpha=1.0: alpha * F.elu(x / alpha),
    "mish": F.mish,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "hardsigmoid": lambda x: F.relu6(x + 3) / 6,  # as F.hardsigmoid rounds the gradient's 1 / 6
    "hardswish": F.hardswish,
    "relu6": F.relu6,
}
RANGES = {  # of the parameters; softplus's beta and celu's alpha must be positive
    "leaky_relu": {"negative_slope": (-1.0, 1.0)},
    "elu": {"alpha": (-2.0, 2.0)},
    "celu": {"alpha": (0.25, 3.0)},
    "softplus": {"beta": (0.25, 3.0), "threshold": (-3.0, 25.0)},
}


def parameters(case: Case, name: str) -> dict[str, float]:
    ranges = RANGES.get(name, {})
    assert ranges.keys() == ACTIVATIONS[name].parameters.keys()
    chosen = {h: case.maybe(partial(case.number, *limits)) for h, limits in ranges.items()}
    return {h: v for h, v in chosen.items() if v is not None}


def kinks(name: str, params: dict[str, float]) -> list[float]:
    """Where a function or its derivative jumps, and rounding or a convention decides."""
    if name == "softplus":
        return [params.get("threshold", 20.0) / params.get("beta", 1.0)]
    return {"hardsigmoid": [-3.0, 3.0], "hardswish": [-3.0, 3.0], "relu6": [0.0, 6.0]}.get(
        name, [0.0]
    )


def near_kink(z: np.ndarray, name: str, params: dict[str, float], distance: float) -> np.ndarray:
    """Mask of the numbers too near a kink to be compared."""
    distances = [abs(z.astype("f8") - k) <= distance * (1 + abs(k)) for k in kinks(name, params)]
    return np.any(distances, axis=0)


def steepness(params: dict[str, float]) -> float:
    return max(2.0, *(abs(v) for v in params.values())) if params else 2.0


def test_every_activation_is_here() -> None:
    assert tuple(TORCHS) == il.activations.NAMES


@pytest.mark.parametrize("name", il.activations.NAMES)
@settings(quick, max_examples=20)
@given(data=st.data())
def test_activations(name: str, data: st.DataObject) -> None:
    case = Case(data)
    params = parameters(case, name)
    shape = case.shape((0, 4))
    values = (case.rng.normal(size=shape) * 4).astype(case.dtype)
    values = np.where(near_kink(values, name, params, 4 * eps(case.dtype)), 1.25, values)
    values = np.where(near_kink(values, name, params, 4 * eps(case.dtype)), 1.75, values)
    x, dy = case.array(values), case.normal(shape)
    t = tensor(x)
    y = TORCHS[name](t, **params)
    (dx,) = graded(y, [t], dy)
    scale = largest(dy) * steepness(params)
    check(lambda: (il.activation(x, name, **params),), [y], [largest(x)])
    backward = partial(il.activation_backward, dy, x, name, **params)
    check(lambda: (backward(),), [dx], [scale])
    out = il.activation(x, name, **params)
    stored = case.dtype if case.half else None
    check(lambda: (backward(y=out),), [dx], [scale], stored)


@pytest.mark.parametrize("name", GATED)
@quick
@given(data=st.data())
def test_gated(name: str, data: st.DataObject) -> None:
    case = Case(data)
    shape = list(case.shape((1, 4)))
    axis = case.draw(st.integers(-len(shape), len(shape) - 1))
    dy = case.normal(tuple(shape))
    shape[axis] *= 2
    x = case.normal(tuple(shape), 3.0)
    t = tensor(x)
    a, b = t.chunk(2, axis) if shape[axis] else (t, t)
    if name == "glu":
        y = F.glu(t, axis)
    else:
        y = (F.silu if name == "swiglu" else F.gelu)(a) * b
    (dx,) = graded(y, [t], dy)
    check(lambda: (getattr(il, name)(x, axis),), [y], [largest(x)])
    backward = getattr(il, f"{name}_backward")
    check(lambda: (backward(dy, x, axis),), [dx], [largest(dy) * (1 + largest(x))])


@quick
@given(data=st.data())
def test_prelu(data: st.DataObject) -> None:
    case = Case(data)
    shape = case.shape((1, 4))
    channels = shape[1] if len(shape) > 1 else 1
    x, dy = case.normal(shape), case.normal(shape)
    dy[x == 0] = 0
    weight = case.normal((case.draw(st.sampled_from([1, channels])),))
    t, w = tensor(x), tensor(weight)
    y = F.prelu(t, w)
    total = float(np.abs(dy.astype("f8") * x.astype("f8")).sum())
    check(lambda: (il.prelu(x, weight),), [y])
    check(lambda: il.prelu_backward(dy, x, weight), graded(y, [t, w], dy), [0.0, total])


# --- softmax and the dense layer ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@quick
@given(data=st.data())
def test_softmax(name: str, data: st.DataObject) -> None:
    """The gradient is of the very y that is passed, as rounded: what PyTorch's autograd calls."""
    case = Case(data)
    shape = case.shape((1, 3), SIDES | st.sampled_from([130, 2049]))
    axis = case.draw(st.integers(-len(shape), len(shape) - 1))
    x, dy = case.normal(shape, case.number(0.1, 20)), case.normal(shape)
    t = tensor(x)
    check(lambda: (getattr(il, name)(x, axis),), [getattr(F, name)(t, axis)], [largest(x)])
    y = case.place(getattr(il, name)(x, axis))
    theirs = getattr(torch.ops.aten, f"_{name}_backward_data")
    dx = theirs(tensor(dy, False), tensor(y, False), axis, torch.float64)
    scale = float(np.abs(dy.astype("f8")).sum(axis).max(initial=0.0))
    check(lambda: (getattr(il, f"{name}_backward")(dy, y, axis),), [dx], [scale])
    if not case.half:
        (by_autograd,) = graded(getattr(F, name)(t, axis), [t], dy)
        check(lambda: (getattr(il, f"{name}_backward")(dy, y, axis),), [by_autograd], [scale])


@settings(quick, max_examples=60)
@given(data=st.data())
def test_linear(data: st.DataObject) -> None:
    case = Case(data)
    sides = SIDES | st.sampled_from([70, 130])
    lead, (k, n) = case.shape((0, 2)), case.shape((2, 2), sides)
    name = case.draw(st.sampled_from([None, *TORCHS]))
    params = parameters(case, name) if name else {}
    x, w = case.normal((*lead, k)), case.normal((k, n))
    b, dy = case.maybe(lambda: case.normal((n,))), case.normal((*lead, n))
    tx, tw, tb = tensor(x), tensor(w), tensor(b)
    z = tx @ tw if tb is None else tx @ tw + tb
    if name:
        # The derivative near a kink is either side's; softplus itself jumps at a low threshold.
        apart = 1e-4 if not case.half else 4 * eps(case.dtype)
        if name == "softplus":
            params["threshold"] = 25.0
        dy[near_kink(z.detach().numpy(), name, params, apart)] = 0
    y = TORCHS[name](z, **params) if name else z
    grads = graded(y, [tx, tw, tb], dy)
    wide = [np.abs(np.asarray(a).astype("f8")) for a in (x, w, dy)]
    size = largest(wide[0] @ wide[1], 0 if b is None else b)
    m = math.prod(lead)
    rows = wide[2].reshape(m, n) * steepness(params)
    scales = [rows @ wide[1].T, wide[0].reshape(m, k).T @ rows, rows.sum(0)]
    stored = case.dtype if case.half else None
    options: dict[str, Any] = {"activation": name, **params}
    check(lambda: (il.linear(x, w, b, **options),), [y], [size])
    check(lambda: (il.linear(x, il.pack(w), b, **options),), [y], [size])

    def backward() -> tuple[Any, ...]:
        _, saved = il.linear(x, w, b, return_saved=True, **options)
        return il.linear_backward(dy, x, w, saved, bias=b is not None, **options)

    check(backward, grads, [largest(s) for s in scales], stored if name else None)


# --- losses ---------------------------------------------------------------------------------------

REDUCTIONS = ["mean", "sum", "none"]


def reduced(terms: Any, reduction: str, weights: Any) -> Any:
    """The mean is over `weights`: their number's sum, or the number itself."""
    if reduction == "none":
        return terms
    return terms.sum() / (weights if reduction == "mean" else 1)


def check_loss(
    call: Callable[..., Any], loss: Any, inputs: Sequence[Any], scales: Sequence[float], case: Case
) -> None:
    """A loss and its gradients, times a random grad_scale."""
    factor = case.draw(st.sampled_from([1.0, -2.5, 0.125]), label="grad_scale")
    grads = graded(loss.sum() * factor, inputs)

    def flat() -> tuple[Any, ...]:
        found, gradients = call(return_grad=True, grad_scale=factor)
        return (found, *(gradients if isinstance(gradients, tuple) else (gradients,)))

    check(flat, [loss, *grads], scales)
    check(lambda: (call(),), [loss], scales[:1])


@pytest.mark.parametrize("name", LOSSES)
@quick
@given(data=st.data())
def test_elementwise_losses(name: str, data: st.DataObject) -> None:
    case = Case(data)
    reduction = case.draw(st.sampled_from(REDUCTIONS + ["batchmean"] * LOSSES[name].batchmean))
    shape = case.shape((1 if reduction == "batchmean" else 0, 3), SIDES | st.just(330))
    options: dict[str, Any] = {}
    pred, target = case.normal(shape), case.normal(shape)
    if name == "smooth_l1_loss":
        options["beta"] = case.draw(st.just(0.0) | st.floats(0.1, 4))
    elif name == "huber_loss":
        options["delta"] = case.number(0.1, 4)
    elif name == "binary_cross_entropy":
        pred, target = case.uniform(shape, 0.02, 0.98), case.uniform(shape, 0, 1)
    elif name == "binary_cross_entropy_with_logits":
        pred, target = case.normal(shape, 5.0), case.uniform(shape, 0, 1)
        if shape:
            weight = case.maybe(lambda: case.uniform(shape[-1:], 0.1, 3))
            options |= {} if weight is None else {"pos_weight": weight}
    elif name == "kl_div":
        pred = case.uniform(shape, -5, 0)
        target = case.array(np.maximum(case.rng.uniform(-0.2, 1, shape), 0))
        if case.draw(st.booleans()):
            options["log_target"], target = True, case.uniform(shape, -5, 0)
    sample = case.maybe(lambda: case.uniform(shape, 0.1, 2))
    p, t, s = tensor(pred), tensor(target, False), tensor(sample, False)
    theirs = {h: tensor(v, False) if h == "pos_weight" else v for h, v in options.items()}
    function = getattr(F, name)
    terms = function(p, t, reduction="none", **theirs)
    if s is not None:
        terms = terms * s
    if reduction == "batchmean":
        loss = terms.sum() / shape[0]
    else:
        loss = reduced(terms, reduction, terms.numel() if s is None else s.sum())
    if s is None and (name, reduction) != ("kl_div", "mean"):  # of which PyTorch warns
        given_loss = function(p, t, reduction=reduction, **theirs)
        torch.testing.assert_close(given_loss, loss, equal_nan=True)
        loss = given_loss
    scale = float(terms.detach().abs().sum()) if reduction == "sum" else largest(terms.detach())
    call = partial(getattr(il, name), pred, target, sample_weight=sample, reduction=reduction)
    check_loss(partial(call, **options), loss, [p], [scale, 0.0], case)


def rows_of(case: Case) -> tuple[tuple[int, ...], int, int]:
    """A shape of logits, the axis of their classes, and how many there are."""
    shape = case.shape((1, 4), NONEMPTY)
    last = len(shape) - 1
    axis = min(1, last) if case.draw(st.booleans()) else case.draw(st.integers(0, last))
    return shape, axis, shape[axis]


def labels_of(case: Case, shape: tuple[int, ...], c: int, ignored: int) -> np.ndarray:
    labels = case.rng.integers(0, c, shape)
    if case.draw(st.booleans()):
        labels = np.where(case.rng.random(shape) < 0.3, ignored, labels)
    return case.place(np.asarray(labels, case.draw(st.sampled_from(["i4", "i8"]))))


def row_loss(
    function: Callable[..., Any],
    scores: Any,
    target: Any,
    weight: Any,
    sample: Any,
    ignored: int,
    reduction: str,
    z_loss: float = 0.0,
    **other: Any,
) -> Any:
    """PyTorch's loss of scores (rows, classes); what it has no option for, of its own rows'."""
    labels = target.ndim == 1
    other |= {"ignore_index": ignored} if labels else {}
    call = partial(function, scores, target, weight=weight, **other)
    terms = call(reduction="none")
    weights = torch.ones(len(terms), dtype=torch.float64)
    if labels:
        kept = (target != ignored).double()
        inside = torch.where(target == ignored, 0, target)
        weights = kept if weight is None else kept * weight[inside]
    if sample is not None:
        terms, weights = terms * sample, weights * sample
    if z_loss:
        terms = terms + z_loss * weights * torch.logsumexp(scores, 1) ** 2
    loss = reduced(terms, reduction, weights.sum())
    if (sample is None and not z_loss) or not weights.any():  # NaN, of which the gradient is 0
        given_loss = call(reduction=reduction)
        torch.testing.assert_close(given_loss, loss, equal_nan=True)
        return given_loss
    return loss


def class_options(case: Case, c: int, rows: tuple[int, ...]) -> dict[str, Any]:
    return {
        "weight": case.maybe(lambda: case.uniform((c,), 0.1, 2)),
        "sample_weight": case.maybe(lambda: case.uniform(rows, 0.1, 2)),
        "ignore_index": case.draw(st.sampled_from([-100, -1, 0])),
        "reduction": case.draw(st.sampled_from(REDUCTIONS)),
    }


@settings(quick, max_examples=60)
@given(data=st.data())
def test_softmax_cross_entropy(data: st.DataObject) -> None:
    case = Case(data)
    shape, axis, c = rows_of(case)
    rows = shape[:axis] + shape[axis + 1 :]
    logits = case.normal(shape, case.number(0.1, 8))
    options = class_options(case, c, rows)
    options |= {"label_smoothing": case.draw(st.just(0.0) | st.floats(0, 1))}
    options |= {"z_loss": case.draw(st.just(0.0) | st.floats(0, 0.5))}
    if case.draw(st.booleans()):
        raw = case.rng.random(shape) + 0.05
        target = case.array(raw / raw.sum(axis, keepdims=True))
        flat = tensor(np.moveaxis(target, axis, -1).reshape(-1, c), False)
    else:
        target = labels_of(case, rows, c, options["ignore_index"])
        flat = tensor(target, False).reshape(-1)
    t = tensor(logits)
    sample = tensor(options["sample_weight"], False)
    loss = row_loss(
        F.cross_entropy,
        t.movedim(axis, -1).reshape(-1, c),
        flat,
        tensor(options["weight"], False),
        None if sample is None else sample.reshape(-1),
        options["ignore_index"],
        options["reduction"],
        options["z_loss"],
        label_smoothing=options["label_smoothing"],
    )
    loss = loss.reshape(rows) if options["reduction"] == "none" else loss
    call = partial(il.softmax_cross_entropy, logits, target, axis=axis, **options)
    # A gradient is a difference of probabilities; of a mean, over the number of rows.
    count = max(1, math.prod(rows)) if options["reduction"] == "mean" else 1
    check_loss(call, loss, [t], [1 + largest(logits), 0.1 / count], case)


@quick
@given(data=st.data())
def test_nll_loss(data: st.DataObject) -> None:
    case = Case(data)
    shape, axis, c = rows_of(case)
    rows = shape[:axis] + shape[axis + 1 :]
    scores = case.normal(shape, 3.0)
    options = class_options(case, c, rows)
    target = labels_of(case, rows, c, options["ignore_index"])
    t = tensor(scores)
    sample = tensor(options["sample_weight"], False)
    loss = row_loss(
        F.nll_loss,
        t.movedim(axis, -1).reshape(-1, c),
        tensor(target, False).reshape(-1),
        tensor(options["weight"], False),
        None if sample is None else sample.reshape(-1),
        options["ignore_index"],
        options["reduction"],
    )
    loss = loss.reshape(rows) if options["reduction"] == "none" else loss
    call = partial(il.nll_loss, scores, target, axis=axis, **options)
    total = 2 * largest(scores) * (math.prod(rows) if options["reduction"] == "sum" else 1)
    check_loss(call, loss, [t], [total, 0.0], case)


@quick
@given(data=st.data())
def test_classes_on_axis_1(data: st.DataObject) -> None:
    """The shapes that PyTorch itself takes, with nothing moved: (N, C, d1, ...), and (C,)."""
    case = Case(data)
    shape = case.shape((1, 4), NONEMPTY)
    axis = min(1, len(shape) - 1)
    rows = shape[:axis] + shape[axis + 1 :]
    options = class_options(case, shape[axis], rows)
    del options["sample_weight"]
    logits = case.normal(shape, 3.0)
    target = labels_of(case, rows, shape[axis], options["ignore_index"])
    theirs = options | {"weight": tensor(options["weight"], False)}
    total = 2 * (1 + largest(logits)) * max(math.prod(rows), 1)
    for name, ours in (("cross_entropy", "softmax_cross_entropy"), ("nll_loss", "nll_loss")):
        t = tensor(logits)
        loss = getattr(F, name)(t, tensor(target, False), **theirs)
        call = partial(getattr(il, ours), logits, target, **options)
        check_loss(call, loss, [t], [total if options["reduction"] == "sum" else 0.0, 0.1], case)


@settings(quick, max_examples=40)
@given(data=st.data())
def test_linear_cross_entropy(data: st.DataObject) -> None:
    case = Case(data)
    sides = NONEMPTY | st.sampled_from([70, 130])
    n, k, c = case.shape((3, 3), sides)
    x, w = case.normal((n, k)), case.normal((k, c))
    b = case.maybe(lambda: case.normal((c,)))
    options = class_options(case, c, (n,))
    options |= {"label_smoothing": case.draw(st.just(0.0) | st.floats(0, 1))}
    options |= {"z_loss": case.draw(st.just(0.0) | st.floats(0, 0.1))}
    target = labels_of(case, (n,), c, options["ignore_index"])
    tx, tw, tb = tensor(x), tensor(w), tensor(b)
    z = tx @ tw if tb is None else tx @ tw + tb
    loss = row_loss(
        F.cross_entropy,
        z,
        tensor(target, False),
        tensor(options["weight"], False),
        tensor(options["sample_weight"], False),
        options["ignore_index"],
        options["reduction"],
        options["z_loss"],
        label_smoothing=options["label_smoothing"],
    )
    size = 1 + largest(np.abs(x.astype("f8")) @ np.abs(w.astype("f8")))
    rows = 1 if options["reduction"] == "mean" else n
    call = partial(il.linear_cross_entropy, x, w, target, b, **options)
    scales = [size * rows if options["reduction"] == "sum" else size]
    scales += [largest(w) * 4, largest(x) * rows * 4, rows * 4.0]
    check_loss(call, loss, [tx, tw, tb], scales, case)


# --- norms ----------------------------------------------------------------------------------------


def norm_scales(x: Any, dy: Any, w: Any, deviation: np.ndarray) -> tuple[float, list[float]]:
    """Magnitudes from which results of norms cancel: of y, and of dx, dweight and dbias.

    Where numbers are alike, the deviation is much less than they are, and so less certain.
    """
    inverse = float(1 / deviation.min(initial=1.0))
    certain = 1 + largest(x) * inverse
    weights = 1.0 if w is None else largest(w)
    total = float(np.abs(dy.astype("f8")).sum())
    dx = largest(dy) * weights * inverse * certain * certain
    return weights * certain, [dx, total * certain, total]


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
@settings(quick, max_examples=40)
@given(data=st.data())
def test_row_norms(name: str, data: st.DataObject) -> None:
    case = Case(data)
    shape = case.shape((1, 3), NONEMPTY | st.sampled_from([130, 2049]))
    x, dy = case.normal(shape), case.normal(shape)
    w = case.maybe(lambda: case.normal(shape[-1:]))
    b = case.maybe(lambda: case.normal(shape[-1:])) if name == "layer_norm" else None
    eps_ = case.number(1e-6, 0.1)
    tx, tw, tb = tensor(x), tensor(w), tensor(b)
    vectors: dict[str, Any] = {"weight": w}
    if name == "layer_norm":
        y = F.layer_norm(tx, shape[-1:], tw, tb, eps_)
        vectors["bias"] = b
        square = x.astype("f8").var(-1)
    else:
        y = F.rms_norm(tx, shape[-1:], tw, eps_)
        square = (x.astype("f8") ** 2).mean(-1)
    size, scales = norm_scales(x, dy, w, np.sqrt(square + eps_))
    forward = partial(getattr(il, name), x, **vectors, eps=eps_)
    check(lambda: (forward(),), [y], [size])

    def backward() -> tuple[Any, ...]:
        _, saved = forward(return_saved=True)
        gradients = getattr(il, f"{name}_backward")
        if name == "rms_norm":
            return gradients(dy, x, saved, w)
        return gradients(dy, x, saved, w, bias=b is not None)

    count = 2 if name == "rms_norm" else 3
    check(backward, graded(y, [tx, tw, tb][:count], dy), scales[:count])


@settings(quick, max_examples=60)
@given(data=st.data())
def test_batch_norm(data: st.DataObject) -> None:
    case = Case(data)
    shape = case.shape((2, 4), NONEMPTY)
    c = shape[1]
    training = case.draw(st.booleans())
    if training and math.prod(shape) == c:
        shape = (shape[0] + 2, *shape[1:])  # PyTorch refuses the variance of one number
    x, dy = case.normal(shape), case.normal(shape)
    w, b = (case.maybe(lambda: case.normal((c,))) for _ in range(2))
    kept = np.dtype(np.float64 if case.dtype == np.float64 else np.float32)
    mean = case.rng.normal(size=c).astype(kept)
    var = case.rng.uniform(0.2, 2, c).astype(kept)
    options = {"momentum": case.number(0, 1), "eps": case.number(1e-6, 0.1), "training": training}
    tx, tw, tb = tensor(x), tensor(w), tensor(b)
    running = tensor(mean, False), tensor(var, False)
    y = F.batch_norm(tx, *running, tw, tb, **options)
    axes = (0, *range(2, x.ndim))
    square = x.astype("f8").var(axes) if training else var
    size, scales = norm_scales(x, dy, w, np.sqrt(square + options["eps"]))

    def both() -> tuple[Any, ...]:
        statistics = case_mean, case_var = mean.copy(), var.copy()
        out, saved = il.batch_norm(x, *statistics, w, b, **options, return_saved=True)
        gradients = il.batch_norm_backward(dy, x, saved, w, training=training, bias=b is not None)
        return (out, case_mean, case_var, *gradients)

    largest_mean = largest(mean)
    size += (largest(w) if w is not None else 1.0) * largest_mean * 3
    scales[1] *= 1 + 3 * largest_mean
    want = [y, *running, *graded(y, [tx, tw, tb], dy)]
    check(both, want, [size, 1.0, largest(x) ** 2, *scales])


# --- optimizers -----------------------------------------------------------------------------------


@contextmanager
def doubles() -> Iterator[None]:
    """PyTorch keeps NAdam's product of momenta in the default dtype."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


RANGED = {
    "lr": (1e-4, 0.1),
    "eps": (1e-8, 1e-2),
    "alpha": (0.8, 0.99),  # with a short memory the variance of `centered` is all rounding
    "momentum": (0.0, 0.95),
    "dampening": (0.0, 0.9),
    "weight_decay": (0.0, 0.3),
    "lr_decay": (0.0, 0.3),
    "rho": (0.3, 0.99),
    "momentum_decay": (1e-3, 0.1),
    "initial_accumulator_value": (0.0, 1.0),
    "l1": (0.0, 0.1),
    "max_norm": (0.1, 30.0),
    "grad_scale": (0.25, 64.0),
}
OURS = ("l1", "max_norm", "grad_scale")  # which PyTorch has no option for
TORCH_OPTIMIZERS = [n for n, entry in OPTIMIZERS.items() if hasattr(torch.optim, entry.class_name)]


def hyperparameters(case: Case, name: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for h, default in OPTIMIZERS[name].hyperparameters.items():
        if h == "bias_correction" or (h != "lr" and not case.draw(st.booleans())):
            continue
        if isinstance(default, bool):
            options[h] = not default
        elif h == "betas":
            options[h] = (case.number(0, 0.95), case.number(0.3, 0.999))
        else:
            options[h] = case.number(*RANGED[h])
    if options.get("nesterov"):
        options |= {"momentum": max(options.get("momentum", 0.0), 0.1), "dampening": 0.0}
    return options


def torch_steps(problem: Problem, options: dict[str, Any]) -> list[Any]:
    """Parameters and states in float64, stepped by torch.optim with the gradients prepared."""
    tensors = [tensor(p) for p in problem.params]
    theirs = {h: v for h, v in options.items() if h not in OURS}
    optimizer = getattr(torch.optim, problem.entry.class_name)(tensors, **theirs)
    sign = -1 if options.get("maximize") else 1
    for step in range(1, problem.last(None) + 1):
        for t, g in zip(tensors, problem.grads(step), strict=True):
            t.grad = tensor(g, False) / options.get("grad_scale", 1.0)
        if "max_norm" in options:
            torch.nn.utils.clip_grad_norm_(tensors, options["max_norm"])
        for t in tensors:
            t.grad += sign * options.get("l1", 0.0) * torch.sign(t.detach())
        optimizer.step()
    names = [problem.entry.torch_names.get(s, s) for s in problem.states]
    return [*tensors, *(optimizer.state[t][s] for s in names for t in tensors)]


@pytest.mark.parametrize("name", TORCH_OPTIMIZERS)
@settings(quick, max_examples=20)
@given(data=st.data())
def test_optimizers(name: str, data: st.DataObject) -> None:
    """Three steps, or the seven that RAdam takes to be rectified."""
    case = Case(data, [np.float32, np.float64])
    options = hyperparameters(case, name)
    shapes = [case.shape((1, 3), NONEMPTY) for _ in range(case.draw(st.integers(1, 3)))]
    place = LAYOUTS[case.draw(st.sampled_from(sorted(LAYOUTS)))]
    seed = case.draw(st.integers(1, 1000))
    problem = Problem(name, options, case.dtype, shapes, seed)
    with doubles():
        want = torch_steps(problem, options)
    count = len(problem.params)
    scales = [1.0] * count + [largest(w.detach()) for w in want[count:]]
    check(lambda: tuple(problem.native(None, place)), want, scales)
