"""The type stubs: they agree with the package at run time, and say what a user's checker needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import innerloop as il

pytest.importorskip("mypy")
PACKAGE = Path(il.__file__).parent
pytestmark = pytest.mark.skipif(
    not (PACKAGE / "activations.pyi").exists(),
    reason="the stubs are made when a wheel is built: run against an installed package",
)

GROWN = ("activations", "gated", "losses", "optimizers")

USE = """
import numpy as np
import innerloop as il

x = np.ones((3, 4), np.float32)
reveal_type(il.relu(x))
reveal_type(il.leaky_relu(x, negative_slope=0.2, out=x))
il.leaky_relu(x, slope=0.2)  # no such parameter
reveal_type(il.Adam([x], lr=1e-3, betas=(0.9, 0.99)))
il.Adam([x], momentum=0.9)  # no such hyperparameter
il.adam_step(x, x, x, x, step=1, lr=0.1)
il.huber_loss(x, x, delta=0.5, return_grad=True)
il.huber_loss(x, x, beta=0.5)  # no such parameter
reveal_type(il.info())
"""


def test_stubs_agree_with_the_package() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", *(f"innerloop.{noun}" for noun in GROWN)],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_checker_knows_the_generated_functions(tmp_path: Path) -> None:
    (tmp_path / "use.py").write_text(USE)
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", "use.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    lines = [line.split(":", 1)[1] for line in run.stdout.splitlines() if line.startswith("use.py")]
    found = [line.split(":")[0] for line in lines if "error" in line]
    assert found == ["8", "10", "13"], run.stdout
    revealed = [line for line in lines if "Revealed" in line]
    assert "ndarray" in revealed[0] and "ndarray" in revealed[1]
    assert "Adam" in revealed[2] and "dict[str, Any]" in revealed[3]
