"""Every operation once, as a call that is right: test_bad_input.py makes them wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import innerloop as il
from innerloop.reference import ACTIVATIONS, GATED, LOSSES, OPTIMIZERS
from support import numbers

N, C, K = 6, 5, 7  # rows, classes or outputs, inputs


@dataclass
class Call:
    """A call that is right: its arrays by argument, what else it takes, and what it writes to."""

    function: Callable[..., Any]
    arrays: dict[str, np.ndarray]
    other: dict[str, Any] = field(default_factory=dict)
    writes: tuple[str, ...] = ("out",)
    any_shape: tuple[str, ...] = ()  # arrays that may have a shape and dtype of their own choice
    one_element: tuple[str, ...] = ()  # arrays that may also be of one element
    in_place: tuple[str, ...] = ()  # inputs that `out` may be, or "dx x": x that dx may be
    mixes: tuple[str, ...] = ()  # that may be half precision beside float32; all of a step's
    weights: tuple[str, ...] = ()  # that may be float32 beside half precision

    def run(self, **changed: Any) -> Any:
        return self.function(**(self.arrays | self.other | changed))


def f32(*shape: int, seed: int = 0) -> np.ndarray:
    return numbers(shape, "float32", seed)


def labels() -> np.ndarray:
    return np.arange(N) % C


def linear_backward(dy: Any, x: Any, w: Any, saved: Any = None, **other: Any) -> Any:
    """With each output as an argument of its own."""
    out = tuple(other.pop(name) for name in ("dx", "dw", "db"))
    return il.linear_backward(dy, x, w, saved, out=out, **other)


def linear_cross_entropy(x: Any, w: Any, target: Any, b: Any, **other: Any) -> Any:
    out = tuple(other.pop(name) for name in ("dx", "dw", "db"))
    return il.linear_cross_entropy(x, w, target, b, out=out, return_grad=True, **other)


def prelu_backward(dy: Any, x: Any, weight: Any, dx: Any, dweight: Any) -> Any:
    """With each output as an argument of its own."""
    return il.prelu_backward(dy, x, weight, out=(dx, dweight))


def calls() -> Iterator[tuple[str, Call]]:
    for name in il.activations.NAMES:
        x = f32(N, C)
        yield name, Call(getattr(il, name), {"x": x, "out": f32(N, C)}, in_place=("x",))
        arrays = {"dy": f32(N, C), "x": x, "out": f32(N, C)}
        backward = getattr(il, f"{name}_backward")
        yield f"{name}_backward", Call(backward, arrays, in_place=("dy", "x"))
        if ACTIVATIONS[name].saves_output:
            arrays = {"dy": f32(N, C), "y": f32(N, C), "out": f32(N, C)}
            yield (
                f"{name}_backward from y",
                Call(backward, arrays, {"x": None}, in_place=("dy", "y")),
            )
    arrays = {"x": f32(N, C), "weight": f32(C), "out": f32(N, C)}
    yield "prelu", Call(il.prelu, arrays, one_element=("weight",), in_place=("x",))
    arrays = {"dy": f32(N, C), "x": f32(N, C), "weight": f32(C)}
    arrays |= {"dx": f32(N, C), "dweight": f32(C)}
    writes = ("dx", "dweight")
    yield "prelu_backward", Call(prelu_backward, arrays, writes=writes, in_place=("dy", "x"))
    for name in GATED:
        yield name, Call(getattr(il, name), {"x": f32(N, 2 * C), "out": f32(N, C)})
        arrays = {"dy": f32(N, C), "x": f32(N, 2 * C), "out": f32(N, 2 * C)}
        yield f"{name}_backward", Call(getattr(il, f"{name}_backward"), arrays)
    for name in ("softmax", "log_softmax"):
        yield name, Call(getattr(il, name), {"x": f32(N, C), "out": f32(N, C)}, in_place=("x",))
        arrays = {"dy": f32(N, C), "y": f32(N, C), "out": f32(N, C)}
        yield (
            f"{name}_backward",
            Call(getattr(il, f"{name}_backward"), arrays, in_place=("dy", "y")),
        )
    for m in (1, N):
        for activation in (None, "gelu", "relu"):
            arrays = {"x": f32(m, K), "w": f32(K, C), "b": f32(C), "out": f32(m, C)}
            other = {"activation": activation}
            yield f"linear {m} {activation}", Call(il.linear, arrays, other)
            arrays = {"dy": f32(m, C), "x": f32(m, K), "w": f32(K, C), "saved": f32(m, C)}
            if activation is None:
                arrays.pop("saved")
            arrays |= {"dx": f32(m, K), "dw": f32(K, C), "db": f32(C)}
            backward = Call(linear_backward, arrays, other, writes=("dx", "dw", "db"))
            yield f"linear_backward {m} {activation}", backward
    for reduction in ("mean", "sum", "none"):
        for kind in ("index", "probability"):
            weights = {"weight": abs(f32(C)), "sample_weight": abs(f32(N))}
            for weight in ({}, weights):
                target = labels() if kind == "index" else abs(f32(N, C))
                arrays = {"logits": f32(N, C), "target": target, "out": f32(N, C)} | weight
                other = {"reduction": reduction, "return_grad": True}
                name = f"softmax_cross_entropy {reduction} {kind} {'weighted' * bool(weight)}"
                call = Call(il.softmax_cross_entropy, arrays, other, in_place=("logits",))
                call.weights = ("weight", "sample_weight")
                yield name, call
    for kind in ("index", "probability"):
        arrays = {"x": f32(N, K), "w": f32(K, C), "b": f32(C)}
        arrays["target"] = labels() if kind == "index" else abs(f32(N, C))
        arrays |= {"weight": abs(f32(C)), "sample_weight": abs(f32(N))}
        arrays |= {"dx": f32(N, K), "dw": f32(K, C), "db": f32(C)}
        call = Call(linear_cross_entropy, arrays, {"z_loss": 0.1}, writes=("dx", "dw", "db"))
        call.weights = ("weight", "sample_weight")
        yield f"linear_cross_entropy {kind}", call
    for reduction, return_grad in (("mean", True), ("none", True), ("sum", False)):
        out = {"out": f32(N, C)} if return_grad else {}
        other = {"reduction": reduction, "return_grad": return_grad}
        writes = ("out",) * return_grad
        for name, loss in LOSSES.items():
            pair = {"pred": il.sigmoid(f32(N, C)), "target": il.sigmoid(f32(N, C, seed=1))}
            arrays = pair | {"sample_weight": abs(f32(N, C))} | out
            call = Call(getattr(il, name), arrays, other, writes, in_place=("pred",))
            call.weights = ("sample_weight",)
            yield f"{name} {reduction} {return_grad}", call
            if loss.array:
                arrays = arrays | {loss.array: abs(f32(N, C))}
                call = Call(getattr(il, name), arrays, other, writes, in_place=("pred",))
                call.any_shape = (loss.array,)
                call.weights = ("sample_weight", loss.array)
                yield f"{name} {reduction} {return_grad} {loss.array}", call
        arrays = {"log_probs": f32(N, C), "target": labels(), "weight": abs(f32(C))}
        arrays |= {"sample_weight": abs(f32(N))} | out
        call = Call(il.nll_loss, arrays, other, writes, in_place=("log_probs",))
        call.mixes = () if return_grad else ("log_probs",)
        call.weights = ("weight", "sample_weight")
        yield f"nll_loss {reduction} {return_grad}", call
    for name, optimizer in OPTIMIZERS.items():
        states = [f"{state}s" for state in optimizer.states]
        arrays = {a: abs(f32(N, C)) for a in ["params", "grads", *states]}
        every_state = dict.fromkeys(optimizer.needs.values(), True)  # 1 for a number
        call = Call(getattr(il, f"{name}_step"), arrays, {"step": 2, **every_state})
        call.writes = tuple(a for a in arrays if a != "grads")
        yield f"{name}_step", call
    yield (
        "clip_grad_norm",
        Call(il.clip_grad_norm, {"grads": f32(N, C)}, {"max_norm": 0.1}, ("grads",), ("grads",)),
    )


def norm_backward(function: Callable[..., Any]) -> Callable[..., Any]:
    """With each output as an argument of its own."""

    def call(**given: Any) -> Any:
        names = [n for n in ("dx", "dweight", "dbias") if n in given]
        return function(out=tuple(given.pop(n) for n in names), **given)

    return call


def regularisers() -> Iterator[tuple[str, Call]]:
    seed = {"p": 0.5, "seed": 1}
    yield "dropout", Call(il.dropout, {"x": f32(N, C), "out": f32(N, C)}, seed, in_place=("x",))
    arrays = {"dy": f32(N, C), "out": f32(N, C)}
    yield "dropout_backward", Call(il.dropout_backward, arrays, seed, in_place=("dy",))
    for name in ("layer_norm", "rms_norm"):
        vectors = ("weight", "bias") if name == "layer_norm" else ("weight",)
        arrays = {"x": f32(N, C)} | {v: f32(C) for v in vectors} | {"out": f32(N, C)}
        yield name, Call(getattr(il, name), arrays, in_place=("x",))
        saved = abs(f32(2, N) if name == "layer_norm" else f32(N))
        arrays = {"dy": f32(N, C), "x": f32(N, C), "saved": saved, "weight": f32(C)}
        outputs = {"dx": f32(N, C)} | {f"d{v}": f32(C) for v in vectors}
        backward = norm_backward(getattr(il, f"{name}_backward"))
        call = Call(backward, arrays | outputs, writes=tuple(outputs), in_place=("dx dy", "dx x"))
        yield f"{name}_backward", call
    for training in (True, False):
        for shape in ((N, C), (2, C, 17)):
            running = {"running_mean": f32(C), "running_var": abs(f32(C))}
            arrays = {"x": f32(*shape), **running, "weight": f32(C), "bias": f32(C)}
            call = Call(il.batch_norm, arrays | {"out": f32(*shape)}, {"training": training})
            call.writes = ("out", *(running if training else ()))
            call.in_place = ("out x",)
            yield f"batch_norm {training} {len(shape)}", call
            arrays = {"dy": f32(*shape), "x": f32(*shape), "saved": abs(f32(2, C))}
            outputs = {"dx": f32(*shape), "dweight": f32(C), "dbias": f32(C)}
            backward = norm_backward(il.batch_norm_backward)
            call = Call(backward, arrays | {"weight": f32(C)} | outputs, {"training": training})
            call.writes, call.in_place = tuple(outputs), ("dx dy", "dx x")
            yield f"batch_norm_backward {training} {len(shape)}", call


CALLS = dict(calls()) | dict(regularisers())
