"""Training a whole network: an epoch over the 1,797 digits with Adam, batch after batch.

scikit-learn's epoch is a `partial_fit`, whose checks take some 1% of it. PyTorch's is the loop that
its users write, on a shuffled copy, with the fused optimizer; JAX's is one jitted scan over the
batches, its state donated, without the last, smaller batch.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import innerloop as il
from innerloop import reference

from .harness import Case, Make
from .operations import operations
from .peers import Calls, Peers

SHAPES = (((64,), 32), ((256, 128), 128), ((512, 512), 128))
QUICK = (((8,), 32),)
ROWS, PIXELS, CLASSES = 1797, 64, 10
ROW = "MLPClassifier.predict_proba of one row"
EPOCHS, ACCURACY = 30, 0.985  # that innerloop must reach on what it has trained on
THEIRS = 0.95  # and every peer: enough to see that it trains
LR = 1e-3
Trained = tuple[Callable[[], Any], Callable[[], Any]]  # trains an epoch; predicts each row's class


def cases(beside: Peers, quick: bool) -> Iterator[Make]:
    """Yield each network; then what one row costs to predict."""
    for hidden, batch in QUICK if quick else SHAPES:
        yield functools.partial(_epoch, beside, hidden, batch, quick)
    yield functools.partial(_one_row, beside)
    if beside.sklearn is not None:  # which our estimators are made of
        yield functools.partial(_estimator, 1 if quick else 30)
        yield functools.partial(_estimators_row)


def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return scikit-learn's digits, or where it is not installed clusters of their shape."""
    if importlib.util.find_spec("sklearn") is not None:
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        return (x / 16.0).astype(np.float32), y.astype(np.int64)
    rng = np.random.default_rng(0)
    y = rng.integers(0, CLASSES, ROWS)
    x = rng.random((CLASSES, PIXELS))[y] + 0.3 * rng.standard_normal((ROWS, PIXELS))
    return x.astype(np.float32), y


def _epoch(beside: Peers, hidden: tuple[int, ...], batch: int, quick: bool) -> Case:
    x, y = digits()
    sizes = (PIXELS, *hidden, CLASSES)
    network = il.MLP(sizes, seed=1)
    optimizer = il.Adam(network.parameters, lr=LR)
    run = functools.partial(network.fit_epoch, x, y, optimizer, batch)
    trained: dict[str, Trained] = {}
    if beside.sklearn is not None:
        trained["sklearn"] = _sklearn(hidden, batch, x, y)
    if beside.torch is not None:
        trained["torch"] = _torch(beside.torch, sizes, batch, x, y)
    if beside.jax is not None:
        trained["jax"] = _jax(beside.jax, sizes, batch, x, y)
    products = [k * n for k, n in itertools.pairwise(sizes)]
    parameters = sum(p.size for p in network.parameters)
    steps = -(-ROWS // batch)
    few = [np.ones(8, np.float32) for _ in range(4)]
    update = operations(reference.OPTIMIZERS["adam"].function, *few, step=2)
    flops = ROWS * (6.0 * sum(products) - 2.0 * products[0]) + steps * parameters * update
    moved = 4.0 * x.size
    return Case(
        f"{hidden}, batches of {batch}",
        "an epoch of the digits",
        run,
        {name: train for name, (train, _) in trained.items()},
        moved,
        moved + 16.0 * parameters,
        flops,
        check=lambda: None if quick else _check(network, run, trained, x, y),
    )


def _check(network: il.MLP, run: Any, trained: dict[str, Trained], x: NDArray, y: NDArray) -> None:
    """Each has learnt the digits after as many epochs."""
    for _ in range(EPOCHS):
        run()
    assert (network.predict(x) == y).mean() > ACCURACY, "innerloop did not learn"
    for name, (train, predict) in trained.items():
        for _ in range(EPOCHS):
            train()
        assert (np.asarray(predict()) == y).mean() > THEIRS, f"{name} did not learn"


def _sklearn(hidden: tuple[int, ...], batch: int, x: NDArray, y: NDArray) -> Trained:
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier(hidden, batch_size=batch, alpha=0.0, learning_rate_init=LR)
    model.partial_fit(x, y, classes=np.arange(CLASSES))
    return lambda: model.partial_fit(x, y), lambda: model.predict(x)


def _torch(torch: Any, sizes: tuple[int, ...], batch: int, x: NDArray, y: NDArray) -> Trained:
    layers: list[Any] = []
    for k, n in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(k, n), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    optimizer = torch.optim.Adam(model.parameters(), lr=LR, fused=True)
    tx, ty = torch.from_numpy(x), torch.from_numpy(y)

    def train() -> None:
        order = torch.randperm(len(tx))
        sx, sy = tx[order], ty[order]
        for at in range(0, len(sx), batch):
            optimizer.zero_grad()
            z = model(sx[at : at + batch])
            torch.nn.functional.cross_entropy(z, sy[at : at + batch]).backward()
            optimizer.step()

    return train, lambda: model(tx).argmax(1)


def _jax(jax: Any, sizes: tuple[int, ...], batch: int, x: NDArray, y: NDArray) -> Trained:
    jnp = jax.numpy
    rng = np.random.default_rng(1)
    tx, ty = jnp.asarray(x), jnp.asarray(y)
    count = len(x) // batch * batch

    def logits(params: Any, rows: Any) -> Any:
        for w, b in params[:-1]:
            rows = jax.nn.relu(rows @ w + b)
        return rows @ params[-1][0] + params[-1][1]

    def loss(params: Any, rows: Any, labels: Any) -> Any:
        log_p = jax.nn.log_softmax(logits(params, rows))
        return -jnp.take_along_axis(log_p, labels[:, None], 1).mean()

    def step(state: Any, rows: Any) -> Any:
        params, m, v, t = state
        grads = jax.grad(loss)(params, tx[rows], ty[rows])
        t = t + 1
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, grads)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, grads)
        rate = LR * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-8), params, m, v)
        return (params, m, v, t), None

    epoch = jax.jit(lambda state, order: jax.lax.scan(step, state, order)[0], donate_argnums=0)
    params = [
        (jnp.asarray(rng.standard_normal((k, n), np.float32) * (2 / k) ** 0.5), jnp.zeros(n))
        for k, n in itertools.pairwise(sizes)
    ]
    zeros = functools.partial(jax.tree.map, jnp.zeros_like, params)
    held = {"state": (params, zeros(), zeros(), jnp.float32(0))}

    def train() -> None:
        order = rng.permutation(len(x))[:count].reshape(-1, batch)
        held["state"] = jax.block_until_ready(epoch(held["state"], jnp.asarray(order)))

    return train, lambda: logits(held["state"][0], tx).argmax(1)


def _one_row(beside: Peers) -> Case:
    x, y = digits()
    row = x[:1]
    network = il.MLP((PIXELS, 64, CLASSES), seed=1)
    peers: Calls = {}
    if beside.sklearn is not None:
        from sklearn.neural_network import MLPClassifier

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it has not converged, and need not
            model = MLPClassifier((64,), max_iter=1).fit(x, y)
        peers["sklearn"] = functools.partial(model.predict_proba, row)
    moved = 4.0 * sum(p.size for p in network.parameters)
    return Case(
        "predict_proba of one row, (64,)",
        "one row",
        functools.partial(network.predict_proba, row),
        peers,
        moved,
        moved,
        2.0 * moved / 4.0,
    )


def _estimators() -> Any:
    """Return our MLPClassifier and scikit-learn's."""
    from sklearn.neural_network import MLPClassifier

    from innerloop.plugins import sklearn as plugin

    return plugin.MLPClassifier, MLPClassifier


def _estimator(epochs: int) -> Case:
    """Return `fit` of both libraries' estimators, and the same epochs of il.MLP alone."""
    x, y = digits()
    warnings.filterwarnings("ignore", "Stochastic Optimizer")  # that it has not converged
    options = {"batch_size": 32, "max_iter": epochs, "tol": 0.0, "random_state": 0}
    ours, theirs = (cls((64,), n_iter_no_change=1000, **options) for cls in _estimators())
    network = il.MLP((PIXELS, 64, CLASSES), l2=1e-4 / 32)
    optimizer = il.Adam(network.parameters)

    def alone() -> None:
        for _ in range(epochs):
            network.fit_epoch(x, y, optimizer, 32)

    peers: Calls = {"sklearn": functools.partial(theirs.fit, x, y), "il.MLP alone": alone}
    moved = 4.0 * x.size * epochs
    name = f"MLPClassifier((64,), batch_size=32).fit, {epochs} epochs"
    return Case(name, "estimators", functools.partial(ours.fit, x, y), peers, moved, moved)


def _estimators_row() -> Case:
    x, y = digits()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they have not converged, and need not
        ours, theirs = (cls((64,), max_iter=1).fit(x, y) for cls in _estimators())
    peers: Calls = {"sklearn": functools.partial(theirs.predict_proba, x[:1])}
    run = functools.partial(ours.predict_proba, x[:1])
    return Case(ROW, "estimators, one row", run, peers, 2e4, 2e4)
