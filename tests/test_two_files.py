"""Adding an activation, an elementwise loss or an optimizer touches two files.

Shown by adding one of each to a copy of the tree. That is built once, and the nouns' own tests run
on it. CONTRIBUTING.md works through the steps.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import innerloop as il

ROOT = Path(__file__).parents[1]


@dataclass
class Entry:
    """What is written into two files: a rule and the list's first word, a formula at its place."""

    name: str
    rules: str  # file below csrc/rules
    registry: str  # the list, at whose head its word is put, and before which its rule
    word: str
    rule: str
    reference: str  # file below python/innerloop/reference
    decorator: str  # the first line of the file's first entry: the list's order is the file's
    formula: str

    def add_to(self, tree: Path) -> None:
        """Touch the two files."""
        rules = tree / "csrc/rules" / self.rules
        before, head, after = rules.read_text().partition(f"using {self.registry} =")
        opening, _, words = after.partition("List<")
        assert head and words
        rules.write_text(f"{before}{self.rule}\n{head}{opening}List<{self.word}, {words}")
        reference = tree / "python/innerloop/reference" / self.reference
        text = reference.read_text()
        first = text.index(f"\n{self.decorator}") + 1
        reference.write_text(f"{text[:first]}{self.formula}\n\n{text[first:]}")


# y = x |x|, with a number of its own; a loss with one; a step along the sign of the mean gradient.
ENTRIES = (
    Entry(
        name="signed_square",
        rules="activations.h",
        registry="Activations",
        word="SignedSquare",
        rule="""// y = scale x |x|; dy/dx = 2 scale |x|.
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
""",
        reference="activations.py",
        decorator="@in_float64\ndef",
        formula='''@in_float64
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
''',
    ),
    Entry(
        name="quartic_loss",
        rules="losses.h",
        registry="ElementwiseLosses",
        word="QuarticLoss",
        rule="""// scale (x - t)^4
struct QuarticLoss {
  static constexpr const char* name = "quartic_loss";
  static constexpr Parameter parameters[] = {{"scale", 0.5, 0.0}};
  double scale;
  template <class V>
  HD LossAndSlope<V> both(V x, V t) const {
    const V d = x - t, square = d * d;
    return {V(scale) * square * square, V(4 * scale) * square * d};
  }
};
""",
        reference="elementwise_losses.py",
        decorator="@elementwise_loss()",
        formula='''@elementwise_loss()
def quartic_loss(pred: NDArray, target: NDArray, scale: float = 0.5) -> Pair:
    """Error to the fourth power.

    Formula: ``scale * (pred - target)**4``, with `scale` at least 0.
    """
    d = pred - target
    return scale * d**4, 4.0 * scale * d**3
''',
    ),
    Entry(
        name="signum",
        rules="optimizers.h",
        registry="Optimizers",
        word="Signum",
        rule="""// Bernstein et al. 2018, arXiv:1802.04434, Algorithm 2.
struct Signum {
  static constexpr const char* name = "signum";
  static constexpr Parameter parameters[] = {not_negative("lr", 1e-4), below_1("decay", 0.9)};
  static constexpr State states[] = {{"exp_avg"}};
  double lr, decay;

  template <class T>
  struct Step {
    T lr, decay, gain;

    Step(const Signum& h, double) : lr(T(h.lr)), decay(T(h.decay)), gain(T(1 - h.decay)) {}

    template <unsigned Used, class V>
    HD V update(V p, V g, V* state) const {
      state[0] = fma(V(decay), state[0], V(gain) * g);
      return fma(V(-lr), sign_of(state[0]), p);
    }
  };
};
""",
        reference="optimizers.py",
        decorator="@optimizer(",
        formula='''@optimizer(class_name="Signum")
def signum(
    param: NDArray,
    grad: NDArray,
    exp_avg: NDArray,
    *,
    step: int,
    lr: float = 1e-4,
    decay: float = 0.9,
) -> Any:
    """Steps along the sign of the mean gradient.

    Update::

        exp_avg = decay * exp_avg + (1 - decay) * grad
        param = param - lr * sign(exp_avg)

    Source: J. Bernstein et al., "signSGD: compressed optimisation for non-convex problems", ICML
    2018, Algorithm 2.

    Parameters
    ----------
    lr : float, default 1e-4
        Learning rate.
    decay : float, default 0.9
        Decay of the running mean of the gradient.
    """
    exp_avg = decay * exp_avg + (1.0 - decay) * grad
    return param - lr * np.sign(exp_avg), exp_avg
''',
    ),
)

CHECK = """
import numpy as np, innerloop as il
x = np.linspace(-2, 2, 41, dtype="f4").reshape(1, 41)
np.testing.assert_allclose(il.signed_square(x, scale=2.0), 2 * x * abs(x), rtol=1e-6)
w = np.eye(41, dtype="f4")
y, saved = il.linear(x, w, activation="signed_square", return_saved=True)
np.testing.assert_allclose(y, il.signed_square(x), rtol=1e-6)
dx, _, _ = il.linear_backward(x, x, w, saved, activation="signed_square")
np.testing.assert_allclose(dx, il.signed_square_backward(x, x), rtol=1e-6)
loss, slope = il.quartic_loss(x, 0 * x, scale=2.0, reduction="sum", return_grad=True)
np.testing.assert_allclose(loss, 2 * (x.astype("f8") ** 4).sum(), rtol=1e-6)
np.testing.assert_allclose(slope, 8 * x**3, rtol=1e-6)
p = x.copy()
il.Signum(p, lr=0.5).step(x)
np.testing.assert_array_equal(p, x - np.float32(0.5) * np.sign(x))
"""


def run(*command: str | Path, cwd: Path, **env: str) -> None:
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=os.environ | env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def grown_tree(tree: Path) -> None:
    """Copy the tree, and add the entries."""
    for part in ("CMakeLists.txt", "cmake", "csrc", "python", "tests", "tools"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        (tree / part).parent.mkdir(exist_ok=True)
        copy(ROOT / part, tree / part)
    for entry in ENTRIES:
        entry.add_to(tree)


@pytest.mark.skipif(not (ROOT / "csrc/rules").exists(), reason="no source tree beside the tests")
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_one_of_each_in_two_files(tmp_path: Path) -> None:
    pybind11 = pytest.importorskip("pybind11")
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("no cmake")
    tree = tmp_path / "tree"
    grown_tree(tree)

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
    nouns = ("activations", "linear", "elementwise_losses", "optimizers", "bad_input")
    grown = sorted(file for noun in nouns for file in tests.glob(f"test_*{noun}*.py"))
    chosen = " or ".join(entry.name for entry in ENTRIES)
    run(*pytest_quiet, "-k", chosen, *grown, cwd=tree, PYTHONPATH=path)
    run(sys.executable, "-m", "innerloop", "selftest", "--quick", cwd=tree, PYTHONPATH=path)
    run(sys.executable, tree / "tools" / "make_stubs.py", package, tmp_path, cwd=tree)
    for file, line in (
        ("activations", "def signed_square(x: _A, scale: float = 1.5"),
        ("losses", "def quartic_loss("),
        ("optimizers", "class Signum("),
    ):
        assert line in (tmp_path / f"{file}.pyi").read_text()
