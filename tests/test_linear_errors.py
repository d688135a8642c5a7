"""What `linear`, `linear_backward` and `pack` refuse: the right exception, with nothing written."""

import numpy as np
import pytest

import innerloop as il

X, W, B, DY = np.ones((4, 3)), np.ones((3, 5)), np.ones(5), np.ones((4, 5))

BAD = {
    "x list": (TypeError, "x must be", lambda o: il.linear([[1.0]], W, out=o)),
    "x None": (TypeError, "x must be", lambda o: il.linear(None, W, out=o)),
    "x int": (TypeError, "x must be float32", lambda o: il.linear(X.astype(int), W, out=o)),
    "x 0-d": (
        ValueError,
        "x must have at least 1 axis",
        lambda o: il.linear(np.array(1.0), W, out=o),
    ),
    "w None": (TypeError, "w must be", lambda o: il.linear(X, None, out=o)),
    "w dtype": (
        TypeError,
        "w must have the dtype of x",
        lambda o: il.linear(X, W.astype("f4"), out=o),
    ),
    "w swapped": (
        TypeError,
        "w must have",
        lambda o: il.linear(X, W.astype(">f8").astype(int), out=o),
    ),
    "w 1-d": (ValueError, "w must have 2 axes", lambda o: il.linear(X, W[:, 0], out=o)),
    "w 3-d": (ValueError, "w must have 2 axes", lambda o: il.linear(X, W[None], out=o)),
    "w rows": (ValueError, r"w must have the shape \(3, N\)", lambda o: il.linear(X, W[:2], out=o)),
    "w packed rows": (
        ValueError,
        r"w must have the shape",
        lambda o: il.linear(X, il.pack(W.T), out=o),
    ),
    "w packed dtype": (
        TypeError,
        "w must have the dtype",
        lambda o: il.linear(X, il.pack(W.astype("f4")), out=o),
    ),
    "b dtype": (
        TypeError,
        "b must have the dtype of x",
        lambda o: il.linear(X, W, B.astype("f4"), out=o),
    ),
    "b length": (
        ValueError,
        r"b must have the shape \(5,\)",
        lambda o: il.linear(X, W, B[:4], out=o),
    ),
    "b of one": (
        ValueError,
        r"b must have the shape \(5,\)",
        lambda o: il.linear(X, W, B[:1], out=o),
    ),
    "b 2-d": (
        ValueError,
        r"b must have the shape \(5,\)",
        lambda o: il.linear(X, W, B[None], out=o),
    ),
    "activation": (
        ValueError,
        "activation must be one of",
        lambda o: il.linear(X, W, activation="rleu", out=o),
    ),
    "activation type": (
        TypeError,
        "activation must be",
        lambda o: il.linear(X, W, activation=3, out=o),
    ),
    "parameter": (
        TypeError,
        "relu takes no parameters",
        lambda o: il.linear(X, W, activation="relu", slope=1, out=o),
    ),
    "parameter alone": (
        TypeError,
        "identity takes no parameters",
        lambda o: il.linear(X, W, slope=1, out=o),
    ),
    "parameter type": (
        TypeError,
        "negative_slope must be a number",
        lambda o: il.linear(X, W, activation="leaky_relu", negative_slope="x", out=o),
    ),
    "out shape": (ValueError, "out must have the shape", lambda o: il.linear(X[:2], W, out=o)),
    "out dtype": (
        TypeError,
        "out must be float32",
        lambda o: il.linear(X.astype("f4"), W.astype("f4"), out=o),
    ),
    "backward saved": (
        TypeError,
        "saved must be",
        lambda o: il.linear_backward(DY, X, W, activation="relu"),
    ),
    "backward saved shape": (
        ValueError,
        "saved must have the shape",
        lambda o: il.linear_backward(DY, X, W, DY[:1], activation="relu"),
    ),
    "backward saved dtype": (
        TypeError,
        "saved must have the dtype",
        lambda o: il.linear_backward(DY, X, W, DY.astype("f4"), activation="relu"),
    ),
    "backward dy shape": (
        ValueError,
        "dy must have the shape",
        lambda o: il.linear_backward(DY[:3], X, W),
    ),
    "backward dy flat": (
        ValueError,
        "dy must have the shape",
        lambda o: il.linear_backward(DY.ravel(), X, W),
    ),
    "backward dy dtype": (
        TypeError,
        "dy must have the dtype",
        lambda o: il.linear_backward(DY.astype("f4"), X, W),
    ),
    "backward w": (ValueError, "w must have the shape", lambda o: il.linear_backward(DY, X, W.T)),
    "backward x": (TypeError, "x must be", lambda o: il.linear_backward(DY, None, W)),
    "pack list": (TypeError, "w must be", lambda o: il.pack([[1.0]])),
    "pack int": (TypeError, "w must be float32", lambda o: il.pack(W.astype(int))),
    "pack 1-d": (ValueError, "w must have 2 axes", lambda o: il.pack(B)),
}


@pytest.mark.parametrize("backend", il.backends())
@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused_before_a_byte_is_written(case, backend):
    error, message, call = BAD[case]
    out = np.full((4, 5), 7.0)
    with il.use_backend(backend), pytest.raises(error, match=message):
        call(out)
    assert (out == 7.0).all()


@pytest.mark.parametrize("backend", il.backends())
def test_outputs_that_cannot_be_written_are_refused(backend):
    x, w, b = np.eye(4), np.eye(4), np.ones(4)
    store = np.full((8, 8), 7.0)
    read_only = np.full((4, 4), 7.0)
    read_only.flags.writeable = False
    with il.use_backend(backend):
        for out, message in [
            (read_only, "out must be writeable"),
            (np.broadcast_to(store[0, :4], (4, 4)), "out must be writeable"),
            (np.lib.stride_tricks.as_strided(store, (4, 4), (8, 8)), "address of its own"),
            (x, "out must not overlap x"),
            (w, "out must not overlap w"),
            (w.T, "out must not overlap w"),
        ]:
            before = out.copy()
            with pytest.raises(ValueError, match=message):
                il.linear(x, w, b, out=out)
            np.testing.assert_array_equal(out, before)
        with pytest.raises(ValueError, match="out must not overlap b"):
            il.linear(x, w, store[0, :4], out=store[:4, :4])
        with pytest.raises(ValueError, match="out must not overlap x"):
            il.linear(store[:4, :4], w, out=store[1:5, 1:5])
        # Interleaved, but nowhere the same byte.
        il.linear(store[:4, ::2], w, out=store[:4, 1::2])


def test_sizes_beyond_memory_are_refused():
    one = np.ones(1)
    tall, wide = np.broadcast_to(one, (1 << 40, 1)), np.broadcast_to(one, (1, 1 << 40))
    with pytest.raises((ValueError, MemoryError)):
        il.linear(tall, wide)
    with pytest.raises((ValueError, MemoryError)):
        il.linear_backward(
            np.broadcast_to(one, (1, 1 << 40)),
            np.broadcast_to(one, (1, 1 << 40)),
            np.broadcast_to(one, (1 << 40, 1 << 40)),
        )
    with pytest.raises((ValueError, MemoryError)):
        il.pack(np.broadcast_to(one, (1 << 30, 1 << 29)))
