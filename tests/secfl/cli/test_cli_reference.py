"""The page about the command line agrees with the commands; completion works in a shell of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import typer
from conftest import ROOT, finish, start

from secfl.cli import errors
from secfl.cli.app import app

PAGE = ROOT / "docs" / "reference" / "cli.md"


def test_the_page_is_what_the_commands_say() -> None:
    spec = spec_from_file_location("cli_page", ROOT / "docs" / "_build" / "cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert PAGE.read_text() == module.page()


def test_every_exit_code_is_on_the_page_once_with_its_error() -> None:
    table = PAGE.read_text().split("## Exit codes")[1]
    rows = re.findall(r"^\| (\d+) \| (?:`(\w+)`)? ?\| .+ \|$", table, re.MULTILINE)
    documented = {int(code): name for code, name in rows}
    assert len(documented) == len(rows)
    own = {code: kind.__name__ for kind, code in errors.EXIT_CODES.items()}
    bare = (0, 2, errors.HALTED, errors.UNFIT, errors.AUDIT_FAILED, 130)
    assert documented == {**dict.fromkeys(bare, ""), **own}


def test_every_command_is_on_the_page() -> None:
    text = PAGE.read_text()
    root = typer.main.get_command(app)
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        assert f"## `secfl {name}`" in text
        for inner in getattr(command, "commands", {}):
            assert f"### `secfl {name} {inner}`" in text


def completed(*words: str) -> list[str]:
    """What the shell is offered after these words."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "_SECFL_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    code = "import sys; sys.argv[0] = 'secfl'; from secfl.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    return done.stdout.split()


def test_completion_is_printed_and_offers_the_commands() -> None:
    code = "import sys; sys.argv[0] = 'secfl'; from secfl.cli import main; main()"
    status, script, problems = finish(start("--show-completion", "bash", code=code))
    assert (status, problems) == (0, "")
    assert "complete -o default -F _secfl_completion secfl" in script
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert completed("secfl", "re") == ["resume", "report"]
    assert completed("secfl", "keys", "ro") == ["rotate"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_is_printed_for_other_shells(shell: str) -> None:
    code = "import sys; sys.argv[0] = 'secfl'; from secfl.cli import main; main()"
    status, script, _ = finish(start("--show-completion", shell, code=code))
    assert status == 0
    assert "secfl" in script


def test_an_interrupted_command_has_the_shells_code(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import secfl.cli.version as v\ndef stop(*a, **k): raise KeyboardInterrupt\n"
    code += "v.console.print = stop\nfrom secfl.cli import main; main()"
    assert finish(start("version", code=code))[0] == 130


def test_paths_are_not_of_this_machine() -> None:
    assert str(Path.home()) not in PAGE.read_text()
    assert str(ROOT) not in PAGE.read_text()
