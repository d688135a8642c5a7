"""An autoencoder of handwritten digits: 64 pixels through a few numbers and back.

`innerloop.MLP` learns to give its input back; beside it, as many principal components.

    python examples/autoencoder.py --code 8 --epochs 200
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

import innerloop as il


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Train; return the mean squared error of both on rows not trained on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--code", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=200)
    options = parser.parse_args(argv)

    X = load_digits().data.astype(np.float32) / 16
    X = X[np.random.default_rng(0).permutation(len(X))]
    train, test = X[:1400], X[1400:]
    network = il.MLP(
        [64, 64, options.code, 64, 64],
        ["gelu", "identity", "gelu"],
        output_activation="sigmoid",
        loss="mse_loss",
    )
    steps = options.epochs * -(-len(train) // 50)
    rate = il.schedules.cosine(0.005, steps)
    network.fit(
        *(train, train),
        optimizer=il.AdamW(network.parameters, lr=rate),
        batch_size=50,
        epochs=options.epochs,
    )
    pca = PCA(options.code).fit(train)
    errors = {
        "autoencoder": float(np.mean((network.predict(test) - test) ** 2)),
        "principal components": float(
            np.mean((pca.inverse_transform(pca.transform(test)) - test) ** 2)
        ),
    }
    for name, error in errors.items():
        print(f"{name:20} of {options.code}: mean squared error {error:.5f}")
    return errors


if __name__ == "__main__":
    main()
