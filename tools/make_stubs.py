"""Write the type stubs of the modules whose functions grow from the list.

These are activations, gated, losses and optimizers.

    python tools/make_stubs.py PACKAGE OUTPUT

reads PACKAGE/reference/*.py and the modules' own source, and writes OUTPUT/<module>.pyi. The build
does so for each wheel, so that an activation or an optimizer is typed without being declared again.
Uses the standard library alone.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

HEADER = '''"""Written by tools/make_stubs.py from the reference's signatures."""

from typing import Any, TypeVar
'''


def functions(path: Path, decorator: str) -> list[tuple[ast.FunctionDef, ast.Call]]:
    """The functions of a file that are decorated by a call of `decorator`, with that call."""
    found = []
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.FunctionDef):
            continue
        for d in node.decorator_list:
            if isinstance(d, ast.Call) and isinstance(d.func, ast.Name) and d.func.id == decorator:
                found.append((node, d))
    return found


def defaults_of(function: ast.FunctionDef) -> list[tuple[str, str, str]]:
    """(name, annotation, default) of a function's parameters that have a default."""
    a = function.args
    positional = list(zip(a.args[len(a.args) - len(a.defaults) :], a.defaults, strict=True))
    keyword = [(k, d) for k, d in zip(a.kwonlyargs, a.kw_defaults, strict=True) if d is not None]
    return [
        (p.arg, ast.unparse(p.annotation) if p.annotation else "Any", ast.unparse(d))
        for p, d in positional + keyword
    ]


def public(body: list[ast.stmt]) -> list[ast.stmt]:
    """The public declarations among some statements, bodies and values left out."""
    kept: list[ast.stmt] = []
    for node in body:
        if isinstance(node, ast.FunctionDef) and (node.name == "__init__" or node.name[0] != "_"):
            node.body = [ast.Expr(ast.Constant(...))]
            kept.append(node)
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            node.body = public(node.body) or [ast.Pass()]
            kept.append(node)
        elif isinstance(node, ast.AnnAssign) and not ast.unparse(node.target).startswith("_"):
            node.value = None
            kept.append(node)
    return kept


def own(path: Path) -> str:
    """What a module declares itself, imports of names for annotations included."""
    body = ast.parse(path.read_text()).body
    imports = [n for n in body if isinstance(n, ast.ImportFrom) and not n.level]
    imports = [n for n in imports if n.module in ("typing", "collections.abc", "numpy.typing")]
    return "\n".join(ast.unparse(node) for node in [*imports, *public(body)])


def declared(module: Path) -> list[str]:
    """The names that a module's own ``__all__`` starts from."""
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    raise SystemExit(f"{module} has no __all__")


def activations(package: Path) -> str:
    """Stub of innerloop.activations."""
    names = declared(package / "activations.py")
    lines = [HEADER, own(package / "activations.py"), '_A = TypeVar("_A")']
    source = package / "reference" / "activations.py"
    forward = {n.name: n for n in ast.parse(source.read_text()).body if hasattr(n, "args")}
    for function, call in functions(source, "backward_of"):
        name = ast.unparse(call.args[0])
        parameters = "".join(
            f", {p}: {kind} = {default}" for p, kind, default in defaults_of(forward[name])
        )
        lines.append(f"def {name}(x: _A{parameters}, *, out: Any = None) -> _A: ...")
        lines.append(
            f"def {function.name}(dy: _A, x: Any{parameters}, *, y: Any = None, out: Any = None)"
            " -> _A: ..."
        )
        names += [name, function.name]
    lines.append(f"__all__ = {names}")
    return "\n".join(lines) + "\n"


def losses(package: Path) -> str:
    """Stub of innerloop.losses."""
    names = declared(package / "losses.py")
    lines = [HEADER, own(package / "losses.py")]
    common = (
        "sample_weight: Any = None, reduction: str = 'mean', return_grad: bool = False, "
        "grad_scale: float = 1.0, out: Any = None"
    )
    source = package / "reference" / "elementwise_losses.py"
    for function, _ in functions(source, "elementwise_loss"):
        entries = defaults_of(function)
        ordered = [e for e in entries if e[2] != "None"] + [e for e in entries if e[2] == "None"]
        own_text = "".join(
            f"{p}: {'Any' if default == 'None' else kind} = {default}, "
            for p, kind, default in ordered
        )
        lines.append(
            f"def {function.name}(pred: Any, target: Any, *, {own_text}{common}) -> Any: ..."
        )
        names.append(function.name)
    lines.append(f"__all__ = {names}")
    return "\n".join(lines) + "\n"


def gated(package: Path) -> str:
    """Stub of innerloop.gated."""
    names: list[str] = []
    lines = [HEADER, own(package / "gated.py"), '_A = TypeVar("_A")']
    for node in ast.parse((package / "reference" / "gated.py").read_text()).body:
        call = node.value if isinstance(node, ast.Expr) else None
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "gated_pair":
            name = ast.literal_eval(call.args[0])
            lines.append(f"def {name}(x: _A, axis: int = -1, *, out: Any = None) -> _A: ...")
            lines.append(
                f"def {name}_backward(dy: _A, x: _A, axis: int = -1, *, out: Any = None) -> _A: ..."
            )
            names += [name, f"{name}_backward"]
    lines.append(f"__all__ = {names}")
    return "\n".join(lines) + "\n"


def optimizers(package: Path) -> str:
    """Stub of innerloop.optimizers."""
    names = declared(package / "optimizers.py")
    lines = [HEADER, "import inspect", own(package / "optimizers.py")]
    source = ast.parse((package / "reference" / "gradients.py").read_text()).body
    prepare = next(n for n in source if isinstance(n, ast.FunctionDef) and n.name == "prepare")
    common = [entry for entry in defaults_of(prepare) if entry[0] != "norm"]
    for function, call in functions(package / "reference" / "optimizers.py", "optimizer"):
        keywords = {k.arg: k.value for k in call.keywords}
        class_name = ast.literal_eval(keywords["class_name"])
        optional = {a.arg for a in function.args.args[-len(function.args.defaults) :]}
        optional = optional if function.args.defaults else set()
        states = "".join(
            f", {a.arg}s: Any{' = None' if a.arg in optional else ''}"
            for a in function.args.args[2:]
        )
        hyper = [entry for entry in defaults_of(function) if entry[0] not in optional] + common
        # A schedule may stand for a number.
        hyper = [
            (n, k.replace("float", "_Number") if k.startswith("float") else k, d)
            for n, k, d in hyper
        ]
        keyword_text = "".join(f", {n}: {kind} = {default}" for n, kind, default in hyper)
        lines.append(
            f"def {function.name}_step(params: Any, grads: Any{states}, *, step: int{keyword_text}"
            ", masters: Any = None, seed: int = 0) -> None: ..."
        )
        lr, rest = hyper[0], hyper[1:]
        rest_text = "".join(f", {n}: {kind} = {default}" for n, kind, default in rest)
        lines.append(f"class {class_name}(Optimizer):")
        lines.append("    __signature__: inspect.Signature")
        lines += [f"    {n}: {kind}" for n, kind, _ in hyper]
        lines.append(
            f"    def __init__(self, params: Any, {lr[0]}: {lr[1]} = {lr[2]}, *{rest_text}, "
            "state_dtype: str | None = None, master: str | None = None, seed: int = 0) -> None: ..."
        )
        names += [f"{function.name}_step", class_name]
    lines.insert(
        2, "from collections.abc import Callable\n_Number = float | Callable[[int], float]"
    )
    lines.append(f"__all__ = {names}")
    return "\n".join(lines) + "\n"


def main() -> None:
    package, output = Path(sys.argv[1]), Path(sys.argv[2])
    output.mkdir(parents=True, exist_ok=True)
    (output / "activations.pyi").write_text(activations(package))
    (output / "gated.pyi").write_text(gated(package))
    (output / "losses.pyi").write_text(losses(package))
    (output / "optimizers.pyi").write_text(optimizers(package))


if __name__ == "__main__":
    main()
