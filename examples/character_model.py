"""A character language model in PyTorch, before and after `accelerate(model)`.

A small transformer reads a text that this script makes, numbers counted in words, and learns to go
on with it. It is trained twice from the same seed, each time in a process of its own: by PyTorch
alone, then with innerloop's modules and optimizer. The losses are the same; time and memory differ.

    python examples/character_model.py --steps 200
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

CONTEXT, BATCH, HEADS, LAYERS = 64, 16, 4, 2
LR = 2e-3
APART = 0.02  # of losses that begin above 3: rounding alone, grown step by step
SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def in_words(number: int) -> str:
    """Return a number below 1000 in English."""
    if number < 20:
        return SMALL[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return TENS[tens - 2] + (f"-{SMALL[ones]}" if ones else "")
    hundreds, rest = divmod(number, 100)
    return f"{SMALL[hundreds]} hundred" + (f" and {in_words(rest)}" if rest else "")


TEXT = "".join(f"{in_words(n)} and one is {in_words(n + 1)}.\n" for n in range(999))
CHARACTERS = sorted(set(TEXT))


class Block(nn.Module):
    """Attention to what came before, then a network for each place, both added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.network = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.norm1(x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts)
        seen = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).flatten(-2))
        return x + self.network(self.norm2(x))


class CharacterModel(nn.Module):
    """The logits of each next character."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(len(CHARACTERS), width)
        self.places = nn.Embedding(CONTEXT, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(LAYERS)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(CHARACTERS)))

    def forward(self, text: Tensor) -> Tensor:
        return self.head(self.blocks(self.characters(text) + self.places.weight[: text.shape[1]]))


def written(model: CharacterModel, start: str, length: int) -> str:
    """Return `start` and what the model goes on with, always the likeliest character."""
    text = torch.tensor([[CHARACTERS.index(c) for c in start]])
    with torch.no_grad():
        for _ in range(length):
            following = model(text[:, -CONTEXT:])[:, -1:].argmax(-1)
            text = torch.cat([text, following], 1)
    return "".join(CHARACTERS[i] for i in text[0])


def train(accelerated: bool, steps: int, width: int) -> dict[str, Any]:
    """Return the losses, the median seconds of a step, the MB that training took, a sample."""
    torch.manual_seed(0)
    torch.set_num_threads(2)
    model: Any = nn.ModuleDict({"model": CharacterModel(width), "loss": nn.CrossEntropyLoss()})
    if accelerated:
        import innerloop as il
        from innerloop.plugins.torch import AdamW, accelerate

        il.set_num_threads(2)
        report = accelerate(model)
        print(f"accelerate: {len(report.changed)} modules changed, {len(report.fused)} fused")
    else:
        from torch.optim import AdamW  # type: ignore[assignment]
    optimizer = AdamW(model.parameters(), lr=LR, fused=True)
    text = torch.tensor([CHARACTERS.index(c) for c in TEXT])
    losses, seconds = [], []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(steps):
        starts = torch.randint(len(text) - CONTEXT, (BATCH, 1))
        batch = text[starts + torch.arange(CONTEXT + 1)]
        start = time.perf_counter()
        optimizer.zero_grad()
        logits = model["model"](batch[:, :-1])
        loss = model["loss"](logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
    took = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "losses": losses,
        "seconds": statistics.median(seconds),
        "megabytes": took / 1024,  # Linux counts in KiB
        "sample": written(model["model"], "forty-one and one is ", 12),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Train both ways, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--only", choices=("torch", "innerloop"), help="train in this process")
    options = parser.parse_args(argv)
    if options.only:
        result = train(options.only == "innerloop", options.steps, options.width)
        print(json.dumps(result))
        return

    size = ["--steps", str(options.steps), "--width", str(options.width)]
    results = {}
    for name in ("torch", "innerloop"):
        command = [sys.executable, __file__, "--only", name, *size]
        *said, last = subprocess.check_output(command, text=True).splitlines()
        print(*said, sep="\n", end="\n" if said else "")
        results[name] = json.loads(last)
    curves = [torch.tensor(r["losses"]) for r in results.values()]
    apart = (curves[0] - curves[1]).abs().max().item()
    assert apart < APART, f"the losses differ by {apart:.2g}"

    for step in range(0, options.steps, max(1, options.steps // 6)):
        print(f"step {step:4}: losses {curves[0][step]:.4f} and {curves[1][step]:.4f}")
    print(f"no step's losses differ by more than {apart:.1g}")
    for name, result in results.items():
        print(
            f"{name:9} {result['seconds'] * 1e3:6.1f} ms a step, {result['megabytes']:6.1f} MB, "
            f"writes {result['sample']!r}"
        )


if __name__ == "__main__":
    main()
