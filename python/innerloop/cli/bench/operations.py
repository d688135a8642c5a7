"""How many operations a formula takes, counted while the NumPy reference computes it.

Each arithmetic function of NumPy counts once an element, exp, tanh and division like a product,
choices and comparisons not at all. The limit that follows is an estimate: no kernel reaches it
whose exp is a polynomial of a dozen products, and one may pass it that shares what the reference,
as it stands, computes twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


class _Counted(np.ndarray):
    """An array that adds the elements of every operation that it takes part in."""

    total = 0

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, out: tuple[Any, ...] = (), **options: Any
    ) -> Any:
        plain = [_plain(array) for array in inputs]
        if out:
            options["out"] = tuple(_plain(array) for array in out)
        result = getattr(ufunc, method)(*plain, **options)
        if np.asarray(result).dtype.kind == "f":  # of a sum, as many as it takes in
            reads = 0 if method == "__call__" else max(np.size(array) for array in plain)
            _Counted.total += max(np.size(result), reads)
        return result.view(_Counted) if isinstance(result, np.ndarray) else result


def _plain(array: Any) -> Any:
    return array.view(np.ndarray) if isinstance(array, _Counted) else array


def operations(function: Callable[..., Any], *arguments: Any, **options: Any) -> float:
    """Return the operations of a call, for each element of its first argument."""
    _Counted.total = 0
    function(*(a.view(_Counted) if isinstance(a, np.ndarray) else a for a in arguments), **options)
    return _Counted.total / arguments[0].size
