"""``bench table``: the tables of the README and of docs/performance.md, from committed results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..console import human_time
from . import compare
from .harness import OURS

BEGIN = "<!-- {}: made by `python -m innerloop bench table` from bench/results -->"
END = "<!-- end of {} -->"

MEAN, BEST, WORST = "geometric mean", "best", "worst"
GIVEN = "value and gradient, into a given array"
FRESH = "value and gradient, into a fresh array"
OVER = "value and gradient, over the logits"
LARGE, SMALL = "16,000,000 elements", "256,000 elements"
FIT = "MLPClassifier((64,), batch_size=32).fit, 30 epochs"
ROW = "MLPClassifier.predict_proba of one row"
FUSED, DEFAULT = "torch fused", "torch default"  # which is beside what has no fused form
COMPILED = "torch compiled"
ON_DEMAND = ("jax", COMPILED)  # peers that compile: their rows are there where they were asked for
TRAINED = "784-512-512-10, batches of 128"
LANGUAGE = "1024 tokens of 32,000, 2 layers of 256"


@dataclass(frozen=True)
class Row:
    """A line: one case of a group, or its best, its worst or the mean of all.

    `summary`: it stands in the README, too.
    """

    work: str
    noun: str
    group: str
    case: str
    peer: str = "torch"
    summary: bool = True


def _all_of(work: str, noun: str, group: str) -> list[Row]:
    """Return the mean of a group's ratios, and its ends."""
    ends = [Row(f"… {end}: ", noun, group, end, summary=False) for end in (BEST, WORST)]
    return [Row(work, noun, group, MEAN), *ends]


CROSS_ENTROPY = "softmax_cross_entropy"
ROWS = [
    *_all_of("`linear`, twelve shapes, weights (N, K)", "linear", "linear"),
    Row("`linear`, weights (K, N)", "linear", "linear, weights (K, N)", MEAN),
    Row("`linear`, weights (K, N)", "linear", "linear, weights (K, N)", MEAN, "numpy"),
    *_all_of("`linear` with gelu", "linear", "linear, gelu"),
    Row("`linear` with relu", "linear", "linear, relu", MEAN),
    Row("`linear`, prepacked, M <= 8", "linear", "linear, prepacked", MEAN),
    *_all_of("backward of `linear` with gelu", "linear", "linear, gelu, backward: dx, dw, db"),
    Row("`linear`, bfloat16, large", "linear", "linear, bfloat16, large", MEAN),
    Row("`linear`, bfloat16, M <= 32", "linear", "linear, bfloat16, M <= 32", MEAN),
    Row("`linear`, float64", "linear", "linear, float64", MEAN),
    Row("cross-entropy, value and gradient in place", CROSS_ENTROPY, OVER, "2048 x 32000"),
    Row("… into a given array", CROSS_ENTROPY, GIVEN, "2048 x 32000"),
    Row("… into a fresh array", CROSS_ENTROPY, FRESH, "2048 x 32000"),
    Row("… into a given array", CROSS_ENTROPY, GIVEN, "512 x 128000"),
    Row("… into a given array", CROSS_ENTROPY, GIVEN, "256 x 1000"),
    Row("… into a given array", CROSS_ENTROPY, GIVEN, "128 x 10"),
    Row(
        "`linear_cross_entropy`",
        "linear_cross_entropy",
        "value and gradients, weight (C, K)",
        "512 x 512 x 32000",
    ),
    *(
        Row("optimizer's step", "optimizers", "one step, one array", f"{name}, 32,000,000", peer)
        for name, peer in (
            ("SGD (momentum 0.9)", FUSED),
            ("Adam", FUSED),
            ("AdamW", FUSED),
            ("Adam (max_norm 1)", FUSED),
            ("Adagrad", FUSED),
            ("RMSprop", DEFAULT),
            ("Adadelta", DEFAULT),
            ("Adamax", DEFAULT),
        )
    ),
    Row("… of 1000 arrays", "optimizers", "one step, many arrays", "Adam, 1,000 x 10,000", FUSED),
    Row(
        "… with states of fewer bits",
        "optimizers",
        "states of fewer bits",
        "Adam (bfloat16 states), 32,000,000",
        "float32 states",
    ),
    *(
        Row("`MLP`, an epoch of the digits", "mlp", "an epoch of the digits", case, p)
        for case in (
            "(64,), batches of 32",
            "(256, 128), batches of 128",
            "(512, 512), batches of 128",
        )
        for p in ("sklearn", "torch", "jax")
    ),
    Row("`MLP.predict_proba`", "mlp", "one row", "predict_proba of one row, (64,)", "sklearn"),
    Row("`plugins.sklearn`", "mlp", "estimators", FIT, "sklearn"),
    Row("`plugins.sklearn`", "mlp", "estimators", FIT, "il.MLP alone", summary=False),
    Row("`plugins.sklearn`", "mlp", "estimators, one row", ROW, "sklearn"),
    *(
        Row("`plugins.torch`", "torch", "an MLP's training step", TRAINED, p)
        for p in (FUSED, COMPILED)
    ),
    *(
        Row("`plugins.torch`", "torch", "a language model's training step", LANGUAGE, p)
        for p in (FUSED, COMPILED)
    ),
    *(
        Row(
            "`plugins.torch`, optimizer's step",
            "torch",
            "optimizer's step",
            f"{name}, {size}",
            peer,
        )
        for size in ("4 x 8,000,000", "8 x 1,000,000", "1,000 x 10,000")
        for name, peer in (
            ("RMSprop", DEFAULT),
            ("Adadelta", DEFAULT),
            ("Adamax", DEFAULT),
            ("Adam", FUSED),
        )
    ),
    *(
        Row(f"`plugins.torch`, {group}", "torch", group, MEAN)
        for group in (
            "a call for 8 numbers, no gradient",
            "a call for 8 numbers, forward with a gradient to come",
            "a call for 8 numbers, forward and backward",
        )
    ),
    *_all_of("activations, 16 M elements, fresh output", "activations", f"{LARGE}, fresh"),
    *_all_of("activations, 16 M elements, `out=`", "activations", f"{LARGE}, out="),
    *_all_of("activations, 256 k elements, `out=`", "activations", f"{SMALL}, out="),
    Row("the cost of a call, `out=`", "activations", "4 elements, out=", "relu"),
    Row("the cost of a call, fresh output", "activations", "4 elements, fresh", "relu"),
    Row("layer_norm, rms_norm, batch_norm, dropout, forward", "norms", "forward", MEAN),
    Row("… backward", "norms", "backward", MEAN),
    Row("prelu", "prelu", "value", MEAN),
    Row("softmax, log_softmax", "softmax", "value", MEAN),
    Row("glu, swiglu, geglu", "gated", "4096 x 5632, value", MEAN),
    Row(
        "elementwise losses with their gradients",
        "elementwise_losses",
        "16,000,000 elements, value and gradient into a given array",
        MEAN,
    ),
]
OTHERS = ("machine", "scaling", "cuda")  # records without a noun's cases, or of a device
NAMES = {"torch": "PyTorch", "numpy": "NumPy", "jax": "JAX", "sklearn": "scikit-learn"} | {
    FUSED: "PyTorch, fused",
    DEFAULT: "PyTorch, default",
    COMPILED: "PyTorch, compiled",
}


Records = dict[str, dict[str, Any]]


def read(results: Path) -> Records:
    """Return the records of a folder by noun.

    Raises
    ------
    LookupError
        Where one that a row asks for is missing, or a file is something else.
    """
    records = {}
    for path in sorted(results.glob("*.json")):
        if path.stem in OTHERS:
            continue
        try:
            records[path.stem] = compare.read(path)
        except ValueError as error:
            raise LookupError(f"{path}: {error}") from None
    for row in ROWS:
        if row.noun not in records:
            raise LookupError(f"{results / row.noun}.json is missing: `bench all` makes it")
    return records


def _table(records: Records, rows: Iterable[Row]) -> list[str]:
    """The rows; those beside a peer on demand only where it was asked for."""
    lines = [
        _line(row, records[row.noun])
        for row in rows
        if row.peer not in ON_DEMAND
        or any(row.peer in c["ratios"] for c in records[row.noun]["cases"])
    ]
    head = [
        "| work | innerloop | of its limit | beside | ratio |",
        "|---|---:|---:|---:|---|---:|",
    ]
    return [*_about(records), "", *head, *lines]


def summary(records: Records) -> list[str]:
    """Return the README's table: a line a kernel."""
    return _table(records, (row for row in ROWS if row.summary))


def table(records: Records) -> list[str]:
    """Return all rows, with the best and the worst case of each mean."""
    return _table(records, ROWS)


def losses(records: Records) -> list[str]:
    """Return every case in which PyTorch was faster than a twentieth, the worst first."""
    found = [
        (ratio, noun, case, peer)
        for noun, record in records.items()
        for case in record["cases"]
        for peer, ratio in case["ratios"].items()
        if peer in ("torch", FUSED) and ratio is not None and ratio < 0.95
    ]
    if not found:
        return ["None."]
    lines = [
        f"| `{noun}` | {case['group']} | {case['case']} | {case['of_limit']:.0%} | "
        f"{NAMES[peer]}{', fresh' if peer in case.get('fresh', ()) else ''} | {_ratio(ratio)} |"
        for ratio, noun, case, peer in sorted(found, key=lambda entry: entry[0])
    ]
    head = [
        "| noun | group | case | of its limit | the peer | ratio |",
        "|---|---|---|---:|---|---:|",
    ]
    return [*head, *lines]


BLOCKS: dict[str, Callable[[Records], list[str]]] = {
    "summary": summary,
    "table": table,
    "losses": losses,
}


def _about(records: Records) -> list[str]:
    contexts = [record["context"] for record in records.values()]

    def every(key: str) -> str:
        return ", ".join(dict.fromkeys(str(context[key]) for context in contexts))

    cases = (case for record in records.values() for case in record["cases"])
    fresh = any(case.get("fresh") for case in cases)
    return [
        f"A ratio is the peer's time divided by ours, the median of rounds in one run: above 1, "
        f"innerloop is faster. \\*: another process took a core meanwhile. {every('processor')}, "
        f"{every('isa')}, {every('threads')} threads, PyTorch {every('torch')}, innerloop at "
        f"{every('commit')}; float32 where nothing else is said. The limit is the slower of "
        "arithmetic and memory, as the run itself measured them."
        + (" Fresh: the peer makes a new array where ours is given one." if fresh else "")
    ]


def _line(row: Row, record: dict[str, Any]) -> str:
    chosen = [
        case
        for case in record["cases"]
        if case["group"] == row.group and case["ratios"].get(row.peer) is not None
    ]
    peer = NAMES.get(row.peer, row.peer)
    if row.case == MEAN:
        fresh = [row.peer in case.get("fresh", ()) for case in chosen]
        peer += ", fresh" if all(fresh) else ", some fresh" if any(fresh) else ""
        mean = record["geometric_means"].get(row.group, {}).get(row.peer)
        if mean is None:
            raise LookupError(f"{record['noun']}: no {row.group!r} beside {row.peer}")
        return f"| {row.work}: geometric mean | | | {peer} | {_ratio(mean)} |"
    if row.case in (BEST, WORST):
        chosen.sort(key=lambda case: case["ratios"][row.peer], reverse=row.case == BEST)
    else:
        chosen = [case for case in chosen if case["case"] == row.case]
    if not chosen:
        raise LookupError(f"{record['noun']}: no {row.case!r} in {row.group!r} beside {row.peer}")
    case = chosen[0]
    ours = human_time(case["seconds"][OURS]["median"])
    work = f"{row.work.rstrip(': ')}: {case['case']}"
    star = "\\*" if case.get("mood", {}).get("disturbed") else ""
    ratio = _ratio(case["ratios"][row.peer])
    peer += ", fresh" if row.peer in case.get("fresh", ()) else ""
    return f"| {work} | {ours}{star} | {case['of_limit']:.0%} | {peer} | {ratio} |"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value < 2 else f"{value:.1f}"


def written(page: str, records: Records) -> str:
    """Return the page with each block made anew between its marks.

    Raises
    ------
    LookupError
        Where the page has no block, or one without its end.
    """
    found = False
    for name, make in BLOCKS.items():
        begin, end = BEGIN.format(name), END.format(name)
        before, mark, rest = page.partition(begin)
        if not mark:
            continue
        _, mark, after = rest.partition(end)
        if not mark:
            raise LookupError(f"{begin!r} without {end!r}")
        page = "\n".join([before + begin, *make(records), end]) + after
        found = True
    if not found:
        raise LookupError(f"the page has no lines like {BEGIN.format('summary')!r} to write after")
    return page


def run(results: Path, pages: list[Path]) -> int:
    """Write the blocks of all pages. The status is 1 where results or marks are missing."""
    try:
        records = read(results)
        changed = {page: written(page.read_text(), records) for page in pages}
    except (LookupError, OSError) as error:
        print(f"bench table: {error}", file=sys.stderr)
        return 1
    for page, text in changed.items():
        page.write_text(text)
    return 0
