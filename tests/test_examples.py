"""Each script of examples/ runs, with small settings, and shows what it is there to show."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
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
    options = ("--backend", backend, "--rows", "300", "--epochs", "10")
    done = subprocess.run(  # a process of its own: their threads outlive a test
        [sys.executable, str(EXAMPLES / "search.py"), *options],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE), *sys.path])},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if "learning_rate_init" in line]
    assert len(lines) == 4 and max(float(line[0]) for line in lines) > 0.6, done.stdout
    if backend == "dask":
        assert "2 workers" in done.stdout
