"""The README's table lists every entry that there is, and none that there is not."""

from __future__ import annotations

from pathlib import Path

import innerloop as il
from innerloop.reference import OPTIMIZERS

README = (Path(__file__).parent.parent / "README.md").read_text()
TABLE = README[README.index("## What works") : README.index("What you can rely on:")]
NOT_ENTRIES = {
    *il.runtime.__all__,
    *(f"{name}_step" for name in OPTIMIZERS),  # which go with the classes
    *("activation", "activation_backward"),  # by name, what has its own
    *("Optimizer", "PackedWeight", "Schedule"),  # bases, and what pack returns
}


def test_the_table_lists_every_entry() -> None:
    """In the column that has them: of each row, the second."""
    cells = [row.split("|")[2] for row in TABLE.splitlines() if row.startswith("| ")]
    listed = [name.strip() for cell in cells for name in cell.replace(";", ",").split(",")]
    public = {n for n in il.__all__ if not n.endswith("_backward")} | {*il.schedules.__all__}
    assert sorted(listed) == sorted({"entries"} | public - NOT_ENTRIES)
