"""Without the extra `train`: sums work, the command line answers, and what needs torch says which extra to install."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Runs before the script: importing any of these fails as if it were not installed.
BLOCK = """
import importlib.abc, sys
MISSING = {"torch", "opacus", "dp_accounting", "safetensors", "matplotlib", "jinja2"}
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None
sys.meta_path.insert(0, Block())
"""


def python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BLOCK + script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)


def test_block_does_block() -> None:
    done = python("import torch")
    assert done.returncode == 1
    assert "No module named 'torch'" in done.stderr


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


def test_run_names_the_missing_extra_and_ends_with_4() -> None:
    config = ROOT / "examples" / "heart" / "config.toml"
    done = python("from secfl.cli import main; sys.argv = ['secfl', 'run', sys.argv[1]]; main()", str(config))
    assert done.returncode == 4, done.stderr
    assert 'pip install "secfl[train]"' in done.stderr
