"""``--compare OLD.json``: what became faster or slower by more than the noise of both runs."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..console import human_time, show_table
from .harness import OURS
from .limits import mode
from .report import TITLES, show_lines

SAME = ("processor", "isa", "threads")  # or times are of other machines
# How far the logarithms of two medians may lie apart and say nothing: so many of both runs' spreads
# together, and FLOOR at least, as the rounds of one process share its luck. Of 162 pairs of cases
# from three runs of one commit, on a virtual machine of two cores beside busy ones, that leaves 4
# changed; a floor of 0.1 leaves 8, rounds that do not overlap 56. Of the 25 pairs that nobody
# disturbed it is 2, 5 and 12.
SPREADS, FLOOR = 2.0, 0.2


def read(path: Path) -> dict[str, Any]:
    """Return a record.

    Raises
    ------
    OSError, ValueError
        Where there is none, or not of a noun's cases.
    """
    record = json.loads(path.read_text())
    if not _is_record(record):
        raise ValueError("no record of a noun's cases, or one of an older form")
    return record


def _is_record(record: Any) -> bool:
    """Say whether all is there that is compared."""
    try:
        return (
            {"noun", "quick"} <= record.keys()
            and isinstance(record["context"], dict)
            and all(
                {"group", "case"} <= case.keys()
                and OURS in case["seconds"]
                and all(t["median"] > 0 and t["spread"] >= 0 for t in case["seconds"].values())
                and mode(case["mood"]["round_trip_ns"])
                for case in record["cases"]
            )
        )
    except (KeyError, TypeError, AttributeError):
        return False


def refusals(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return why two records' times say nothing of each other; nothing where they do."""
    pairs = [(key, old["context"].get(key), new["context"].get(key)) for key in SAME]
    pairs += [(key, old.get(key), new.get(key)) for key in ("noun", "quick")]
    return [f"{key} was {was!r} and is {now!r}" for key, was, now in pairs if was != now]


def verdict(old: dict[str, Any], new: dict[str, Any], changed: Collection[str] = ()) -> str:
    """Say what became of a case, beside its peers but for those that have `changed`."""
    if any(case["mood"].get("disturbed") for case in (old, new)):
        return "not compared: disturbed by others"
    modes = [mode(case["mood"]["round_trip_ns"]) for case in (old, new)]
    if modes[0] != modes[1]:
        return f"not compared: {modes[0]} then, {modes[1]} now"
    noise = max(FLOOR, SPREADS * math.hypot(*(c["seconds"][OURS]["spread"] for c in (old, new))))
    moved = math.log(_then_by_now(old, new, OURS))
    if abs(moved) <= noise:
        return "as before"
    drifts = (math.log(_then_by_now(old, new, peer)) for peer in _peers(old, new, changed))
    if any(abs(moved - drift) <= noise for drift in drifts):
        return "like a peer"
    return "faster" if moved > 0 else "slower"


def _then_by_now(old: dict[str, Any], new: dict[str, Any], name: str) -> float:
    return old["seconds"][name]["median"] / new["seconds"][name]["median"]


def _peers(old: dict[str, Any], new: dict[str, Any], changed: Collection[str]) -> list[str]:
    """Return those in both runs whose version is the same."""
    both = (name for name in new["seconds"] if name != OURS and name in old["seconds"])
    return [name for name in both if name.split()[0] not in changed]


def show(old: dict[str, Any], new: dict[str, Any], markdown: bool) -> None:
    """Print what changed."""
    before = {(case["group"], case["case"]): case for case in old["cases"]}
    titles = {"python": "Python", **TITLES}
    versions = {key: [record["context"].get(key) for record in (old, new)] for key in titles}
    changed = [key for key, (was, now) in versions.items() if None not in (was, now) and was != now]
    kinds = ("faster", "slower", "like a peer", "as before", "not compared", "new")
    rows, counts = [], dict.fromkeys(kinds, 0)
    for case in new["cases"]:
        was = before.get((case["group"], case["case"]))
        said = "new" if was is None else verdict(was, case, changed)
        kind = said.partition(":")[0]
        counts[kind] += 1
        if was is None:
            continue
        moved = _then_by_now(was, case, OURS)
        if kind != "as before":
            drift = [f"{_then_by_now(was, case, p):.2f}" for p in _peers(was, case, changed)]
            times = [human_time(c["seconds"][OURS]["median"]) for c in (was, case)]
            name = f"{case['group']}: {case['case']}"
            rows.append([name, *times, f"{moved:.2f}", ", ".join(drift) or "-", said])
    columns = ["", "then", "now", "then / now", "peers, then / now", ""]
    title = f"since {old['context'].get('commit') or 'then'}"
    if rows:
        show_table(title, columns, rows, markdown=markdown)
    counted = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    lines = [f"{title}: {counted}"]
    if counts["like a peer"]:
        lines.append("like a peer: that one changed as much, so it was the machine")
    for key in changed:
        was, now = versions[key]
        lines.append(f"{titles[key]} was {was} and is {now}: ratios to it may differ for that")
    show_lines(lines, markdown)
