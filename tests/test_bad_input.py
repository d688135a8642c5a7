"""Bad input: each operation x each array x each fault raises, and no byte of any array changes.

The faults are those of advisories and crash reports: second paths that miss a check the first has.
So the operations are listed once, the faults once, and the tests are their product.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from bad_input_calls import CALLS, C, Call, N, f32, labels

import innerloop as il
from innerloop.reference import OPTIMIZERS


class Raises:
    """An object that promises memory and raises when asked for it."""

    def __dlpack__(self, **kwargs: Any) -> Any:
        raise RuntimeError("no memory here")

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


class Lies:
    """An object whose ``__array_interface__`` is none."""

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {"version": 3, "shape": "three", "typestr": "<f4", "data": (0, False)}


def broadcast(a: np.ndarray) -> np.ndarray:
    """Writeable, but every element of the first axis is at one address."""
    return np.lib.stride_tricks.as_strided(a, a.shape, (0, *a.strides[1:]), writeable=True)


def read_only(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flags.writeable = False
    return a


NOT_ARRAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "list": lambda a: [[1.0]],
    "number": lambda a: 1.5,
    "string": lambda a: "logits",
    "object": lambda a: object(),
    "masked": np.ma.masked_array,
    "raising dlpack": lambda a: Raises(),
    "lying interface": lambda a: Lies(),
}
DTYPES: dict[str, Callable[[np.ndarray], Any]] = {
    dtype: lambda a, dtype=dtype: a.astype(dtype)
    for dtype in (
        *("complex64", "object", "bool", "S3", "M8[s]", ">f2", ">f4", ">f8", "longdouble"),
        ml_dtypes.float8_e4m3fn,
    )
}
SHAPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rank + 1": lambda a: a[None].copy(),
    "rank - 1": lambda a: a.reshape(-1)[: a.shape[-1]].copy() if a.ndim > 1 else a[:1].reshape(()),
    "rank 0": lambda a: a.reshape(-1)[:1].reshape(()),
    "longer": lambda a: np.concatenate([a, a[-1:]]),
    "shorter": lambda a: a[:-1].copy(),
    "wider": lambda a: np.concatenate([a, a[..., -1:]], axis=-1),
    "empty": lambda a: a[:0].copy(),
    "huge": lambda a: np.broadcast_to(a.reshape(-1)[:1], (2**29, 2**29)),
}
OUTPUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "read-only": read_only,
    "stored twice": broadcast,
}


def refuses(call: Call, errors: tuple[type[Exception], ...], **changed: Any) -> str:
    """Check that the call raises one of these errors and changes no byte; return the message."""
    everything = [
        a for a in (*call.arrays.values(), *changed.values()) if isinstance(a, np.ndarray)
    ]
    everything = [a for a in everything if a.size < 10_000]
    before = [a.tobytes() for a in everything]
    with pytest.raises(errors) as error:
        call.run(**changed)
    assert [a.tobytes() for a in everything] == before
    assert type(error.value) in errors, f"{type(error.value).__name__} is not of the stated kind"
    return str(error.value)


def names(call: Call, message: str) -> bool:
    """Whether a message names an argument and says what it got."""
    named = any(re.search(rf"\b{a}\b", message) for a in call.arrays)
    return named and "got" in message


@pytest.mark.parametrize("name", CALLS)
def test_the_calls_are_right(target: str, name: str) -> None:
    """Otherwise the tests below would show nothing."""
    call = CALLS[name]
    call.run(**{a: array.copy() for a, array in call.arrays.items() if a in call.writes})


@pytest.mark.parametrize("fault", [*NOT_ARRAYS, *DTYPES], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_wrong_kind(target: str, name: str, fault: str) -> None:
    call = CALLS[name]
    for argument, array in call.arrays.items():
        if fault in DTYPES and np.dtype(fault) == array.dtype:
            continue
        wrong = {**NOT_ARRAYS, **DTYPES}[fault](array)
        message = refuses(call, (TypeError,), **{argument: wrong})
        assert re.search(rf"\b{argument}\b", message) and "got" in message, message


@pytest.mark.parametrize("dtype", ["float64", "float16", ml_dtypes.bfloat16], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_other_float_dtype(target: str, name: str, dtype: str) -> None:
    call = CALLS[name]
    for argument, array in call.arrays.items():
        mixes = dtype != "float64" and (name.endswith("_step") or argument in call.mixes)
        if array.dtype == np.float32 and argument not in call.any_shape and not mixes:
            assert names(call, refuses(call, (TypeError,), **{argument: array.astype(dtype)}))


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16], ids=str)
@pytest.mark.parametrize("name", [n for n in CALLS if not n.endswith("_step")])
def test_float32_beside_half(target: str, name: str, dtype: str) -> None:
    """Weights of losses may be; what norms save and keep running has to be, and steps take any."""
    kept = ("saved", "running_mean", "running_var") if "norm" in name else ()
    single = {
        a: v for a, v in CALLS[name].arrays.items() if v.dtype == np.float32 and a not in kept
    }
    call = replace(
        CALLS[name], arrays=CALLS[name].arrays | {a: v.astype(dtype) for a, v in single.items()}
    )
    for argument, array in single.items():
        if len(single) > 1 and argument not in call.weights:
            assert names(call, refuses(call, (TypeError,), **{argument: array}))


@pytest.mark.parametrize("fault", SHAPES)
@pytest.mark.parametrize("name", CALLS)
def test_wrong_shape(target: str, name: str, fault: str) -> None:
    call = CALLS[name]
    for argument, array in call.arrays.items():
        wrong = SHAPES[fault](array)
        free = argument in call.any_shape or (argument in call.one_element and wrong.size == 1)
        if wrong.shape == array.shape or free:
            continue
        message = refuses(call, (ValueError,), **{argument: wrong})
        assert names(call, message) or "memory" in message, message


@pytest.mark.parametrize("fault", OUTPUTS)
@pytest.mark.parametrize("name", [n for n, c in CALLS.items() if c.writes])
def test_outputs_that_cannot_be_written(target: str, name: str, fault: str) -> None:
    call = CALLS[name]
    for argument in call.writes:
        wrong = OUTPUTS[fault](call.arrays[argument])
        if wrong.shape[0] > 1:
            message = refuses(call, (ValueError,), **{argument: wrong})
            assert re.search(rf"\b{argument}\b", message) and "got" in message, message


@pytest.mark.parametrize("name", [n for n, c in CALLS.items() if c.writes])
def test_overlaps(target: str, name: str) -> None:
    """An output may be an input itself where the operation says so, and else shares no byte."""
    call = CALLS[name]
    for output in call.writes:
        for argument, array in call.arrays.items():
            if argument == output:
                continue
            size = max(array.nbytes, call.arrays[output].nbytes)
            memory = np.zeros(size + 64, np.uint8)
            shape, dtype = call.arrays[output].shape, call.arrays[output].dtype
            for shift in (0, array.itemsize):
                given = memory[: array.nbytes].view(array.dtype).reshape(array.shape)
                given[...] = array
                out = memory[shift : shift + call.arrays[output].nbytes].view(dtype).reshape(shape)
                if shift == 0 and {argument, f"{output} {argument}"} & {*call.in_place}:
                    continue
                message = refuses(call, (ValueError,), **{argument: given, output: out})
                assert "overlap" in message or "twice" in message, message


LABELS = [(0, C), (N - 1, -1), (2, C + 1), (1, 2**62), (3, -(2**63))]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("return_grad", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_labels_out_of_range(
    target: str, reduction: str, return_grad: bool, weighted: bool, label_smoothing: float
) -> None:
    for row, label in LABELS:
        wrong = labels()
        wrong[row] = label
        call = Call(
            il.softmax_cross_entropy,
            {"logits": f32(N, C), "target": wrong},
            {"reduction": reduction, "label_smoothing": label_smoothing},
        )
        if weighted:
            call.arrays["weight"] = abs(f32(C))
        if return_grad:
            call.arrays["out"] = f32(N, C)
            call.other["return_grad"] = True
        message = refuses(call, (IndexError,))
        assert "target" in message and str(label) in message, message
        if return_grad:  # in place
            logits = call.arrays["logits"]
            refuses(call, (IndexError,), out=logits)
        call.other["ignore_index"] = label
        call.run()  # the same label is right when it is the one to ignore


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint64", "int32", "uint16"])
def test_labels_of_every_integer_type(target: str, dtype: str) -> None:
    wrong = labels().astype(dtype)
    want = il.softmax_cross_entropy(f32(N, C), labels())
    assert il.softmax_cross_entropy(f32(N, C), wrong) == want
    wrong[0] = np.iinfo(dtype).max
    call = Call(il.softmax_cross_entropy, {"logits": f32(N, C), "target": wrong})
    assert str(np.iinfo(dtype).max) in refuses(call, (IndexError,))


SCALARS = [
    ("leaky_relu", {"negative_slope": float("nan")}, ValueError),
    ("elu", {"alpha": float("nan")}, ValueError),
    ("elu", {"alpha": "a"}, TypeError),
    ("celu", {"alpha": 0.0}, ValueError),
    ("celu", {"alpha": -1.0}, ValueError),
    ("celu", {"alpha": float("inf")}, ValueError),
    ("celu_backward", {"alpha": float("nan")}, ValueError),
    ("softplus", {"beta": 0.0}, ValueError),
    ("softplus", {"beta": -1.0}, ValueError),
    ("softplus", {"beta": 1e-39}, ValueError),
    ("softplus_backward", {"beta": float("nan")}, ValueError),
    ("softplus_backward", {"threshold": float("nan")}, ValueError),
    ("linear 6 relu", {"activation": "elu", "alpha": float("nan")}, ValueError),
    ("glu", {"axis": 2}, ValueError),
    ("glu", {"axis": -3}, ValueError),
    ("swiglu_backward", {"axis": 0.5}, TypeError),
    ("geglu_backward", {"axis": 2}, ValueError),
    ("softmax", {"axis": 2}, ValueError),
    ("softmax", {"axis": -3}, ValueError),
    ("softmax", {"axis": 2**40}, ValueError),
    ("softmax", {"axis": 0.5}, TypeError),
    ("log_softmax_backward", {"axis": 2}, ValueError),
    ("linear 6 relu", {"activation": "nothing"}, ValueError),
    ("linear 6 relu", {"activation": 3}, TypeError),
    ("linear 6 relu", {"negative_slope": 0.1}, TypeError),
    ("linear_backward 6 relu", {"saved": None}, TypeError),
    ("linear_backward 6 relu", {"activation": "nothing"}, ValueError),
    ("linear_cross_entropy index", {"reduction": "average"}, ValueError),
    ("linear_cross_entropy index", {"label_smoothing": 1.1}, ValueError),
    ("linear_cross_entropy index", {"z_loss": -1.0}, ValueError),
    ("linear_cross_entropy index", {"ignore_index": 0.5}, TypeError),
    ("linear_cross_entropy index", {"grad_scale": "a"}, TypeError),
    ("linear_cross_entropy index", {"b": None}, ValueError),
    ("dropout", {"p": 1.5}, ValueError),
    ("dropout", {"seed": -1}, ValueError),
    ("dropout_backward", {"p": float("nan")}, ValueError),
    ("dropout_backward", {"offset": 2**64}, ValueError),
    ("dropout_backward", {"seed": 0.5}, TypeError),
    ("layer_norm", {"eps": -1e-5}, ValueError),
    ("layer_norm", {"eps": float("nan")}, ValueError),
    ("layer_norm", {"eps": "small"}, TypeError),
    ("layer_norm", {"return_saved": "yes"}, TypeError),
    ("rms_norm", {"eps": -1e-5}, ValueError),
    ("batch_norm True 2", {"eps": -1e-5}, ValueError),
    ("batch_norm True 2", {"momentum": 1.1}, ValueError),
    ("batch_norm True 2", {"momentum": float("nan")}, ValueError),
    ("batch_norm True 3", {"training": 2}, TypeError),
    ("batch_norm False 2", {"running_mean": None}, TypeError),
    ("batch_norm False 3", {"running_var": None}, TypeError),
    ("batch_norm_backward True 2", {"training": None}, TypeError),
    ("layer_norm_backward", {"bias": "no"}, TypeError),
    ("softmax_cross_entropy mean index ", {"axis": 2}, ValueError),
    ("softmax_cross_entropy mean index ", {"reduction": "average"}, ValueError),
    ("softmax_cross_entropy mean index ", {"reduction": 1}, TypeError),
    ("softmax_cross_entropy mean index ", {"label_smoothing": -0.1}, ValueError),
    ("softmax_cross_entropy mean index ", {"label_smoothing": 1.1}, ValueError),
    ("softmax_cross_entropy mean index ", {"label_smoothing": float("nan")}, ValueError),
    ("softmax_cross_entropy mean index ", {"label_smoothing": "a"}, TypeError),
    ("softmax_cross_entropy mean index ", {"ignore_index": 0.5}, TypeError),
    ("softmax_cross_entropy mean index ", {"grad_scale": "a"}, TypeError),
    ("softmax_cross_entropy mean index ", {"grad_scale": float("nan")}, ValueError),
    ("softmax_cross_entropy mean index ", {"return_grad": False}, ValueError),
    ("softmax_cross_entropy mean index ", {"z_loss": -1e-4}, ValueError),
    ("softmax_cross_entropy mean index ", {"z_loss": float("nan")}, ValueError),
    ("softmax_cross_entropy mean index ", {"z_loss": float("inf")}, ValueError),
    ("softmax_cross_entropy mean index ", {"z_loss": "a"}, TypeError),
    ("nll_loss mean True", {"axis": 2}, ValueError),
    ("nll_loss mean True", {"ignore_index": 0.5}, TypeError),
    ("nll_loss mean True", {"reduction": "batchmean"}, ValueError),
    ("nll_loss mean True", {"grad_scale": float("nan")}, ValueError),
    ("nll_loss mean True", {"return_grad": False}, ValueError),
    ("mse_loss mean True", {"reduction": "batchmean"}, ValueError),
    ("huber_loss mean True", {"delta": 0.0}, ValueError),
    ("smooth_l1_loss mean True", {"beta": -0.1}, ValueError),
    ("kl_div mean True", {"log_target": 2}, ValueError),
    ("sgd_step", {"lr": -1.0}, ValueError),
    ("sgd_step", {"lr": float("nan")}, ValueError),
    ("sgd_step", {"lr": "fast"}, TypeError),
    ("sgd_step", {"momentum": -0.1}, ValueError),
    ("sgd_step", {"nesterov": True, "momentum": 0.0}, ValueError),
    ("sgd_step", {"nesterov": True, "dampening": 0.1}, ValueError),
    ("sgd_step", {"momentum_buffers": None}, ValueError),
    ("sgd_step", {"weight_decay": -1.0}, ValueError),
    ("sgd_step", {"step": 0}, ValueError),
    ("sgd_step", {"step": -1}, ValueError),
    ("sgd_step", {"step": 1.5}, TypeError),
    ("adam_step", {"betas": (1.0, 0.9)}, ValueError),
    ("adam_step", {"betas": (0.9, -0.1)}, ValueError),
    ("adam_step", {"betas": (0.9,)}, (TypeError, ValueError)),
    ("adam_step", {"betas": 0.9}, TypeError),
    ("adam_step", {"eps": -1e-8}, ValueError),
    ("adam_step", {"step": 0}, ValueError),
    ("adamw_step", {"weight_decay": -0.1}, ValueError),
    ("rmsprop_step", {"alpha": -0.1}, ValueError),
    ("rmsprop_step", {"grad_avgs": None}, ValueError),
    ("rmsprop_step", {"momentum_buffers": None}, ValueError),
    ("rmsprop_step", {"nothing": 1}, TypeError),
    ("adam_step", {"max_exp_avg_sqs": None}, ValueError),
    ("adagrad_step", {"lr_decay": -0.1}, ValueError),
    ("adagrad_step", {"state_sums": None}, ValueError),
    ("adadelta_step", {"rho": 1.1}, ValueError),
    ("adadelta_step", {"rho": float("nan")}, ValueError),
    ("adamax_step", {"betas": (0.9, 1.0)}, ValueError),
    ("nadam_step", {"momentum_decay": -1.0}, ValueError),
    ("nadam_step", {"decoupled_weight_decay": 2}, ValueError),
    ("radam_step", {"eps": -1e-8}, ValueError),
    ("lion_step", {"betas": (0.9, 2.0)}, ValueError),
    ("clip_grad_norm", {"max_norm": -1.0}, ValueError),
    ("clip_grad_norm", {"max_norm": float("nan")}, ValueError),
    ("clip_grad_norm", {"max_norm": None}, TypeError),
    *(
        (f"{name}_step", {option: value}, error)
        for name in OPTIMIZERS
        for option, value, error in (
            ("max_norm", -1.0, ValueError),
            ("max_norm", float("nan"), ValueError),
            ("max_norm", "big", TypeError),
            ("grad_scale", 0.0, ValueError),
            ("grad_scale", float("inf"), ValueError),
            ("grad_scale", None, TypeError),
            ("l1", -0.1, ValueError),
            ("l1", "none", TypeError),
            ("maximize", 3, ValueError),
        )
    ),
]


@pytest.mark.parametrize(("name", "changed", "error"), SCALARS, ids=str)
def test_scalars(target: str, name: str, changed: dict[str, Any], error: Any) -> None:
    message = refuses(CALLS[name], error if isinstance(error, tuple) else (error,), **changed)
    assert any(key.rstrip("s") in message for key in changed) or "activation" in message, message


@pytest.mark.parametrize("step", [f"{name}_step" for name in OPTIMIZERS])
def test_lists(target: str, step: str) -> None:
    """One wrong array, last in a list, and nothing of the others is written."""
    call = CALLS[step]

    def lists(n: int) -> dict[str, list[np.ndarray]]:
        return {a: [array + i for i in range(n)] for a, array in call.arrays.items()}

    def refused(arguments: dict[str, Any], error: type[Exception]) -> None:
        arrays = [a for given in arguments.values() for a in given if isinstance(a, np.ndarray)]
        before = [a.tobytes() for a in arrays]
        with pytest.raises(error, match=r"got|twice|overlap"):
            call.run(**arguments)
        assert [a.tobytes() for a in arrays] == before

    call.run(**lists(3))
    for argument in call.arrays:
        shorter = lists(3)
        shorter[argument].pop()
        refused(shorter, ValueError)
        wrong = lists(3)
        wrong[argument][2] = wrong[argument][2].astype("f8")
        refused(wrong, TypeError)
        wrong = lists(3)
        wrong[argument][2] = wrong[argument][2][:-1]
        refused(wrong, ValueError)
        wrong = lists(3)
        wrong[argument][2] = 1.0
        refused(wrong, TypeError)
        twice = lists(3)
        twice[argument][2] = twice[argument][0]
        if argument in call.writes:
            refused(twice, ValueError)
    mixed = lists(3)
    mixed["params"] = mixed["params"][0]
    refused(mixed, (TypeError, ValueError))


X = f32(4, 3)
HUGE = np.broadcast_to(np.float32(0), (1, 288212785039343601))  # bytes of 16 rows wrap around 2^64

ODD: list[tuple[str, Callable[[], Any], tuple[type[Exception], ...]]] = [
    ("no name", lambda: il.activation(X, None), (TypeError,)),
    ("no name, backward", lambda: il.activation_backward(X, X, None), (TypeError,)),
    ("name with a zero byte", lambda: il.activation(X, "relu\0junk"), (ValueError,)),
    ("zero byte, linear", lambda: il.linear(X, X.T, activation="relu\0"), (ValueError,)),
    ("name that is no text", lambda: il.linear(X, X.T, activation="\ud800"), (TypeError,)),
    ("reduction", lambda: il.softmax_cross_entropy(X, [0], reduction="\ud800"), (TypeError,)),
    ("huge number", lambda: il.leaky_relu(X, 10**400), (ValueError,)),
    ("flag", lambda: il.linear(X, X.T, return_saved="no"), (TypeError,)),
    ("axis that is a bool", lambda: il.softmax(X, True), (TypeError,)),
    ("NumPy scalar", lambda: il.relu(np.float32(1)), (TypeError,)),
    ("too many arguments", lambda: il.gelu(X, X), (TypeError,)),
    ("unneeded x", lambda: il.relu_backward(X, "garbage", y=X), (TypeError,)),
    ("unneeded y", lambda: il.gelu_backward(X, X, y="garbage"), (TypeError,)),
    ("unneeded saved", lambda: il.linear_backward(X, X, np.eye(3, dtype="f4"), "no"), (TypeError,)),
    ("huge row", lambda: il.softmax_cross_entropy(HUGE, np.zeros(1, int)), (MemoryError,)),
    ("huge rows", lambda: il.softmax_cross_entropy(HUGE.T, HUGE.T), (MemoryError, ValueError)),
    ("huge output", lambda: il.relu(HUGE), (MemoryError, ValueError)),
    ("PackedWeight", lambda: il.PackedWeight(), (TypeError,)),
    ("PackedWeight, raw", lambda: il.PackedWeight.__new__(il.PackedWeight), (TypeError,)),
    ("packed, other dtype", lambda: il.linear(X, il.pack(np.ones((3, 2)))), (TypeError,)),
    ("packed, other shape", lambda: il.linear(X, il.pack(f32(4, 2))), (ValueError,)),
    ("pack of a vector", lambda: il.pack(X[0]), (ValueError,)),
    ("prelu, out no tuple", lambda: il.prelu_backward(X, X, X[0, :1], out=X), (TypeError,)),
    ("prelu, out of three", lambda: il.prelu_backward(X, X, X[0], out=(X, X, X)), (TypeError,)),
    ("prelu, a vector's channels", lambda: il.prelu(X[0], X[0]), (ValueError,)),
    ("prelu, weights of 2 axes", lambda: il.prelu(X, X[:1]), (ValueError,)),
    ("prelu, a number", lambda: il.prelu(X, 0.25), (TypeError,)),
    ("prelu, huge", lambda: il.prelu(HUGE, np.zeros(1, "f4")), (MemoryError, ValueError)),
    ("glu of a 0-d array", lambda: il.glu(np.array(1.0)), (ValueError,)),
    ("glu of odd length", lambda: il.glu(X), (ValueError,)),
    ("glu, huge", lambda: il.glu(HUGE[:, 1:]), (MemoryError, ValueError)),
    ("out that is no tuple", lambda: il.linear_backward(X, X, np.eye(3), out=X), (TypeError,)),
]


@pytest.mark.parametrize(("call", "errors"), [c[1:] for c in ODD], ids=[c[0] for c in ODD])
def test_odd_cases(
    target: str, call: Callable[[], Any], errors: tuple[type[Exception], ...]
) -> None:
    before = X.tobytes()
    with pytest.raises(errors):
        call()
    assert X.tobytes() == before


def test_an_interrupt_is_not_swallowed() -> None:
    class Interrupts:
        def __float__(self) -> float:
            raise KeyboardInterrupt

        def __index__(self) -> int:
            raise KeyboardInterrupt

    for call in (lambda: il.leaky_relu(X, Interrupts()), lambda: il.softmax(X, Interrupts())):
        with pytest.raises(KeyboardInterrupt):
            call()


def test_nothing_is_written_before_a_warning_that_is_an_error(target: str) -> None:
    """A loss too large for its type is infinite, and NumPy is not asked to say so."""
    z = np.full((40, 2), 3e38, "f4")
    z[:, 1] = -3e37
    with np.errstate(all="raise"):
        loss, _ = il.softmax_cross_entropy(z, np.ones(40, int), reduction="sum", return_grad=True)
    assert np.isinf(loss)


def test_empty_weights_take_no_time(target: str) -> None:
    wide = np.broadcast_to(np.float32(1), (0, 2**40))
    with pytest.raises((MemoryError, ValueError)):
        il.linear(np.ones((1, 0), "f4"), wide)  # 4 TB of zeros
    assert il.pack(wide).shape == (0, 2**40)
