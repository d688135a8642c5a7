"""The terminal's table, or the same table in Markdown."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

# A file or a pipe has no width of its own: leave room for the widest table.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def show_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool = False
) -> None:
    """Print a table: the first column to the left, the others to the right.

    A cell that starts with ``!`` is a failure, and printed so.
    """
    if markdown:
        lines = [f"### {title}", "", _line(columns), _line(["---"] + ["---:"] * (len(columns) - 1))]
        lines += [_line([_plain(cell) for cell in row]) for row in rows]
        print("\n".join(lines) + "\n", flush=True)
        return
    table = Table(
        title=title or None, title_justify="left", title_style="bold", show_header=any(columns)
    )
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i and column else "left", no_wrap=i == 0)
    for row in rows:
        table.add_row(*(Text(_plain(c), "bold red" if c.startswith("!") else "") for c in row))
    console.print(table)


def _plain(cell: str) -> str:
    return cell[1:] + " FAILED" if cell.startswith("!") else cell


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def human_bytes(count: float) -> str:
    """Return a size as ``"512.0 MiB"``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.1f} {unit}" if unit != "B" else f"{count:.0f} B"


def human_time(seconds: float) -> str:
    """Return a time with three digits, as ``"12.3 ms"``."""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1 or unit == "us":
            break
    return (
        f"{seconds * scale:.3g} {unit}"
        if seconds * scale < 1000
        else f"{seconds * scale:.0f} {unit}"
    )
