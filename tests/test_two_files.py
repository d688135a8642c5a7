"""Adding an activation touches two files: shown by adding one to a copy of the tree.

That is built, and the activations' own tests run on it. CONTRIBUTING.md works through the steps.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import innerloop as il

ROOT = Path(__file__).parents[1]
RULES = "csrc/rules/activations.h"
REFERENCE = "python/innerloop/reference/activations.py"

# y = x |x|, with a number of its own.
RULE = """
// y = scale x |x|; dy/dx = 2 scale |x|.
struct SignedSquare {
  static constexpr const char* name = "signed_square";
  static constexpr Parameter parameters[] = {{"scale", 1.5}};
  static constexpr bool saves_output = false;
  double scale;
  template <class V>
  HD V forward(V x) const {
    return V(scale) * x * abs(x);
  }
  template <class V>
  HD V backward(V x, V dy) const {
    return dy * (V(2 * scale) * abs(x));
  }
};

"""
FORMULA = '''

@in_float64
def signed_square(x: NDArray, scale: float = 1.5) -> NDArray:
    """Square that keeps its sign.

    Formula: ``y = scale * x * |x|``.

    Source: an example.
    """
    return scale * x * np.abs(x)


@backward_of(signed_square)
def signed_square_backward(dy: NDArray, x: NDArray, scale: float = 1.5) -> NDArray:
    """Gradient of `signed_square`: ``dx = dy * 2 * scale * |x|``."""
    return dy * 2 * scale * np.abs(x)
'''

CHECK = """
import numpy as np, innerloop as il
x = np.linspace(-2, 2, 41, dtype="f4").reshape(1, 41)
np.testing.assert_allclose(il.signed_square(x, scale=2.0), 2 * x * abs(x), rtol=1e-6)
w = np.eye(41, dtype="f4")
y, saved = il.linear(x, w, activation="signed_square", return_saved=True)
np.testing.assert_allclose(y, il.signed_square(x), rtol=1e-6)
dx, _, _ = il.linear_backward(x, x, w, saved, activation="signed_square")
np.testing.assert_allclose(dx, il.signed_square_backward(x, x), rtol=1e-6)
"""


def run(*command: str | Path, cwd: Path, **env: str) -> None:
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=os.environ | env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.mark.skipif(not (ROOT / RULES).exists(), reason="no source tree beside the tests")
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_an_activation_in_two_files(tmp_path: Path) -> None:
    pybind11 = pytest.importorskip("pybind11")
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("no cmake")
    tree = tmp_path / "tree"
    for part in ("CMakeLists.txt", "cmake", "csrc", "python", "tests", "tools"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        (tree / part).parent.mkdir(exist_ok=True)
        copy(ROOT / part, tree / part)

    rules = (tree / RULES).read_text()
    before, after = rules.split("using Activations = List<")
    (tree / RULES).write_text(
        f"{before}{RULE.lstrip()}using Activations = List<SignedSquare, {after}"
    )
    reference = (tree / REFERENCE).read_text()
    first = reference.index("\n@in_float64\ndef") + 1  # the list's order is the file's
    (tree / REFERENCE).write_text(
        reference[:first].rstrip() + "\n" + FORMULA + "\n\n" + reference[first:]
    )

    isa = il.isas()[-1]
    run(
        *(cmake, "-S", ".", "-B", "build", f"-DINNERLOOP_ONLY={isa}", "-DINNERLOOP_WERROR=ON"),
        "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG",  # half the time of -O3
        *(f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"),
        cwd=tree,
    )
    run(cmake, "--build", "build", "--target", "_core", "--parallel", cwd=tree)
    package = tree / "python" / "innerloop"
    for old in package.glob("_core*.so"):
        old.unlink()
    module = next((tree / "build").glob("_core*.so"))
    shutil.copy(module, package)

    path = str(package.parent)
    run(sys.executable, "-c", CHECK, cwd=tmp_path, PYTHONPATH=path)
    tests = tree / "tests"
    pytest_quiet = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    run(*pytest_quiet, tests / "test_list.py", cwd=tree, PYTHONPATH=path)
    grown = [tests / f"test_{noun}.py" for noun in ("activations", "linear", "bad_input")]
    run(*pytest_quiet, "-k", "signed_square", *grown, cwd=tree, PYTHONPATH=path)
    run(sys.executable, "-m", "innerloop", "selftest", "--quick", cwd=tree, PYTHONPATH=path)
    run(sys.executable, tree / "tools" / "make_stubs.py", package, tmp_path, cwd=tree)
    assert (
        "def signed_square(x: _A, scale: float = 1.5" in (tmp_path / "activations.pyi").read_text()
    )
