"""The learning-rate schedules: their formulas, PyTorch's, and what they refuse."""

from __future__ import annotations

import copy
import doctest
import json
import math
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import innerloop as il
from innerloop import schedules as s

EXAMPLES = [
    s.constant(0.1),
    s.step_decay(0.1, 7, 0.5),
    s.multi_step(0.1, [3, 10, 11], 0.5),
    s.exponential(0.1, 0.9),
    s.inverse_time(0.1, 0.25, 0.5),
    s.cosine(0.1, 20, min_lr=0.02),
    s.cosine_restarts(0.1, 5, t_mult=2, min_lr=0.01),
    s.polynomial(0.1, 20, 2.0, min_lr=0.01),
    s.warmup(s.cosine(0.1, 20), 5, start=0.01),
    s.one_cycle(0.1, 20, three_phase=True),
    s.reduce_on_plateau(0.1, patience=2),
]
NAMES = [type(e).__name__ for e in EXAMPLES]
examples = pytest.mark.parametrize("schedule", EXAMPLES, ids=NAMES)


def test_every_schedule_is_here():
    assert {"Schedule", *NAMES} == set(s.__all__)
    assert il.schedules is s


def test_docstring():
    assert doctest.testmod(s).failed == 0
    for name in NAMES:
        text = getattr(s, name).__doc__
        assert "Formula: " in text or name == "reduce_on_plateau"
        assert text.index("Parameters\n") < text.index("Raises\n")


@examples
def test_call(schedule):
    steps = np.arange(1, 41, dtype=np.int32).reshape(4, 10)
    rates = schedule(steps)
    assert rates.shape == steps.shape and rates.dtype == np.float64
    assert all(type(schedule(int(i))) is float for i in steps.ravel())
    np.testing.assert_array_equal(rates.ravel(), [schedule(i) for i in steps.ravel()])
    assert schedule(steps[:0]).shape == (0, 10)
    assert math.isfinite(schedule(2**53 - 1)) and schedule(2**53 - 1) >= 0
    if not isinstance(schedule, (s.warmup, s.one_cycle)):
        assert schedule(1) == 0.1  # the very number


@examples
def test_copies(schedule):
    assert eval(repr(schedule), vars(s)) == schedule
    for other in (copy.copy(schedule), pickle.loads(pickle.dumps(schedule))):
        assert other == schedule
        np.testing.assert_array_equal(other(np.arange(1, 30)), schedule(np.arange(1, 30)))
    if not isinstance(schedule, s.reduce_on_plateau):
        assert hash(schedule) == hash(copy.copy(schedule))
        with pytest.raises(AttributeError):
            schedule.steps = 3


@examples
@pytest.mark.parametrize(
    ("step", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (2**53, ValueError),
        (10**400, ValueError),
        (1.0, TypeError),
        ("1", TypeError),
        (None, TypeError),
        (True, TypeError),
        (np.array([1.0]), TypeError),
        (np.array([1, 0]), ValueError),
    ],
    ids=repr,
)
def test_bad_step(schedule, step, error):
    with pytest.raises(error, match=r"^step must"):
        schedule(step)


def test_ends():
    """First, middle and last rates by hand."""
    assert [s.cosine(0.1, 10)(i) for i in (1, 6, 11, 12)] == [0.1, 0.05, 0.0, 0.0]
    assert [s.polynomial(0.1, 10)(i) for i in (1, 6, 11, 12)] == [0.1, 0.05, 0.0, 0.0]
    assert [s.polynomial(0.4, 2, 2)(i) for i in (1, 2, 3)] == [0.4, 0.1, 0.0]
    assert [s.inverse_time(1.0, 0.5)(i) for i in (1, 3, 7)] == [1.0, 0.5, 0.25]
    assert s.inverse_time(1.0, 1.0, 0.5)(4) == 0.5
    assert [s.step_decay(8.0, 2, 0.5)(i) for i in range(1, 6)] == [8, 8, 4, 4, 2]
    assert [s.multi_step(8.0, [2, 3], 0.5)(i) for i in range(1, 6)] == [8, 8, 4, 2, 2]
    assert [s.exponential(8.0, 0.5)(i) for i in (1, 2, 3)] == [8, 4, 2]
    assert [s.warmup(8.0, 4)(i) for i in range(1, 7)] == [0, 2, 4, 6, 8, 8]
    assert [s.warmup(lambda i: 8.0 / i, 2, start=4)(i) for i in range(1, 6)] == [4, 6, 8, 4, 8 / 3]
    assert [s.cosine_restarts(8.0, 2, t_mult=2)(i) for i in (1, 2, 3, 5, 7)] == [8, 4, 8, 4, 8]
    assert [s.one_cycle(8.0, 5, pct_start=0.6, anneal="linear")(i) for i in (2, 3)] == [4.16, 8.0]
    assert s.cosine(0.01, 10, min_lr=0.1)(11) == 0.1


def test_extremes():
    assert s.exponential(1.0, 2.0)(5000) == math.inf  # no OverflowError
    assert s.exponential(0.0, 2.0)(5000) == 0.0
    assert s.exponential(1.0, 0.5)(5000) == 0.0
    assert s.inverse_time(1.0, 1e308, 4.0)(2**52) == 0.0
    # Each of 1 step, at the edges of pct_start: the highest rate somewhere, no division by zero.
    for pct in (0.0, 0.05, 0.1, 0.5, 0.95, 1.0):
        for steps in (1, 2, 10, 20):
            for phases in (False, True) if pct <= 0.5 else (False,):
                cycle = s.one_cycle(0.5, steps, pct_start=pct, three_phase=phases)
                rates = cycle(np.arange(1, steps + 3))
                assert np.isfinite(rates).all() and (rates <= 0.5).all() and (rates > 0).all()


BAD = [
    (lambda: s.constant(-0.1), ValueError, "lr must be finite and at least 0, got -0.1"),
    (lambda: s.constant(math.nan), ValueError, "lr must be finite and at least 0, got nan"),
    (lambda: s.constant(math.inf), ValueError, "lr must"),
    (lambda: s.constant(10**400), ValueError, "lr is too large"),
    (lambda: s.constant("0.1"), TypeError, "lr must be a number, got '0.1'"),
    (lambda: s.constant(None), TypeError, "lr must be a number, got None"),
    (lambda: s.constant([0.1]), TypeError, "lr must be a number"),
    (lambda: s.step_decay(0.1, 0), ValueError, r"every must lie in \[1, 2\*\*53\), got 0"),
    (lambda: s.step_decay(0.1, 2.0), TypeError, "every must be an integer, got 2.0"),
    (lambda: s.step_decay(0.1, True), TypeError, "every must be an integer, got True"),
    (lambda: s.step_decay(0.1, 2, 0.0), ValueError, "factor must be finite and above 0"),
    (lambda: s.multi_step(0.1, [3, 3]), ValueError, "milestones must rise"),
    (lambda: s.multi_step(0.1, [3, 0]), ValueError, r"milestones\[1\] must lie"),
    (lambda: s.multi_step(0.1, ["3"]), TypeError, r"milestones\[0\] must be an integer"),
    (lambda: s.multi_step(0.1, 3), TypeError, "milestones must be a list of integers, got 3"),
    (lambda: s.exponential(0.1, math.nan), ValueError, "factor must"),
    (lambda: s.inverse_time(0.1, -1.0), ValueError, "decay must"),
    (lambda: s.inverse_time(0.1, 1.0, math.nan), ValueError, "power must"),
    (lambda: s.cosine(0.1, 0), ValueError, "steps must"),
    (lambda: s.cosine(0.1, 10, min_lr=-1.0), ValueError, "min_lr must"),
    (lambda: s.cosine_restarts(0.1, 10, t_mult=0), ValueError, "t_mult must"),
    (lambda: s.cosine_restarts(0.1, 10, t_mult=1.5), TypeError, "t_mult must be an integer"),
    (lambda: s.polynomial(0.1, 10, -1.0), ValueError, "power must"),
    (lambda: s.warmup(-1.0, 10), ValueError, "schedule must"),
    (lambda: s.warmup("cosine", 10), TypeError, "schedule must"),
    (lambda: s.warmup(0.1, 0), ValueError, "steps must"),
    (lambda: s.warmup(0.1, 10, start=math.nan), ValueError, "start must"),
    (lambda: s.one_cycle(0.1, 10, pct_start=1.1), ValueError, r"pct_start must lie in \[0, 1\]"),
    (lambda: s.one_cycle(0.1, 10, pct_start=math.nan), ValueError, "pct_start must"),
    (
        lambda: s.one_cycle(0.1, 10, pct_start=0.6, three_phase=True),
        ValueError,
        r"pct_start must lie in \[0, 0.5\]",
    ),
    (lambda: s.one_cycle(0.1, 10, anneal="cosine"), ValueError, "anneal must be one of cos, lin"),
    (lambda: s.one_cycle(0.1, 10, anneal=1), TypeError, "anneal must be a string"),
    (lambda: s.one_cycle(0.1, 10, div_factor=0.0), ValueError, "div_factor must"),
    (lambda: s.one_cycle(0.1, 10, final_div_factor=math.inf), ValueError, "final_div_factor must"),
    (lambda: s.one_cycle(0.1, 10, three_phase="no"), TypeError, "three_phase must be True or"),
    (lambda: s.reduce_on_plateau(0.1, mode="least"), ValueError, "mode must be one of min, max"),
    (lambda: s.reduce_on_plateau(0.1, factor=1.0), ValueError, r"factor must lie in \[0, 1\)"),
    (lambda: s.reduce_on_plateau(0.1, patience=-1), ValueError, "patience must"),
    (lambda: s.reduce_on_plateau(0.1, threshold=-1.0), ValueError, "threshold must"),
    (
        lambda: s.reduce_on_plateau(0.1, threshold=1.0),
        ValueError,
        r"threshold must lie in \[0, 1\)",
    ),
    (lambda: s.reduce_on_plateau(0.1, threshold_mode="r"), ValueError, "threshold_mode must"),
    (lambda: s.reduce_on_plateau(0.1, cooldown=1.5), TypeError, "cooldown must be an integer"),
    (lambda: s.reduce_on_plateau(0.1, min_lr=math.nan), ValueError, "min_lr must"),
    (lambda: s.reduce_on_plateau(0.1, eps=-1e-8), ValueError, "eps must"),
    (lambda: s.reduce_on_plateau(0.1).update("low"), TypeError, "metric must be a number"),
    (lambda: s.reduce_on_plateau(0.1).load_state_dict([]), TypeError, "state_dict must be a dict"),
    (lambda: s.reduce_on_plateau(0.1).load_state_dict({}), ValueError, "state_dict must hold"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=range(len(BAD)))
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match="^" + message):
        call()


def test_plateau_state():
    """A run that is cut and goes on elsewhere has the rates of the whole run."""
    metrics = np.random.default_rng(3).normal(size=60) + np.linspace(1, 0, 60)
    options = {"factor": 0.5, "patience": 1, "cooldown": 2}
    whole, first = s.reduce_on_plateau(0.1, **options), s.reduce_on_plateau(0.1, **options)
    rates = []
    for metric in metrics:
        whole.update(metric)
        rates.append(whole(1))
    for metric in metrics[:31]:
        first.update(metric)
    copied, resumed = copy.copy(first), s.reduce_on_plateau(0.1, **options)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert copied == first == resumed != s.reduce_on_plateau(0.1, **options)
    for i, metric in enumerate(metrics[31:], 31):
        resumed.update(metric)
        assert resumed(i) == rates[i]
    assert copied == first  # neither took part
    bad = {**first.state_dict(), "best": math.nan}
    before = resumed.state_dict()
    with pytest.raises(ValueError, match="best must not be NaN"):
        resumed.load_state_dict(bad)
    assert resumed.state_dict() == before


# PyTorch as the oracle. It computes most rates from the one before, so roundings add up.


def torch_rates(torch, make, lr, count, metrics=None):
    """The rates of the first `count` steps, of the scheduler that `make(optimizer)` returns."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SequentialLR's own, deprecated use of epoch
        scheduler = make(optimizer, torch.optim.lr_scheduler)
        rates = []
        for i in range(count):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if i + 1 < count:
                scheduler.step(*(() if metrics is None else (metrics[i],)))
    return np.array(rates)


def check(schedule, expected):
    rates = schedule(np.arange(1, len(expected) + 1))
    np.testing.assert_allclose(rates, expected, rtol=1e-9, atol=1e-15)


TORCH = [
    (s.constant(0.1), lambda o, t: t.ConstantLR(o, 1.0), 20),
    (s.step_decay(0.1, 7, 0.3), lambda o, t: t.StepLR(o, 7, 0.3), 50),
    (s.step_decay(0.1, 1), lambda o, t: t.StepLR(o, 1), 9),
    (s.multi_step(0.1, [3, 10, 11]), lambda o, t: t.MultiStepLR(o, [3, 10, 11]), 20),
    (s.multi_step(0.1, []), lambda o, t: t.MultiStepLR(o, []), 5),
    (s.exponential(0.1, 0.93), lambda o, t: t.ExponentialLR(o, 0.93), 100),
    (s.inverse_time(0.1, 0.3), lambda o, t: t.LambdaLR(o, lambda n: 1 / (1 + 0.3 * n)), 20),
    (s.cosine(0.1, 20), lambda o, t: t.CosineAnnealingLR(o, 20), 21),
    (s.cosine(0.1, 7, min_lr=0.01), lambda o, t: t.CosineAnnealingLR(o, 7, 0.01), 8),
    (s.polynomial(0.1, 20), lambda o, t: t.PolynomialLR(o, 20), 30),
    (s.polynomial(0.1, 20, 2.5), lambda o, t: t.PolynomialLR(o, 20, 2.5), 30),
    (s.polynomial(0.1, 20, min_lr=0.05), lambda o, t: t.LinearLR(o, 1.0, 0.5, 20), 30),
    (s.warmup(0.1, 8, start=0.01), lambda o, t: t.LinearLR(o, 0.1, 1.0, 8), 30),
]


@pytest.mark.parametrize(("schedule", "make", "count"), TORCH, ids=range(len(TORCH)))
def test_torch(torch, schedule, make, count):
    check(schedule, torch_rates(torch, make, 0.1, count))


@pytest.mark.parametrize("t_mult", [1, 2, 3])
@pytest.mark.parametrize("steps", [1, 4])
def test_torch_restarts(torch, steps, t_mult):
    def make(o, t):
        return t.CosineAnnealingWarmRestarts(o, steps, t_mult, 0.01)

    check(
        s.cosine_restarts(0.1, steps, t_mult=t_mult, min_lr=0.01),
        torch_rates(torch, make, 0.1, 70),
    )


@pytest.mark.parametrize(
    ("main", "make"),
    [
        (s.cosine(0.1, 20), lambda o, t: t.CosineAnnealingLR(o, 20)),
        (s.step_decay(0.1, 5), lambda o, t: t.StepLR(o, 5)),
        (s.exponential(0.1, 0.9), lambda o, t: t.ExponentialLR(o, 0.9)),
        (s.cosine_restarts(0.1, 5), lambda o, t: t.CosineAnnealingWarmRestarts(o, 5)),
    ],
)
def test_torch_warmup(torch, main, make):
    def both(o, t):
        return t.SequentialLR(o, [t.LinearLR(o, 0.25, 1.0, 6), make(o, t)], [6])

    check(s.warmup(main, 6, start=0.025), torch_rates(torch, both, 0.1, 26))


@pytest.mark.parametrize("anneal", ["cos", "linear"])
@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("pct", [0.15, 0.3, 0.45])
def test_torch_one_cycle(torch, anneal, three_phase, pct):
    options = {"pct_start": pct, "div_factor": 10.0, "final_div_factor": 50.0}

    def make(o, t):
        return t.OneCycleLR(
            o, 0.5, 25, anneal_strategy=anneal, three_phase=three_phase, cycle_momentum=False,
            **options,
        )  # fmt: skip

    cycle = s.one_cycle(0.5, 25, anneal=anneal, three_phase=three_phase, **options)
    expected = torch_rates(torch, make, 0.1, 25)
    check(cycle, expected)
    assert cycle(26) == cycle(1000) == pytest.approx(expected[-1])


METRICS = st.lists(
    st.one_of(
        st.integers(-3, 3).map(float), st.sampled_from([math.nan, math.inf, -math.inf, 1e-5])
    ),
    max_size=30,
)


@given(
    metrics=METRICS,
    mode=st.sampled_from(["min", "max"]),
    threshold_mode=st.sampled_from(["rel", "abs"]),
    threshold=st.sampled_from([0.0, 1e-4, 0.5]),
    factor=st.sampled_from([0.0, 0.1, 0.5]),
    patience=st.integers(0, 3),
    cooldown=st.integers(0, 3),
    min_lr=st.sampled_from([0.0, 0.03, 0.2]),
    eps=st.sampled_from([0.0, 1e-8, 0.06]),
)
def test_torch_plateau(torch, metrics, **options):
    expected = torch_rates(
        torch,
        lambda o, t: t.ReduceLROnPlateau(o, **options),
        0.1,
        len(metrics) + 1,
        metrics,
    )
    schedule = s.reduce_on_plateau(0.1, **options)
    rates = [schedule(1)]
    for i, metric in enumerate(metrics):
        schedule.update(metric)
        rates.append(schedule(i + 2))
    np.testing.assert_array_equal(rates, expected)
