"""Networks in files: npz, which NumPy reads, or safetensors. Neither holds code."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import _numbers as numbers

if TYPE_CHECKING:
    from .mlp import MLP

FORMAT = 1


def _suffix(path: str | os.PathLike[str]) -> str:
    suffix = os.path.splitext(os.fspath(path))[1]
    if suffix not in (".npz", ".safetensors"):
        raise ValueError(f"path must end in .npz or .safetensors, got {os.fspath(path)!r}")
    return suffix


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError("this needs the package safetensors: pip install safetensors") from error
    return safetensors


def save(network: MLP, path: str | os.PathLike[str]) -> None:
    """Write the parameters, and what else makes the network, as JSON."""
    suffix = _suffix(path)
    arrays = {f"weights.{i}": w for i, w in enumerate(network.weights)}
    arrays |= {f"biases.{i}": b for i, b in enumerate(network.biases)}
    own = {
        "format": FORMAT,
        "sizes": network.sizes,
        "activations": network.activations,
        "dropout": network.dropout,
        "dtype": network.dtype.name,
        "seed": network.seed,
        "n_threads": network.n_threads,
        "epochs": network.epochs,
        "batches": network.batches,
        "objective": network._objective._asdict(),
    }
    text = json.dumps(own)
    library = _safetensors() if suffix == ".safetensors" else None
    # Written beside it, then put in its place at once: a full disk leaves the file that was there.
    whole = os.path.realpath(path)
    part = f"{whole}.{os.getpid()}.part"
    try:
        with open(part, "wb") as file:
            if library is None:
                np.savez(file, network=np.frombuffer(text.encode(), np.uint8), **arrays)  # type: ignore[arg-type]
            else:
                file.write(library.numpy.save(arrays, metadata={"innerloop.MLP": text}))
        os.replace(part, whole)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        raise


def load(cls: type[MLP], path: str | os.PathLike[str]) -> MLP:
    """Return the network of a file; ValueError if it is none."""
    suffix = _suffix(path)
    library = _safetensors() if suffix == ".safetensors" else None
    with open(path, "rb"):  # no such file: its own exception
        pass
    try:
        text, arrays = _read(path, library)
        return _made(cls, json.loads(text), arrays)
    except MemoryError:
        raise
    except Exception as error:  # whatever a damaged file makes the readers raise
        raise ValueError(
            f"{os.fspath(path)!r} is no network that innerloop saved, or damaged: {error}"
        ) from error


def _read(path: str | os.PathLike[str], library: Any) -> tuple[str, dict[str, NDArray]]:
    if library is None:
        # A file of our own: NumPy leaves its open where it finds it damaged.
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return arrays.pop("network").tobytes().decode(), arrays
    with library.safe_open(path, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}
        return file.metadata()["innerloop.MLP"], arrays


def _made(cls: type[MLP], own: dict[str, Any], arrays: dict[str, NDArray]) -> MLP:
    if own["format"] != FORMAT:
        raise ValueError(f"format {own['format']} is not known, but {FORMAT} is")
    sizes, dtype = own["sizes"], np.dtype(own["dtype"])
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (k, n) in enumerate(itertools.pairwise(sizes)):
        shapes |= {f"weights.{i}": (k, n), f"biases.{i}": (n,)}
    if shapes.keys() != arrays.keys():
        raise ValueError(f"it holds {sorted(arrays)} for sizes {sizes}")
    for name, shape in shapes.items():  # before a network of such sizes is made
        if arrays[name].shape != shape or arrays[name].dtype != dtype:
            raise ValueError(f"{name} is {arrays[name].dtype} of shape {arrays[name].shape}")
    objective = own["objective"]
    *hidden, last = [(name, parameters) for name, parameters in own["activations"]]
    network = cls(
        sizes,
        hidden,
        loss=objective["loss"],
        output_activation=last,
        loss_params=objective["parameters"],
        dropout=tuple(own["dropout"][:-1]),
        l1=objective["l1"],
        l2=objective["l2"],
        seed=own["seed"],
        dtype=dtype,
        n_threads=own["n_threads"],
    )
    network._set_objective(network._objective._replace(**objective))
    network.epochs = numbers.count(own["epochs"], "epochs")
    network.batches = numbers.count(own["batches"], "batches")
    for i, (w, b) in enumerate(zip(network.weights, network.biases, strict=True)):
        w[...], b[...] = arrays[f"weights.{i}"], arrays[f"biases.{i}"]
    return network
