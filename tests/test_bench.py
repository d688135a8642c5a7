"""The benchmark as an instrument: what it refuses, compares, and says of its peers."""

from __future__ import annotations

import functools
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import innerloop as il

pytest.importorskip("rich")
pytest.importorskip("psutil")

from innerloop.cli import bench, machine, main
from innerloop.cli.bench import activations, compare, harness, linear, pages, peers
from innerloop.cli.bench.harness import Timing

RESULTS = Path(__file__).parents[1] / "bench" / "results"


def _refused(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """Return what is said of options that are refused before anything is measured."""
    monkeypatch.setattr(bench, "measure", lambda *_: pytest.fail("has measured"))
    assert main(["bench", *arguments]) == 2
    out, err = capsys.readouterr()
    assert not out and err.lstrip().startswith("bench: ")
    return err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("", "Expecting value"),
        ("{", "Expecting"),
        ("\x00\xff", "Expecting value"),
        ("[]", "no record"),
        ('{"noun": "norms", "quick": true}', "no record"),
        ('{"noun": "norms", "quick": true, "context": {}, "cases": [{}]}', "no record"),
        ('{"noun": "norms", "quick": true, "context": null, "cases": []}', "no record"),
        ('{"noun": "linear", "quick": true, "context": {}, "cases": []}', "noun was 'linear'"),
        ('{"noun": "norms", "quick": false, "context": {}, "cases": []}', "quick was False"),
        ('{"noun": "norms", "quick": true, "context": {"isa": "v9"}, "cases": []}', "isa was"),
    ],
)
def test_bench_compare_refuses_files(
    text: str | None,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "norms.json"
    if text is not None:
        path.write_text(text)
    for given in (path, tmp_path):
        error = _refused(["norms", "--quick", "--compare", str(given)], monkeypatch, capsys)
        assert said in error or (given == tmp_path and text is None)
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["linear", "--json", "{}/absent/a.json"], "no file can be written"),
        (["linear", "--json", "{}"], "no file can be written"),
        (["machine", "--json", "{}/absent/a.json"], "no file can be written"),
        (["all", "--results", "{}/file/folder"], "--results"),
        (["machine", "--only", "x"], "--only says nothing of machine"),
        (["machine", "--peers", "numpy"], "--peers says nothing of machine"),
        (["table", "--quick"], "--quick says nothing of table"),
        (["scaling", "--compare", "{}"], "--compare says nothing of scaling"),
        (["all", "--json", "a.json"], "--json says nothing of all"),
        (["linear", "--results", "{}"], "--results says nothing of linear"),
        (["linear", "--pages", "a.md"], "--pages says nothing of linear"),
    ],
)
def test_bench_refuses_options(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    given = [argument.format(tmp_path) for argument in arguments]
    error = _refused(given, monkeypatch, capsys)
    assert said in error and error.count("\n") == 1


def test_bench_refuses_plots_of_unknown_kinds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    for name, said in (("a.txt", "none of"), ("absent/a.png", "no file can be written")):
        arguments = ["linear", "--plot", str(tmp_path / name)]
        assert said in _refused(arguments, monkeypatch, capsys)


def test_bench_only_what_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "of.json"
    arguments = ["gated", "--quick", "--only", "abacus", "--peers", "", "--json", str(path)]
    error = _refused(arguments, monkeypatch, capsys)
    assert "'abacus'" in error and "30 x 38, value: glu\n" in error and not path.exists()


def test_bench_without_the_library_of_a_noun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    assert main(["bench", "torch"]) == 2
    assert "install torch" in capsys.readouterr().err


def test_bench_says_what_is_fresh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    path = tmp_path / "of.json"
    arguments = ["--quick", "--only", "x", "--peers", "torch", "--json", str(path)]
    assert main(["bench", "prelu", *arguments]) == 0
    text = capsys.readouterr().out
    assert "x, fresh" in text and "makes a new array" in text
    assert all(case["fresh"] == ["torch"] for case in json.loads(path.read_text())["cases"])


@pytest.mark.parametrize(
    "noun", ["gated", "prelu", "norms", "softmax", "elementwise_losses", "softmax_cross_entropy"]
)
def test_peers_write_where_they_are_said_to(noun: str) -> None:
    """What is not said to be fresh is the same memory again; what is said, is not."""
    pytest.importorskip("torch")
    beside = peers.Peers.find(("torch",), 1)
    for make in importlib.import_module(f"innerloop.cli.bench.{noun}").cases(beside, True):
        case = make()
        if "torch" not in case.peers or case.group.endswith("fresh array"):
            continue
        results = [case.peers["torch"]() for _ in range(2)]  # both held, or memory comes again
        tensors = [r if isinstance(r, tuple) else (r,) for r in results]
        first, second = (max(t, key=lambda t: t.numel()).data_ptr() for t in tensors)
        assert (first == second) != ("torch" in case.fresh), f"{case.group}: {case.name}"


@pytest.mark.parametrize("megabytes", [1, 6])
def test_cold_cases_go_round_beyond_the_cache(
    megabytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By turns of both contenders, no array comes again before more than the cache was touched."""
    cache, touched = megabytes << 20, []
    monkeypatch.setattr(harness, "COLD", 0)
    monkeypatch.setattr(harness.machine, "last_level_bytes", lambda: cache)

    def spy(x: np.ndarray, out: np.ndarray) -> np.ndarray:
        touched.append((x.ctypes.data, out.ctypes.data, x.nbytes + out.nbytes))
        return np.maximum(x, 0, out=out)

    monkeypatch.setattr(il, "relu", spy)
    monkeypatch.setitem(activations.NUMPY, "relu", spy)
    case = activations._cold(peers.Peers(("numpy",)), "relu", 50_000, quick=False)
    assert case.footprint >= harness.BEYOND * cache
    for turn in range(60):
        [case.run, case.peers["numpy"]][turn // 7 % 2]()
    for at, (x, out, _) in enumerate(touched):
        since = 0
        for x_before, out_before, nbytes in reversed(touched[:at]):
            if {x, out} & {x_before, out_before}:
                assert since + nbytes >= harness.BEYOND * cache
                break
            since += nbytes
    assert (len({x for x, *_ in touched}) < 60) == (megabytes == 1)  # went round, where it could


def test_cold_linear_goes_round_for_peers() -> None:
    pytest.importorskip("torch")
    case = linear._cold(peers.Peers.find(("torch",), 1), (1, 8, 4), quick=True)
    calls: list[str] = []
    sets = [{n: functools.partial(calls.append, f"{n}{i}") for n in "ab"} for i in range(3)]
    a, b = harness.rotating(sets).values()
    for call in (a, a, b, a, b):
        call()
    assert calls == ["a0", "a1", "b2", "a0", "b1"]
    case.check()


def test_last_level_caches_are_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    assert machine.last_level_bytes(tmp_path) == 0
    for cpu, index, level, size, shared in (
        *((0, 2, 2, "512K", "0"), (0, 3, 3, "32768K", "0-1"), (1, 3, 3, "32768K", "0-1")),
        *((2, 3, 3, "16384K", "2-3"), (3, 3, 3, "16384K", "2-3"), (2, 0, 1, "what", "2")),
    ):
        folder = tmp_path / f"cpu{cpu}" / "cache" / f"index{index}"
        folder.mkdir(parents=True)
        for name, value in (("level", level), ("size", size), ("shared_cpu_list", shared)):
            (folder / name).write_text(f"{value}\n")
    assert machine.last_level_bytes(tmp_path) == 48 << 20


MOOD = {"round_trip_ns": 90, "disturbed": False}


def _record(
    seconds: list[float], peer: tuple[float, ...] = (2.0,), **changed: Any
) -> dict[str, Any]:
    times = {
        name: {"median": (t := Timing(list(rounds))).median, "spread": t.spread, "rounds": rounds}
        for name, rounds in (("innerloop", seconds), ("torch", peer))
    }
    case = {"group": "g", "case": "c", "mood": dict(MOOD, **changed.pop("mood", {}))}
    case["seconds"] = times
    context = {"processor": "p", "isa": "v3", "threads": 2, "commit": "abc"} | changed
    return {"noun": "n", "quick": False, "context": context, "cases": [case]}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (_record([4.0, 4.1, 4.2]), _record([2.0, 2.1, 2.2]), "1 faster"),
        (_record([2.0, 2.1, 2.2]), _record([4.0, 4.1, 4.2]), "1 slower"),
        (_record([2.0, 3.0, 4.0]), _record([2.5, 3.5, 4.5]), "1 as before"),
        # Apart from each other's rounds, and still within the noise: a process has its own luck.
        (_record([4.0, 4.01, 4.02]), _record([4.2, 4.21, 4.22]), "1 as before"),
        (_record([4.17, 5.0, 5.83]), _record([3.33, 4.0, 4.67]), "1 as before"),
        (_record([4.0, 4.1, 4.2], (3.0,)), _record([2.0, 2.1, 2.2], (1.6,)), "1 like a peer"),
        (_record([4.0, 4.1, 4.2], (1.0,)), _record([2.0, 2.1, 2.2], (2.0,)), "1 faster"),
        (
            _record([4.0] * 3),
            _record([2.0] * 3, mood={"round_trip_ns": 490}),
            "not compared: cores share a cache",
        ),
        (_record([4.0] * 3), _record([2.0] * 3, mood={"disturbed": True}), "disturbed by others"),
    ],
)
def test_bench_compare(
    old: dict[str, Any], new: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    compare.show(old, new, markdown=True)
    text = capsys.readouterr().out
    assert said in text and "since abc" in text


def test_bench_compare_names_peers_of_other_versions(capsys: pytest.CaptureFixture[str]) -> None:
    old = _record([2.0], (2.0,), torch="2.12", numpy="2.3")
    new = _record([1.0], (1.0,), torch="2.13", numpy="2.3")
    compare.show(old, new, markdown=True)
    text = capsys.readouterr().out
    assert "1 faster" in text and "NumPy" not in text
    assert "PyTorch was 2.12 and is 2.13: ratios to it may differ" in text
    assert "| 2.00 | - | faster |" in text  # our own times are compared, and no drift of torch's


@pytest.mark.parametrize("key", ["processor", "isa", "threads"])
def test_bench_compare_refuses_other_machines(key: str) -> None:
    old, new = _record([1.0]), _record([1.0], **{key: "other"})
    assert [reason.partition(" was ")[0] for reason in compare.refusals(old, new)] == [key]


@pytest.mark.skipif(not RESULTS.is_dir(), reason="not in a checkout")
def test_pages_say_what_is_fresh() -> None:
    records = pages.read(RESULTS)
    for record in records.values():
        for number, case in enumerate(record["cases"]):
            case["fresh"] = ["torch"] if number % 2 or record["noun"] != "linear" else []
            case["ratios"] = dict.fromkeys(case["ratios"], 0.5)
    lines = pages.table(records)
    assert "Fresh: the peer makes a new array" in lines[0]
    assert any("geometric mean | | | PyTorch, some fresh |" in line for line in lines)
    assert any("prelu: geometric mean | | | PyTorch, fresh |" in line for line in lines)
    assert all("PyTorch, fused |" in line for line in lines if "optimizer's step: Adam," in line)
    assert any("| PyTorch, fresh | 0.50 |" in line for line in pages.losses(records))
