"""Runs what a page of the documentation tells its reader to do, in the page's order and in a directory of its own.

Directives are HTML comments on the line before a fenced block, so that a reader never sees them:

- ``<!-- run -->`` before ``python``: the block is executed; blocks of a page share their names. ``<!-- output -->``
  before the next block: this is what it prints.
- ``<!-- run -->`` before ``console``: lines that open with ``$ `` are commands, the others what they print.
  ``<!-- run: exit 3 -->`` (or ``exit 0 or 10``) expects that exit code of the last command.
- ``<!-- file: NAME -->``: the block is written to a file. ``<!-- append: NAME -->``: it is added to one.
- ``<!-- copy: PATH -->`` on its own: a directory of the repository is copied in, under the same path.
- ``<!-- slow -->`` anywhere: the page runs with the slow tests only.

``...`` in expected output stands for anything, also over lines; white space at line ends does not count.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
COMMAND_SECONDS = 240

_BLOCK = re.compile(
    r"^<!-- (?P<directive>run|output|file|append|copy)(?:: (?P<argument>[^>]*?))? -->\n"
    r"(?:(?P<indent> *)```(?P<language>\w+)[^\n]*\n(?P<body>.*?)^(?P=indent)```$)?",
    re.MULTILINE | re.DOTALL,
)
_WRITING = {"file": "w", "append": "a"}


def require(*packages: str) -> None:
    """Skip the test where packages of the extras are missing; fail it in CI, where they never may be."""
    missing = ", ".join(name for name in packages if importlib.util.find_spec(name) is None)
    if missing and os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"not installed, and this is CI: {missing}; pip install 'secfl[train,report,docs]'")
    if missing:
        pytest.skip(f"not installed: {missing}; pip install 'secfl[train,report,docs]'")


@dataclass(frozen=True)
class Block:
    """A directive and the block below it."""

    directive: str
    argument: str
    language: str
    body: str
    line: int


def pages() -> list[Path]:
    """Every page that a reader may follow, the README among them."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    """The directives of a page, in order."""
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(found["directive"], found["argument"] or "", found["language"] or "", found["body"] or "", line)


def is_slow(page: Path) -> bool:
    """Whether the page takes long."""
    return "<!-- slow -->" in page.read_text(encoding="utf-8")


def matches(expected: str, printed: str) -> bool:
    """Whether output is what a page shows; ``...`` stands for anything."""
    lines = (re.sub(r"[ \t]+$", "", part, flags=re.MULTILINE).strip() for part in (expected, printed))
    pattern, text = lines
    return re.fullmatch(".*?".join(map(re.escape, pattern.split("..."))), text, re.DOTALL) is not None


class PageRunner:
    """Does what a page says.

    :param directory: where the page's reader is; also the process's working directory while Python blocks run.
    """

    def __init__(self, page: Path, directory: Path) -> None:
        self._page = page
        self._directory = directory
        self._names: dict[str, Any] = {"__name__": "__page__"}
        self._printed: str | None = None

    def run(self) -> None:
        """Run the page.

        :raises AssertionError: naming the line of the block that does not do what the page says.
        """
        before = set(sys.modules)
        sys.path.insert(0, str(self._directory))
        try:
            for block in blocks(self._page):
                self._do(block)
        finally:
            sys.path.remove(str(self._directory))
            for name in set(sys.modules) - before:  # a page's own modules, which another page's may be named like
                if str(getattr(sys.modules[name], "__file__", "")).startswith(str(self._directory)):
                    del sys.modules[name]

    def _do(self, block: Block) -> None:
        target = self._directory / block.argument
        if block.directive == "copy":
            shutil.copytree(
                ROOT / block.argument, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("runs", "__pycache__")
            )
        elif block.directive in _WRITING:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open(_WRITING[block.directive], encoding="utf-8") as file:
                file.write(block.body)
        elif block.directive == "output":
            self._compare(block, block.body, self._printed)
        elif block.language == "python":
            self._python(block)
        elif block.language == "console":
            self._console(block)
        else:
            self._fail(block, f"a {block.language or 'missing'} block cannot be run")

    def _python(self, block: Block) -> None:
        code = compile("\n" * block.line + block.body, str(self._page), "exec")
        with redirect_stdout(io.StringIO()) as printed:
            exec(code, self._names)
        self._printed = printed.getvalue()

    def _console(self, block: Block) -> None:
        steps = re.split(r"^\$ ", block.body, flags=re.MULTILINE)
        if steps.pop(0).strip() or not steps:
            self._fail(block, "a console block opens with a command")
        for number, step in enumerate(steps, 1):
            command, expected = _command(step)
            done = subprocess.run(
                ["/bin/bash", "-c", command],
                cwd=self._directory,
                env=_environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=COMMAND_SECONDS,
                check=False,
            )
            allowed = [int(code) for code in re.findall(r"\d+", block.argument) if number == len(steps)] or [0]
            if done.returncode not in allowed:
                codes = " or ".join(map(str, allowed))
                self._fail(block, f"`{command}` ended with {done.returncode}, not {codes}:\n{done.stdout}")
            if expected.strip():
                self._compare(block, expected, done.stdout)

    def _compare(self, block: Block, expected: str, printed: str | None) -> None:
        if printed is None or not matches(expected, printed):
            self._fail(block, f"the page shows\n{expected}\nbut it printed\n{printed}")

    def _fail(self, block: Block, problem: str) -> None:
        raise AssertionError(f"{self._page.relative_to(ROOT)}:{block.line}: {problem}")


def _command(step: str) -> tuple[str, str]:
    """A command, continued over lines that end in a backslash, and what it is to print."""
    lines = step.split("\n")
    end = next(index for index, line in enumerate(lines) if not line.endswith("\\"))
    return "\n".join(lines[: end + 1]), "\n".join(lines[end + 1 :])


def _environment() -> dict[str, str]:
    """The reader's: the commands of this environment first, the package as it is here, wide plain output."""
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": paths, "PYTHONPATH": str(ROOT), "COLUMNS": "160", "NO_COLOR": "1", "TERM": "dumb"}
