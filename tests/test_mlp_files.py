"""il.MLP in files: what was saved comes back, and nothing else does."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlp_cases import CLASSES, data, network, same

import innerloop as il

KINDS = ["npz", "safetensors"]
NETWORKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "float64": {"dtype": "float64", "seed": 2**64 - 1, "n_threads": 2},
    "penalty": {"l1": 0.1, "l2": 0.2, "dropout": [0.1, 0.2]},
    "activations": {"activation": [("leaky_relu", {"negative_slope": 0.3}), ("elu", {})]},
    "loss": {"loss": "huber_loss", "loss_params": {"delta": 0.4}, "output_activation": "tanh"},
    "smoothing": {"loss_params": {"label_smoothing": 0.1, "z_loss": 1e-4}},
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "safetensors":
        pytest.importorskip("safetensors")
    return request.param


def saved(mlp: il.MLP, path: Path) -> Path:
    mlp.save(path)
    return path


@pytest.mark.parametrize("name", NETWORKS)
def test_what_was_saved_comes_back(name, kind, tmp_path, target):
    given = NETWORKS[name]
    loss = given.get("loss", CLASSES)
    x, y, _ = data(loss, dtype=given.get("dtype", "float32"))
    mlp = network(**given)
    mlp.fit(x, y, epochs=2, batch_size=8)
    other = il.MLP.load(saved(mlp, tmp_path / f"a network.{kind}"))
    same(mlp.parameters, other.parameters)
    for attribute in (
        *("sizes", "activations", "loss", "dropout", "l1", "l2", "seed", "dtype", "n_threads"),
        *("epochs", "batches", "_objective"),
    ):
        assert getattr(mlp, attribute) == getattr(other, attribute), attribute
    assert other.optimizer is None and (other.epochs, other.batches) == (2, 14)
    np.testing.assert_array_equal(mlp.predict(x), other.predict(x))
    for m in (mlp, other):  # the same shuffle and dropout, too
        m.fit_epoch(x, y, "sgd", 8)
    same(mlp.parameters, other.parameters)


def test_a_file_that_cannot_be_written_leaves_the_old_one(kind, tmp_path, monkeypatch):
    path = saved(network(seed=1), tmp_path / f"a.{kind}")
    before = path.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", full)
    if kind == "safetensors":
        import safetensors.numpy

        monkeypatch.setattr(safetensors.numpy, "save", full)
    with pytest.raises(OSError, match="no space left"):
        network(seed=2).save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_paths(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mlp = network()
    mlp.save(f"plain.{kind}")
    same(il.MLP.load(f"plain.{kind}").parameters, mlp.parameters)
    for wrong in ("plain", "plain.pkl", "plain.npz.txt"):
        with pytest.raises(ValueError, match="path must end in"):
            mlp.save(wrong)
        with pytest.raises(ValueError, match="path must end in"):
            il.MLP.load(wrong)
    with pytest.raises(FileNotFoundError):
        il.MLP.load(f"none.{kind}")
    with pytest.raises(FileNotFoundError):
        mlp.save(tmp_path / "none" / f"a.{kind}")
    (tmp_path / f"folder.{kind}").mkdir()
    with pytest.raises(IsADirectoryError):
        il.MLP.load(f"folder.{kind}")


def refused(path: Path) -> str:
    with pytest.raises(ValueError, match="is no network that innerloop saved, or damaged") as error:
        il.MLP.load(path)
    return str(error.value)


def test_truncated(kind, tmp_path):
    whole = saved(network(), tmp_path / f"whole.{kind}").read_bytes()
    path = tmp_path / f"part.{kind}"
    for length in {*range(0, len(whole), 61), 1, 7, 8, 9, len(whole) - 1}:
        path.write_bytes(whole[:length])
        refused(path)


def test_every_damaged_byte_is_refused_or_without_effect(kind, tmp_path):
    """Never another exception; with npz, whose parts have checksums, never another network."""
    mlp = network()
    whole = saved(mlp, tmp_path / f"whole.{kind}").read_bytes()
    path = tmp_path / f"part.{kind}"
    for place in range(0, len(whole), 13):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            other = il.MLP.load(path)
        except ValueError:
            continue
        if kind == "npz":
            same(other.parameters, mlp.parameters)


def test_foreign_files(kind, tmp_path):
    path = tmp_path / f"a.{kind}"
    for content in (b"", b"hello", b"\x00" * 1000, b"\xff" * 1000, pickle.dumps([1, 2])):
        path.write_bytes(content)
        refused(path)
    if kind == "npz":
        np.savez(path, a=np.ones(3))
        refused(path)
        np.save(tmp_path / "b.npy", np.ones(3))
        path.write_bytes((tmp_path / "b.npy").read_bytes())
        refused(path)
        np.savez(path, network=np.array({"no": "code"}, object))
        refused(path)
    else:
        from safetensors.numpy import save_file

        save_file({"a": np.ones(3)}, path)
        refused(path)
        save_file({"a": np.ones(3)}, path, metadata={"innerloop.MLP": "{}"})
        refused(path)


class Trap:
    """What a pickle in a file would do."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("the file's code has run",))


def test_no_code_runs(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, network=np.array(Trap(), object))
    refused(path)


CHANGES: list[tuple[str, Any]] = [
    ("format", 2),
    ("sizes", [6, 9, 5, 4]),
    ("sizes", [6, 9, 3]),
    ("sizes", [6, 9, 5, 2**50]),
    ("sizes", []),
    ("sizes", "abc"),
    ("sizes", None),
    ("activations", [["relu", {}]]),
    ("activations", [["nope", {}], ["relu", {}], ["identity", {}]]),
    ("activations", [["relu", {"slope": 1}], ["relu", {}], ["identity", {}]]),
    ("activations", 5),
    ("dropout", [2.0, 0.0, 0.0]),
    ("dropout", [0.0]),
    ("dtype", "float64"),
    ("dtype", "int8"),
    ("seed", -1),
    ("seed", "x"),
    ("n_threads", 0),
    ("epochs", -1),
    ("epochs", 0.5),
    ("batches", "many"),
    ("batches", 2**70),
    ("objective", {}),
    ("objective", 7),
    ("objective", {"loss": "nope"}),
    ("objective", {"parameters": {"delta": 1}}),
    ("objective", {"l1": -1}),
    ("objective", {"l2": "a"}),
    ("objective", {"value_scale": "a"}),
    ("objective", {"penalty_over_weights": 3}),
    ("objective", {"more": 3}),
]


@pytest.mark.parametrize(("key", "value"), CHANGES)
def test_a_description_that_does_not_fit(key, value, tmp_path):
    path = saved(network(), tmp_path / "a.npz")
    with np.load(path) as file:
        arrays = dict(file)
    own = json.loads(arrays.pop("network").tobytes())
    if key == "objective" and isinstance(value, dict) and value:
        value = own["objective"] | value
    for changed in (own | {key: value}, {k: v for k, v in own.items() if k != key}):
        text = json.dumps(changed).encode()
        np.savez(path, network=np.frombuffer(text, np.uint8), **arrays)
        refused(path)


@pytest.mark.parametrize("change", ["lacks", "more", "shape", "dtype", "order"])
def test_arrays_that_do_not_fit(change, tmp_path):
    mlp = network()
    path = saved(mlp, tmp_path / "a.npz")
    with np.load(path) as file:
        arrays = dict(file)
    if change == "lacks":
        del arrays["biases.1"]
    elif change == "more":
        arrays["weights.7"] = np.ones(3)
    elif change == "shape":
        arrays["weights.0"] = arrays["weights.0"].T
    elif change == "dtype":
        arrays["weights.0"] = arrays["weights.0"].astype(np.float64)
    else:
        arrays["weights.0"] = np.asfortranarray(arrays["weights.0"])
    np.savez(path, **arrays)
    if change == "order":
        same(il.MLP.load(path).parameters, mlp.parameters)
    else:
        refused(path)


def test_saving_over_a_file(kind, tmp_path):
    path = saved(network(seed=1), tmp_path / f"a.{kind}")
    same(il.MLP.load(saved(network(seed=2), path)).parameters, network(seed=2).parameters)


def test_without_safetensors(monkeypatch, tmp_path):
    for name in ("safetensors", "safetensors.numpy"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(ImportError, match="pip install safetensors"):
        network().save(tmp_path / "a.safetensors")
    with pytest.raises(ImportError, match="pip install safetensors"):
        il.MLP.load(tmp_path / "a.safetensors")
