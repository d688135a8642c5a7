"""linear_cross_entropy has the bits of linear, softmax_cross_entropy and linear_backward in a row.

Those are held to the reference and to PyTorch by tests of their own; here the composition is, too.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import innerloop as il
from innerloop import _core, reference
from support import DTYPES, LAYOUTS, equal_bits, fma_isas, numbers

TOLERANCE = {"float32": 2e-5, "float64": 1e-13}
# Of rows, inputs and classes, around tiles and rows of 16 lanes and of 2048.
SIZES = [(1, 1, 1), (1, 5, 7), (2, 3, 16), (5, 17, 33), (37, 20, 130), (61, 9, 2100), (7, 4, 5000)]
KINDS = ["labels", "ignored", "probabilities"]


@pytest.fixture
def logits_limit() -> Iterator[Any]:
    """A setter of the bytes of logits that are held at a time, undone at the end."""
    yield _core.logits_limit
    _core.logits_limit(0)


def problem(n: int, k: int, c: int, dtype: str, kind: str = "labels") -> dict[str, Any]:
    """Arguments of a call by name, of which some rows have label 0 if there is more than one."""
    rng = np.random.default_rng(n + k + c)
    arrays = {"x": numbers((n, k), dtype, 1, 1.0), "w": numbers((k, c), dtype, 2, 1.0)}
    if kind == "probabilities":
        t = rng.random((n, c)) + 0.1
        target = (t / t.sum(-1, keepdims=True)).astype(dtype)
    else:
        target = rng.integers(0, c, n)
        if n > 1:
            target[0], target[-1] = 0, c - 1
    return arrays | {"target": target, "b": numbers(c, dtype, 3, 1.0)}


def options(n: int, c: int, dtype: str, kind: str, every: bool) -> dict[str, Any]:
    chosen: dict[str, Any] = {"ignore_index": 0 if kind == "ignored" and n > 1 else -100}
    if every:
        rng = np.random.default_rng(5)
        chosen |= {"label_smoothing": 0.1, "z_loss": 0.01, "grad_scale": -2.5}
        chosen["weight"] = (rng.random(c) + 0.1).astype(dtype)
        chosen["sample_weight"] = (rng.random(n) + 0.1).astype(dtype)
    return chosen


def composed(x: Any, w: Any, target: Any, b: Any = None, **other: Any) -> Any:
    """The same by three calls."""
    logits = il.linear(x, w, b)
    loss, dz = il.softmax_cross_entropy(logits, target, axis=-1, return_grad=True, **other)
    return loss, il.linear_backward(dz, x, w, bias=b is not None)


def same(actual: Any, expected: Any) -> None:
    (loss, gradients), (loss_, gradients_) = actual, expected
    assert equal_bits(np.asarray(loss), np.asarray(loss_))
    for a, e in zip(gradients, gradients_, strict=True):
        assert (a is None) == (e is None)
        if a is not None:
            assert equal_bits(np.asarray(a), np.asarray(e))


def close(actual: Any, expected: Any, dtype: str) -> None:
    for a, e in zip((actual[0], *actual[1]), (expected[0], *expected[1]), strict=True):
        assert (a is None) == (e is None)
        if a is None:
            continue
        a, e = np.asarray(a), np.asarray(e)
        assert a.shape == e.shape and a.dtype == e.dtype
        largest = np.abs(e[np.isfinite(e)]).max(initial=0.1)  # gradients may cancel
        np.testing.assert_allclose(a, e, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * largest)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_options(target: str, dtype: str, kind: str, every: bool, reduction: str) -> None:
    for n, k, c in SIZES[:6]:
        call = problem(n, k, c, dtype, kind)
        chosen = options(n, c, dtype, kind, every) | {"reduction": reduction}
        for b in (call["b"], None):
            call["b"] = b
            got = il.linear_cross_entropy(**call, return_grad=True, **chosen)
            close(got, reference.linear_cross_entropy(**call, return_grad=True, **chosen), dtype)
            if target != "reference":
                same(got, composed(**call, **chosen))
            alone = il.linear_cross_entropy(**call, **chosen)
            assert equal_bits(np.asarray(alone), np.asarray(got[0]))


def pitch(c: int, dtype: str) -> int:
    """Bytes of a row of logits, where it is held."""
    return ((c * np.dtype(dtype).itemsize + 63) // 64 | 1) * 64


@pytest.mark.parametrize("limit", [700, 20_000, 60_000])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_pieces_hold_the_same_bits(
    isa: str, logits_limit: Any, dtype: str, kind: str, limit: int
) -> None:
    for n, k, c in SIZES:
        if pitch(c, dtype) > limit:
            continue
        for every in (False, True):
            call, chosen = problem(n, k, c, dtype, kind), options(n, c, dtype, kind, every)
            for order in ("C", "F"):
                call["w"] = np.array(call["w"], order=order)
                logits_limit(0)
                whole = il.linear_cross_entropy(**call, return_grad=True, **chosen)
                logits_limit(limit)
                same(il.linear_cross_entropy(**call, return_grad=True, **chosen), whole)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_too_long_to_be_held(
    isa: str, restore_threads: None, logits_limit: Any, dtype: str, kind: str, reduction: str
) -> None:
    n, k, c = 13, 7, 5003
    for every, order in itertools.product((False, True), ("C", "F")):
        call, chosen = problem(n, k, c, dtype, kind), options(n, c, dtype, kind, every)
        call["w"] = np.array(call["w"], order=order)
        call["x"][1] *= 100
        chosen["reduction"] = reduction
        logits_limit(0)
        whole = il.linear_cross_entropy(**call, return_grad=True, **chosen)
        results = []
        for limit, threads in ((1, 1), (1, 3), (19_999, 2)):  # of which one holds several rows
            logits_limit(limit)
            il.set_num_threads(threads)
            results.append(il.linear_cross_entropy(**call, return_grad=True, **chosen))
            close(results[-1], whole, dtype)
            same(results[-1], results[0])
        alone = il.linear_cross_entropy(**call, **chosen)
        assert equal_bits(np.asarray(alone), np.asarray(results[0][0]))


@pytest.mark.parametrize("limit", [0, 1])
def test_special_values(isa: str, logits_limit: Any, limit: int) -> None:
    """Masked classes, infinities and NaN, whichever way the row is taken."""
    c = 4200
    for value, place in itertools.product((-np.inf, np.inf, np.nan, -1e30), (0, 2047, 4100, None)):
        w, b = np.zeros((1, c)), np.zeros(c)
        if place is None:
            b[:4000] = value
        else:
            b[place] = value
        call = {"x": np.ones((2, 1)), "w": w, "target": np.array([5, 4150]), "b": b}
        for reduction in ("none", "mean"):
            logits_limit(limit)
            got = il.linear_cross_entropy(**call, reduction=reduction, return_grad=True)
            want = reference.linear_cross_entropy(**call, reduction=reduction, return_grad=True)
            close(got, want, "float64")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts(isa: str, logits_limit: Any, dtype: str, kind: str, layout: str) -> None:
    place = LAYOUTS[layout]
    call, chosen = problem(30, 6, 40, dtype, kind), options(30, 40, dtype, kind, True)
    want = composed(**call, **chosen)
    logits_limit(1000)
    call = {name: place(a) for name, a in call.items()}
    for name in ("weight", "sample_weight"):
        chosen[name] = place(chosen[name])
    same(il.linear_cross_entropy(**call, return_grad=True, **chosen), want)
    out = tuple(place(np.full_like(g, np.nan)) for g in want[1])
    got = il.linear_cross_entropy(**call, return_grad=True, out=out, **chosen)
    assert all(g is o for g, o in zip(got[1], out, strict=True))
    same(got, want)


@pytest.mark.parametrize("kind", KINDS)
def test_leading_axes_are_rows_wherever_they_lie(isa: str, logits_limit: Any, kind: str) -> None:
    shape = (3, 4, 5)
    call, chosen = problem(60, 6, 40, "float64", kind), options(60, 40, "float64", kind, True)
    want = composed(**call, reduction="none", **chosen)
    logits_limit(1000)

    def spread(a: np.ndarray) -> np.ndarray:  # whose axes do not merge
        big = np.zeros((3, 9, 5, *a.shape[1:]), a.dtype).transpose(1, 0, *range(2, a.ndim + 2))
        view = big[::2][:4].swapaxes(0, 1)
        view[...] = a.reshape(*shape, *a.shape[1:])
        return view

    for place in (spread, lambda a: a.reshape(*shape, *a.shape[1:])):
        placed = call | {"x": place(call["x"]), "target": place(call["target"])}
        weights = chosen | {"sample_weight": place(chosen["sample_weight"])}
        loss, (dx, dw, db) = il.linear_cross_entropy(
            **placed, reduction="none", return_grad=True, **weights
        )
        assert loss.shape == shape and dx.shape == (*shape, 6)
        same((loss.reshape(60), (dx.reshape(60, 6), dw, db)), want)
    loss, (dx, _, _) = il.linear_cross_entropy(
        call["x"][0], call["w"], call["target"][0, ...], return_grad=True
    )
    assert loss.shape == () and dx.shape == (6,)


@pytest.mark.parametrize("order", ["C", "F"])
def test_threads_and_isas_hold_the_same_bits(
    restore_threads: None, logits_limit: Any, order: str
) -> None:
    call = problem(67, 40, 3000, "float32")
    call["w"] = np.array(call["w"], order=order)
    results = []
    logits_limit(200_000)
    for isa, threads in itertools.product(fma_isas(), (1, 2, 3, 7)):
        il.set_num_threads(threads)
        out = (None, np.zeros(call["w"].shape, "f4", order=order), None)
        with il.use_isa(isa):
            results.append(il.linear_cross_entropy(**call, return_grad=True, out=out))
    for other in results[1:]:
        same(other, results[0])


@pytest.mark.parametrize("n, k, c", [(0, 5, 6), (5, 0, 6), (5, 3, 0), (0, 0, 0), (0, 3, 0)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_empty(target: str, n: int, k: int, c: int, reduction: str) -> None:
    call = problem(n, k, max(c, 1), "float64") | {"target": np.full(n, -100 if c == 0 else 0)}
    call |= {"w": call["w"][:, :c], "b": call["b"][:c]}
    got = il.linear_cross_entropy(**call, reduction=reduction, return_grad=True)
    want = reference.linear_cross_entropy(**call, reduction=reduction, return_grad=True)
    close(got, want, "float64")


def test_rows_that_are_ignored_may_hold_anything(target: str) -> None:
    call = problem(9, 4, 6, "float64")
    call["x"][3], call["target"][3] = np.nan, -100
    loss, (dx, _, db) = il.linear_cross_entropy(**call, return_grad=True)
    assert np.isfinite(loss) and (dx[3] == 0).all() and np.isfinite(db).all()
    call["target"][:] = -100
    assert np.isnan(il.linear_cross_entropy(**call))
    assert il.linear_cross_entropy(**call, reduction="sum") == 0


def test_finite_differences(target: str) -> None:
    call, chosen = problem(6, 4, 5, "float64"), options(6, 5, "float64", "labels", True)
    chosen["grad_scale"] = 1.0
    _, gradients = il.linear_cross_entropy(**call, return_grad=True, **chosen)
    for name, gradient in zip(("x", "w", "b"), gradients, strict=True):
        for at in np.ndindex(gradient.shape):
            sides = []
            for h in (-1e-6, 1e-6):
                moved = call[name].copy()
                moved[at] += h
                sides.append(il.linear_cross_entropy(**call | {name: moved}, **chosen))
            np.testing.assert_allclose((sides[1] - sides[0]) / 2e-6, gradient[at], atol=1e-7)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_beside_torch(isa: str, logits_limit: Any, dtype: str, kind: str, reduction: str) -> None:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    logits_limit(10_000)
    n, k, c = 40, 12, 300
    call, chosen = problem(n, k, c, dtype, kind), options(n, c, dtype, kind, True)
    for name in ("sample_weight", "z_loss", "grad_scale"):
        chosen.pop(name)
    stored = torch.tensor(call["w"].T.copy(), requires_grad=True)
    x, b = (torch.tensor(call[name], requires_grad=True) for name in ("x", "b"))
    target = torch.tensor(call["target"])
    loss = functional.cross_entropy(
        functional.linear(x, stored, b),
        target,
        weight=torch.tensor(chosen["weight"]),
        ignore_index=chosen["ignore_index"],
        label_smoothing=chosen["label_smoothing"],
        reduction=reduction,
    )
    loss.backward()
    w_out = torch.zeros_like(stored)
    weight = torch.tensor(chosen.pop("weight"))
    got = il.linear_cross_entropy(
        x.detach(),
        stored.detach().T,
        target,
        b.detach(),
        weight=weight,
        reduction=reduction,
        return_grad=True,
        out=(None, w_out.T, None),
        **chosen,
    )
    assert all(isinstance(a, torch.Tensor) for a in (got[0], *got[1]))
    want = (loss.detach(), (x.grad, stored.grad.T, b.grad))
    close(got, want, dtype)
    close((got[0], (got[1][0], w_out.T, got[1][2])), want, dtype)


PEAK = """
    import numpy as np
    import innerloop as il

    def status(name):
        for line in open("/proc/self/status"):
            if line.startswith(name):
                return int(line.split()[1]) / 1024

    n, k, c = {sizes}
    rng = np.random.default_rng(0)
    x, stored = rng.standard_normal((n, k), "f4"), rng.standard_normal((c, k), "f4")
    b, labels = rng.standard_normal(c, "f4"), rng.integers(0, c, n)
    out = (np.ones_like(x), np.ones_like(stored).T, np.ones_like(b))
    il.set_num_threads({threads})
    il.linear_cross_entropy(x[:4].copy(), np.ones((k, 2), "f4"), labels[:4] % 2, return_grad=True)
    open("/proc/self/clear_refs", "w").write("5")
    before = status("VmRSS")
    il.linear_cross_entropy(x, stored.T, labels, b, return_grad=True, out=out)
    print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="asks Linux for its peak")
@pytest.mark.parametrize(
    "sizes, threads, most",
    [
        ((512, 512, 32000), 2, 20),  # PyTorch 2.13 takes 197
        ((100_000, 4, 300), 2, 64),
        ((600_000, 2, 2), 2, 64),
        ((40, 64, 200_000), 16, 64),
    ],
)
def test_memory_beyond_inputs_and_gradients(
    sizes: tuple[int, int, int], threads: int, most: float
) -> None:
    code = textwrap.dedent(PEAK).format(sizes=sizes, threads=threads)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if "Permission" in run.stderr:
        pytest.skip("the peak cannot be reset here")
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < most


# --- half precision ------------------------------------------------------------------------------

HALVES = [np.float16, ml_dtypes.bfloat16]


def rounded(a: Any, dtype: Any) -> Any:
    with np.errstate(all="ignore"):
        return a.astype(dtype) if isinstance(a, np.ndarray) and a.dtype.kind not in "iu" else a


def in_half(arguments: dict[str, Any], dtype: Any) -> dict[str, Any]:
    return {name: rounded(a, dtype) for name, a in arguments.items()}


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", HALVES)
def test_half_is_float32_rounded_once(
    isa: str, logits_limit: Any, dtype: Any, kind: str, reduction: str
) -> None:
    for (n, k, c), order in itertools.product(SIZES, ("C", "F")):
        call = in_half(problem(n, k, c, "float32", kind), dtype)
        chosen = in_half(options(n, c, "float32", kind, True), dtype) | {"reduction": reduction}
        call["w"] = np.array(call["w"], order=order)
        wide_call, wide_options = in_half(call, "f4"), in_half(chosen, "f4")
        loss, want = il.linear_cross_entropy(**wide_call, return_grad=True, **wide_options)
        for limit in (0, 30_000):
            logits_limit(limit)
            out = (None, np.zeros((k, c), dtype, order=order), None)
            got = il.linear_cross_entropy(**call, return_grad=True, out=out, **chosen)
            assert got[0].dtype == np.float32
            if limit == 0:
                assert equal_bits(np.asarray(got[0]), np.asarray(loss))
            step = float(ml_dtypes.finfo(dtype).eps) if limit else 0
            for g, e in zip(got[1], want, strict=True):
                assert g.dtype == dtype
                expected = rounded(rounded(e, dtype), "f4")
                least = np.abs(expected).max(initial=0) * step * 1e-2
                np.testing.assert_allclose(rounded(g, "f4"), expected, rtol=step, atol=least)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", HALVES)
def test_half_by_parts(isa: str, restore_threads: None, logits_limit: Any, dtype: Any, kind: str):
    """The gradients are summed in float32, however many parts they are taken in."""
    n, k, c = 45, 9, 5003
    call = in_half(problem(n, k, c, "float32", kind), dtype)
    chosen = in_half(options(n, c, "float32", kind, True), dtype)
    loss, want = il.linear_cross_entropy(
        **in_half(call, "f4"), return_grad=True, **in_half(chosen, "f4")
    )
    step = float(ml_dtypes.finfo(dtype).eps)
    results = []
    for limit, threads in ((1, 1), (1, 3), (50_000, 2)):
        logits_limit(limit)
        il.set_num_threads(threads)
        results.append(il.linear_cross_entropy(**call, return_grad=True, **chosen))
        np.testing.assert_allclose(results[-1][0], loss, rtol=1e-5)
        for g, e, first in zip(results[-1][1], want, results[0][1], strict=True):
            e = rounded(rounded(e, dtype), "f4")
            least = np.abs(e).max() * 1e-5
            np.testing.assert_allclose(rounded(g, "f4"), e, rtol=step, atol=least)
            assert equal_bits(rounded(g, "f4"), rounded(first, "f4"))
