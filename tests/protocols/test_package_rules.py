"""What the package may import, call and contain."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "protocols").rglob("*.py"), *(ROOT / "secfl").rglob("*.py")])
PROTOCOL_FILES = [path for path in FILES if path.is_relative_to(ROOT / "protocols")]

LOADED_IF_THERE = {"typing_extensions"}  # by msgspec, which does without
BLOCKED = "torch opacus dp_accounting pandas matplotlib jinja2 scipy flwr nvflare ray requests filelock pydantic typer"
IMPORT = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {set(BLOCKED.split()) | {"secfl"}!r}:
            raise ImportError("blocked: " + name)

before = set(sys.modules)
sys.meta_path.insert(0, Blocked())
import protocols, protocols.testing.cohort, protocols.testing.plain, protocols.testing.malformed
tops = {{name.partition(".")[0] for name in set(sys.modules) - before}}
third = sorted(
    name for name in tops
    if name not in sys.stdlib_module_names and not name.startswith("_") and name not in sys.builtin_module_names
)
print(" ".join(third))
"""


def test_protocols_import_numpy_cryptography_and_msgspec_alone() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT], cwd=ROOT, capture_output=True, text=True, check=True)
    third_party = done.stdout.splitlines()[0].split()
    assert set(third_party) - LOADED_IF_THERE == {"cryptography", "msgspec", "numpy", "protocols"}


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(), str(path)))


def imported(path: Path) -> Iterator[str]:
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


# (module, file) that may be there, each with its reason.
ALLOWED_IMPORTS = {
    ("threading", "protocols/primitives/prg.py"): "one scratch buffer a thread; nothing is started",
}
FORBIDDEN = ("random", "pickle", "marshal", "shelve", "dill", "cloudpickle", "numpy.random")
FORBIDDEN_IN_PROTOCOLS = ("logging", "socket", "asyncio", "threading", "time", "datetime", "secfl", "os", "pathlib")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_forbidden_is_imported(path: Path) -> None:
    relative = str(path.relative_to(ROOT))
    forbidden = FORBIDDEN + (FORBIDDEN_IN_PROTOCOLS if path in PROTOCOL_FILES else ())
    for name in imported(path):
        for module in forbidden:
            if name == module or name.startswith(f"{module}."):
                assert (module, relative) in ALLOWED_IMPORTS, f"{relative} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_forbidden_is_written(path: Path) -> None:
    relative = str(path.relative_to(ROOT))
    for node in nodes(path):
        where = f"{relative}:{getattr(node, 'lineno', 0)}"
        assert not isinstance(node, ast.Assert), f"{where}: assert is stripped by -O; raise"
        if isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            assert not dotted.startswith(("np.random", "numpy.random", "random.", "pickle.")), f"{where}: {dotted}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"print", "eval", "exec", "breakpoint", "input", "__import__"}, where
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{where}: bare except"
            bodies = [item for item in node.body if not isinstance(item, ast.Pass)]
            assert bodies, f"{where}: an exception is swallowed"


@pytest.mark.parametrize("path", PROTOCOL_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_is_documented_annotated_and_not_too_long(path: Path) -> None:
    source = path.read_text()
    tree = ast.parse(source)
    assert ast.get_docstring(tree)
    if len(tree.body) > 1:
        assert "from __future__ import annotations" in source
    assert len(source.splitlines()) <= 430
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno + 1 <= 55, f"{path.name}: {node.name}"


def test_the_list_of_allowed_imports_is_not_longer_than_needed() -> None:
    for (module, relative), reason in ALLOWED_IMPORTS.items():
        assert reason
        assert module in set(imported(ROOT / relative))
