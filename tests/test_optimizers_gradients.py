"""What every optimizer does to its gradients (grad_scale, max_norm, l1), and clip_grad_norm."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optimizer_cases import DTYPES, LOOPS, NAMES, Problem, close, random, same_bits

import innerloop as il
from innerloop.reference import OPTIMIZERS, gradients
from support import LAYOUTS, fma_isas


def norm_of(grads, **options):
    """The norm as an optimizer finds it."""
    optimizer = il.SGD([np.zeros(g.shape, g.dtype) for g in grads], max_norm=np.inf, **options)
    optimizer.step(grads)
    return optimizer.grad_norm


# --- the norm -------------------------------------------------------------------------------------

SIZES = [0, 1, 3, 15, 16, 17, 511, 513, 16384, 16385, (7, 91), 40_000]


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_is_exact_to_rounding(target, dtype):
    grads = [random(n, dtype, i) for i, n in enumerate(SIZES)]
    want = math.sqrt(math.fsum(float(x) ** 2 for g in grads for x in g.ravel()))
    assert norm_of(grads) == pytest.approx(want, rel=1e-14)
    assert il.clip_grad_norm(grads, np.inf) == pytest.approx(want, rel=1e-14)
    assert norm_of(grads, grad_scale=4.0) == pytest.approx(want / 4, rel=1e-14)
    for g in grads:
        assert norm_of([g]) == pytest.approx(np.sqrt(np.sum(np.square(g, dtype="f8"))), rel=1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_has_the_same_bits_on_any_threads_isa_and_layout(restore_threads, dtype):
    grads = [random(n, dtype, i) for i, n in enumerate([70_001, 5, (300, 257), (4, 5, 6)])]
    seen = set()
    for isa, threads in itertools.product(fma_isas(), (1, 2, 5)):
        il.set_num_threads(threads)
        with il.use_isa(isa):
            for place in LAYOUTS.values():
                seen.add(norm_of([place(g) for g in grads]))
    assert len(seen) == 1


@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1e-160, 1e-140, 1e140, 1e160, 1e300])
def test_squares_of_float64_neither_overflow_nor_vanish(target, scale):
    grad = np.array([3.0, -4.0] + [0.0] * 40) * scale
    tolerance = 1e-3 if scale < 1e-300 else 1e-14
    assert norm_of([grad]) == pytest.approx(5 * scale, rel=tolerance)
    params = np.zeros(42)
    il.sgd_step(params, grad, step=1, lr=1.0, max_norm=1e-3 * scale if scale > 1 else 1.0)
    want = 1e-3 * scale if scale > 1 else 5 * scale
    assert np.hypot(*params[:2] / scale) * scale == pytest.approx(want, rel=max(tolerance, 1e-6))


def test_huge_float32_gradients_are_clipped(target):
    grad = np.full(1000, 1e30, np.float32)
    p = np.zeros(1000, np.float32)
    il.sgd_step(p, grad, step=1, lr=1.0, max_norm=1.0)
    np.testing.assert_allclose(p, -1 / math.sqrt(1000), 1e-6)
    grads = [grad, grad.copy()]
    assert il.clip_grad_norm(grads, 2.0) == pytest.approx(1e30 * math.sqrt(2000), rel=1e-6)
    np.testing.assert_allclose(grads[1], 2 / math.sqrt(2000), 1e-6)


def test_zero_gradients(target):
    for dtype in DTYPES:
        p, g = np.ones(9, dtype), np.zeros(9, dtype)
        il.sgd_step(p, g, step=1, lr=1.0, max_norm=1.0)
        assert (p == 1).all() and il.clip_grad_norm(g, 0.0) == 0.0
    assert il.clip_grad_norm([], 1.0) == 0.0
    assert il.clip_grad_norm([np.zeros(0)], 1.0) == 0.0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_norm_that_is_no_number_is_torchs(torch, target, bad, dtype):
    grads = [random(20, dtype, 1), random(3, dtype, 2)]
    grads[0][7] = bad
    tensors = [torch.nn.Parameter(torch.zeros(g.shape)) for g in grads]
    for t, g in zip(tensors, grads, strict=True):
        t.data = t.data.to(torch.from_numpy(g).dtype)
        t.grad = torch.tensor(g)
    norm = float(torch.nn.utils.clip_grad_norm_(tensors, 0.5))
    params = [np.zeros_like(g) for g in grads]
    il.sgd_step(params, grads, step=1, lr=1.0, max_norm=0.5)
    for p, t in zip(params, tensors, strict=True):
        np.testing.assert_array_equal(p, 0 - t.grad.numpy())
    np.testing.assert_array_equal(norm_of(grads), norm)
    np.testing.assert_array_equal(il.clip_grad_norm(grads, 0.5), norm)
    for g, t in zip(grads, tensors, strict=True):
        np.testing.assert_array_equal(g, t.grad.numpy())


# --- in every optimizer ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "options"), LOOPS)
def test_is_preparing_the_gradients_oneself(target, name, options, dtype):
    """The fused step against plain steps with gradients that were prepared before."""
    prepared = {"maximize": True, "l1": 0.03, "max_norm": 0.7, "grad_scale": 16.0}
    sizes = [0, 1, 5, 17, (9, 31)]
    got = Problem(name, {**options, **prepared}, dtype, sizes).native(2)
    problem = Problem(name, options, dtype, sizes)
    step_function = getattr(il, f"{name}_step")
    for step in (1, 2):
        grads = problem.grads(step)
        norm = gradients.grad_norm(grads) / 16
        for p, g in zip(problem.params, grads, strict=True):
            g[...] = gradients.prepare(p.astype("f8"), g.astype("f8"), norm, **prepared)
        state = {f"{s}s": arrays for s, arrays in problem.state.items()}
        step_function(problem.params, grads, **state, step=step, **options)
    close(got, problem.arrays(), dtype)


@pytest.mark.parametrize("name", NAMES)
def test_neutral_options_change_no_bit(name):
    neutral = {"l1": 0.0, "grad_scale": 1.0, "max_norm": 1e30, "maximize": False}
    plain = Problem(name, {}, np.float32, [37, 100]).native()
    same_bits(Problem(name, neutral, np.float32, [37, 100]).native(), plain)
    same_bits(Problem(name, {"max_norm": np.inf}, np.float32, [37, 100]).native(), plain)


@pytest.mark.parametrize("name", NAMES)
def test_clipping_has_the_same_bits_on_any_threads(restore_threads, name):
    results = []
    for threads in (1, 3):
        il.set_num_threads(threads)
        results.append(Problem(name, {"max_norm": 0.3}, np.float32, [70_001, 50, 40_000]).native(2))
    same_bits(*results)


def test_l1_is_zero_at_zero_and_drives_to_it(target):
    p = np.array([0.0, -0.0, 2.0, -2.0, np.inf, np.nan], np.float32)
    il.sgd_step(p, np.zeros(6, np.float32), step=1, lr=0.5, l1=1.0)
    np.testing.assert_array_equal(p, np.array([0, 0, 1.5, -1.5, np.inf, np.nan], np.float32))


def test_the_norm_is_of_all_arrays_and_groups():
    a, b = np.zeros(2, np.float32), np.zeros(1)
    optimizer = il.SGD([{"params": a, "lr": 1.0}, {"params": [b], "lr": 10.0}], max_norm=1.0)
    optimizer.step([np.array([2, 2], np.float32), np.array([1.0])])
    assert optimizer.grad_norm == pytest.approx(3)
    np.testing.assert_allclose(a, -2 / 3, 1e-6)
    np.testing.assert_allclose(b, -10 / 3, 1e-6)
    optimizer.max_norm = None
    optimizer.step([np.array([2, 2], np.float32), np.array([1.0])])
    assert optimizer.grad_norm is None


def test_grad_scale_is_grad_scalers(torch):
    grads = [random(50, np.float32, i) for i in range(2)]
    p = [np.ones(50, np.float32) for _ in range(2)]
    q = [a.copy() for a in p]
    il.sgd_step(p, [g * np.float32(1024) for g in grads], step=1, lr=0.1, grad_scale=1024.0)
    il.sgd_step(q, grads, step=1, lr=0.1)
    same_bits(p, q)


# --- clip_grad_norm -------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_clip_grad_norm_is_torchs(torch, target, dtype, layout):
    for max_norm in (0.0, 0.1, 3.0, 1e9, np.inf):
        grads = [random(n, dtype, i) for i, n in enumerate([1, 19, (5, 7), 0])]
        tensors = [torch.nn.Parameter(torch.tensor(g)) for g in grads]
        for t, g in zip(tensors, grads, strict=True):
            t.grad = torch.tensor(g)
        placed = [LAYOUTS[layout](g) for g in grads]
        norm = il.clip_grad_norm(placed, max_norm)
        want = float(torch.nn.utils.clip_grad_norm_(tensors, max_norm))
        assert isinstance(norm, float) and norm == pytest.approx(want, rel=1e-5)
        for g, t in zip(placed, tensors, strict=True):
            np.testing.assert_allclose(g, t.grad.numpy(), 2e-6, 1e-9)


def test_clip_grad_norm_of_one_array_in_pieces(restore_threads):
    results = []
    for threads in (1, 3):
        il.set_num_threads(threads)
        grad = random((400, 500), np.float32)
        il.clip_grad_norm(grad, 1.0)
        results.append([grad])
    same_bits(*results)
    assert il.clip_grad_norm(results[0][0], np.inf) == pytest.approx(1.0, rel=1e-6)


def test_clip_grad_norm_leaves_small_gradients_alone():
    grads = [random(9, np.float32)]
    kept = grads[0].copy()
    il.clip_grad_norm(grads, 1e6)
    same_bits(grads, [kept])


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_shapes_options_and_layouts(data):
    """Against the reference, over random lists of arrays, options and places in memory."""
    name = data.draw(st.sampled_from(NAMES))
    shapes = st.lists(st.integers(0, 20), min_size=1, max_size=3).map(tuple)
    sizes = data.draw(st.lists(shapes, min_size=1, max_size=4))
    dtype = data.draw(st.sampled_from(DTYPES))
    options = {"lr": 0.01}
    for h, default in OPTIMIZERS[name].hyperparameters.items():
        if h == "nesterov" or not data.draw(st.booleans()):
            continue
        if isinstance(default, bool):
            options[h] = not default
        elif h == "betas":
            options[h] = (data.draw(st.floats(0, 0.99)), data.draw(st.floats(0.1, 0.999)))
        elif h in ("alpha", "rho", "momentum", "dampening", "weight_decay", "l1", "lr_decay"):
            options[h] = data.draw(st.floats(0, 0.9))
        elif h in ("max_norm", "grad_scale", "momentum_decay"):
            options[h] = data.draw(st.floats(0.01, 100))
    if options.get("centered"):
        options.pop("alpha", None)  # with a short memory the variance is all rounding
    place = LAYOUTS[data.draw(st.sampled_from(sorted(LAYOUTS)))]
    got = Problem(name, options, dtype, sizes).native(2, place)
    want = Problem(name, options, dtype, sizes).reference(2)
    for a, b in zip(got, want, strict=True):
        tolerance = 1e-4 if dtype == np.float32 else 1e-10
        np.testing.assert_allclose(a, b, tolerance, tolerance)
