"""Learning-rate schedules: plain functions of the step, for an optimizer's ``lr=``.

A schedule is a callable: ``schedule(step)`` is the rate of that step, as a float. Steps count from
1, as the optimizers' do, and step 1 has the first rate. An array of steps gives the array of their
rates, for a plot. In the formulas below, ``t = step - 1`` is the number of steps already made.

All but `reduce_on_plateau` are immutable and keep no state: to resume a run, make the same schedule
again. All can be compared, copied and pickled, and their repr is the call that makes them.

Examples
--------
>>> from innerloop import schedules
>>> schedule = schedules.warmup(schedules.cosine(0.1, 100), 4, start=0.02)
>>> [round(schedule(step), 3) for step in (1, 2, 3, 4, 5, 55, 105)]
[0.02, 0.04, 0.06, 0.08, 0.1, 0.05, 0.0]
>>> schedule = schedules.reduce_on_plateau(0.1, factor=0.5, patience=1)
>>> for loss in (3.0, 2.0, 2.0, 2.0):
...     schedule.update(loss)
>>> schedule(5)
0.05
"""

from __future__ import annotations

import bisect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Any, ClassVar, Literal, overload

import numpy as np
from numpy.typing import NDArray

from . import _numbers as numbers

__all__ = [
    "Schedule",
    "constant",
    "cosine",
    "cosine_restarts",
    "exponential",
    "inverse_time",
    "multi_step",
    "one_cycle",
    "polynomial",
    "reduce_on_plateau",
    "step_decay",
    "warmup",
]


def _scaled(lr: float, factor: float, exponent: float) -> float:
    """lr * factor**exponent, infinite where that is too large for a float."""
    try:
        return lr * factor**exponent
    except OverflowError:
        return math.inf if lr else 0.0


def _line(first: float, last: float, share: float) -> float:
    """From `first` at share 0 to `last` at share 1, exactly there."""
    return first * (1.0 - share) + last * share


def _cosine(first: float, last: float, share: float) -> float:
    """The same along half a wave of the cosine."""
    return _line(last, first, 0.5 * (1.0 + math.cos(math.pi * share)))


_RAISES = """
    Raises
    ------
    TypeError
        If an argument is not a number, or not an integer or a string where one is asked for.
    ValueError
        If an argument lies outside its range; a NaN always does.
    """


class Schedule(ABC):
    """What all schedules share: the checks of their arguments, and arrays of steps."""

    _checks: ClassVar[Mapping[str, Callable[[Any, str], Any]]] = {
        "lr": numbers.not_negative,
        "every": numbers.steps,
        "factor": numbers.positive,
        "milestones": numbers.rising_steps,
        "decay": numbers.not_negative,
        "power": numbers.not_negative,
        "steps": numbers.steps,
        "min_lr": numbers.not_negative,
        "t_mult": numbers.steps,
        "schedule": lambda value, name: (
            value if callable(value) else constant(numbers.not_negative(value, name))
        ),
        "start": numbers.not_negative,
        "max_lr": numbers.not_negative,
        "pct_start": numbers.fraction,
        "anneal": numbers.one_of("cos", "linear"),
        "div_factor": numbers.positive,
        "final_div_factor": numbers.positive,
        "three_phase": numbers.boolean,
        "mode": numbers.one_of("min", "max"),
        "patience": numbers.count,
        "threshold": numbers.not_negative,
        "threshold_mode": numbers.one_of("rel", "abs"),
        "cooldown": numbers.count,
        "eps": numbers.not_negative,
    }

    def __init_subclass__(cls) -> None:
        cls.__doc__ = (cls.__doc__ or "").rstrip() + "\n" + _RAISES

    @overload
    def __call__(self, step: int) -> float: ...
    @overload
    def __call__(self, step: NDArray) -> NDArray[np.float64]: ...
    def __call__(self, step: Any) -> Any:
        """Return the rate of a step.

        Parameters
        ----------
        step : int or array of ints
            Counts from 1.

        Returns
        -------
        float, or array of float64 of the shape of `step`

        Raises
        ------
        TypeError
            If `step` is not an integer.
        ValueError
            If it lies outside [1, 2**53).
        """
        if isinstance(step, np.ndarray):
            rates = [self._rate(numbers.steps(s, "step") - 1) for s in step.ravel()]
            return np.array(rates, np.float64).reshape(step.shape)
        return self._rate(numbers.steps(step, "step") - 1)

    @abstractmethod
    def _rate(self, t: int) -> float:
        """The rate after t steps."""

    def __post_init__(self) -> None:
        for f in fields(self):  # type: ignore[arg-type]  # the subclasses are dataclasses
            if check := self._checks.get(f.name):
                object.__setattr__(self, f.name, check(getattr(self, f.name), f.name))


@dataclass(frozen=True)
class constant(Schedule):
    """The same rate at every step; for `warmup`, mostly.

    Formula: ``rate = lr``.

    Parameters
    ----------
    lr : float
        The rate, at least 0.
    """

    lr: float

    def _rate(self, t: int) -> float:
        return self.lr


@dataclass(frozen=True)
class step_decay(Schedule):
    """A staircase: the rate is multiplied by a factor after every so many steps.

    Formula: ``rate = lr * factor**floor(t / every)``.

    Source: as `torch.optim.lr_scheduler.StepLR`.

    Parameters
    ----------
    lr : float
        The first rate, at least 0.
    every : int
        How many steps a stair is long.
    factor : float, default 0.1
        Above 0.
    """

    lr: float
    every: int
    factor: float = 0.1

    def _rate(self, t: int) -> float:
        return _scaled(self.lr, self.factor, t // self.every)


@dataclass(frozen=True)
class multi_step(Schedule):
    """A staircase whose stairs end after the given numbers of steps.

    Formula: ``rate = lr * factor**n``, where n of the milestones are at most t.

    Source: as `torch.optim.lr_scheduler.MultiStepLR`.

    Parameters
    ----------
    lr : float
        The first rate, at least 0.
    milestones : sequence of int
        Numbers of steps, rising: with 30, step 31 is the first of the lower rate.
    factor : float, default 0.1
        Above 0.
    """

    lr: float
    milestones: tuple[int, ...]
    factor: float = 0.1

    def _rate(self, t: int) -> float:
        return _scaled(self.lr, self.factor, bisect.bisect_right(self.milestones, t))


@dataclass(frozen=True)
class exponential(Schedule):
    """The rate is multiplied by a factor at every step.

    Formula: ``rate = lr * factor**t``. A factor above 1 makes the rising rates of a learning-rate
    range test.

    Source: as `torch.optim.lr_scheduler.ExponentialLR`; L. Smith, "Cyclical learning rates for
    training neural networks", WACV 2017, section 3.3 (the range test).

    Parameters
    ----------
    lr : float
        The first rate, at least 0.
    factor : float
        Above 0.
    """

    lr: float
    factor: float

    def _rate(self, t: int) -> float:
        return _scaled(self.lr, self.factor, t)


@dataclass(frozen=True)
class inverse_time(Schedule):
    """The rate falls as one over the time; for power 1 and 0.5 the classical decays.

    Formula: ``rate = lr / (1 + decay * t)**power``.

    Source: H. Robbins and S. Monro, "A stochastic approximation method", Annals of Mathematical
    Statistics 22, 1951 (rates whose sum diverges while the sum of their squares does not: power
    in (0.5, 1]).

    Parameters
    ----------
    lr : float
        The first rate, at least 0.
    decay : float
        At least 0. With power 1, the rate is half the first after ``1 / decay`` steps.
    power : float, default 1.0
        At least 0.
    """

    lr: float
    decay: float
    power: float = 1.0

    def _rate(self, t: int) -> float:
        return _scaled(self.lr, 1.0 + self.decay * t, -self.power)


@dataclass(frozen=True)
class cosine(Schedule):
    """The rate falls along half a wave of the cosine, and stays at its end.

    Formula: ``rate = min_lr + (lr - min_lr) * (1 + cos(pi * t / steps)) / 2`` for t up to `steps`,
    then `min_lr`.

    Source: I. Loshchilov and F. Hutter, "SGDR: stochastic gradient descent with warm restarts",
    ICLR 2017, equation 5. `torch.optim.lr_scheduler.CosineAnnealingLR` is the same up to `steps`,
    and then climbs again.

    Parameters
    ----------
    lr : float
        The first rate, at least 0.
    steps : int
        After how many steps the end is reached.
    min_lr : float, default 0.0
        The last rate, at least 0.
    """

    lr: float
    steps: int
    _: KW_ONLY
    min_lr: float = 0.0

    def _rate(self, t: int) -> float:
        return _cosine(self.lr, self.min_lr, min(t, self.steps) / self.steps)


@dataclass(frozen=True)
class cosine_restarts(Schedule):
    """The fall of `cosine`, over and over: warm restarts (SGDR).

    Formula: ``rate = min_lr + (lr - min_lr) * (1 + cos(pi * t_cur / t_i)) / 2``, where cycle i has
    ``t_i = steps * t_mult**i`` steps and t_cur counts from 0 within it.

    Source: I. Loshchilov and F. Hutter, "SGDR: stochastic gradient descent with warm restarts",
    ICLR 2017, equation 5; as `torch.optim.lr_scheduler.CosineAnnealingWarmRestarts`.

    Parameters
    ----------
    lr : float
        The rate at each restart, at least 0.
    steps : int
        The length of the first cycle.
    t_mult : int, default 1
        Each cycle is so many times as long as the one before.
    min_lr : float, default 0.0
        What each cycle falls towards, at least 0.
    """

    lr: float
    steps: int
    _: KW_ONLY
    t_mult: int = 1
    min_lr: float = 0.0

    def _rate(self, t: int) -> float:
        length = self.steps
        if self.t_mult == 1:
            t %= length
        while t >= length:
            t -= length
            length *= self.t_mult
        return _cosine(self.lr, self.min_lr, t / length)


@dataclass(frozen=True)
class polynomial(Schedule):
    """The rate falls as a power of the time that is left, and stays at its end; power 1 is a line.

    Formula: ``rate = min_lr + (lr - min_lr) * (1 - t / steps)**power`` for t up to `steps`, then
    `min_lr`.

    Source: as `torch.optim.lr_scheduler.PolynomialLR`, which ends at 0.

    Parameters
    ----------
    lr : float
        The first rate, at least 0.
    steps : int
        After how many steps the end is reached.
    power : float, default 1.0
        At least 0.
    min_lr : float, default 0.0
        The last rate, at least 0.
    """

    lr: float
    steps: int
    power: float = 1.0
    _: KW_ONLY
    min_lr: float = 0.0

    def _rate(self, t: int) -> float:
        left = 1.0 - min(t, self.steps) / self.steps
        return _line(self.min_lr, self.lr, left**self.power)


@dataclass(frozen=True)
class warmup(Schedule):
    """A line up to the first rate of another schedule, which then begins.

    Formula: ``rate = start + (schedule(1) - start) * t / steps`` for the first `steps` steps, then
    ``schedule(step - steps)``.

    Source: P. Goyal et al., "Accurate, large minibatch SGD: training ImageNet in 1 hour", 2017,
    section 2.2; as `torch.optim.lr_scheduler.LinearLR` before another in a `SequentialLR`.

    Parameters
    ----------
    schedule : callable, or float
        Any function of the step; a number is that `constant` rate.
    steps : int
        How long the line is.
    start : float, default 0.0
        The rate of step 1, at least 0. At 0, that step moves no parameter.
    """

    schedule: Callable[[int], float] | float
    steps: int
    _: KW_ONLY
    start: float = 0.0

    def _rate(self, t: int) -> float:
        after: Any = self.schedule  # a number has become a `constant`
        if t < self.steps:
            return _line(self.start, after(1), t / self.steps)
        return after(t - self.steps + 1)


@dataclass(frozen=True)
class one_cycle(Schedule):
    """Up to a high rate and down to a very low one, once; then the last rate stays.

    Formula: between ``max_lr / div_factor``, `max_lr` and ``max_lr / (div_factor *
    final_div_factor)`` the rate follows half waves of the cosine, or lines. The top is at
    ``t = pct_start * steps - 1``, the end at ``t = steps - 1``. With `three_phase`, the fall is as
    long as the rise and ends at the first rate; from there the rate falls to the last.

    Source: L. Smith and N. Topin, "Super-convergence: very fast training of neural networks using
    large learning rates", 2018; as `torch.optim.lr_scheduler.OneCycleLR`, which changes the
    momentum, too.

    Parameters
    ----------
    max_lr : float
        The highest rate, at least 0.
    steps : int
        How long the cycle is.
    pct_start : float, default 0.3
        The share of the steps before the top, in [0, 1]; with `three_phase`, in [0, 0.5].
    anneal : {"cos", "linear"}, default "cos"
        The shape of rise and fall.
    div_factor : float, default 25.0
        What `max_lr` is divided by to give the first rate; above 0.
    final_div_factor : float, default 1e4
        What the first rate is divided by to give the last; above 0.
    three_phase : bool, default False
        Whether the last part of the fall is a phase of its own.
    """

    max_lr: float
    steps: int
    _: KW_ONLY
    pct_start: float = 0.3
    anneal: Literal["cos", "linear"] = "cos"
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    three_phase: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.three_phase and self.pct_start > 0.5:
            raise ValueError(
                f"pct_start must lie in [0, 0.5] for three phases, got {self.pct_start!r}"
            )

    def _rate(self, t: int) -> float:
        between = _cosine if self.anneal == "cos" else _line
        first = self.max_lr / self.div_factor
        last = first / self.final_div_factor
        rates, ends = [first, self.max_lr, last], [self.pct_start * self.steps - 1, self.steps - 1]
        if self.three_phase:
            rates[2:2] = [first]
            ends[1:1] = [2 * self.pct_start * self.steps - 2]
        begin: float = 0
        for end, low, high in zip(ends, rates[:-1], rates[1:], strict=True):
            if t <= end and end > begin:
                return between(low, high, (t - begin) / (end - begin))
            begin = end
        return last


@dataclass
class reduce_on_plateau(Schedule):
    """The rate is multiplied by a factor when a metric has stopped getting better.

    The rate does not depend on the step but on the metrics that `update` has been told, once an
    epoch, say: after more than `patience` of them in a row that are no better than the best,
    ``rate = max(rate * factor, min_lr)``. A metric is better, for the mode "min", below
    ``best * (1 - threshold)`` ("rel") or ``best - threshold`` ("abs"); for "max", above
    ``best * (1 + threshold)`` or ``best + threshold``. A NaN is not better.

    Source: as `torch.optim.lr_scheduler.ReduceLROnPlateau`.

    Parameters
    ----------
    lr : float
        The first rate, at least 0.
    mode : {"min", "max"}, default "min"
        Whether smaller or larger metrics are better.
    factor : float, default 0.1
        In [0, 1).
    patience : int, default 10
        How many metrics in a row may be no better; the next reduces the rate.
    threshold : float, default 1e-4
        How much better is better; at least 0, and for the mode "min" and "rel" below 1.
    threshold_mode : {"rel", "abs"}, default "rel"
        Whether the threshold is a share of the best metric.
    cooldown : int, default 0
        For how many metrics after a reduction none is counted.
    min_lr : float, default 0.0
        The rate is not reduced below it; at least 0.
    eps : float, default 1e-8
        A reduction by no more than this is left out; at least 0.
    """

    lr: float
    _: KW_ONLY
    mode: Literal["min", "max"] = "min"
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: int = 0
    min_lr: float = 0.0
    eps: float = 1e-8
    _state: dict[str, Any] = field(init=False, repr=False)
    _checks: ClassVar = {**Schedule._checks, "factor": numbers.below_1}

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.mode, self.threshold_mode) == ("min", "rel") and self.threshold >= 1.0:
            raise ValueError(f"threshold must lie in [0, 1) for min, rel, got {self.threshold!r}")
        self._state = {
            "rate": self.lr,
            "best": math.inf if self.mode == "min" else -math.inf,
            "bad": 0,
            "cooldown": 0,
        }

    def _rate(self, t: int) -> float:
        return self._state["rate"]

    def update(self, metric: float) -> None:
        """Take note of a metric, and reduce the rate if it is time to.

        Parameters
        ----------
        metric : float
            Such as the loss on held-out data.

        Raises
        ------
        TypeError
            If it is not a number.
        """
        value = numbers.number(metric, "metric")
        state = dict(self._state)  # copies of this schedule share the old one
        if self._better(value, state["best"]):
            state["best"], state["bad"] = value, 0
        else:
            state["bad"] += 1
        if state["cooldown"] > 0:
            state["cooldown"] -= 1
            state["bad"] = 0
        if state["bad"] > self.patience:
            reduced = max(state["rate"] * self.factor, self.min_lr)
            if state["rate"] - reduced > self.eps:
                state["rate"] = reduced
            state["cooldown"], state["bad"] = self.cooldown, 0
        self._state = state

    def _better(self, value: float, best: float) -> bool:
        sign = 1.0 if self.mode == "max" else -1.0
        if self.threshold_mode == "abs":
            return sign * value > sign * best + self.threshold
        return sign * value > sign * (best * (1.0 + sign * self.threshold))

    def state_dict(self) -> dict[str, Any]:
        """Return the rate, the best metric and the two counts, as plain numbers."""
        return dict(self._state)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, of a schedule made in the same way.

        Raises
        ------
        TypeError
            If it is not a dict, or a value of it not a number or not an integer.
        ValueError
            If entries are missing or unknown, or a value lies outside its range. Nothing is
            changed on any error.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict must be a dict, got {type(state_dict).__name__}")
        if set(state_dict) != set(self._state):
            names, got = sorted(self._state), sorted(map(str, state_dict))
            raise ValueError(f"state_dict must hold {names}, got {got}")
        best = numbers.number(state_dict["best"], "best")
        if math.isnan(best):
            raise ValueError("best must not be NaN")
        self._state = {
            "rate": numbers.not_negative(state_dict["rate"], "rate"),
            "best": best,
            "bad": numbers.count(state_dict["bad"], "bad"),
            "cooldown": numbers.count(state_dict["cooldown"], "cooldown"),
        }
