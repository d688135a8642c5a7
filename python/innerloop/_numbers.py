"""Numbers as arguments of pure Python code, with errors as those of the native code.

A check takes a value and its argument's name, and returns the value as a plain Python one.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np


def number(value: Any, name: str) -> float:
    """Any number, NaN and infinities included."""
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        return float(value)
    except TypeError:
        raise TypeError(f"{name} must be a number, got {value!r}") from None
    except OverflowError:
        raise ValueError(f"{name} is too large, got {value!r}") from None


def _number_that(fits: Callable[[float], bool], wanted: str) -> Callable[[Any, str], float]:
    def check(value: Any, name: str) -> float:
        plain = number(value, name)
        if not fits(plain):
            raise ValueError(f"{name} must {wanted}, got {value!r}")
        return plain

    return check


not_negative = _number_that(lambda x: 0.0 <= x < math.inf, "be finite and at least 0")
positive = _number_that(lambda x: 0.0 < x < math.inf, "be finite and above 0")
below_1 = _number_that(lambda x: 0.0 <= x < 1.0, "lie in [0, 1)")
fraction = _number_that(lambda x: 0.0 <= x <= 1.0, "lie in [0, 1]")


def _integer_from(
    least: int, end: int = 2**53, end_text: str = "2**53"
) -> Callable[[Any, str], int]:
    def check(value: Any, name: str) -> int:
        try:
            if isinstance(value, bool):
                raise TypeError
            plain = operator.index(value)
        except TypeError:
            raise TypeError(f"{name} must be an integer, got {value!r}") from None
        if not least <= plain < end:
            raise ValueError(f"{name} must lie in [{least}, {end_text}), got {value!r}")
        return plain

    return check


count = _integer_from(0)  # below 2**53 every integer is a float of its own
steps = _integer_from(1)
word64 = _integer_from(0, 2**64, "2^64")  # as the native checks write it


def rising_steps(value: Any, name: str) -> tuple[int, ...]:
    """A sequence of steps, each above the one before."""
    try:
        items = list(value)
    except TypeError:
        raise TypeError(f"{name} must be a list of integers, got {value!r}") from None
    plain = tuple(steps(item, f"{name}[{i}]") for i, item in enumerate(items))
    if any(a >= b for a, b in itertools.pairwise(plain)):
        raise ValueError(f"{name} must rise, got {value!r}")
    return plain


def boolean(value: Any, name: str) -> bool:
    """Python's bools and NumPy's."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def one_of(*choices: str) -> Callable[[Any, str], str]:
    """A check that takes one of some strings."""

    def check(value: Any, name: str) -> str:
        if not isinstance(value, str):
            raise TypeError(f"{name} must be a string, got {value!r}")
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        return value

    return check
