"""``python -m innerloop info``: what serves the calls on this machine."""

from __future__ import annotations

import argparse
import platform

import numpy as np

from .. import runtime
from . import machine
from .console import human_bytes, show_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")


def rows() -> list[tuple[str, str]]:
    """Return the lines of the table."""
    info = runtime.info()
    cache, limit = info["buffer_cache_bytes"], info["buffer_cache_limit"]
    return [
        ("innerloop", info["version"] + (f" at {c}" if (c := machine.commit()) else "")),
        ("instruction set", f"{info['isa']} (at hand: {', '.join(info['isas'])})"),
        ("backend", f"{info['backend']} (at hand: {', '.join(info['backends'])})"),
        ("CUDA", info["cuda"]),
        ("threads", f"{info['num_threads']} (processors at hand: {machine.cpus()})"),
        ("buffer cache", f"{human_bytes(cache)} held, up to {human_bytes(limit)}"),
        ("processor", machine.cpu_model()),
        ("caches", ", ".join(machine.caches()) or "unknown"),
        ("memory", human_bytes(machine.memory_bytes())),
        ("system", f"{platform.system()} {platform.machine()}"),
        ("Python", platform.python_version()),
        ("NumPy", np.__version__),
        *((name, v) for name, d in _PEERS.items() if (v := machine.version_of(d)) is not None),
    ]


_PEERS = {"PyTorch": "torch", "scikit-learn": "scikit-learn", "JAX": "jax"}


def run(options: argparse.Namespace) -> int:
    """Print the table."""
    show_table("innerloop", ["", ""], rows(), markdown=options.markdown)
    return 0
