"""``--compare OLD.json``: what became faster or slower by more than the noise of both runs."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from ..console import human_time, show_table
from .harness import OURS
from .limits import mode
from .report import show_lines

SAME = ("processor", "isa", "threads")  # or times are of other machines


def refusals(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return why two records' times say nothing of each other; nothing where they do."""
    pairs = [(key, old["context"].get(key), new["context"].get(key)) for key in SAME]
    pairs += [(key, old.get(key), new.get(key)) for key in ("noun", "quick")]
    found = [f"{key} was {was!r} and is {now!r}" for key, was, now in pairs if was != now]
    if any("mood" not in case for case in old["cases"]):
        found.append("the old record is of a form without the machine's mood")
    return found


def verdict(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Say what became of a case, from the middle three fifths of both runs' rounds."""
    if any(case["mood"].get("disturbed") for case in (old, new)):
        return "not compared: disturbed by others"
    modes = [mode(case["mood"]["round_trip_ns"]) for case in (old, new)]
    if modes[0] != modes[1]:
        return f"not compared: {modes[0]} then, {modes[1]} now"
    (low, high), (new_low, new_high) = (
        np.percentile(case["seconds"][OURS]["rounds"], [20, 80]) for case in (old, new)
    )
    return "faster" if new_high < low else "slower" if new_low > high else "as before"


def run(old: dict[str, Any], new: dict[str, Any], markdown: bool) -> int:
    """Print what changed. The status is 2 where nothing can be compared."""
    reasons = refusals(old, new)
    if reasons:
        print(f"--compare refuses: {'; '.join(reasons)}", file=sys.stderr)
        return 2
    before = {(case["group"], case["case"]): case for case in old["cases"]}
    rows, counts = [], dict.fromkeys(("faster", "slower", "as before", "not compared", "new"), 0)
    for case in new["cases"]:
        was = before.get((case["group"], case["case"]))
        said = "new" if was is None else verdict(was, case)
        counts[said.partition(":")[0]] += 1
        if was is not None and said != "as before":
            rows.append([f"{case['group']}: {case['case']}", *_figures(was, case), said])
    columns = ["", "then", "now", "then / now", "peers, then / now", ""]
    title = f"since {old['context']['commit'] or 'then'}"
    if rows:
        show_table(title, columns, rows, markdown=markdown)
    counted = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    lines = [f"{title}: {counted}", "where the peers changed as much, it was the machine"]
    show_lines(lines if rows else lines[:1], markdown)
    return 0


def _figures(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    then, now = ({n: t["median"] for n, t in case["seconds"].items()} for case in (old, new))
    drift = [f"{then[name] / now[name]:.2f}" for name in now if name != OURS and name in then]
    changed = f"{then[OURS] / now[OURS]:.2f}"
    return [human_time(then[OURS]), human_time(now[OURS]), changed, ", ".join(drift) or "-"]
