"""Write the tables on docs/explanation/performance.md that come from the kept results of two benchmarks.

    python benchmarks/performance_page.py

A table stands between `<!-- table: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "explanation" / "performance.md"


def results(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))


def short(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{float(f'{value:.3g}'):g}"


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def measured(found: Any) -> str:
    machine = found["machine"]
    return f"Measured {machine['date']}; load {machine['load']:.0f} on {machine['processors']} cores.\n"


def side_by_side() -> Iterator[str]:
    found = results("homomorphic.json")
    yield measured(found)
    yield line("scheme", "d", "dropouts", "client", "an upload", "opening", "bytes up", "vectors added")
    yield "|---" * 8 + "|"
    for row in found["rows"]:
        if row["n"] == 100:
            dropouts = "" if row["dropouts"] is None else f"{row['dropouts'] * 100:.0f} %"
            costs = (short(row[key]) for key in ("client", "upload", "opening", "vector_bytes"))
            yield line(row["scheme"], f"10^{len(str(row['d'])) - 1}", dropouts, *costs, str(row["added"]))


def figures() -> Iterator[str]:
    yield line("figure, n = 100, d = 10^6", "to reach", "value", "")
    yield "|---" * 4 + "|"
    for figure in results("homomorphic.json")["figures"]:
        name = figure["figure"].split(", n = ")[0]
        yield line(name, figure["to reach"], short(figure["value"]), "reached" if figure["reached"] else "not reached")


def billion() -> Iterator[str]:
    found = results("oneshot_billion.json")
    yield measured(found)
    yield line("step", "processor", "elapsed", "peak memory so far", "peak disk so far")
    yield "|---" * 5 + "|"
    for row in found["steps"]:
        if row["step"] not in {"server, start", "server, closing Contribution"}:
            seconds = (f"{row[key]:.0f} s" for key in ("processor", "elapsed"))
            yield line(row["step"], *seconds, *(f"{row[key] / 1e9:.2f} GB" for key in ("peak memory", "peak disk")))


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "secret sums": side_by_side,
    "figures to reach": figures,
    "a billion entries": billion,
}


def rewritten(page: str) -> str:
    """The page with its tables as the results are now."""
    for name, table in TABLES.items():
        begin = f"<!-- table: {name} -->\n"
        content = begin + "\n".join(table()) + "\n<!-- end -->"
        page, count = re.subn(re.escape(begin) + r".*?<!-- end -->", lambda _, new=content: new, page, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"{PAGE}: {count} tables named {name!r}")
    return page


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
