"""The PyTorch plug-in in two processes: DDP, ZeroRedundancyOptimizer, FSDP2, DTensors.

Compared with one process; the cases are in torch_distributed_cases.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
    pytest.skip("this PyTorch is built without gloo", allow_module_level=True)

import torch_distributed_cases as cases  # noqa: E402

import innerloop as il  # noqa: E402

PACKAGE = Path(il.__file__).parent.parent
SECONDS = 240  # for all cases on a machine that does other work, too


@pytest.fixture(scope="module")
def results(tmp_path_factory: Any) -> Iterator[list[dict[str, str]]]:
    """Of each process, what became of each case that it came to; and what it said."""
    folder = tmp_path_factory.mktemp("distributed")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(PACKAGE), *sys.path]),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    with ExitStack() as stack:
        processes = []
        for rank in range(cases.WORLD):
            said = stack.enter_context(open(folder / f"{rank}.txt", "w"))
            process = subprocess.Popen(
                [sys.executable, cases.__file__, str(rank), str(folder)],
                stdout=said,
                stderr=subprocess.STDOUT,
                env=environment,
            )
            stack.callback(process.kill)
            processes.append(process)
        for process in processes:
            try:
                process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
    found = []
    for rank in range(cases.WORLD):
        file = folder / f"{rank}.json"
        known = json.loads(file.read_text()) if file.exists() else {}
        found.append({"said": (folder / f"{rank}.txt").read_text()} | known)
    yield found


@pytest.mark.parametrize("name", list(cases.CASES))
def test_two_processes(name: str, results: list[dict[str, str]]) -> None:
    said = [result.get(name) for result in results]
    for rank, result in enumerate(said):
        if result is None:
            *_, last = [*results[rank]]
            pytest.fail(f"process {rank} ended in {last} and said: {results[rank]['said']}")
        if result.startswith("skip "):
            pytest.skip(result.removeprefix("skip "))
        assert not result, f"process {rank}: {result}"
