"""``python -m innerloop``: each command runs, says what it must, and fails when it should."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import innerloop as il
from innerloop import _core, reference

pytest.importorskip("rich")
pytest.importorskip("psutil")

from innerloop.cli import bench, demo_check, main, selftest, ulp
from innerloop.cli.bench import limits, operations, pages, peers, scaling
from innerloop.cli.bench.harness import Case, Settings, Timing, measure

NOUNS = (
    *("linear", "softmax_cross_entropy", "linear_cross_entropy", "optimizers", "activations"),
    *("elementwise_losses", "prelu", "gated", "norms", "softmax", "mlp", "torch"),
)
WITHOUT_NUMPY = ("linear_cross_entropy", "prelu", "gated", "norms", "mlp", "torch")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120)


# --- the command line ----------------------------------------------------------------------------


def test_module_runs() -> None:
    done = python("-m", "innerloop", "info")
    assert done.returncode == 0, done.stderr
    assert il.__version__ in done.stdout


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["bench"], ["bench", "nonsense"]])
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["demo", "--epochs", "0"], ["demo", "--batch-size", "x"], ["demo", "--epochs=-1"]]
)
def test_wrong_numbers(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert "positive integer" in capsys.readouterr().err


def test_importing_innerloop_imports_no_rich() -> None:
    done = python("-c", "import innerloop, sys; assert 'rich' not in sys.modules")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("command", "extra"), [("info", "cli"), ("demo", "demo")])
def test_missing_rich_is_explained(command: str, extra: str) -> None:
    code = (
        "import sys; sys.modules['rich'] = None\n"
        f"from innerloop.cli import main; sys.exit(main(['{command}']))"
    )
    done = python("-c", code)
    assert done.returncode == 2
    assert "needs rich" in done.stderr
    assert f'pip install "innerloop[{extra}]"' in done.stderr


# --- info ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--markdown"]])
def test_info(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", *options]) == 0
    text = capsys.readouterr().out
    for part in (il.__version__, *il.isas(), *il.backends(), "CUDA", "caches", np.__version__):
        assert part in text


# --- selftest ------------------------------------------------------------------------------------


def test_selftest_covers_the_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", "--quick"]) == 0
    text = capsys.readouterr().out
    names = [f"{name}{suffix}" for name in il.activations.NAMES for suffix in ("", " backward")]
    names += ["prelu backward", "softmax", "log_softmax backward", "linear, gelu"]
    names += ["linear backward, relu, dropout", "softmax_cross_entropy, labels", "nll_loss"]
    names += ["linear_cross_entropy, probabilities", "dropout backward", "clip_grad_norm"]
    names += [f"{n}{s}" for n in reference.GATED for s in ("", " backward")]
    names += [f"{n}_norm{s}" for n in ("layer", "rms", "batch") for s in ("", " backward")]
    names += [*reference.LOSSES, *reference.OPTIMIZERS, *il.isas()]
    for name in names:
        assert f"{name} " in text
    for dtype in ("float32", "float64", "float16", "bfloat16"):
        assert f" {dtype} " in text


def test_selftest_covers_the_public_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that compute: whatever is public, but for classes, other names and the run time."""
    called = set()

    class Recorder(ModuleType):
        def __getattr__(self, name: str) -> Any:
            called.add(name)
            return getattr(il, name)

    recorder = Recorder("innerloop")
    monkeypatch.setattr(selftest, "il", recorder)
    for noun in selftest.NOUNS:
        for _, run in noun(np.dtype(np.float32), (3,)):
            run(recorder)
    public = {n for n in il.__all__ if not isinstance(getattr(il, n), type)}
    other_names = {"activation", "activation_backward", "pack"}
    assert public - {*il.runtime.__all__} - other_names <= called


def test_selftest_finds_a_wrong_kernel(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = il.tanh
    monkeypatch.setattr(il, "tanh", lambda x: right(x) + x.dtype.type(1e-3))
    assert main(["selftest", "--quick"]) == 1
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("actual", "expected", "difference"),
    [
        (np.ones(2), np.ones(2), 0.0),
        (np.array([np.nan, np.inf]), np.array([np.nan, np.inf]), 0.0),
        (np.array([np.nan]), np.array([1.0]), np.inf),
        (np.array([np.inf]), np.array([1.0]), np.inf),
        (np.array([3.0]), np.array([2.0]), 0.5),
        (np.ones(2), np.ones(3), np.inf),
        (np.ones(2, np.float32), np.ones(2), np.inf),
        ((np.ones(1), None), (np.ones(1), None), 0.0),
        ((np.ones(1), np.ones(1)), (np.ones(1), None), np.inf),
    ],
)
def test_largest_difference(actual: Any, expected: Any, difference: float) -> None:
    assert selftest.largest_difference(actual, expected) == difference


# --- selftest --ulp ------------------------------------------------------------------------------


def test_ulp(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", "--ulp", "--quick", "--markdown"]) == 0
    text = capsys.readouterr().out
    for name in ("float32", "float64", *ulp.FUNCTIONS, *il.isas()):
        assert name in text


def test_ulp_finds_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = ulp.native

    def wrong(name: str, x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return right(name, x) * x.dtype.type(1.0000005)

    monkeypatch.setattr(ulp, "native", wrong)
    assert main(["selftest", "--ulp", "--quick"]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_ulp_errors() -> None:
    tiny, largest = 2.0**-149, float(np.finfo(np.float32).max)
    computed = np.array([1, 1, 2, 2, tiny, 0, np.inf, largest, np.nan, 1, np.nan, -0.0], np.float32)
    exact = [1, 1 + 2.0**-23, 2 - 2.0**-23, 2 + 2.0**-22, 0, tiny / 2, largest, 1e300]
    exact += [np.nan, np.nan, 1, 0]
    errors = ulp.ulp_errors(computed, np.array(exact), np.dtype(np.float32))
    assert errors.tolist() == [0, 1, 1, 1, 1, 0.5, 1, 1, 0, np.inf, np.inf, 0]


def test_float32_inputs_are_all_patterns() -> None:
    step = 1 << 20
    patterns = np.concatenate([x.view(np.uint32) for x in ulp.float32_inputs(step)])
    np.testing.assert_array_equal(patterns, np.arange(0, 1 << 32, step, dtype=np.uint64))


def test_table_of_accuracy_is_of_the_figures() -> None:
    tool = Path(__file__).parents[1] / "tools/accuracy.py"
    done = python(str(tool), "--check")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", il.gated.NAMES)
def test_gated_errors_are_of_the_gate(name: str) -> None:
    """The oracle gates the very values that the kernel gets."""
    x = np.linspace(-3, 3, 1001, dtype="f4")
    values = ulp.values_beside(x)
    assert values.min() >= 1 and values.max() < 2 and np.unique(values).size > 900
    exact = ulp.float64_oracles()[name](x.astype("f8"))
    np.testing.assert_allclose(ulp.native(name, x), exact, rtol=1e-6)


# --- demo ----------------------------------------------------------------------------------------


def test_demo_reaches_its_goal_beside_sklearn(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    assert main(["demo", "--epochs", "12"]) == 0
    text = capsys.readouterr().out
    for part in ("agree with the NumPy", "test accuracy", "scikit-learn", "times"):
        assert part in text


def test_demo_plots_and_fails_below_its_goal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    path = tmp_path / "curves.png"
    arguments = ["--epochs", "1", "--lr", "1e-6", "--skip-sklearn", "--plot", str(path)]
    assert main(["demo", *arguments]) == 1
    assert path.read_bytes().startswith(b"\x89PNG")
    assert "FAILED" in capsys.readouterr().out


def test_demo_fails_where_gradients_are_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    right = il.MLP.gradients

    def wrong(*args: Any, **kwargs: Any) -> Any:
        loss, gradients = right(*args, **kwargs)
        return loss, [g * g.dtype.type(1.001) for g in gradients]

    monkeypatch.setattr(il.MLP, "gradients", wrong)
    assert main(["demo", "--epochs", "5", "--skip-sklearn"]) == 1
    assert "DO NOT AGREE" in capsys.readouterr().out


def test_demo_gradients_are_right(target: str) -> None:
    """The reference's own gradients, and every instruction set's, for a batch that is not even."""
    network = il.MLP((7, 5, 3))
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((9, 7), np.float32), rng.integers(0, 3, 9)
    found = demo_check.first_step_differences(network, x, y)
    assert [d.name for d in found] == ["loss", "dw1", "db1", "dw2", "db2"]
    assert max(d.relative for d in found) < demo_check.TOLERANCE


def test_difference_is_infinite_for_nan() -> None:
    assert demo_check.difference("x", np.array([np.nan]), np.array([1.0])).relative == np.inf


# --- bench ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("noun", NOUNS)
def test_bench(noun: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if noun in WITHOUT_NUMPY:
        pytest.importorskip("torch")
    path = tmp_path / "figures.json"
    threads = il.get_num_threads()
    assert main(["bench", noun, "--quick", "--json", str(path), "--threads", "1"]) == 0
    assert il.get_num_threads() == threads
    text = capsys.readouterr().out
    peer = "torch" if noun in WITHOUT_NUMPY else "numpy"
    for part in ("geometric mean", "of limit", peer, "GFLOP/s"):
        assert part in text
    record = json.loads(path.read_text())
    assert record["noun"] == noun
    assert record["context"]["isa"] == il.info()["isa"]
    assert record["context"]["threads"] == 1
    assert record["geometric_means"]
    assert record["context"]["machine"].keys() == {
        *("gflops_one_thread", "gflops", "gb_per_s", "fork_join_ns")
    }
    keys = [(case["group"], case["case"]) for case in record["cases"]]
    assert len(set(keys)) == len(keys)
    for case in record["cases"]:
        assert case["seconds"]["innerloop"]["median"] > 0
        assert case["bytes"] > 0 and case["flops"] >= 0 and case["mood"]["gflops"] > 0
        assert case["limit_seconds"] > 0
        assert set(case["ratios"]) == set(case["seconds"]) - {"innerloop"}


def test_bench_without_peers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = peers.importlib.util.find_spec
    absent = ("torch", "jax", "sklearn", "ml_dtypes")
    monkeypatch.setattr(
        peers.importlib.util, "find_spec", lambda n: None if n in absent else found(n)
    )
    arguments = ["--markdown", "--peers", "numpy,torch,jax,sklearn", "--only", "linear: 1,"]
    assert main(["bench", "linear", "--quick", *arguments]) == 0
    text = capsys.readouterr().out
    for title in ("PyTorch", "JAX", "scikit-learn", "ml_dtypes (for bfloat16)"):
        assert f"{title} is not installed" in text
    assert "| numpy |" in text and "| torch |" not in text


def test_bench_beside_jax(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    path, nouns = tmp_path / "figures.json", ("optimizers", "softmax_cross_entropy")
    for noun in nouns:
        arguments = ["--quick", "--peers", "jax,sklearn", "--only", "a", "--json", str(path)]
        assert main(["bench", noun, *arguments]) == 0
        names = {n for case in json.loads(path.read_text())["cases"] for n in case["ratios"]}
        threads, cpus = il.get_num_threads(), peers.machine.cpus()
        assert "numpy" not in names and "torch" not in names
        assert ("jax" in names) == (threads == cpus)


def test_bench_unknown_peer(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "linear", "--peers", "numpy,abacus"])
    assert "'abacus' is none of numpy" in capsys.readouterr().err


def test_bench_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "machine.json"
    assert main(["bench", "machine", "--quick", "--json", str(path)]) == 0
    text = capsys.readouterr().out
    for part in ("one thread", "all threads", "float64", "update", "GB/s", "cache line"):
        assert part in text
    machine = json.loads(path.read_text())["context"]["machine"]
    assert machine["gflops_one_thread"]["float32"] > 0
    for rates in machine["gb_per_s"].values():  # a rate of a core that others took may round to 0
        assert any(rate > 0 for rate in rates.values())


def test_bench_all_compare_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    results = ["--results", str(tmp_path)]
    arguments = ["--quick", "--peers", "numpy", "--only", "relu", *results]
    assert main(["bench", "all", *arguments, "--plot", str(tmp_path / "of.png")]) == 0
    nouns = {"linear", "activations"} | ({"torch"} if importlib.util.find_spec("torch") else set())
    assert {path.stem for path in tmp_path.glob("*.json")} == nouns
    assert (tmp_path / "of_linear.png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    arguments = arguments[: -len(results)]
    assert main(["bench", "activations", *arguments, "--compare", str(tmp_path)]) == 0
    assert "since " in capsys.readouterr().out


def test_bench_scaling(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    files = {kind: tmp_path / f"scaling.{kind}" for kind in ("json", "png")}
    saved = ["--json", str(files["json"]), "--plot", str(files["png"])]
    assert main(["bench", "scaling", "--quick", *saved]) == 0
    text = capsys.readouterr().out
    for part in ("M = ", "N = ", "K = ", "C = ", "parameters", "elements", "threads", "cliff"):
        assert part in text
    record = json.loads(files["json"].read_text())
    assert [sweep["axis"] for sweep in record["sweeps"]][:3] == ["M", "N", "K"]
    assert files["png"].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("seconds", "where"),
    [
        ([1, 2, 4, 8, 16], []),
        ([1, 1, 1, 1, 1], []),
        ([1, 1.2, 1.9, 3.6, 7], []),
        ([1, 2, 8, 16, 32], [1]),  # each costs twice as much from here on
        ([1, 2, 4, 2, 4], [1, 2]),  # more work takes half the time, so that 4 is above the line
        ([1, 1, 1.9, 1, 1], [1, 2]),  # a bump
    ],
)
def test_cliffs(seconds: list[float], where: list[int]) -> None:
    assert [at for at, *_ in scaling.cliffs([1, 2, 4, 8, 16], seconds)] == where


def test_modes() -> None:
    modes = [limits.mode(trip) for trip in (90, 490, 100_000, None)]
    assert modes == ["cores share a cache", "cores far apart"] + 2 * ["no two free cores"]


def test_operations_are_counted() -> None:
    x = np.linspace(-1, 1, 50)
    assert operations.operations(lambda x, y: (2 * x + y).sum(), x, x) == 3
    assert operations.operations(lambda x: np.exp(x, out=x), x.copy()) == 1
    assert operations.operations(lambda x: x[x > 0], x) == 0
    x32 = x.astype(np.float32)
    assert operations.operations(reference.relu, x32) == 1


# --- the tables of the pages -------------------------------------------------------------------

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
committed = pytest.mark.skipif(not RESULTS.is_dir(), reason="not in a checkout")


@committed
@pytest.mark.parametrize("name", ["README.md", "docs/performance.md"])
def test_pages_have_the_tables_of_the_results(tmp_path: Path, name: str) -> None:
    page = tmp_path / "page.md"
    page.write_text((ROOT / name).read_text())
    assert main(["bench", "table", "--results", str(RESULTS), "--pages", str(page)]) == 0
    assert page.read_text() == (ROOT / name).read_text(), "run python -m innerloop bench table"


@committed
@pytest.mark.parametrize("name", pages.BLOCKS)
def test_tables_change_with_the_results(name: str) -> None:
    records = pages.read(RESULTS)
    before = pages.BLOCKS[name](records)
    for record in records.values():
        for case in record["cases"]:
            case["ratios"] = {peer: 0.77 for peer in case["ratios"]}
    made = pages.BLOCKS[name](records)
    assert made != before and any(line.endswith(" 0.77 |") for line in made)
    begin, end = pages.BEGIN.format(name), pages.END.format(name)
    page = pages.written(f"above\n{begin}\nold\n{end}\nbelow\n", records)
    assert page == "\n".join(["above", begin, *made, end, "below\n"])


@committed
def test_no_losses_are_none() -> None:
    records = pages.read(RESULTS)
    for record in records.values():
        for case in record["cases"]:
            case["ratios"] = {peer: 1.0 for peer in case["ratios"]}
    assert pages.losses(records) == ["None."]


def test_table_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "README.md"
    text = f"{pages.BEGIN.format('summary')}\n{pages.END.format('summary')}\n"
    page.write_text(text)
    assert main(["bench", "table", "--results", str(tmp_path), "--pages", str(page)]) == 1
    assert "linear.json is missing" in capsys.readouterr().err
    assert page.read_text() == text
    (tmp_path / "linear.json").write_text("{")
    assert main(["bench", "table", "--results", str(tmp_path), "--pages", str(page)]) == 1
    assert "linear.json: Expecting" in capsys.readouterr().err
    with pytest.raises(LookupError, match="no lines"):
        pages.written("a page", {})
    with pytest.raises(LookupError, match="without"):
        pages.written(pages.BEGIN.format("losses"), {})


def test_bench_refuses_a_wrong_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = il.linear
    monkeypatch.setattr(il, "linear", lambda *args, **kw: right(*args, **kw) * np.float32(1.001))
    assert main(["bench", "linear", "--quick"]) == 1
    assert "differ" in capsys.readouterr().err


def test_bench_threads_out_of_range(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "linear", "--quick", "--threads", "0"]) == 2
    assert "at least 1" in capsys.readouterr().err


def test_bench_nouns_are_modules() -> None:
    assert set(NOUNS) == set(bench.NOUNS)


def test_measure_pairs_rounds_with_peers() -> None:
    calls: list[str] = []
    case = Case("c", "g", lambda: calls.append("a"), {"b": lambda: calls.append("b")}, 1.0, 1.0)
    result = measure(case, Settings.quick())
    assert {*calls} == {"a", "b"}
    result.timings["innerloop"] = Timing([1.0, 2.0, 4.0])
    result.timings["b"] = Timing([3.0, 4.0, 16.0])
    assert result.ratio("b") == 3.0
    assert result.ratio("absent") is None
    assert result.seconds == 2.0
    result.limit = 1.0
    assert result.of_limit == 0.5


# --- the probes ----------------------------------------------------------------------------------


def test_probes_measure_something(isa: str) -> None:
    for dtype in ("float32", "float64"):
        assert _core.fma_peak(dtype, 0.002) > 0
    for kind in ("read", "update", "copy", "stream"):
        for size in (1, 5000, 1 << 20):
            assert _core.bandwidth(kind, size, 0.002) > 0
    assert _core.round_trip(0.002) >= 0
    assert (_core.fork_join(0.002) > 0) == (il.get_num_threads() > 1)


def test_round_trips_end_where_cores_are_taken() -> None:
    """Four threads, of which two answer, often after the other has given up."""
    code = """
import threading
from innerloop import _core
def trips():
    for _ in range(4000):
        assert _core.round_trip(1e-5) >= 0
threads = [threading.Thread(target=trips) for _ in range(2)]
[t.start() for t in threads], [t.join() for t in threads]
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("seconds", [0.0, -1.0, 61.0, float("nan")])
def test_probes_refuse_times(seconds: float) -> None:
    for probe in (_core.round_trip, _core.fork_join, lambda s: _core.fma_peak("float32", s)):
        with pytest.raises(ValueError, match="seconds"):
            probe(seconds)
    with pytest.raises(ValueError, match="seconds"):
        _core.bandwidth("read", 1 << 16, seconds)


def test_probes_refuse_names_and_sizes() -> None:
    with pytest.raises(ValueError, match="read, update, copy, stream"):
        _core.bandwidth("write", 1 << 16, 0.001)
    with pytest.raises(ValueError, match="dtype"):
        _core.fma_peak("int8", 0.001)
    for size in (0, -1, 1 << 60):
        with pytest.raises(ValueError, match="bytes"):
            _core.bandwidth("read", size, 0.001)
