"""The models that `bench torch` trains: plain PyTorch, each with its loss inside."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Classifier(nn.Module):
    """Dense layers with relu between them, and the cross-entropy of their output."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for k, n in itertools.pairwise(sizes):
            layers += [nn.Linear(k, n), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])
        self.loss = nn.CrossEntropyLoss()

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return self.loss(self.layers(x), target)


class LinearThenLoss(nn.Module):
    """A last layer and the cross-entropy of its logits, as two calls of PyTorch."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, classes, bias=False)
        self.loss = nn.CrossEntropyLoss()

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return self.loss(self.linear(x).flatten(0, -2), target.flatten())


class Block(nn.Module):
    """Attention and a network of one hidden layer, each on normalised rows and added to them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.network = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(-3, -2)
            for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        seen = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(-3, -2).flatten(-2))
        return x + self.network(self.norm2(x))


class LanguageModel(nn.Module):
    """A transformer that predicts each next token, with a loss over the whole vocabulary."""

    def __init__(
        self,
        vocabulary: int,
        width: int,
        heads: int,
        layers: int,
        context: int,
        loss: type[nn.Module] = LinearThenLoss,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(0.02 * torch.randn(context, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.loss = loss(width, vocabulary)

    def forward(self, tokens: Tensor, target: Tensor) -> Tensor:
        return self.loss(self.norm(self.blocks(self.tokens(tokens) + self.places)), target)
