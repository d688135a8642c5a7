"""Every test that asks for `target` runs on each instruction set at hand and on the reference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

import innerloop as il

# The same examples in every run; `--hypothesis-profile default` looks for others.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")

TARGETS = [*il.isas(), "reference"]

BUILDERS = ("test_cpp.py", "test_two_files.py")  # a few tests that take minutes each


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with those that build: of several workers, none is left alone with them at the end."""
    items.sort(key=lambda item: item.path.name not in BUILDERS)


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> Iterator[str]:
    """Name of the ISA, or of the backend "reference", that serves the calls of this test."""
    with ExitStack() as stack:
        if request.param == "reference":
            stack.enter_context(il.use_backend("reference"))
        else:
            stack.enter_context(il.use_isa(request.param))
        yield request.param


@pytest.fixture(params=il.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Name of the ISA that serves the calls of this test."""
    with il.use_isa(request.param):
        yield request.param


@pytest.fixture
def restore_threads() -> Iterator[None]:
    """Put the number of threads back at the end of the test."""
    n = il.get_num_threads()
    yield
    il.set_num_threads(n)


@pytest.fixture
def cuda_unchecked() -> Iterator[None]:
    """Begin in the mode that does not wait for an emulated device, and leave it without a fault."""
    import device_arrays

    before = il.cuda_checked()
    il.set_cuda_checked(False)
    yield
    il.set_cuda_checked(before)
    il.relu(device_arrays.asarray([1.0]))


@pytest.fixture(scope="session")
def torch() -> Any:
    """PyTorch, or the test is skipped."""
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def one_torch_thread() -> Iterator[None]:
    """Small tensors, of which several threads make slow work."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def no_numpy_warnings() -> Iterator[None]:
    """The reference must not let a floating-point warning out, whatever the caller's settings."""
    with np.errstate(all="raise"):
        yield
