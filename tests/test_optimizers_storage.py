"""Optimizers over arrays that are not all float32: the float32 step, exactly, and roundings.

The oracle is the same step over float32 copies; what it leaves is then rounded by the reference's
`rounding`. So these tests compare bits.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import innerloop as il
from innerloop.reference import OPTIMIZERS, rounding
from support import LAYOUTS, equal_bits, numbers

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
HALVES = [np.dtype(np.float16), BFLOAT16]
SIZES = [0, 1, 255, 256, 257, 1025, 70001]


def step_function(name: str) -> Any:
    return getattr(il, f"{name}_step")


def options(name: str) -> dict[str, Any]:
    """Hyperparameters with which every state is used."""
    return {h: 0.9 if h == "momentum" else True for h in OPTIMIZERS[name].needs.values()}


def bits(a: np.ndarray) -> np.ndarray:
    return a.view(np.uint16)


def start(name: str, n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Param, grad and states in float32, as in mid-training."""
    entry = OPTIMIZERS[name]
    arrays = {"params": numbers(n, "float32", seed), "grads": numbers(n, "float32", seed + 1)}
    for i, state in enumerate(entry.states):
        arrays[f"{state}s"] = np.abs(numbers(n, "float32", seed + 2 + i))
    return arrays


def halved(arrays: dict[str, np.ndarray], dtype: np.dtype) -> dict[str, np.ndarray]:
    """Copies, with params and grads in half precision."""
    return {k: v.astype(dtype) if k in ("params", "grads") else v.copy() for k, v in arrays.items()}


def rounded(a: np.ndarray, dtype: Any) -> np.ndarray:
    with np.errstate(all="ignore"):
        return a.astype(dtype)


def to_bfloat16(a: np.ndarray) -> np.ndarray:
    return rounded(a, BFLOAT16)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_half_params_are_widened_and_rounded_once(isa: str, name: str, dtype: np.dtype) -> None:
    for n in SIZES:
        wide = start(name, n)
        half = {
            k: v.astype(dtype) if k in ("params", "grads") else v.copy() for k, v in wide.items()
        }
        wide |= {k: half[k].astype("f4") for k in ("params", "grads")}
        step_function(name)(**half, step=3, **options(name))
        step_function(name)(**wide, step=3, **options(name))
        assert equal_bits(
            half["params"].astype("f4"), rounded(rounded(wide["params"], dtype), "f4")
        )
        for k in wide:
            if k not in ("params", "grads"):
                np.testing.assert_array_equal(half[k], wide[k])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_half_params(target: str, layout: str) -> None:
    wide = {k: v.reshape(5, 7, 30)[:, :, :27] for k, v in start("adam", 1050).items()}
    plain = {
        k: v.astype(BFLOAT16) if k in ("params", "grads") else v.copy() for k, v in wide.items()
    }
    moved = {k: LAYOUTS[layout](v) for k, v in plain.items()}
    il.adam_step(**plain, step=1)
    il.adam_step(**moved, step=1)
    for k in plain:
        np.testing.assert_array_equal(plain[k], moved[k])


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_gradients_in_float32_beside_half_params(target: str, dtype: np.dtype) -> None:
    a, b = start("adam", 300), start("adam", 300)
    a["params"], b["params"] = a["params"].astype(dtype), b["params"].astype(dtype)
    b["grads"] = a["grads"].astype(dtype)
    a["grads"] = b["grads"].astype("f4")
    il.adam_step(**a, step=1, max_norm=1.0)
    il.adam_step(**b, step=1, max_norm=1.0)
    for k in ("params", "exp_avgs", "exp_avg_sqs"):
        np.testing.assert_array_equal(a[k], b[k])


@pytest.mark.parametrize("param_dtype", [np.dtype("f4"), *HALVES], ids=str)
@pytest.mark.parametrize("name", [n for n, e in OPTIMIZERS.items() if e.states])
def test_bfloat16_states_are_rounded_by_the_key(isa: str, name: str, param_dtype: np.dtype) -> None:
    states = [f"{s}s" for s in OPTIMIZERS[name].states]
    for n in SIZES:
        stored = start(name, n)
        stored |= {k: stored[k].astype(param_dtype) for k in ("params", "grads")}
        stored |= {k: to_bfloat16(stored[k]) for k in states}
        wide = {k: v.astype("f4") for k, v in stored.items()}
        step_function(name)(**stored, step=5, seed=11, **options(name))
        step_function(name)(**wide, step=5, **options(name))
        np.testing.assert_array_equal(stored["params"], rounded(wide["params"], param_dtype))
        key = rounding.rounding_key(11, 5, 0)
        for i, k in enumerate(states):
            expected = rounding.to_bfloat16(wide[k], rounding.state_key(key, i))
            np.testing.assert_array_equal(bits(stored[k]), expected)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_masters(isa: str, name: str) -> None:
    for n in SIZES:
        wide = start(name, n)
        grads = to_bfloat16(wide["grads"])
        wide["grads"] = grads.astype("f4")
        masters = wide["params"].copy()
        kept = {k: v.copy() for k, v in wide.items()} | {"grads": grads}
        kept["params"] = to_bfloat16(masters)
        upper, lower = rounding.split(wide["params"])
        halves = {k: v.copy() for k, v in kept.items()} | {"params": upper.view(BFLOAT16)}
        for step in (1, 2, 3):
            step_function(name)(**wide, step=step, **options(name))
            step_function(name)(**kept, masters=masters, step=step, **options(name))
            step_function(name)(**halves, masters=lower, step=step, **options(name))
        np.testing.assert_array_equal(masters, wide["params"])
        np.testing.assert_array_equal(kept["params"], to_bfloat16(masters))
        np.testing.assert_array_equal(rounding.join(bits(halves["params"]), lower), masters)


@pytest.mark.parametrize("state_dtype", ["bfloat16", "uint8"])
@pytest.mark.parametrize("param_dtype", [np.dtype("f4"), *HALVES], ids=str)
def test_the_reference_agrees(param_dtype: np.dtype, state_dtype: str) -> None:
    """It steps in float64, so a state may be rounded the other way now and then."""
    results = []
    for backend in ("cpu", "reference"):
        with il.use_backend(backend):
            param = numbers(1000, "float32").astype(param_dtype)
            optimizer = il.Adam(param, lr=1e-2, state_dtype=state_dtype, seed=3)
            for i in range(3):
                optimizer.step(numbers(1000, "float32", seed=i).astype(param_dtype))
            results.append(param.astype("f8"))
    assert np.abs(results[0] - results[1]).max() < 0.02


@pytest.mark.parametrize("state_dtype", ["float32", "bfloat16", "uint8"])
@pytest.mark.parametrize("master", [None, "float32", "split"])
def test_threads_and_repetition(
    state_dtype: str, master: str | None, restore_threads: None
) -> None:
    results = []
    for threads in (1, 2, 5):
        il.set_num_threads(threads)
        params = [to_bfloat16(numbers(n, "float32")) for n in (70001, 300, 1)]
        optimizer = il.AdamW(params, state_dtype=state_dtype, master=master, seed=7)
        for i in range(3):
            optimizer.step([to_bfloat16(numbers(p.shape, "float32", seed=i)) for p in params])
        results.append((params, optimizer.state_dict()))
    for params, state in results[1:]:
        for a, b in zip(params, results[0][0], strict=True):
            np.testing.assert_array_equal(a, b)
        assert state.keys() == results[0][1].keys()
        for k in state:
            np.testing.assert_array_equal(state[k], results[0][1][k])


@pytest.mark.parametrize("class_name", ["Adam", "SGD", "RMSprop", "Adagrad", "Lion"])
@pytest.mark.parametrize("state_dtype", ["bfloat16", "uint8"])
def test_training_goes_where_float32_goes(class_name: str, state_dtype: str) -> None:
    """Least squares: states of fewer bits end near the loss of float32 ones."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(256, 20)).astype("f4"), rng.normal(size=(20, 1)).astype("f4")
    losses = {}
    for kept in ("float32", state_dtype):
        found = np.zeros((20, 1), "f4")
        extra = {"momentum": 0.9} if class_name == "SGD" else {}
        optimizer = getattr(il, class_name)(found, lr=0.02, state_dtype=kept, **extra)
        for _ in range(300):
            optimizer.step(2 / 256 * x.T @ (x @ found - x @ w))
        losses[kept] = float(np.mean((x @ found - x @ w) ** 2))
    assert losses[state_dtype] < losses["float32"] + 0.01


def test_small_updates_are_not_lost() -> None:
    """bfloat16 params alone stand still under updates of 1/1000; with a master they do not."""
    for master, moves in ((None, False), ("float32", True), ("split", True)):
        param = np.ones(64, BFLOAT16)
        optimizer = il.SGD(param, lr=1e-3, master=master)
        for _ in range(100):
            optimizer.step(np.ones(64, BFLOAT16))
        assert (param.astype("f4") == np.float32(0.8984375)).all() == moves
        assert (param == 1).all() == (not moves)


@pytest.mark.parametrize("state_dtype", ["float32", "bfloat16", "uint8"])
@pytest.mark.parametrize("master", [None, "float32", "split"])
def test_state_dict_round_trip(tmp_path: Any, state_dtype: str, master: str | None) -> None:
    def make() -> tuple[list[np.ndarray], Any]:
        params = [to_bfloat16(numbers(300, "float32")), to_bfloat16(numbers(5, "float32"))]
        return params, il.Adam(params, state_dtype=state_dtype, master=master)

    params, optimizer = make()
    grads = [to_bfloat16(numbers(300, "float32", 5)), to_bfloat16(numbers(5, "float32", 6))]
    optimizer.step(grads)
    np.savez(tmp_path / "state.npz", **optimizer.state_dict())
    others, other = make()
    for a, b in zip(others, params, strict=True):
        a[...] = b
    with np.load(tmp_path / "state.npz", allow_pickle=False) as file:
        other.load_state_dict(dict(file))
    optimizer.step(grads)
    other.step(grads)
    for a, b in zip(others, params, strict=True):
        np.testing.assert_array_equal(a, b)


def test_torch_tensors() -> None:
    torch = pytest.importorskip("torch")
    for dtype in (torch.bfloat16, torch.float16):
        param, grad = torch.randn(300).to(dtype), torch.randn(300).to(dtype)
        expected = param.float()
        il.adam_step(expected, grad.float(), torch.zeros(300), torch.zeros(300), step=1)
        states = [torch.zeros(300), torch.zeros(300)]
        il.adam_step(param, grad, *states, step=1)
        assert torch.equal(param, expected.to(dtype))


def call(**changed: Any) -> None:
    arrays = {
        "params": np.ones(300, BFLOAT16),
        "grads": np.ones(300, BFLOAT16),
        "exp_avgs": np.zeros(300, "f4"),
        "exp_avg_sqs": np.zeros(300, "f4"),
        "step": 1,
    } | changed
    before = {k: v.tobytes() for k, v in arrays.items() if isinstance(v, np.ndarray)}
    try:
        il.adam_step(**arrays)
    finally:
        assert {k: arrays[k].tobytes() for k in before} == before


def read_only(a: np.ndarray) -> np.ndarray:
    a.flags.writeable = False
    return a


SHARED = np.zeros(600, "f4")
WIDE = {"params": np.ones(300, "f8"), "grads": np.ones(300, "f8")}
BAD = {
    "grads of the other half": ({"grads": np.ones(300, "f2")}, TypeError, "grads .*bfloat16"),
    "half grads of float32": ({"params": np.ones(300, "f4")}, TypeError, "grads .*float32"),
    "states of float16": ({"exp_avgs": np.zeros(300, "f2")}, TypeError, "exp_avgs .*float16"),
    "states of bytes": ({"exp_avgs": np.zeros(300, "u1")}, TypeError, "exp_avgs .*uint8"),
    "states of float64": ({"exp_avgs": np.zeros(300)}, TypeError, "exp_avgs .*float64"),
    "float64 and less": (WIDE, TypeError, "exp_avgs .*float64.*float32"),
    "strided states": (
        {"exp_avgs": np.zeros(600, BFLOAT16)[::2]},
        ValueError,
        "exp_avgs .*C order",
    ),
    "masters of float64": ({"masters": np.ones(300)}, TypeError, "masters .*float64"),
    "halves of float16": (
        {"params": np.ones(300, "f2"), "grads": np.ones(300, "f2"), "masters": np.ones(300, "i2")},
        TypeError,
        "masters .*int16",
    ),
    "masters of another shape": (
        {"masters": np.ones(299, "f4")},
        ValueError,
        r"masters .*\(299,\)",
    ),
    "read-only masters": (
        {"masters": read_only(np.ones(300, "f4"))},
        ValueError,
        "masters .*writeable",
    ),
    "too many masters": ({"masters": [np.ones(300, "f4")] * 2}, ValueError, "masters .*as many"),
    "masters that overlap a state": (
        {"masters": SHARED[:300], "exp_avgs": SHARED[200:500]},
        ValueError,
        "exp_avgs .*overlap masters",
    ),
    "a seed that is none": ({"seed": 1.5}, TypeError, "seed .*1.5"),
    "a seed below 0": ({"seed": -1}, ValueError, "seed .*-1"),
    "a seed of 65 bits": ({"seed": 2**64}, ValueError, r"seed .*2\^64"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(target: str, case: str) -> None:
    changed, error, words = BAD[case]
    with pytest.raises(error, match=words):
        call(**changed)


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"state_dtype": "float16"}, "state_dtype .*got 'float16'"),
        ({"master": "double"}, "master .*got 'double'"),
        ({"state_dtype": "bfloat16", "dtype": "f8"}, "state_dtype .*float64"),
        ({"master": "float32", "dtype": "f4"}, "master .*half precision"),
        ({"master": "split", "dtype": "f2"}, "master .*bfloat16"),
    ],
)
def test_bad_options_of_the_classes(keywords: dict[str, Any], words: str) -> None:
    param = np.ones(3, keywords.pop("dtype", BFLOAT16))
    with pytest.raises(ValueError, match=words):
        il.Adam(param, **keywords)


@pytest.mark.parametrize("seed", [1.5, "a", None, True, float("nan")])
def test_seeds_of_the_classes_are_integers(seed: Any) -> None:
    with pytest.raises(TypeError, match="seed must be an integer, got"):
        il.Adam(np.ones(3, "f4"), state_dtype="bfloat16", seed=seed)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_are_saved_and_checked(seed: int) -> None:
    with pytest.raises(ValueError, match=r"seed must lie in \[0, 2\^64\), got"):
        il.Adam(np.ones(3, "f4"), seed=seed)
    optimizer = il.Adam(np.ones(3, "f4"), state_dtype="bfloat16", seed=np.uint64(2**64 - 1))
    saved = optimizer.state_dict()
    assert saved["seed"] == 2**64 - 1
    other = il.Adam(np.ones(3, "f4"), state_dtype="bfloat16")
    with pytest.raises(ValueError, match=r"seed must lie"):
        other.load_state_dict(saved | {"seed": seed})
    other.load_state_dict(saved)
    assert other.seed == 2**64 - 1


def test_params_of_no_axes(target: str) -> None:
    params = [np.ones(3, BFLOAT16), np.array(1, BFLOAT16)]
    masters = [np.zeros(3, "i2"), np.array(0, "i2")]
    il.sgd_step(
        params, [np.ones(3, BFLOAT16), np.array(1, BFLOAT16)], step=1, lr=0.5, masters=masters
    )
    assert (params[0] == 0.5).all() and params[1] == 0.5


def test_an_overflowing_state_of_8_bits_is_its_own_affair() -> None:
    param, grad = np.ones(300, "f4"), np.zeros(300, "f4")
    grad[5] = 3e38  # whose square is infinite
    optimizer = il.Adam(param, state_dtype="uint8")
    optimizer.step(grad)
    optimizer.step(grad * 0)
    assert np.isfinite(np.delete(param, 5)).all()
