"""The wheel, installed into an environment of its own without torch: imports, sums, command line, types."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SUM = """
import numpy as np
from secfl.aggregation import SecureAggregator
aggregator = SecureAggregator(["north", "south", "west"])
result = aggregator.sum({"north": np.array([1, 2]), "south": np.array([3, 4]), "west": np.array([5, 6])})
print(result.sum, result.contributors)
"""
CONSUMER = """
import numpy as np
from protocols import Identity, Roster
from secfl.aggregation import AggregationResult, SecureAggregator

def total(values: dict[str, np.ndarray]) -> AggregationResult:
    return SecureAggregator(values, clip=1.0).sum(values)

def names(roster: Roster) -> list[str]:
    return [member.id for member in roster]
"""


def call(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        cwd=cwd,
        env=environment,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps", "--quiet")
    done = call(*pip, "-w", directory, ROOT)
    assert done.returncode == 0, done.stderr
    (built,) = directory.glob("secfl-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the programs of an environment that holds the wheel and its dependencies, no extra."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=True)
    pip = (home / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    done = call(*pip, "-c", ROOT / "constraints.txt", wheel)
    assert done.returncode == 0, done.stderr
    return home / "bin"


def test_wheel_holds_both_packages_their_types_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"secfl/py.typed", "protocols/py.typed", "secfl/aggregation/aggregator.py"} <= names
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"secfl", "protocols"}


def test_five_lines_give_a_sum_without_torch(installed: Path, tmp_path: Path) -> None:
    done = call(installed / "python", "-c", SUM + "import sys; print('torch' in sys.modules)", cwd=tmp_path)
    assert done.stdout == "[ 9 12] ('north', 'south', 'west')\nFalse\n", done.stderr
    absent = call(installed / "python", "-c", "import torch", cwd=tmp_path)
    assert "No module named 'torch'" in absent.stderr


def test_import_of_secfl_comes_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    done = call(installed / "python", "-c", "import secfl; print(secfl.__file__)", cwd=tmp_path)
    assert done.stdout.startswith(str(installed.parent)), done.stderr


def test_version_command_works(installed: Path, tmp_path: Path) -> None:
    done = call(installed / "secfl", "version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "secfl 0.1.0\n"), done.stderr


def test_run_command_names_the_missing_extra(installed: Path, tmp_path: Path) -> None:
    done = call(installed / "secfl", "run", ROOT / "examples" / "heart" / "config.toml", cwd=tmp_path)
    assert done.returncode == 4, done.stdout + done.stderr
    assert re.search(r'pip install "secfl\[(report|train)\]"', done.stderr)  # both are missing; one is named first


@pytest.mark.parametrize(
    ("addition", "errors"), [("", ""), ("\nwrong: int = total({})\n", "Incompatible types in assignment")]
)
def test_consumer_is_type_checked_against_the_wheel(
    installed: Path, tmp_path: Path, addition: str, errors: str
) -> None:
    (tmp_path / "consumer.py").write_text(CONSUMER + addition)
    python = ("--python-executable", installed / "python")
    done = call(sys.executable, "-m", "mypy", "--strict", *python, "consumer.py", cwd=tmp_path)
    assert (done.returncode == 0) == (not errors), done.stdout
    assert errors in done.stdout
