"""The optimizers' steps, over every entry of the list, dtype, ISA, backend and layout."""

from __future__ import annotations

import inspect
import itertools
import threading

import numpy as np
import pytest
from optimizer_cases import CASES, DTYPES, ISAS, LOOPS, NAMES, Problem, close, same_bits

import innerloop as il
from innerloop import _core
from innerloop.reference import OPTIMIZERS

FMA_ISAS = [isa for isa in ISAS if isa != "v2"]


@pytest.fixture(autouse=True)
def _restore():
    isa, threads = _core.isa(), il.get_num_threads()
    yield
    il.use_isa(isa)
    il.use_backend("cpu")
    il.set_num_threads(threads)


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch")
    torch.set_default_dtype(torch.float64)  # in which it keeps NAdam's product of momenta
    yield torch
    torch.set_default_dtype(torch.float32)


# --- the list, the reference and the public names -------------------------------------------------


def test_list_is_the_references():
    assert NAMES == list(OPTIMIZERS)
    for name, defaults, states in _core.optimizers():
        entry = OPTIMIZERS[name]
        expanded = {}
        for h, default in entry.hyperparameters.items():
            if isinstance(default, tuple):
                expanded |= {f"{h[:-1]}{i + 1}": d for i, d in enumerate(default)}
            else:
                expanded[h] = default
        assert list(defaults.items()) == list(expanded.items())
        assert all(
            isinstance(defaults[h], bool) == isinstance(d, bool) for h, d in expanded.items()
        )
        assert states == {s: (entry.needs.get(s), entry.starts.get(s)) for s in entry.states}
        assert tuple(states) == entry.states


STORED = ["masters", "seed"]  # see test_optimizers_storage.py


@pytest.mark.parametrize("name", NAMES)
def test_public_names_and_signatures(name):
    entry = OPTIMIZERS[name]
    function, made = getattr(il, f"{name}_step"), getattr(il, entry.class_name)
    parameters = inspect.signature(function).parameters
    plurals = [f"{s}s" for s in entry.states]
    assert list(parameters) == [
        "params",
        "grads",
        *plurals,
        "step",
        *entry.hyperparameters,
        *STORED,
    ]
    for s, plural in zip(entry.states, plurals, strict=True):
        assert (parameters[plural].default is None) == (s in entry.needs)
    for h, default in entry.hyperparameters.items():
        assert parameters[h].default == default
        assert inspect.signature(made).parameters[h].default == default
    for documented in parameters:
        assert f"\n{documented} : " in function.__doc__
    for documented in ["params", *entry.hyperparameters, "state_dtype", "master", "seed"]:
        assert f"\n{documented} : " in made.__doc__
    assert issubclass(made, il.Optimizer)
    assert function.__name__ in il.optimizers.__all__ and made.__name__ in il.optimizers.__all__


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_is_the_references(name, options, isa, dtype):
    with il.use_isa(isa):
        w = _core.vector_bytes() // np.dtype(dtype).itemsize
        sizes = [0, 1, w - 1, w, w + 1, 4 * w + 3, (5, 7)]
        got = Problem(name, options, dtype, sizes).native()
    close(got, Problem(name, options, dtype, sizes).reference(), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "options"), LOOPS)
def test_reference_backend(name, options, dtype):
    sizes = [3, 0, (2, 5), 1]
    with il.use_backend("reference"):
        got = Problem(name, options, dtype, sizes).native(place=np.copy)
    same_bits(got, Problem(name, options, dtype, sizes).reference())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        case
        for case in CASES
        # torch always corrects; with a short memory its estimate of the variance falls below 0
        if "bias_correction" not in case.values[1]
        and case.values[0] != "lion"
        and not {"centered", "alpha"} <= {*case.values[1]}
    ],
)
def test_is_torchs(torch, name, options, dtype):
    compare_with_torch(torch, name, options, dtype, 8)


TORCHS = [n for n in NAMES if n != "lion"]


@pytest.mark.parametrize("name", TORCHS)
def test_is_torchs_over_many_steps(torch, name):
    compare_with_torch(torch, name, {"weight_decay": 1e-3, "lr": 1e-2}, np.float64, 150)


def compare_with_torch(torch, name, options, dtype, steps):
    theirs = getattr(torch.optim, OPTIMIZERS[name].class_name, None)
    if theirs is None:
        pytest.skip("torch has no such optimizer")
    problem = Problem(name, options, dtype, [7, (5, 3)])
    tensors = [torch.tensor(p, requires_grad=True) for p in problem.params]
    ours = {h: options[h] for h in ("l1", "max_norm", "grad_scale") if h in options}
    optimizer = theirs(tensors, **{h: v for h, v in options.items() if h not in ours})
    for step in range(1, steps + 1):
        for t, g in zip(tensors, problem.grads(step), strict=True):
            t.grad = torch.tensor(g) / ours.get("grad_scale", 1.0)
        if "max_norm" in ours:
            torch.nn.utils.clip_grad_norm_(tensors, ours["max_norm"])
        for t in tensors:
            sign = -1 if options.get("maximize") else 1
            t.grad += sign * ours.get("l1", 0.0) * torch.sign(t.detach())
        optimizer.step()
    got = problem.native(steps, place=np.copy)
    expected = [t.detach().numpy() for t in tensors]
    named = {s: problem.entry.torch_names.get(s, s) for s in problem.states}
    expected += [optimizer.state[t][named[s]].numpy() for s in problem.states for t in tensors]
    for a, b in zip(got, expected, strict=True):
        tolerance = 2e-5 if dtype == np.float32 else 1e-11
        np.testing.assert_allclose(a, b, tolerance, tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "options"), LOOPS)
def test_large_arrays_in_pieces(name, options, dtype):
    sizes = [16384, 90_003, 5, 70_000, 0, 64]  # some in one piece, some in several, some sharing
    expected = Problem(name, options, dtype, sizes).reference(2)
    results = []
    for threads in (1, 2, 5):
        il.set_num_threads(threads)
        results.append(Problem(name, options, dtype, sizes).native(2, place=np.copy))
        close(results[-1], expected, dtype)
        same_bits(results[-1], results[0])


# --- the same bits --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_bits_are_the_same_on_every_isa(name, options, dtype):
    results = []
    for isa in FMA_ISAS:
        with il.use_isa(isa):
            results.append(Problem(name, options, dtype, [1, 37, 100]).native())
    for result in results[1:]:
        same_bits(result, results[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "options"), LOOPS)
def test_bits_of_a_list_are_those_of_single_arrays(name, options, dtype):
    sizes = [1, 0, 37, 100, (3, 5)]
    together = Problem(name, options, dtype, sizes).native(place=np.copy)
    problem = Problem(name, options, dtype, sizes)
    step_function = getattr(il, f"{name}_step")
    for step in range(1, problem.last(None) + 1):
        for i, (p, g) in enumerate(zip(problem.params, problem.grads(step), strict=True)):
            states = [problem.state[s][i] for s in problem.states]
            named = {f"{s}s": a for s, a in zip(problem.states, states, strict=True)}
            step_function(p, g, **named, step=step, **options)
    same_bits(together, problem.arrays())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "options"), LOOPS)
def test_an_element_alone_has_the_bits_it_has_in_company(name, options, dtype):
    whole = Problem(name, options, dtype, [53]).native(place=np.copy)
    pieces = []
    for i in range(53):
        pieces.append(
            Problem(name, options, dtype, [53]).native(place=lambda a, i=i: a[i : i + 1].copy())
        )
    same_bits(whole, [np.concatenate(parts) for parts in zip(*pieces, strict=True)])


# --- layouts --------------------------------------------------------------------------------------


def misaligned(a):
    raw = np.full(a.nbytes + 1, 0x55, np.uint8)
    view = raw[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def spaced(a):  # every third element, the others NaN
    room = np.full((*a.shape[:-1], 3 * a.shape[-1]), np.nan, a.dtype)
    room[..., ::3] = a
    return room[..., ::3]


def in_records(a):  # a stride that is no multiple of the item size
    room = np.zeros(a.shape, np.dtype([("flag", np.int8), ("value", a.dtype)]))
    room["value"] = a
    return room["value"]


def rows_of_a_wider_array(a):
    room = np.full((*a.shape[:-1], a.shape[-1] + 5), np.nan, a.dtype)
    room[..., 2:-3] = a
    return room[..., 2:-3]


LAYOUTS = {
    "misaligned": misaligned,
    "spaced": spaced,
    "records": in_records,
    "rows": rows_of_a_wider_array,
    "fortran": np.asfortranarray,
    "reversed": lambda a: a[::-1].copy()[::-1],
    "backwards": lambda a: a[..., ::-1].copy()[..., ::-1],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("name", "options"), LOOPS)
def test_layouts(name, options, isa, dtype, layout):
    sizes = [3, (19,), (4, 37), (3, 1, 5)]
    with il.use_isa(isa):
        expected = Problem(name, options, dtype, sizes).native(place=np.copy)
        got = Problem(name, options, dtype, sizes).native(place=LAYOUTS[layout])
    same_bits(got, expected)
    if layout in ("spaced", "rows"):
        for a in got:
            assert np.isnan(a.base).sum() == a.base.size - a.size, "wrote between the elements"


@pytest.mark.parametrize(("name", "options"), LOOPS)
def test_each_array_in_a_layout_of_its_own(name, options):
    places = itertools.cycle(
        [np.copy, spaced, np.asfortranarray, misaligned, rows_of_a_wider_array]
    )
    expected = Problem(name, options, np.float32, [(6, 21), 9]).native(place=np.copy)
    got = Problem(name, options, np.float32, [(6, 21), 9]).native(place=lambda a: next(places)(a))
    same_bits(got, expected)


@pytest.mark.parametrize("name", NAMES)
def test_large_strided_arrays_in_pieces(name):
    expected = Problem(name, {}, np.float32, [(300, 257)]).native(2, place=np.copy)
    for threads in (1, 3):
        il.set_num_threads(threads)
        for place in (rows_of_a_wider_array, spaced):
            same_bits(Problem(name, {}, np.float32, [(300, 257)]).native(2, place=place), expected)


def test_a_gradient_may_be_broadcast_and_shared_and_read_only():
    grad = np.broadcast_to(np.float32(0.5), (4, 3))
    assert not grad.flags.writeable
    a, b = np.ones((4, 3), np.float32), np.ones((4, 3), np.float32)
    il.sgd_step([a, b], [grad, grad], step=1, lr=1.0)
    assert (a == 0.5).all() and (b == 0.5).all()


def test_a_list_may_mix_dtypes():
    a, b = np.ones(5, np.float32), np.ones(5)
    il.sgd_step((a, b), [np.ones(5, np.float32), np.ones(5)], step=1, lr=0.1)
    assert (a == np.float32(0.9)).all() and (b == 0.9).all()


def test_an_empty_array_does_not_end_the_list():
    params = [np.ones(n, np.float32) for n in (0, 3, 0, 0, 2, 0)]
    il.sgd_step(params, [np.ones_like(p) for p in params], step=1, lr=1.0)
    assert all((p == 0).all() for p in params)
    il.sgd_step([], [], step=1)


def test_scalars_of_no_axes():
    p, g = np.array(1.0), np.array(2.0)
    il.sgd_step(p, g, step=1, lr=0.25)
    assert p == 0.5


# --- semantics ------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", il.backends())
def test_sgd_does_not_read_the_buffer_at_step_1(backend):
    p, g, b = np.ones(9), np.arange(9.0), np.full(9, np.nan)
    with il.use_backend(backend):
        il.sgd_step(p, g, b, step=1, lr=0.5, momentum=0.9, dampening=0.5)
    np.testing.assert_array_equal(b, g)
    np.testing.assert_array_equal(p, 1 - 0.5 * g)


@pytest.mark.parametrize("backend", il.backends())
@pytest.mark.parametrize("name", [n for n in NAMES if OPTIMIZERS[n].needs])
def test_a_state_that_is_not_needed_is_left_alone(name, backend):
    entry = OPTIMIZERS[name]
    p, g = np.ones(9), np.arange(9.0)
    states = [np.zeros(9) if s not in entry.needs else np.full(9, np.nan) for s in entry.states]
    plain = [np.ones(9), *(np.zeros(9) for s in entry.states if s not in entry.needs)]
    with il.use_backend(backend):
        getattr(il, f"{name}_step")(p, g, *states, step=2)
        getattr(il, f"{name}_step")(plain[0], g, *plain[1:], step=2)
    same_bits([p], plain[:1])
    for s, a in zip(entry.states, states, strict=True):
        assert s not in entry.needs or np.isnan(a).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", NAMES)
def test_extreme_gradients(name, isa, dtype):
    """NaN, infinities, subnormals and zeros at every place: body and tail are alike."""
    info = np.finfo(dtype)
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, info.tiny / 8, info.max, 1.0]
    grad = np.array(special * 5 + special[:3], dtype)
    entry = OPTIMIZERS[name]
    states = entry.needed_states()
    results = []
    for use in ("native", "reference"):
        arrays = [np.ones_like(grad), *(np.zeros_like(grad) for _ in states)]
        for step in (1, 2):
            if use == "native":
                named = {f"{s}s": a for s, a in zip(states, arrays[1:], strict=True)}
                with il.use_isa(isa):
                    getattr(il, f"{name}_step")(arrays[0], grad, **named, step=step)
            else:
                entry.function(
                    arrays[0], grad, **dict(zip(states, arrays[1:], strict=True)), step=step
                )
        results.append(arrays)
    moderate = np.abs(grad) != info.max  # whose square overflows in one and not in the other
    for got, expected in zip(*results, strict=True):
        np.testing.assert_allclose(got[moderate], expected[moderate], 1e-5, 1e-5)
        for i in range(8):  # the same at every place
            np.testing.assert_array_equal(got[i::8], got[i])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [n for n in NAMES if "eps" in OPTIMIZERS[n].hyperparameters])
def test_an_eps_too_small_for_the_dtype_still_divides(name, dtype):
    p, g = np.ones(9, dtype), np.zeros(9, dtype)
    states = [np.zeros(9, dtype) for _ in OPTIMIZERS[name].states]
    decay = {"weight_decay": 0.0} if "weight_decay" in OPTIMIZERS[name].hyperparameters else {}
    getattr(il, f"{name}_step")(p, g, *states, step=1, eps=1e-320, lr=0.1, **decay)
    assert (p == 1).all()


def test_centered_rmsprop_keeps_its_variance_from_falling_below_0():
    p, g = np.ones(1000, np.float32), np.full(1000, 0.1, np.float32)
    g += np.arange(1000, dtype=np.float32) * np.float32(1e-5)
    states = [np.zeros_like(p), np.zeros_like(p)]
    for step in range(1, 3000):
        il.rmsprop_step(p, g, *states, step=step, centered=True, alpha=0.5, lr=1e-12)
    assert np.isfinite(p).all()


@pytest.mark.parametrize("name", NAMES)
def test_lr_0_changes_no_parameter(name):
    problem = Problem(name, {"lr": 0.0}, np.float32, [37])
    before = problem.params[0].copy()
    np.testing.assert_array_equal(problem.native()[0], before)


def test_an_infinite_parameter_without_weight_decay_gives_no_nan():
    p, g = np.full(9, np.inf, np.float32), np.ones(9, np.float32)
    il.sgd_step(p, g, step=1)
    assert np.isinf(p).all()


def test_a_late_step_is_not_corrected():
    p, g = np.ones(3), np.full(3, 2.0)
    m, v = g.copy(), g * g
    il.adam_step(p, g, m, v, step=2**53, lr=0.5, eps=0.0)
    np.testing.assert_allclose(p, 0.5)


def test_concurrent_calls():
    expected = Problem("adam", {}, np.float32, [100_000]).native(5, place=np.copy)
    results = [None] * 4

    def work(i):
        results[i] = Problem("adam", {}, np.float32, [100_000]).native(5, place=np.copy)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for result in results:
        same_bits(result, expected)


def test_the_callers_list_may_change_during_the_call():
    """A list that another thread empties must not take the memory away under the loops."""
    stop = threading.Event()
    lists = [[np.zeros(60_000, np.float32) for _ in range(8)] for _ in range(2)]

    def churn():
        while not stop.is_set():
            for a in lists:
                a[:] = [np.zeros(60_000, np.float32) for _ in range(8)]

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(50):
            il.sgd_step(lists[0], lists[1], step=1)
    finally:
        stop.set()
        thread.join()


# --- arrays of other libraries --------------------------------------------------------------------


def test_torch_tensors_are_updated_in_place(torch):
    t, g = torch.ones(3, 4), torch.full((3, 4), 2.0)
    il.sgd_step([t.T], [g.T], step=1, lr=0.25)
    assert (t == 0.5).all()
    optimizer = il.Adam([t], lr=0.5)
    optimizer.step([g])
    np.testing.assert_allclose(t.numpy(), 0.0, atol=1e-6)
    with pytest.raises(TypeError, match=r"params\[0\]"):
        il.sgd_step([t.requires_grad_()], [g], step=1)
