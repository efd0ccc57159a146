"""Room for the open files of a simulation: each silo keeps its ledger, its once-only record and its notes open."""

from __future__ import annotations

import importlib
from typing import Any

from protocols.errors import ConfigError

__all__ = ["allow_open_files"]

PER_SILO = 6
"""Five, and one while a file is replaced."""
OTHERS = 256


def allow_open_files(silos: int) -> None:
    """Raise this process's soft limit of open files, if so many silos need it and the system lets it.

    :raises ConfigError: the hard limit is too low.
    """
    try:
        limits: Any = importlib.import_module("resource")
    except ModuleNotFoundError:  # not a POSIX system: there is no such limit
        return
    needed = PER_SILO * silos + OTHERS
    soft, hard = limits.getrlimit(limits.RLIMIT_NOFILE)
    if soft == limits.RLIM_INFINITY or soft >= needed:
        return
    if hard != limits.RLIM_INFINITY and hard < needed:
        problem = f"{silos} silos in one process need {needed} open files, the system allows {hard}"
        raise ConfigError("silo", problem, f"fewer silos, or a hard limit (ulimit -Hn) of {needed}")
    limits.setrlimit(limits.RLIMIT_NOFILE, (needed, hard))
