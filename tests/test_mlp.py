"""il.MLP: its output, its loss and gradients, and what it is made of."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from mlp_cases import CLASSES, PAIRS, SIZES, data, network, same

import innerloop as il
from innerloop import reference
from support import DTYPES, LAYOUTS

TOLERANCE = {"float32": 5e-6, "float64": 1e-13}
WAYS: dict[str, tuple[dict[str, Any], bool, int | None]] = {  # of the network, weights, dropout
    "plain": ({}, False, None),
    "penalty": ({"l1": 0.02, "l2": 0.3}, False, None),
    "l1": ({"l1": 0.02}, False, None),
    "l2": ({"l2": 0.3}, False, None),
    "weights": ({}, True, None),
    "dropout": ({"dropout": [0.4, 0.2]}, False, 7),
    "no-dropout-asked": ({"dropout": 0.4}, False, None),
    "all": ({"l1": 0.02, "l2": 0.3, "dropout": 0.3}, True, 2**40),
}


def close(got: Any, expected: Any, dtype: str) -> None:
    for a, b in zip(got, expected, strict=True):
        assert np.dtype(a.dtype) == dtype
        np.testing.assert_allclose(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("loss", "output"), PAIRS)
def test_gradients_are_those_of_the_reference(loss, output, dtype, way, isa):
    options, weighs, offset = WAYS[way]
    mlp = network(loss, output_activation=output, dtype=dtype, **options)
    x, y, weights = data(loss, dtype=dtype)
    given = {"sample_weight": weights if weighs else None, "dropout_offset": offset}
    before = [p.copy() for p in mlp.parameters]
    value, gradients = mlp.gradients(x, y, **given)
    with il.use_backend("reference"):
        expected, others = mlp.gradients(x, y, **given)
        judged = mlp.evaluate(x, y, sample_weight=given["sample_weight"])
    np.testing.assert_allclose(value, expected, rtol=TOLERANCE[dtype])
    close(gradients, others, dtype)
    evaluated = mlp.evaluate(x, y, sample_weight=given["sample_weight"])
    np.testing.assert_allclose(evaluated, judged, rtol=TOLERANCE[dtype])
    if offset is None:
        assert evaluated == value
    same(mlp.parameters, before)


@pytest.mark.parametrize("name", il.activations.NAMES)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_every_activation(name, dropout, isa):
    mlp = network(activation=name, dtype="float64", dropout=dropout)
    x, y, _ = data(dtype="float64")
    value, gradients = mlp.gradients(x, y, dropout_offset=5)
    with il.use_backend("reference"):
        expected, others = mlp.gradients(x, y, dropout_offset=5)
    assert value == pytest.approx(expected, rel=1e-13)
    close(gradients, others, "float64")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("loss", "output"), PAIRS)
def test_finite_differences(loss, output, way, target):
    options, weighs, offset = WAYS[way]
    mlp = network(loss, output_activation=output, dtype="float64", **options)
    x, y, weights = data(loss, 7, "float64")
    given = {"sample_weight": weights if weighs else None, "dropout_offset": offset}
    _, gradients = mlp.gradients(x, y, **given)
    step = 1e-6
    rng = np.random.default_rng(0)
    for p, g in zip(mlp.parameters, gradients, strict=True):
        for place in rng.choice(p.size, min(p.size, 4), replace=False):
            at = np.unravel_index(place, p.shape)
            was, values = p[at], []
            for there in (was + step, was - step):
                p[at] = there
                values.append(mlp.gradients(x, y, **given)[0])
            p[at] = was
            slope = (values[0] - values[1]) / (2 * step)
            assert g[at] == pytest.approx(slope, rel=2e-6, abs=2e-8)


@pytest.mark.parametrize("params", [{"label_smoothing": 0.2}, {"z_loss": 0.01}])
@pytest.mark.parametrize("kind", ["labels", "ignored", "probabilities"])
@pytest.mark.parametrize("weighs", [False, True])
def test_losses_of_classes(params, kind, weighs, isa):
    mlp = network(dtype="float64", loss_params=params, l2=0.1)
    x, y, weights = data(dtype="float64")
    if kind == "ignored":
        y[::3] = -100
    if kind == "probabilities":
        y = np.random.default_rng(1).dirichlet(np.ones(SIZES[-1]), len(x))
    given = {"sample_weight": weights if weighs else None}
    value, gradients = mlp.gradients(x, y, **given)
    logits = mlp.forward(x)
    expected = il.softmax_cross_entropy(logits, y, **given, **params)
    penalty = 0.05 * sum((w**2).sum() for w in mlp.weights)
    assert value == pytest.approx(expected + penalty, rel=1e-13)
    with il.use_backend("reference"):
        close(gradients, mlp.gradients(x, y, **given)[1], "float64")


@pytest.mark.parametrize(
    ("loss", "params"),
    [
        ("huber_loss", {"delta": 0.3}),
        ("smooth_l1_loss", {"beta": 0.2}),
        ("kl_div", {"log_target": True}),
    ],
)
def test_losses_take_parameters(loss, params, isa):
    mlp = network(loss, loss_params=params, dtype="float64")
    x, y, weights = data(loss, dtype="float64")
    assert mlp.evaluate(x, y) == pytest.approx(getattr(il, loss)(mlp.forward(x), y, **params))
    assert mlp.evaluate(x, y) != network(loss, dtype="float64").evaluate(x, y)
    value, gradients = mlp.gradients(x, y, sample_weight=weights)
    with il.use_backend("reference"):
        expected, others = mlp.gradients(x, y, sample_weight=weights)
    assert value == pytest.approx(expected, rel=1e-13)
    close(gradients, others, "float64")


def test_an_epsilon_of_weight_for_nobody(target):
    """Rows that do not count: neither a loss nor a gradient, but the penalty's."""
    x, y, _ = data()
    mlp = network(l2=0.1)
    nothing = network(l2=0.1).gradients(x, y)[1]
    for given in ({"y": np.full(len(x), -100)}, {"y": y, "sample_weight": np.zeros(len(x))}):
        value, gradients = mlp.gradients(x, **given)
        assert value == pytest.approx(
            0.05 * sum(float((w**2).sum()) for w in mlp.weights), rel=1e-6
        )
        for w, b, dw, db in zip(
            mlp.weights, mlp.biases, gradients[::2], gradients[1::2], strict=True
        ):
            np.testing.assert_allclose(dw, np.float32(0.1) * w, rtol=1e-6)
            assert not db.any() and db.shape == b.shape
    assert nothing[1].any()


@pytest.mark.parametrize("rows", [0, 1, 2, 511, 512, 513, 1100])
def test_forward_is_a_row_at_a_time(rows, isa):
    """As il.linear, layer by layer, whatever the number of rows; dropout takes no part."""
    mlp = network(dropout=0.5)
    x = data(rows=rows)[0]
    y = mlp.forward(x)
    expected = x
    for w, b, (name, params) in zip(mlp.weights, mlp.biases, mlp.activations, strict=True):
        expected = il.linear(expected, w, b, activation=name, **params)
    np.testing.assert_array_equal(y, expected)
    for i in range(0, rows, 97):
        np.testing.assert_array_equal(mlp.forward(x[i : i + 1])[0], y[i])
    assert mlp.predict(x).shape == (rows,) and mlp.predict_proba(x).shape == (rows, 3)


def test_predictions(target):
    x = data()[0]
    mlp = network()
    logits, proba = mlp.forward(x), mlp.predict_proba(x)
    np.testing.assert_array_equal(mlp.predict(x), logits.argmax(axis=1))
    np.testing.assert_allclose(proba, np.exp(logits) / np.exp(logits).sum(1)[:, None], rtol=1e-5)
    assert mlp.predict(x).dtype == np.int64 and proba.dtype == np.float32

    mlp = network("binary_cross_entropy_with_logits")
    logits = mlp.forward(x)
    np.testing.assert_array_equal(mlp.predict(x), logits > 0)
    np.testing.assert_allclose(mlp.predict_proba(x), 1 / (1 + np.exp(-logits)), rtol=1e-5)

    mlp = network("binary_cross_entropy", output_activation="sigmoid")
    np.testing.assert_array_equal(mlp.predict_proba(x), mlp.forward(x))
    np.testing.assert_array_equal(mlp.predict(x), mlp.forward(x) > 0.5)

    mlp = network("mse_loss")
    np.testing.assert_array_equal(mlp.predict(x), mlp.forward(x))
    with pytest.raises(ValueError, match="predict_proba needs a loss of labels"):
        mlp.predict_proba(x)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, target):
    x, y, weights = data("mse_loss")
    mlp = network("mse_loss")
    place = LAYOUTS[layout]
    expected = mlp.gradients(x, y, sample_weight=weights)
    value, gradients = mlp.gradients(place(x), place(y), sample_weight=place(weights))
    assert value == expected[0]
    same(gradients, expected[1])
    np.testing.assert_array_equal(mlp.forward(place(x)), mlp.forward(x))
    read_only = place(x)
    read_only.flags.writeable = False
    np.testing.assert_array_equal(mlp.forward(read_only), mlp.forward(x))


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", "bool", "float16", "float64"])
def test_numbers_of_other_types_are_converted(dtype, target):
    x = np.arange(12).reshape(2, 6).astype(dtype)
    mlp = network()
    np.testing.assert_array_equal(mlp.forward(x), mlp.forward(x.astype(np.float32)))
    np.testing.assert_array_equal(mlp.forward(x.tolist()), mlp.forward(x.astype(np.float32)))


def test_arrays_of_other_libraries(torch):
    x, y, weights = data()
    mlp = network()
    expected = mlp.gradients(x, y, sample_weight=weights)
    tensors = [torch.from_numpy(a) for a in (x, y, weights)]
    value, gradients = mlp.gradients(*tensors[:2], sample_weight=tensors[2])
    assert value == expected[0]
    same(gradients, expected[1])
    for method in (mlp.forward, mlp.predict, mlp.predict_proba):
        result = method(tensors[0])
        assert isinstance(result, torch.Tensor)
        np.testing.assert_array_equal(result.numpy(), method(x))
    mlp.fit_epoch(*tensors[:2], "sgd", order=torch.arange(10))
    other = network()
    other.fit_epoch(x, y, "sgd", order=range(10))
    same(mlp.parameters, other.parameters)


@pytest.mark.parametrize("init", ["he_normal", "he_uniform", "glorot_normal", "glorot_uniform"])
def test_first_weights(init):
    k, n = 300, 200
    (w,) = il.MLP([k, n], init=init, seed=5, dtype="float64").weights
    variance = 2 / k if init.startswith("he") else 2 / (k + n)
    assert w.var() == pytest.approx(variance, rel=0.03) and abs(w.mean()) < 1e-3
    if init.endswith("uniform"):
        assert np.abs(w).max() < (3 * variance) ** 0.5 < 1.001 * np.abs(w).max()
    same([w], il.MLP([k, n], init=init, seed=5, dtype="float64").weights)
    assert (w != il.MLP([k, n], init=init, seed=6, dtype="float64").weights[0]).all()


def test_auto_init_knows_relu_and_its_kin():
    mlp = il.MLP([400, 300, 200, 100], ["relu", "tanh"])
    assert mlp.weights[0].var() == pytest.approx(2 / 400, rel=0.03)
    assert mlp.weights[1].var() == pytest.approx(2 / 500, rel=0.03)
    assert mlp.weights[1].max() < (6 / 500) ** 0.5
    assert not any(b.any() for b in mlp.biases)


def test_no_hidden_layer(isa):
    mlp = il.MLP([6, 3], dtype="float64")
    x, y, _ = data(dtype="float64")
    value, gradients = mlp.gradients(x, y)
    with il.use_backend("reference"):
        expected, others = mlp.gradients(x, y)
    assert value == pytest.approx(expected, rel=1e-13)
    close(gradients, others, "float64")


def test_attributes():
    mlp = network(activation=[("leaky_relu", {"negative_slope": 0.2}), "tanh"], dropout=(0.1, 0.2))
    assert mlp.sizes == tuple(SIZES) and mlp.dropout == (0.1, 0.2, 0.0)
    assert mlp.activations[0] == ("leaky_relu", {"negative_slope": 0.2})
    assert [p.shape for p in mlp.parameters] == [(6, 9), (9,), (9, 5), (5,), (5, 3), (3,)]
    assert mlp.parameters[2] is mlp.weights[1] and mlp.parameters[3] is mlp.biases[1]
    assert "leaky_relu" in repr(mlp)
    for name in ("weights", "biases", "parameters"):  # in place, but not others
        with pytest.raises(AttributeError):
            setattr(mlp, name, [])
    mlp.parameters.clear()
    assert len(mlp.parameters) == 6


@pytest.mark.parametrize("way", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(way, target):
    x, y, _ = data()
    mlp = network(dropout=0.2, l1=0.01)
    mlp.fit_epoch(x, y, "adam", 8)
    other = way(mlp)
    assert (other.epochs, other.batches, other.optimizer) == (1, 7, None)
    same(mlp.parameters, other.parameters)
    before = [p.copy() for p in other.parameters]
    mlp.fit_epoch(x, y, "sgd", 8)
    same(other.parameters, before)
    other.fit_epoch(x, y, "sgd", 8)
    same(mlp.parameters, other.parameters)
    for p in mlp.parameters:
        p[...] = 0
    assert other.forward(x).any() and not mlp.forward(x).any()


def test_reference_forward_and_backend_may_change_in_between():
    x, y, _ = data(dtype="float64")
    mixed, native = network(dtype="float64", dropout=0.2), network(dtype="float64", dropout=0.2)
    for number in range(4):
        with il.use_backend("reference" if number % 2 else "cpu"):
            mixed.fit_epoch(x, y, "adam", 16)
        native.fit_epoch(x, y, "adam", 16)
    assert mixed.optimizer.steps == native.optimizer.steps == 16 == mixed.batches
    for a, b in zip(mixed.parameters, native.parameters, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


MAKING: list[tuple[tuple, dict, type, str]] = [
    (([6],), {}, ValueError, "sizes must hold"),
    (([6, 0],), {}, ValueError, r"sizes\[1\]"),
    (([6, 2.5],), {}, TypeError, r"sizes\[1\]"),
    ((6,), {}, TypeError, "sizes"),
    (([6, 3], "relu"), {"dtype": "float16"}, TypeError, "dtype"),
    (([6, 3], "relu"), {"dtype": "int32"}, TypeError, "dtype"),
    (([6, 4, 3], "rellu"), {}, ValueError, "activation"),
    (([6, 4, 3], "prelu"), {}, ValueError, "activation"),
    (([6, 4, 3], 5), {}, TypeError, "activation"),
    (([6, 4, 3], ("relu", 5)), {}, TypeError, "activation"),
    (([6, 4, 3], ("leaky_relu", {"slope": 0.1})), {}, TypeError, "leaky_relu"),
    (([6, 4, 3], ["relu", "relu"]), {}, ValueError, "one a hidden layer, 1, got 2"),
    (([6, 4, 3],), {"dropout": 1.5}, ValueError, "dropout"),
    (([6, 4, 3],), {"dropout": [0.1, 0.1]}, ValueError, "dropout"),
    (([6, 4, 3],), {"dropout": float("nan")}, ValueError, "dropout"),
    (([6, 3],), {"loss": "cross"}, ValueError, "loss"),
    (([6, 3],), {"loss_params": {"delta": 1}}, TypeError, "label_smoothing"),
    (([6, 3],), {"loss_params": {"label_smoothing": 2}}, ValueError, "label_smoothing"),
    (([6, 3],), {"loss_params": 5}, TypeError, "loss_params"),
    (([6, 3],), {"output_activation": "nope"}, ValueError, "output_activation"),
    (([6, 3],), {"l1": -1}, ValueError, "l1"),
    (([6, 3],), {"l2": float("inf")}, ValueError, "l2"),
    (([6, 3],), {"init": "zeros"}, ValueError, "init"),
    (([6, 3],), {"seed": -1}, ValueError, "seed"),
    (([6, 3],), {"seed": 1.5}, TypeError, "seed"),
    (([6, 3],), {"n_threads": 0}, ValueError, "n_threads"),
]


@pytest.mark.parametrize(("args", "given", "error", "text"), MAKING)
def test_making_refuses(args, given, error, text):
    with pytest.raises(error, match=text):
        il.MLP(*args, **given)


@pytest.mark.parametrize("sizes", [[2**40, 2**40], [2**50, 2], [2**31, 2**31, 3], [1, 2**52]])
def test_sizes_that_overflow(sizes):
    with pytest.raises((MemoryError, ValueError)):
        il.MLP(sizes)


X, Y, W = data()
ROWS: list[tuple[dict, type, str]] = [
    ({"X": X[0]}, ValueError, "X must have the shape"),
    ({"X": X[:, :5]}, ValueError, "X must have the shape"),
    ({"X": X[:0], "y": Y[:0]}, ValueError, "X must have at least one row"),
    ({"X": [[1.0, 2.0], [3.0]]}, ValueError, "X must have rows of one length"),
    ({"X": "abc"}, TypeError, "X must be an array"),
    ({"X": None}, TypeError, "X must be an array"),
    ({"X": X.astype(complex)}, TypeError, "X must be an array of real"),
    ({"X": X.astype(object)}, TypeError, "X must be an array"),
    ({"X": X.astype(X.dtype.newbyteorder())}, TypeError, "X must be an array"),
    ({"X": np.ma.array(X)}, TypeError, "X must be an array without a mask"),
    ({"y": Y[:-1]}, ValueError, "y must have the shape"),
    ({"y": Y[:, None]}, ValueError, "y must have the shape"),
    ({"y": Y.astype(np.float32)}, ValueError, "y must have the shape"),
    ({"y": ["a"] * 50}, TypeError, "y must be an array"),
    ({"y": np.where(np.arange(50) == 40, 3, Y)}, IndexError, r"got 3 at \(40,\)"),
    ({"y": np.where(np.arange(50) == 40, -1, Y)}, IndexError, r"got -1 at \(40,\)"),
    ({"y": np.full(50, 2**64 - 100, np.uint64)}, IndexError, "y must hold"),
    ({"y": np.full(50, -(2**63))}, IndexError, "y must hold"),
    ({"sample_weight": W[:-1]}, ValueError, "sample_weight must have the shape"),
    ({"sample_weight": 1.0}, TypeError, "sample_weight"),
]


CALLS = ("fit_epoch", "fit", "evaluate", "gradients")
CALLS_ROWS = [(call, *row) for call in CALLS for row in ROWS]
# forward takes no rows, too, but neither labels nor weights
CALLS_ROWS += [
    ("forward", *r) for r in ROWS if "X" in r[0] and (r[0]["X"] is None or len(r[0]["X"]))
]


@pytest.mark.parametrize(("call", "given", "error", "text"), CALLS_ROWS)
def test_rows_are_refused_before_a_byte_is_written(call, given, error, text, target):
    mlp = network()
    before = [p.copy() for p in mlp.parameters]
    given = {"X": X, "y": Y} | given
    options = {"batch_size": 8} if call.startswith("fit") else {}
    if call == "forward":
        given = {"X": given["X"]}
    with pytest.raises(error, match=text):
        getattr(mlp, call)(**given, **options)
    same(mlp.parameters, before)
    assert mlp.epochs == mlp.batches == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["X", "weight", "target"])
@pytest.mark.parametrize("loss", [CLASSES, "mse_loss"])
def test_nan_and_infinity_pass(value, where, loss, target):
    x, y, weights = data(loss)
    if where == "X":
        x[3, 2] = value
    elif where == "weight":
        weights[5] = value
    elif loss == CLASSES:
        y = np.full((len(x), 3), value)
    else:
        y[4] = value
    mlp = network(loss, l1=0.1, l2=0.1)
    mlp.fit_epoch(x, y, "adam", 8, sample_weight=weights)
    assert mlp.batches == 7
    mlp.gradients(x, y, sample_weight=weights)
    assert mlp.predict(x).shape[0] == 50


def test_float64_beyond_float32_becomes_infinite(target):
    x = data(dtype="float64")[0]
    mlp = network()
    np.testing.assert_array_equal(mlp.forward(x * 1e300), mlp.forward(np.sign(x) * np.inf))


def broadcast(*shape: int) -> np.ndarray:
    return np.broadcast_to(np.float32(0), shape)


@pytest.mark.parametrize("rows", [2**45, 2**57])
def test_rows_that_overflow(rows):
    mlp = network("mse_loss")
    x, y = broadcast(rows, 6), broadcast(rows, 3)
    for call in (
        lambda: mlp.forward(x),
        lambda: mlp.evaluate(x, y),
        lambda: mlp.gradients(x, y),
        lambda: mlp.fit_epoch(x, y, "sgd", rows, shuffle=False),
        lambda: mlp.fit_epoch(x, y, "sgd", min(rows, 2**52)),
        lambda: network().fit_epoch(x, np.broadcast_to(np.int64(0), rows), "sgd", shuffle=False),
    ):
        with pytest.raises((MemoryError, ValueError)):
            call()


def test_weights_that_are_no_longer_where_they_were(target):
    x, y, _ = data()
    if target != "reference":  # NumPy finds out itself, or not
        for change in (
            lambda w: w.resize((1000, 1000), refcheck=False),
            lambda w: setattr(w, "dtype", np.float64) if w.size % 2 == 0 else None,
        ):
            mlp = il.MLP([6, 8, 3])
            change(mlp.weights[0])
            for call in (lambda m=mlp: m.forward(x), lambda m=mlp: m.fit_epoch(x, y)):
                with pytest.raises((TypeError, ValueError)):
                    call()
    mlp = network()
    mlp.weights[1].flags.writeable = False
    before = [p.copy() for p in mlp.parameters]
    with pytest.raises(ValueError, match="params"):
        mlp.fit_epoch(x, y)
    same(mlp.parameters, before)
    mlp.forward(x)


def test_a_pickle_of_weights_that_do_not_fit():
    mlp = network()
    state = mlp.__getstate__()
    state["_weights"] = (np.zeros((54, 1), np.float32), *state["_weights"][1:])
    with pytest.raises(ValueError, match="fit together"):
        il.MLP.__new__(il.MLP).__setstate__(state)


def test_reference_names():
    """The specification's own functions are public in `innerloop.reference.mlp`."""
    layers = [reference.mlp.Layer(np.eye(2), np.zeros(2), "relu")]
    x = np.array([[1.0, -1.0]])
    np.testing.assert_array_equal(reference.mlp.forward(layers, x), [[1.0, 0.0]])
