"""The README's table lists every entry that there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import innerloop as il
from innerloop.reference import ACTIVATIONS, GATED, LOSSES, OPTIMIZERS

README = (Path(__file__).parent.parent / "README.md").read_text()
TABLE = README[README.index("## What works") : README.index("What you can rely on:")]
LISTED = set(re.findall(r"\w+", TABLE))
ENTRIES = [
    *ACTIVATIONS,
    *GATED,
    *LOSSES,
    *(optimizer.class_name for optimizer in OPTIMIZERS.values()),
    *(name for name in il.schedules.__all__ if name != "Schedule"),
    *("prelu", "softmax", "log_softmax", "linear", "linear_backward", "pack", "dropout"),
    *("softmax_cross_entropy", "nll_loss", "linear_cross_entropy", "clip_grad_norm"),
    *("layer_norm", "rms_norm", "batch_norm"),
]


@pytest.mark.parametrize("name", ENTRIES)
def test_entry_is_listed(name: str) -> None:
    assert name in LISTED


def test_every_public_function_is_an_entry() -> None:
    """Or what goes with one, or belongs to the run time."""
    known = {*ENTRIES, *(f"{e}_backward" for e in ENTRIES), *(f"{o}_step" for o in OPTIMIZERS)}
    known |= {*il.runtime.__all__, "activation", "activation_backward", "Optimizer", "PackedWeight"}
    assert set(il.__all__) <= known
