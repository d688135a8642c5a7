"""`bench cuda` without a GPU: what its cases call, count and compare; its clock, simulated.

The cases run on arrays of an emulated device, and beside their peers on PyTorch's CPU tensors.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import json
import math
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import device_arrays as device
import numpy as np
import pytest

import innerloop as il

pytest.importorskip("rich")
pytest.importorskip("psutil")

from innerloop.cli import bench, main
from innerloop.cli.bench import cuda, cuda_device, cuda_peers

ABOUT = {"processor": "stand-in", "isa": "sm_0", "threads": None, "torch": "0", "cuda": "0"}
SECONDS = {True: 2e-3, False: 1e-3}  # of any call, cold and hot


class Clock:
    """A place's measurements, which are given: each calls what it measures once."""

    def block(self, call: Callable[[], object], cold: bool, samples: int) -> float:
        call()
        return SECONDS[cold]

    def peak(self, call: Callable[[], object]) -> float:
        call()
        return 3e6

    def release(self) -> None:
        pass

    def limits(self, quick: bool) -> tuple[float, float]:
        return 1e9, 1e12

    def about(self) -> dict[str, Any]:
        return ABOUT | {"l2_bytes": 1 << 20}


class Emulated(Clock):
    """Arrays of the emulated device."""

    torch = None

    def numbers(self, shape: Any, dtype: str, seed: int = 0, scale: float = 1.0) -> Any:
        values = np.random.default_rng(seed).normal(scale=scale, size=shape)
        return device.asarray(values, getattr(device, dtype))

    def zeros(self, shape: Any, dtype: str) -> Any:
        return device.asarray(np.zeros(shape), getattr(device, dtype))

    def labels(self, rows: int, classes: int) -> Any:
        return device.asarray(np.random.default_rng(0).integers(0, classes, rows))

    def agree(self, run: Callable[[], Any], peers: Any, tolerance: float) -> None:
        assert not peers
        run()


class OnCpu(Clock, cuda_device.Tensors):
    """PyTorch's tensors in host memory."""


def plans(quick: bool = True, place: Any = None) -> list[cuda.Plan]:
    return list(cuda.cases(place or Emulated(), cuda_peers.Peers(None), quick))


def arrays(value: Any) -> list[Any]:
    """Return the arrays of an argument, which may be a list of them."""
    if isinstance(value, (list, tuple)):
        return [a for item in value for a in arrays(item)]
    return [value] if isinstance(value, device.DeviceArray) else []


def nbytes(values: list[Any]) -> int:
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in values)


def called(plan: cuda.Plan) -> str:
    """Return the function of innerloop that a case is said to measure."""
    backward = "_backward" if "backward" in plan.group else ""
    if "step" in plan.group:
        return f"{plan.name.partition(',')[0].partition(' ')[0].lower()}_step"
    if "weight (C, K)" in plan.group:
        return "linear_cross_entropy"
    if plan.group.startswith("value"):
        return "softmax_cross_entropy"
    if plan.group.startswith("linear"):
        return "linear"
    return plan.name.partition(",")[0] + backward


@pytest.mark.skipif(device.memory() is None, reason="no emulated innerloop._cuda")
@pytest.mark.parametrize("plan", plans(), ids=lambda plan: plan.title)
def test_cases_call_what_they_say(plan: cuda.Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    name, calls = called(plan), []
    function = getattr(il, name)

    def spy(*args: Any, **options: Any) -> Any:
        calls.append((args, options))
        return function(*args, **options)

    monkeypatch.setattr(il, name, spy)
    case = plan.make()
    assert (case.group, case.name) == plan[:2]
    calls.clear()
    launches = device.memory().emulator_launch_count()
    case.run()
    assert device.memory().emulator_launch_count() > launches
    ((args, options),) = calls
    written = arrays(options.get("out"))
    read = arrays([args, *(value for key, value in options.items() if key != "out")])
    if "step" in name:  # all but the gradients are written, too
        written = arrays([args[0], *args[2:]])
    assert case.moved == nbytes(read) + nbytes(written)
    held = {id(a): a for a in read + written}
    assert case.footprint == nbytes(list(held.values()))
    flops = 0
    if name.startswith("linear"):
        (m, k), (_, n) = args[0].shape, args[1].shape
        flops = 2 * m * k * n * (3 if "entropy" in name else 1)
    assert case.flops == flops
    if name == "linear":
        assert options["activation"] == plan.group.split(", ")[1]
    assert {str(a.dtype) for a in read + written if a.dtype.kind != "i"} <= {case.dtype, "float32"}
    assert str(args[0][0].dtype if "step" in name else args[0].dtype) == case.dtype
    case.check()


def test_full_sizes_are_those_asked_for() -> None:
    titles = [plan.title for plan in plans(quick=False)]
    assert len(set(titles)) == len(titles)
    for part, count in (
        ("32,000,000 elements, ", 8),
        ("32,000,000 elements, bfloat16, backward, out=: silu", 1),
        ("one step, one array: ", 3),
        (", 1,000 x 100,000", 3),
        ("4096 x 32768", 1),
        ("4096 x 131072", 1),
        ("norm, 8192 x 4096", 4),
        ("norm, 8192 x 8192", 4),
        (": 4096 x 4096 x 4096", 6),
        (": 8192 x 8192 x 8192", 6),
        ("4096 x 4096 x 128256", 1),
    ):
        assert sum(part in title for title in titles) == count, part


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command measure PyTorch's CPU tensors, without a compiler."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(bench, "find", lambda: OnCpu(torch, "cpu"))
    peers = functools.partial(cuda_peers.Peers, compiles=False)
    monkeypatch.setattr(bench, "CudaPeers", peers)


@pytest.mark.usefixtures("on_cpu")
def test_results_are_the_peers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "figures.json"
    arguments = ["bench", "cuda", "--quick", "--markdown"]
    assert main([*arguments, "--json", str(path)]) == 0
    text = capsys.readouterr().out
    for part in ("of limit", "stand-in", "innerloop 3 MB", "a copy moves 1 and 1 GB/s", "Liger"):
        assert part in text
    record = json.loads(path.read_text())
    found: dict[str, set[str]] = {}
    for case in record["cases"]:
        seconds = SECONDS["cold" in case["group"]]
        assert all(t["median"] == seconds for t in case["seconds"].values())
        assert set(case["ratios"].values()) == {1.0}
        limit = max(case["bytes"] / 1e9, case["flops"] / 1e12)
        assert case["of_limit"] == pytest.approx(limit / seconds)
        found.setdefault(case["group"].split(", ")[0], set()).update(case["ratios"])
    assert len(record["cases"]) == 2 * len(plans())
    assert found["one step"] == {"torch fused", "torch foreach"}
    assert found["linear"] == {"torch", cuda_peers.CUBLASLT}
    assert found["value and gradients"] == {cuda_peers.PRODUCTS}
    for group in ("2,000 elements", "value and gradient", "forward", "backward"):
        assert found[group] == {"torch"}
    assert main([*arguments, "--only", "gelu, cold", "--compare", str(path)]) == 2
    assert "no case has 'gelu, cold'" in capsys.readouterr().err
    assert main([*arguments, "--only", "SGD", "--compare", str(path)]) == 0
    assert "4 as before" in capsys.readouterr().out


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    ("name", "only"),
    [
        ("gelu", "2,000 elements, out=: gelu"),
        ("silu_backward", "bfloat16, backward, out=: silu"),
        ("adam_step", "one array: Adam,"),
        ("softmax_cross_entropy", "into a given array"),
        ("layer_norm", "forward, bfloat16: layer_norm"),
        ("rms_norm_backward", "backward, bfloat16: rms_norm"),
        ("linear", "linear, mish"),
        ("linear_cross_entropy", "weight (C, K)"),
    ],
)
def test_a_wrong_result_is_noticed(
    name: str, only: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = getattr(il, name)

    def spoil(value: Any) -> None:
        if isinstance(value, (list, tuple)):
            [spoil(item) for item in value[:1]]
        else:
            value *= 1.5

    def wrong(*args: Any, **options: Any) -> Any:
        if name == "adam_step":
            options["lr"] *= 1.5
            return right(*args, **options)
        result = right(*args, **options)
        spoil(options["out"])
        return result

    monkeypatch.setattr(il, name, wrong)
    assert main(["bench", "cuda", "--quick", "--only", only]) == 1
    error = capsys.readouterr().err
    assert error.startswith("bench cuda, ") and only in error and "results differ" in error


def test_a_failing_peer_is_left_out() -> None:
    peers = cuda_peers.Peers(None)

    def fails() -> None:
        raise RuntimeError("no such kernel\nand more")

    for _ in range(2):
        assert peers._tried("other", fails) == {}
    assert peers.absent == ["other failed: RuntimeError: no such kernel"]
    assert peers._tried("other", int) == {"other": int}


def test_other_libraries_of_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    """One writes the gradient over its logits, one has another name: both find ours."""
    torch = pytest.importorskip("torch")
    mean = torch.nn.functional.cross_entropy

    class Over(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, labels: Any) -> Any:
            with torch.enable_grad():
                own = x.detach().clone().requires_grad_()
                loss = mean(own, labels)
                (gradient,) = torch.autograd.grad(loss, own)
            ctx.save_for_backward(x.detach().copy_(gradient))
            return loss.detach()

        @staticmethod
        def backward(ctx: Any, d: Any) -> Any:
            return ctx.saved_tensors[0], None

    for name in ("liger_kernel", "liger_kernel.transformers", "quack"):
        made = types.ModuleType(name)
        made.__spec__ = importlib.machinery.ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, made)
    for name, function, what in (
        ("liger_kernel.transformers.functional", "liger_cross_entropy", Over.apply),
        ("quack.cross_entropy", "cross_entropy", lambda x, t, reduction: mean(x, t)),
    ):
        made = types.ModuleType(name)
        setattr(made, function, what)
        monkeypatch.setitem(sys.modules, name, made)
    place, peers = OnCpu(torch, "cpu"), cuda_peers.Peers(torch, compiles=False)
    (plan,) = (p for p in cuda.cases(place, peers, True) if "given array" in p.group)
    case = plan.make()
    assert set(case.peers) == {"torch", cuda_peers.LIGER, cuda_peers.QUACK}
    case.check()
    assert peers.absent == []


class Simulated:
    """PyTorch's `cuda` and `uint8`, where a device's time passes by what is queued."""

    def __init__(self) -> None:
        self.now, self.slept, self.log = 0.0, 0, ""  # in milliseconds, cycles
        self.cuda = types.SimpleNamespace(
            Event=self.event, synchronize=lambda: None, _sleep=self.sleep
        )

    def event(self, enable_timing: bool) -> Any:
        assert enable_timing
        made = types.SimpleNamespace(at=None)
        made.record = lambda: setattr(made, "at", self.now)
        made.elapsed_time = lambda end: end.at - made.at
        return made

    def sleep(self, cycles: int) -> None:
        self.slept, self.log = cycles, ""

    def queue(self, what: str, milliseconds: float) -> None:
        self.now += milliseconds
        self.log += what


@pytest.mark.parametrize(("cold", "log"), [(True, "fcfcfc"), (False, "ccc")])
def test_blocks_time_calls_alone(cold: bool, log: str) -> None:
    torch = Simulated()
    place = object.__new__(cuda_device.Device)
    place.torch, place.clock = torch, 1e9
    place.cache = types.SimpleNamespace(fill_=lambda value: torch.queue("f", 100.0))
    assert place.block(lambda: torch.queue("c", 3.0), cold, 3) == pytest.approx(3e-3)
    assert torch.log == log and torch.slept > 0


def test_without_pytorch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    assert main(["bench", "cuda"]) == 1
    out, err = capsys.readouterr()
    assert not out and "PyTorch" in err and "is not installed" in err


def test_without_a_device_or_the_module(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    for there, said in ((False, "finds no CUDA device"), (True, "not built")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        monkeypatch.setattr(cuda_device, "cuda_module", lambda: None)
        monkeypatch.setattr(il, "info", lambda: {"cuda": "not built"})
        assert main(["bench", "cuda", "--quick"]) == 1
        out, err = capsys.readouterr()
        assert not out and said in err and err.count("\n") == 1
