"""The optimizers, over every entry of the list, dtype, ISA, backend and layout.

What is here grows with the list: an optimizer that is added to it is tested with its defaults, its
optional states and each hyperparameter's variations, with nothing to add in this file.
"""

from __future__ import annotations

import copy
import inspect
import io
import itertools
import threading

import innerloop as il
import numpy as np
import pytest
from innerloop import _core
from innerloop.reference import OPTIMIZERS

NAMES = [name for name, _, _ in _core.optimizers()]
DTYPES = [np.float32, np.float64]
ISAS = il.isas()
FMA_ISAS = [isa for isa in ISAS if isa != "v2"]
TOLERANCE = {np.float32: 4e-6, np.float64: 1e-13}

VALUES = {  # for hyperparameters of these names; an optimizer may have others
    "momentum": 0.9,
    "dampening": 0.3,
    "weight_decay": 0.1,
    "alpha": 0.5,
    "eps": 1e-3,
    "betas": (0.5, 0.7),
}


def options_of(name):
    """Hyperparameters worth a test: defaults, each alone, and all that go together."""
    entry = OPTIMIZERS[name]
    values = {
        h: (not d if isinstance(d, bool) else VALUES[h])
        for h, d in entry.hyperparameters.items()
        if isinstance(d, bool) or h in VALUES
    }
    chosen = [{}]
    for size in (1, 2, len(values)):
        for names in itertools.combinations(values, size):
            chosen.append({h: values[h] for h in names})
            chosen.append({h: values[h] for h in names if h != "dampening"})
            chosen.append({h: values[h] for h in names if h != "nesterov"})
    accepted = []
    for options in chosen:
        try:
            _core.optimizer_check(name, options, None)
        except ValueError:
            continue
        if options not in accepted:
            accepted.append(options)
    return accepted


CASES = [
    pytest.param(name, options, id=f"{name}-{'-'.join(options) or 'defaults'}")
    for name in NAMES
    for options in options_of(name)
]
# The fewest that reach every loop: one case for each set of states that a step can use.
LOOPS = []
for _case in CASES:
    _key = (_case.values[0], OPTIMIZERS[_case.values[0]].needed_states(**_case.values[1]))
    if _key not in [key for key, _ in LOOPS]:
        LOOPS.append((_key, _case))
LOOPS = [case for _, case in LOOPS]


def random(shape, dtype, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


class Problem:
    """Parameters and states, stepped with the same gradients by whoever is asked."""

    def __init__(self, name, options, dtype, sizes, seed=1):
        self.entry = OPTIMIZERS[name]
        self.options = options
        self.states = self.entry.needed_states(**options)
        self.params = [random(n, dtype, seed + i) for i, n in enumerate(sizes)]
        self.state = {s: [np.zeros(n, dtype) for n in sizes] for s in self.states}
        self.dtype = dtype

    def grads(self, step):
        return [random(p.shape, p.dtype, 1000 * step + i) for i, p in enumerate(self.params)]

    def arrays(self):
        return [*self.params, *itertools.chain(*self.state.values())]

    def native(self, steps=3, place=lambda a: a):
        """Step with the public function, with every array copied to where `place` puts it."""
        params = [place(p) for p in self.params]
        state = {f"{s}s": [place(a) for a in arrays] for s, arrays in self.state.items()}
        step_function = getattr(il, f"{self.entry.name}_step")
        for step in range(1, steps + 1):
            grads = [place(g) for g in self.grads(step)]
            before = copy.deepcopy(grads)
            assert step_function(params, grads, **state, step=step, **self.options) is None
            for a, b in zip(grads, before, strict=True):
                np.testing.assert_array_equal(a, b)
        return [*params, *itertools.chain(*state.values())]

    def reference(self, steps=3):
        for step in range(1, steps + 1):
            for i, (param, grad) in enumerate(zip(self.params, self.grads(step), strict=True)):
                states = {s: self.state[s][i] for s in self.states}
                self.entry.function(param, grad, **states, step=step, **self.options)
        return self.arrays()


def same_bits(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        np.testing.assert_array_equal(
            np.ascontiguousarray(x).view(np.uint8), np.ascontiguousarray(y).view(np.uint8)
        )


def close(got, expected, dtype):
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, TOLERANCE[dtype], TOLERANCE[dtype])


@pytest.fixture(autouse=True)
def _restore():
    isa, threads = _core.isa(), il.get_num_threads()
    yield
    il.use_isa(isa)
    il.use_backend("cpu")
    il.set_num_threads(threads)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


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
        assert states == {s: entry.needs.get(s) for s in entry.states}
        assert tuple(states) == entry.states


@pytest.mark.parametrize("name", NAMES)
def test_public_names_and_signatures(name):
    entry = OPTIMIZERS[name]
    function, made = getattr(il, f"{name}_step"), getattr(il, entry.class_name)
    parameters = inspect.signature(function).parameters
    plurals = [f"{s}s" for s in entry.states]
    assert list(parameters) == ["params", "grads", *plurals, "step", *entry.hyperparameters]
    for s, plural in zip(entry.states, plurals, strict=True):
        assert (parameters[plural].default is None) == (s in entry.needs)
    for h, default in entry.hyperparameters.items():
        assert parameters[h].default == default
        assert inspect.signature(made).parameters[h].default == default
    for documented in parameters:
        assert f"\n{documented} : " in function.__doc__
    for documented in ["params", *entry.hyperparameters]:
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
        and not {"centered", "alpha"} <= {*case.values[1]}
    ],
)
def test_is_torchs(torch, name, options, dtype):
    theirs = getattr(torch.optim, OPTIMIZERS[name].class_name, None)
    if theirs is None:
        pytest.skip("torch has no such optimizer")
    problem = Problem(name, options, dtype, [7, (5, 3)])
    tensors = [torch.tensor(p, requires_grad=True) for p in problem.params]
    optimizer = theirs(tensors, **options)
    for step in range(1, 6):
        for t, g in zip(tensors, problem.grads(step), strict=True):
            t.grad = torch.tensor(g)
        optimizer.step()
    got = problem.native(5, place=np.copy)
    expected = [t.detach().numpy() for t in tensors]
    expected += [optimizer.state[t][s].numpy() for s in problem.states for t in tensors]
    for a, b in zip(got, expected, strict=True):
        tolerance = 2e-5 if dtype == np.float32 else 1e-11
        np.testing.assert_allclose(a, b, tolerance, tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "options"), LOOPS)
def test_large_arrays_in_pieces(name, options, dtype):
    sizes = [16384, 200_003, 5, 70_000, 0, 64]  # some in one piece, some in several, some sharing
    expected = Problem(name, options, dtype, sizes).reference(2)
    results = []
    for threads in (1, 2, 3, 8):
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
    for step in (1, 2, 3):
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
    getattr(il, f"{name}_step")(p, g, *states, step=1, eps=1e-320, lr=0.1, weight_decay=0.0)
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


# --- errors ---------------------------------------------------------------------------------------


def good(name="adam", n=5, dtype=np.float32):
    count = len(OPTIMIZERS[name].states)
    return [random(n, dtype, 1), random(n, dtype, 2), *(np.zeros(n, dtype) for _ in range(count))]


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def twice(n=5):
    return np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (n,), (0,))


A = np.float32
ERRORS = {  # what to put in place of argument i: (i, value or keyword, exception, message)
    "params None": (0, None, TypeError, "params"),
    "params a number": (0, 1.0, TypeError, "params"),
    "params a string": (0, "abc", TypeError, "params"),
    "params a dict": (0, {}, TypeError, "params"),
    "params nested": (0, [[np.zeros(5, A)]], TypeError, r"params\[0\]"),
    "params integer": (0, np.zeros(5, np.int32), TypeError, "params .*int32"),
    "params float16": (0, np.zeros(5, np.float16), TypeError, "params .*float16"),
    "params complex": (0, np.zeros(5, np.complex64), TypeError, "params"),
    "params objects": (0, np.zeros(5, object), TypeError, "params"),
    "params big-endian": (0, np.zeros(5, ">f4"), TypeError, "params"),
    "params masked": (0, np.ma.zeros(5, A), TypeError, "params"),
    "params read-only": (0, read_only(np.zeros(5, A)), ValueError, "params .*writeable"),
    "params stored twice": (0, twice(), ValueError, "params .*address of its own"),
    "grads None": (1, None, TypeError, "grads"),
    "grads dtype": (1, np.zeros(5), TypeError, "grads .*float32.*float64"),
    "grads shape": (1, np.zeros(4, A), ValueError, r"grads .*\(5,\).*\(4,\)"),
    "grads rank": (1, np.zeros((5, 1), A), ValueError, r"grads .*\(5,\).*\(5, 1\)"),
    "grads too many": (1, [np.zeros(5, A)] * 2, ValueError, "grads .* 1, got 2"),
    "grads none": (1, [], ValueError, "grads .* 1, got 0"),
    "state dtype": (2, np.zeros(5), TypeError, "exp_avgs .*float32.*float64"),
    "state shape": (3, np.zeros(6, A), ValueError, "exp_avg_sqs"),
    "state read-only": (3, read_only(np.zeros(5, A)), ValueError, "exp_avg_sqs .*writeable"),
    "state stored twice": (2, twice(), ValueError, "exp_avgs .*address of its own"),
    "state missing": (3, None, ValueError, "exp_avg_sqs must be given"),
    "state too many": (2, [np.zeros(5, A)] * 2, ValueError, "exp_avgs"),
    "a state's None": (2, [None], TypeError, r"exp_avgs\[0\]"),
    "step 0": ("step", 0, ValueError, "step"),
    "step -1": ("step", -1, ValueError, "step"),
    "step huge": ("step", 2**70, ValueError, "step"),
    "step float": ("step", 1.0, TypeError, "step"),
    "step bool": ("step", True, TypeError, "step"),
    "step None": ("step", None, TypeError, "step"),
    "lr text": ("lr", "fast", TypeError, "lr"),
    "lr None": ("lr", None, TypeError, "lr"),
    "betas number": ("betas", 0.9, TypeError, "betas"),
    "betas one": ("betas", (0.9,), ValueError, "betas"),
    "betas three": ("betas", (0.9, 0.9, 0.9), ValueError, "betas"),
    "betas text": ("betas", ("a", "b"), TypeError, "beta1"),
    "beta1 1": ("betas", (1.0, 0.9), ValueError, r"beta1 .*\[0, 1\), got 1"),
    "beta2 1": ("betas", (0.9, 1.0), ValueError, "beta2"),
    "beta1 negative": ("betas", (-0.1, 0.9), ValueError, "beta1"),
    "beta2 NaN": ("betas", (0.9, np.nan), ValueError, "beta2"),
    "maximize 2": ("maximize", 2, ValueError, "maximize"),
    "no such": ("beta", 0.9, TypeError, "beta"),
}
for _h in ("lr", "eps", "weight_decay"):
    for _v in (-1e-9, np.nan, np.inf, 1e39):
        ERRORS[f"{_h} {_v}"] = (_h, _v, ValueError, f"{_h} must lie in")


@pytest.mark.parametrize("backend", il.backends())
@pytest.mark.parametrize("case", ERRORS)
def test_errors_write_nothing(case, backend):
    where, value, error, message = ERRORS[case]
    arrays, keywords = good(), {"step": 1}
    if isinstance(where, int):
        arrays[where] = value
    else:
        keywords[where] = value
    kept = [a.copy() if isinstance(a, np.ndarray) else a for a in arrays]
    with il.use_backend(backend), pytest.raises(error, match=message):
        il.adam_step(*arrays, **keywords)
    for a, b in zip(arrays, kept, strict=True):
        if isinstance(a, np.ndarray) and a.dtype != object:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("last", [0, 1, 2, 3])
def test_an_error_in_the_last_array_leaves_the_first_alone(last):
    first, second = good(), good()
    second[last] = second[last].astype(np.int64)
    lists = [list(pair) for pair in zip(first, second, strict=True)]
    kept = [a.copy() for a in first]
    with pytest.raises(TypeError, match=r"\[1\]"):
        il.adam_step(*lists, step=1)
    same_bits(first, kept)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sgd", {"momentum": -0.1}, "momentum"),
        ("sgd", {"momentum": np.nan}, "momentum"),
        ("sgd", {"dampening": -1.0, "momentum": 0.5}, "dampening"),
        ("sgd", {"nesterov": True}, "nesterov needs momentum"),
        ("sgd", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "nesterov needs"),
        ("sgd", {"nesterov": 0.5, "momentum": 0.9}, "nesterov must be False or True"),
        ("rmsprop", {"alpha": -0.1}, "alpha"),
        ("rmsprop", {"alpha": 1.1}, "alpha"),
        ("rmsprop", {"momentum": -0.1}, "momentum"),
    ],
)
def test_hyperparameters_out_of_range(name, options, message):
    arrays = good(name)
    kept = [a.copy() for a in arrays]
    with pytest.raises(ValueError, match=message):
        getattr(il, f"{name}_step")(*arrays, step=1, **options)
    with pytest.raises(ValueError, match=message):
        getattr(il, OPTIMIZERS[name].class_name)(arrays[0], **options)
    same_bits(arrays, kept)


@pytest.mark.parametrize("name", [n for n in NAMES if OPTIMIZERS[n].needs])
def test_a_needed_state_must_be_given(name):
    entry = OPTIMIZERS[name]
    p, g = np.ones(3), np.ones(3)
    always = [np.zeros(3) for s in entry.states if s not in entry.needs]
    for state, needed_by in entry.needs.items():
        value = True if isinstance(entry.hyperparameters[needed_by], bool) else 0.5
        with pytest.raises(ValueError, match=f"{state}s must be given where {needed_by} is not 0"):
            getattr(il, f"{name}_step")(p, g, *always, step=1, **{needed_by: value})
    assert (p == 1).all()


def test_overlap_is_refused():
    def refused(match, params, grads, *states):
        everything = [a for arrays in (params, grads, *states) for a in arrays]
        kept = [a.copy() for a in everything]
        with pytest.raises(ValueError, match=match):
            if states:
                il.adam_step(params, grads, *states, step=1)
            else:
                il.sgd_step(params, grads, step=1)
        for a, b in zip(everything, kept, strict=True):
            np.testing.assert_array_equal(a, b)

    a, b, c, d = (random(8, np.float32, i) for i in range(4))
    refused(r"params\[0\] must not overlap params\[1\]", [a, a], [b, c])
    refused(r"params\[0\] must not overlap grads\[0\]", [a], [a])
    refused(r"must not overlap", [a[:5]], [a[3:]])
    refused(r"must not overlap", [a, b[2:]], [c, b[:-2]])
    refused(r"must not overlap", [a[::-1]], [a])
    refused(r"must not overlap", [a], [b], [c], [c])
    refused(r"must not overlap", [a], [b], [a], [c])
    refused(r"must not overlap", [a], [b], [c], [b])
    refused(r"must not overlap", [a, b], [c, c], [d, np.zeros(8, A)], [np.zeros(8, A), d])
    with pytest.raises(ValueError, match=r"^params must not overlap grads,"):
        il.sgd_step(a, a, step=1)
    many = [np.ones(3, A) for _ in range(200)]
    with pytest.raises(ValueError, match=r"params\[17\] must not overlap params\[200\]"):
        il.sgd_step([*many, many[17]], [a[:3]] * 201, step=1)


def test_what_lies_between_and_beside_is_no_overlap():
    room = np.zeros((6, 10), np.float32)
    columns = [room[:, i] for i in range(10)]
    il.sgd_step(columns[:5], columns[5:], step=1)
    il.sgd_step([room[0, :5], room[0, 5:]], [room[1, :5], room[1, 5:]], step=1)
    il.sgd_step(room[::2, ::2], room[1::2, ::2], step=1)
    il.sgd_step([room[:0], room[:0]], [room[:0], room[:0]], step=1)


# --- the classes ----------------------------------------------------------------------------------


def run_class(optimizer, steps, first=1):
    for step in range(first, first + steps):
        optimizer.step(
            [random(p.shape, p.dtype, 10 * step + i) for i, p in enumerate(optimizer.params)]
        )


def fresh_params(dtype=np.float32):
    return [random((4, 7), dtype, 1), random(5, dtype, 2), np.zeros(0, dtype)]


@pytest.mark.parametrize("backend", il.backends())
@pytest.mark.parametrize(("name", "options"), CASES)
def test_class_is_the_function(name, options, backend):
    entry = OPTIMIZERS[name]
    with il.use_backend(backend):
        optimizer = getattr(il, entry.class_name)(fresh_params(), **options)
        assert list(optimizer.state) == [f"{s}s" for s in entry.needed_states(**options)]
        run_class(optimizer, 3)
        params = fresh_params()
        states = {
            f"{s}s": [np.zeros_like(p) for p in params] for s in entry.needed_states(**options)
        }
        for step in (1, 2, 3):
            grads = [random(p.shape, p.dtype, 10 * step + i) for i, p in enumerate(params)]
            getattr(il, f"{name}_step")(params, grads, **states, step=step, **options)
    same_bits(optimizer.params, params)
    for plural, arrays in states.items():
        same_bits(optimizer.state[plural], arrays)
    assert optimizer.steps == 3


def flatten(d, prefix=""):
    """As somebody would to hand it to numpy.savez."""
    for key, value in d.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}/")
        elif isinstance(value, list):
            yield from ((f"{prefix}{key}/{i}", a) for i, a in enumerate(value))
        else:
            yield prefix + key, value


def through_a_file(state):
    file = io.BytesIO()
    np.savez(file, **dict(flatten(state)))
    file.seek(0)
    loaded = np.load(file)
    hyper = {k.split("/")[1]: loaded[k] for k in loaded if k.startswith("hyperparameters/")}
    arrays = {}
    for key in loaded:
        if key.startswith("state/"):
            arrays.setdefault(key.split("/")[1], []).append(loaded[key])
    return {"step": loaded["step"], "hyperparameters": hyper, "state": arrays}


@pytest.mark.parametrize("carry", [copy.deepcopy, through_a_file])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "options"), LOOPS)
def test_state_dict_round_trip_goes_on_identically(name, options, dtype, carry):
    made = getattr(il, OPTIMIZERS[name].class_name)
    one = made(fresh_params(dtype), lr=0.02, **options)
    run_class(one, 3)
    saved = carry(one.state_dict())
    two = made([p.copy() for p in one.params])
    run_class(two, 1)  # its own state is there, and replaced
    for p, q in zip(two.params, one.params, strict=True):
        p[...] = q
    kept = {s: [id(a) for a in arrays] for s, arrays in two.state.items()}
    two.load_state_dict(saved)
    assert all([id(a) for a in two.state[s]] == ids for s, ids in kept.items() if s in two.state)
    assert two.state_dict()["hyperparameters"] == one.state_dict()["hyperparameters"]
    run_class(one, 3, first=4)
    run_class(two, 3, first=4)
    same_bits(one.params, two.params)
    same_bits([*itertools.chain(*one.state.values())], [*itertools.chain(*two.state.values())])
    assert one.steps == two.steps == 6


def test_state_dict_is_a_copy():
    optimizer = il.Adam(np.ones(3), lr=0.1)
    saved = optimizer.state_dict()
    optimizer.step(np.ones(3))
    assert saved["step"] == 0 and (saved["state"]["exp_avgs"][0] == 0).all()


BAD_STATES = {
    "no dict": (lambda s: [], TypeError),
    "nothing": (lambda s: s.clear(), ValueError),
    "one more": (lambda s: s.update(more=1), ValueError),
    "step -1": (lambda s: s.update(step=-1), ValueError),
    "step 1.5": (lambda s: s.update(step=1.5), TypeError),
    "hyperparameters list": (lambda s: s.update(hyperparameters=[]), TypeError),
    "hyperparameter lacking": (lambda s: s["hyperparameters"].pop("eps"), ValueError),
    "hyperparameter of another": (lambda s: s["hyperparameters"].update(alpha=1.0), ValueError),
    "lr NaN": (lambda s: s["hyperparameters"].update(lr=np.nan), ValueError),
    "lr text": (lambda s: s["hyperparameters"].update(lr="x"), TypeError),
    "betas": (lambda s: s["hyperparameters"].update(betas=(0.9, 1.0)), ValueError),
    "state None": (lambda s: s.update(state=None), TypeError),
    "state lacking": (lambda s: s["state"].pop("exp_avg_sqs"), ValueError),
    "state of another": (lambda s: s["state"].update(grad_avgs=[]), ValueError),
    "no list": (lambda s: s["state"].update(exp_avg_sqs=np.zeros(5)), ValueError),
    "one array fewer": (lambda s: s["state"]["exp_avg_sqs"].pop(), ValueError),
    "no array": (lambda s: s["state"].update(exp_avg_sqs=[1, 2, 3]), TypeError),
    "shape": (lambda s: s["state"]["exp_avg_sqs"].__setitem__(1, np.zeros(4, A)), ValueError),
    "dtype": (lambda s: s["state"]["exp_avg_sqs"].__setitem__(1, np.zeros(5)), TypeError),
}


@pytest.mark.parametrize("case", BAD_STATES)
def test_a_bad_state_dict_changes_nothing(case):
    optimizer = il.Adam(fresh_params(), lr=0.1)
    run_class(optimizer, 1)
    other = il.Adam(fresh_params(), lr=0.5)
    run_class(other, 2, first=5)
    bad = other.state_dict()
    spoil, error = BAD_STATES[case]
    replaced = spoil(bad)
    bad = replaced if case == "no dict" else bad
    before = optimizer.state_dict()
    with pytest.raises(error):
        optimizer.load_state_dict(bad)
    after = optimizer.state_dict()
    assert after["step"] == 1 and after["hyperparameters"] == before["hyperparameters"]
    for s, arrays in before["state"].items():
        same_bits(after["state"][s], arrays)


def test_hyperparameters_may_be_set_between_steps():
    p = np.ones(3)
    optimizer = il.SGD(p, 0.5)
    optimizer.step(np.ones(3))
    optimizer.lr = 0.25
    optimizer.step(np.ones(3))
    np.testing.assert_array_equal(p, 0.25)
    optimizer.lr = -1.0
    with pytest.raises(ValueError, match="lr"):
        optimizer.step(np.ones(3))
    assert optimizer.steps == 2 and (p == 0.25).all()
    with pytest.raises(AttributeError):
        optimizer.learning_rate = 1.0


def test_a_state_that_comes_to_be_needed():
    p = np.ones(3)
    optimizer = il.SGD(p, 0.5)
    optimizer.step(np.ones(3))
    assert optimizer.state == {}
    optimizer.momentum = np.nan
    with pytest.raises(ValueError, match="momentum"):
        optimizer.step(np.ones(3))
    assert optimizer.state == {}
    optimizer.momentum = 0.9
    optimizer.step(np.ones(3))
    np.testing.assert_array_equal(optimizer.state["momentum_buffers"][0], 1.0)


def test_a_failed_step_is_not_counted():
    optimizer = il.Adam([np.ones(3), np.ones(4)])
    with pytest.raises(ValueError, match="grads"):
        optimizer.step([np.ones(3)])
    with pytest.raises(ValueError, match=r"grads\[1\]"):
        optimizer.step([np.ones(3), np.ones(5)])
    assert optimizer.steps == 0 and all((p == 1).all() for p in optimizer.params)


@pytest.mark.parametrize("name", NAMES)
def test_class_refuses_bad_params(name):
    made = getattr(il, OPTIMIZERS[name].class_name)
    for bad, error in (
        ([], ValueError),
        (None, TypeError),
        ([None], TypeError),
        (np.ones(3, int), TypeError),
        ([np.ones(3), read_only(np.ones(3))], ValueError),
    ):
        with pytest.raises(error, match="params"):
            made(bad)
    with pytest.raises(TypeError):
        made(np.ones(3), nosuch=1)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_states_lie_well(order, dtype):
    param = np.ones((1100, 1001), dtype, order=order)
    states = [a for arrays in il.Adam(param).state.values() for a in arrays]
    for a in states:
        assert a.ctypes.data % 64 == 0 and a.strides == param.strides and not a.any()
    addresses = [param.ctypes.data, *(a.ctypes.data for a in states)]
    for a, b in itertools.combinations(addresses, 2):
        apart = (a - b) % (1 << 21)
        assert min(apart, (1 << 21) - apart) >= 1 << 16
    small = il.Adam([np.ones(3, dtype) for _ in range(5)])
    assert all(a.ctypes.data % 64 == 0 for arrays in small.state.values() for a in arrays)


def test_states_of_a_strided_parameter_are_dense():
    room = np.ones((6, 8), np.float32)
    optimizer = il.SGD(room[::2, 1:5], momentum=0.9)
    assert optimizer.state["momentum_buffers"][0].flags.c_contiguous
    optimizer.step(np.ones((3, 4), np.float32))
    assert (room[1::2] == 1).all() and (room[::2, 1:5] < 1).all()


def test_copy_and_repr():
    optimizer = il.Adam(np.ones(3), lr=0.5)
    optimizer.step(np.ones(3))
    other = copy.deepcopy(optimizer)
    optimizer.step(np.ones(3))
    assert other.steps == 1 and not np.array_equal(other.params[0], optimizer.params[0])
    assert repr(optimizer).startswith("Adam(") and "lr=0.5" in repr(optimizer)
