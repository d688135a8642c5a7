"""The native list, the reference and the public names agree, entry by entry."""

from __future__ import annotations

import importlib.metadata
import inspect

import pytest

import innerloop as il
from innerloop import _core
from innerloop.reference import ACTIVATIONS, GATED, LOSSES, OPTIMIZERS


def test_activations() -> None:
    native = {name: (defaults, saves) for name, defaults, saves in _core.activations()}
    reference = {name: (a.parameters, a.saves_output) for name, a in ACTIVATIONS.items()}
    assert native == reference
    assert list(native) == list(reference) == list(il.activations.NAMES)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_signatures(name: str) -> None:
    forward = inspect.signature(getattr(il, name))
    assert list(forward.parameters) == ["x", *ACTIVATIONS[name].parameters, "out"]
    backward = inspect.signature(getattr(il, f"{name}_backward"))
    assert list(backward.parameters) == ["dy", "x", *ACTIVATIONS[name].parameters, "y", "out"]


def test_gated_pairs() -> None:
    reference = [(p.name, p.activation, p.gate_is_first) for p in GATED.values()]
    assert _core.gated_pairs() == reference
    assert list(GATED) == list(il.gated.NAMES)


def test_optimizers() -> None:
    assert [entry[0] for entry in _core.optimizers()] == list(OPTIMIZERS)
    for name, optimizer in OPTIMIZERS.items():
        assert callable(getattr(il, f"{name}_step"))
        assert inspect.isclass(getattr(il, optimizer.class_name))


# The names of docs/design.md, section 5, that this version has.
PUBLIC = """softmax softmax_backward log_softmax log_softmax_backward activation activation_backward
prelu prelu_backward linear linear_backward linear_cross_entropy pack dropout dropout_backward
layer_norm layer_norm_backward rms_norm rms_norm_backward batch_norm batch_norm_backward
softmax_cross_entropy nll_loss MLP set_num_threads get_num_threads use_isa isas backends use_backend
info set_cuda_tf32 cuda_tf32""".split()


@pytest.mark.parametrize(
    "name",
    PUBLIC
    + list(LOSSES)
    + [n for a in [*ACTIVATIONS, *GATED] for n in (a, f"{a}_backward")]
    + [n for o in OPTIMIZERS.values() for n in (f"{o.name}_step", o.class_name)],
)
def test_public_names_are_documented(name: str) -> None:
    assert name in il.__all__
    document = inspect.getdoc(getattr(il, name))
    assert document and len(document) > 30, f"{name} has no docstring to speak of"
    if inspect.signature(getattr(il, name)).parameters:
        assert "Raises\n" in document, f"{name} does not say what it raises"


def test_version() -> None:
    try:
        installed = importlib.metadata.version("innerloop")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("not installed, but run from the source tree")
    assert il.__version__ == installed


def test_nothing_else_is_public() -> None:
    extra = {n for n in vars(il) if not n.startswith("_")} - set(il.__all__)
    assert not {n for n in extra if not inspect.ismodule(getattr(il, n))}
