"""What the optimizers refuse, with nothing written."""

from __future__ import annotations

import numpy as np
import pytest
from optimizer_cases import NAMES, random, read_only, same_bits

import innerloop as il
from innerloop.reference import OPTIMIZERS


def good(name="adam", n=5, dtype=np.float32):
    count = len(OPTIMIZERS[name].states)
    return [random(n, dtype, 1), random(n, dtype, 2), *(np.zeros(n, dtype) for _ in range(count))]


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
