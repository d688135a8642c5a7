"""``python -m innerloop demo | info | selftest | bench``.

Each command is a module of that name with ``add_arguments(parser)`` and ``run(options) -> status``.
The libraries that print (rich) and read the machine (psutil) are imported here and nowhere else in
innerloop; they come with ``pip install "innerloop[cli]"``.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "demo": "learn to read real handwritten digits, beside the NumPy reference and scikit-learn",
    "info": "version, instruction sets, threads, caches and backends of this machine",
    "selftest": "hold every kernel against the NumPy reference, on every instruction set at hand",
    "bench": "time kernels beside NumPy and PyTorch, and against the machine's measured limits",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the process's exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process by default.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Only the command that is asked for is imported, so that `info` needs nothing of `demo`'s.
    named = next((a for a in arguments if not a.startswith("-")), None)
    parser = argparse.ArgumentParser(
        prog="python -m innerloop", description="innerloop, on this machine."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = None
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if name == named:
            try:
                module = importlib.import_module(f".{name}", __name__)
            except ModuleNotFoundError as error:
                return missing(error, name)
            module.add_arguments(command)
            run = module.run
    options = parser.parse_args(arguments)
    assert run is not None
    try:
        return run(options)
    except ModuleNotFoundError as error:
        return missing(error, named or "")


def missing(error: ModuleNotFoundError, command: str) -> int:
    """Say which extra brings a library that is not installed; return the exit status."""
    library = (error.name or "").partition(".")[0]
    if library == "innerloop":
        raise error
    extra = {"demo": "demo", "bench": "bench"}.get(command, "cli")
    print(
        f"python -m innerloop {command} needs {library}, which is not installed:\n"
        f'    pip install "innerloop[{extra}]"\n'
        f'or, from a checkout, pip install ".[{extra}]"',
        file=sys.stderr,
    )
    return 2
