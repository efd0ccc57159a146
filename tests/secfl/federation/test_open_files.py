"""Hundreds of silos in one process: the limit of open files is raised, or named."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

CODE = """
import resource
from secfl.federation.open_files import allow_open_files
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
allow_open_files({silos})
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def after(soft: int, hard: int, silos: int) -> subprocess.CompletedProcess[str]:
    code = CODE.format(soft=soft, hard=hard, silos=silos)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 4096, reason="the system allows too few open files")
def test_the_soft_limit_is_raised_as_far_as_the_silos_need_and_never_lowered() -> None:
    assert after(1024, 4096, 500).stdout == "3256 4096\n"
    assert after(1024, 4096, 100).stdout == "1024 4096\n"


def test_a_hard_limit_that_is_too_low_is_named_with_what_is_needed() -> None:
    error = after(512, 1024, 500).stderr
    assert "silo: 500 silos in one process need 3256 open files, the system allows 1024" in error
    assert "a hard limit (ulimit -Hn) of 3256" in error
