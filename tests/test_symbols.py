"""No symbol leaks from one ISA's objects into another.

The linker would keep one copy of it, say the AVX-512 one, and serve every CPU with that.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OBJECTS = sorted(ROOT.glob("build/**/il_*.dir/**/*.o"))
# What a per-ISA object may take from outside: memory, the C library's fma for scalars of the host
# where the processor has none, exceptions, the linker's own names.
OUTSIDE = re.compile(
    r"^(memcpy|memset|memmove|memcmp|fma|_GLOBAL_OFFSET_TABLE_|_Unwind_Resume|__gxx_personality_v0"
    r"|__stack_chk_fail|DW\.ref\.__gxx_personality_v0)$"
)

pytestmark = [
    pytest.mark.skipif(not OBJECTS, reason="no build folder beside the tests"),
    pytest.mark.skipif(shutil.which("nm") is None, reason="no nm"),
]


def symbols(path: Path, *flags: str) -> list[tuple[str, str]]:
    """(type, demangled name) of each of an object's symbols."""
    text = subprocess.run(
        ["nm", "-C", *flags, str(path)], capture_output=True, text=True, check=True
    ).stdout
    found = [re.match(r"^[0-9a-f ]{16} (\S) (.*)$", line) for line in text.splitlines()]
    return [(m[1], m[2]) for m in found if m]


@pytest.mark.parametrize("path", OBJECTS, ids=lambda p: "/".join(p.parts[-4:]))
def test_no_leak(path: Path) -> None:
    isa = re.search(r"il_(\w+)\.dir", str(path))[1]
    own = f"innerloop::{isa}::"
    for kind, name in symbols(path, "--defined-only"):
        assert "_GLOBAL__sub_I" not in name, f"{path.name} has a static initialiser"
        if kind.isupper() or kind in "uvw":
            assert own in name or name.startswith("DW.ref."), f"{kind} {name} leaks from {path}"
    for _, name in symbols(path, "--undefined-only"):
        assert own in name or OUTSIDE.match(name), f"{path} takes {name} from outside"


def test_every_isa_was_looked_at() -> None:
    table = (ROOT / "cmake" / "isa.cmake").read_text()
    rows = re.findall(
        r'"(\w+)\|', table.partition(f"TABLE_{platform.machine()}")[2].partition(")")[0]
    )
    seen = {re.search(r"il_(\w+)\.dir", str(p))[1] for p in OBJECTS}
    assert rows and set(rows) <= seen
