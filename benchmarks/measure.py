"""What every benchmark shares: processor time on one pinned core, figures as a table and as JSON."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["Figures", "best_of", "pin_to_one_core"]


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


@dataclass
class Figures:
    """Figures of one benchmark, in the order of measurement."""

    title: str
    rows: list[dict[str, Any]] = field(default_factory=list)

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
        Console(width=140).print(table)

    def write(self, path: Path | None) -> None:
        """Write the JSON for machines, if a path is given."""
        if path is not None:
            path.write_text(json.dumps({"figures": self.rows}, indent=2) + "\n", encoding="utf-8")
