"""What every benchmark shares: processor time on one pinned core, figures as a table and as JSON."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

__all__ = ["Figures", "best_of", "machine", "pin_to_one_core", "spent"]


def pin_to_one_core() -> None:
    """Run on one core from now on, so that processor time is comparable."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def best_of(repeats: int, *functions: Callable[[], Any]) -> list[float]:
    """Least processor seconds of each function; they take turns, so that all see the same machine."""
    least = [float("inf")] * len(functions)
    for _ in range(repeats):
        for position, function in enumerate(functions):
            began = time.process_time()
            function()
            least[position] = min(least[position], time.process_time() - began)
    return least


def spent(function: Callable[[], Any]) -> float:
    """Processor seconds of one call."""
    began = time.process_time()
    function()
    return time.process_time() - began


def machine() -> dict[str, Any]:
    """What figures were measured on, and when."""
    description = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    processor = next((line.split(": ")[1] for line in description.splitlines() if line.startswith("model name")), "")
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "processor": processor,
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


@dataclass
class Figures:
    """Figures of one benchmark, in the order of measurement."""

    title: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    context: dict[str, Any] = field(default_factory=dict)
    """When, where and with what it was measured."""

    def describe(self, *packages: str) -> None:
        """Keep date, Python, cores, load of the machine, versions of packages; call it when all is measured."""
        self.context |= {
            "date": time.strftime("%Y-%m-%d"),
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "load average, 1 5 15 minutes": [round(load, 2) for load in os.getloadavg()],
            **{package: version(package) for package in ("numpy", "cryptography", *packages)},
        }

    def add(self, name: str, value: float, unit: str, **parameters: Any) -> None:
        """Keep a figure."""
        self.rows.append({"name": name, "value": value, "unit": unit, **parameters})

    def show(self) -> None:
        """Print a table for people."""
        parameters = sorted({key for row in self.rows for key in row} - {"name", "value", "unit"})
        table = Table("figure", *parameters, "value", "unit", title=self.title)
        for row in self.rows:
            table.add_row(
                row["name"],
                *(str(row.get(key, "")) for key in parameters),
                f"{row['value']:.4g}",
                row["unit"],
            )
        console = Console(width=140)
        console.print(table)
        if self.context:
            console.print(", ".join(f"{name} {value}" for name, value in self.context.items()))

    def write(self, path: Path | None) -> None:
        """Write the JSON for machines, if a path is given."""
        if path is not None:
            document = {"measured": self.context, "figures": self.rows}
            path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
