"""The C++ core without Python: by Clang here, and for 64-bit Arm under qemu, to the same bits."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import innerloop as il

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(
    shutil.which("cmake") is None or not (ROOT / "CMakeLists.txt").exists(),
    reason="needs cmake and the source tree",
)


def run(*command: str | Path) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


def hashes(build: Path, *options: str, launcher: tuple[str, ...] = ()) -> str:
    """Build the C++ tests in a folder, run them all, and return what core_test prints."""
    options = (
        *("-DINNERLOOP_PYTHON=OFF", "-DINNERLOOP_TESTS=ON", "-DINNERLOOP_WERROR=ON", *options),
        "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG",  # the bits do not depend on it, the wait does
    )
    run("cmake", "-S", ROOT, "-B", build, *options)
    run("cmake", "--build", build, "--parallel", "2")
    run("ctest", "--test-dir", build, "--output-on-failure", "--exclude-regex", "^core$")
    return run(*launcher, build / "tests" / "cpp" / "core_test")


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder of a build for this machine, and what core_test prints."""
    # By Clang where it can be had: g++ has built the module, and both warn of other things.
    compiler = shutil.which("clang++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    options = [f"-DINNERLOOP_ONLY={il.isas()[-1]}", f"-DCMAKE_CXX_COMPILER={compiler}"]
    if importlib.util.find_spec("pybind11") is not None:
        options += ["-DINNERLOOP_CUDA_EMULATED=ON", *python_options()]
    folder = tmp_path_factory.mktemp("native")
    return folder, hashes(folder, *options)


@pytest.fixture
def here(build: tuple[Path, str]) -> str:
    return build[1]


def python_options() -> tuple[str, str]:
    """Return what CMake needs to build a module for this Python."""
    pybind11 = importlib.import_module("pybind11")
    return f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", f"-DPython_EXECUTABLE={sys.executable}"


def cuda_tests(module: Path, files: str) -> str:
    """Run tests with a module as innerloop._cuda, and return what pytest prints."""
    paths = sorted(str(path) for path in (ROOT / "tests").glob(files))
    program = (
        "import importlib.util, sys, pytest, innerloop\n"
        f"spec = importlib.util.spec_from_file_location('innerloop._cuda', {str(module)!r})\n"
        "sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        f"sys.exit(pytest.main(['-p', 'no:cacheprovider', *{paths!r}]))\n"
    )
    # In one process, which has the module: options of this run may ask for several.
    own = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "is not built" not in done.stdout, done.stdout
    return done.stdout


def test_bits_are_those_of_every_machine(here: str) -> None:
    """Whatever the processor: a change of the numbers is made on purpose, with the file."""
    assert here == (ROOT / "tests" / "cpp" / "core_test.txt").read_text()


@pytest.mark.skipif(shutil.which("aarch64-linux-gnu-g++") is None, reason="no Arm compiler")
@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="no qemu-aarch64")
def test_arm_holds_the_same_bits(here: str, tmp_path: Path) -> None:
    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={ROOT / 'cmake' / 'aarch64-linux-gnu.cmake'}"
    emulator = ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu")
    assert hashes(tmp_path, toolchain, launcher=emulator) == here


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no CUDA compiler")
def test_rules_compile_for_cuda(tmp_path: Path) -> None:
    targets = [f"-gencode=arch=compute_{n},code=sm_{n}" for n in (80, 90, 100)]
    flags = ("-std=c++17", "-Werror=all-warnings", f"-I{ROOT / 'csrc'}")
    source = ROOT / "tests" / "cpp" / "rules_cuda.cu"
    run("nvcc", *flags, *targets, "-c", source, "-o", tmp_path / "rules.o")


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no CUDA compiler")
def test_the_cuda_module_is_built_and_refuses_what_does_not_fit(tmp_path: Path) -> None:
    """For one architecture; it is loaded where no driver is, too."""
    pytest.importorskip("pybind11")
    options = ("-DINNERLOOP_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=90-real", "-DINNERLOOP_WERROR=ON")
    options += ("-DINNERLOOP_PYTHON=OFF", f"-DINNERLOOP_ONLY={il.isas()[-1]}", *python_options())
    options += ("-DINNERLOOP_CUTLASS_DIR=none",)  # whose templates take minutes
    if "Ofast-compile" in run("nvcc", "--help"):
        options += (
            "-DCMAKE_CUDA_FLAGS=--Ofast-compile=max",
        )  # a third of the time: nothing runs it
    run("cmake", "-S", ROOT, "-B", tmp_path, *options)
    run("cmake", "--build", tmp_path, "--target", "_cuda", "--parallel", "2")
    (module,) = (tmp_path / "csrc" / "cuda").glob("_cuda*.so")
    said = cuda_tests(module, "test_cuda.py")
    assert "needs" not in said, said


def test_the_cuda_module_serves_arrays_of_an_emulated_device(build: tuple[Path, str]) -> None:
    pytest.importorskip("pybind11")
    (module,) = (build[0] / "tests" / "cpp" / "emulated").glob("_cuda*.so")
    said = cuda_tests(module, "test_cuda*.py")
    assert "emulated" not in said, said  # as the reason of a skip
