"""Without the extra `train`: sums work, the command line answers, and what needs torch says which extra to install."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TRAIN = ("torch", "opacus", "dp_accounting", "safetensors")
REPORT = ("matplotlib", "jinja2")

# Runs before the script: these modules cannot be found, just as if they were not installed.
HIDE = """
import sys
class Finder:
    def __init__(self, finders, hidden):
        self.finders, self.hidden = finders, hidden
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.hidden:
            return None
        found = (finder.find_spec(name, path, target) for finder in self.finders)
        return next((spec for spec in found if spec is not None), None)
sys.meta_path[:] = [Finder(list(sys.meta_path), {hidden!r})]
"""


def python(script: str, hidden: tuple[str, ...] = TRAIN + REPORT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", HIDE.replace("{hidden!r}", repr(hidden)) + script]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)


@pytest.mark.parametrize("module", TRAIN + REPORT)
def test_hidden_module_is_missing_like_one_that_is_not_installed(module: str) -> None:
    importlib.import_module(module)
    script = f"from importlib.util import find_spec; print(find_spec('{module}')); import {module}"
    done = python(script)
    assert (done.returncode, done.stdout) == (1, "None\n")
    assert f"No module named '{module}'" in done.stderr


@pytest.mark.parametrize(
    "module",
    ["secfl", "secfl.aggregation", "secfl.encoding", "secfl.engines", "secfl.events", "secfl.cli", "protocols"],
)
def test_package_imports_without_any_extra(module: str) -> None:
    done = python(f"import {module}; print('imported')")
    assert (done.stdout, done.stderr) == ("imported\n", "")


def test_import_of_secfl_is_light() -> None:
    """Nothing heavy is even tried, with the extras installed too."""
    script = "import secfl, sys; print(sorted({n.partition('.')[0] for n in sys.modules} & set(sys.argv[1:])))"
    done = subprocess.run(
        [sys.executable, "-c", script, "torch", "opacus", "dp_accounting", "scipy", "matplotlib", "jinja2", "typer"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_sum_works_without_any_extra() -> None:
    script = """
import numpy as np
from secfl.aggregation import SecureAggregator
aggregator = SecureAggregator(["north", "south", "west"])
print(aggregator.sum({"north": np.array([1, 2]), "south": np.array([3, 4]), "west": np.array([5, 6])}).sum)
"""
    done = python(script)
    assert (done.stdout, done.stderr) == ("[ 9 12]\n", "")


def test_version_is_printed_without_any_extra() -> None:
    done = python("sys.argv[1:] = ['version']; from secfl.cli import main; main()")
    assert (done.returncode, done.stdout.startswith("secfl ")) == (0, True), done.stderr


@pytest.mark.parametrize(("hidden", "extra"), [(TRAIN, "train"), (REPORT, "report")])
def test_run_names_the_missing_extra_and_ends_with_4(hidden: tuple[str, ...], extra: str, tmp_path: Path) -> None:
    config = ROOT / "examples" / "heart" / "config.toml"
    arguments = ["secfl", "run", str(config), "--output", str(tmp_path)]
    done = python(f"from secfl.cli import main; sys.argv = {arguments!r}; main()", hidden)
    assert done.returncode == 4, done.stderr
    assert f'pip install "secfl[{extra}]"' in done.stderr
    assert list(tmp_path.iterdir()) == []  # nothing was begun
