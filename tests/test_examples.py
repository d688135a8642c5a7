"""Each script of examples/ runs, with small settings, and shows what it is there to show."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn")

import innerloop as il

EXAMPLES = Path(__file__).parent.parent / "examples"
PACKAGE = Path(il.__file__).parent.parent


def run(name: str, *argv: str) -> Any:
    """What its main returns."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main(argv)


def run_apart(name: str, *argv: str, launcher: Sequence[str] = ()) -> str:
    """What it prints in a process of its own, for threads that would outlive a test."""
    done = subprocess.run(
        [sys.executable, *launcher, str(EXAMPLES / f"{name}.py"), *argv],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE), *sys.path])},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_example_is_tested() -> None:
    text = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f'"{path.stem}"' in text, path


def test_digits_sklearn(capsys: Any) -> None:
    theirs, ours = run("digits_sklearn", "--epochs", "3").values()
    assert ours == theirs > 0.8
    assert "accuracy" in capsys.readouterr().out


def test_regression() -> None:
    scores = run("regression", "--rows", "2000", "--epochs", "200")
    assert scores["huber"] > 0.8 > scores["squared_error"]
    assert scores["absolute_error"] > 0.8


def test_autoencoder() -> None:
    errors = run("autoencoder", "--epochs", "60")
    assert errors["autoencoder"] < errors["principal components"]


def test_out_of_core() -> None:
    assert run("out_of_core", "--rows", "20000", "--chunk", "3000") > 0.7


@pytest.mark.parametrize(
    ("backend", "library"), [("loky", "joblib"), ("dask", "distributed"), ("ray", "ray")]
)
def test_search_in_two_processes(backend: str, library: str) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    done = run_apart("search", "--backend", backend, "--rows", "300", "--epochs", "10")
    lines = [line.split() for line in done.splitlines() if "learning_rate_init" in line]
    assert len(lines) == 4 and max(float(line[0]) for line in lines) > 0.6, done
    if backend == "dask":
        assert "2 workers" in done


def test_torchrun_of_two_processes() -> None:
    torch = pytest.importorskip("torch")
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        pytest.skip("this PyTorch is built without gloo")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    said = run_apart("torch_distributed", "--epochs", "8", launcher=launcher)
    losses = [float(line.split()[-1]) for line in said.splitlines() if line.startswith("epoch")]
    assert len(losses) == 8 and losses[-1] < losses[0] / 2, said
    (last,) = [line for line in said.splitlines() if "accuracy" in line]
    assert last.startswith("2 processes") and float(last.split()[-1]) > 0.8, said


def test_character_model() -> None:
    """It asserts itself that the losses of both trainings are the same."""
    pytest.importorskip("torch")
    lines = run_apart("character_model", "--steps", "12", "--width", "32").splitlines()
    first, *_, last = [line for line in lines if line.startswith("step")]
    assert float(last.split()[-1]) < float(first.split()[-1]) - 0.3, lines
    for name in ("torch", "innerloop"):
        assert any(line.startswith(name) and " MB" in line for line in lines)
