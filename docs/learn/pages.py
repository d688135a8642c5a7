"""Run the pages: ``python docs/learn/pages.py [PAGE ...]``.

A page's python blocks run in order, in one namespace. A text block is what the block before it
prints; ``...`` in it stands for anything.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
PAGES = sorted(HERE.glob("[0-9][0-9]-*.md"))

_BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run(page: Path) -> dict[str, Any]:
    """Run a page's code and return the names that it leaves.

    Raises
    ------
    AssertionError
        If a block prints something else than the text block after it.
    """
    text = page.read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": page.stem}
    printed = ""
    with np.printoptions():  # what a page sets, the next one does not see
        for block in _BLOCK.finditer(text):
            kind, body = block.groups()
            line = text.count("\n", 0, block.start()) + 1
            if kind == "python":
                # Empty lines before the code: a traceback then shows the page's own line.
                code = compile("\n" * line + body, page, "exec", dont_inherit=True)
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    exec(code, names)
                printed = out.getvalue()
                print(printed, end="")
            elif not doctest.OutputChecker().check_output(body, printed, doctest.ELLIPSIS):
                raise AssertionError(f"{page.name}:{line} says\n{body}\nbut it printed\n{printed}")
    return names


if __name__ == "__main__":
    for path in [Path(a) for a in sys.argv[1:]] or PAGES:
        print(f"== {path.name}")
        run(path)
