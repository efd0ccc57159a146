"""Write the tables on pages of the documentation that come from the kept results of two benchmarks.

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
CHOICE = ROOT / "docs" / "how-to" / "choose-protocol.md"
ONESHOT = ROOT / "docs" / "explanation" / "oneshot.md"


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


def found_at(n: int, d: int) -> dict[tuple[str, float | None], Any]:
    return {
        (row["scheme"], row["dropouts"]): row
        for row in results("homomorphic.json")["rows"]
        if (row["n"], row["d"]) == (n, d)
    }


def choice() -> Iterator[str]:
    """Milliseconds and megabytes of a round, three protocols side by side."""
    yield measured(results("homomorphic.json"))
    for n in (10, 100):
        yield from choice_of(n, 10**6)
        yield ""


def choice_of(n: int, d: int) -> Iterator[str]:
    rows = found_at(n, d)
    columns = [(rows[name, 0.0], rows[name, 0.3]) for name in ("SecAgg", "one-shot")]
    columns.append((rows["CKKS (TenSEAL)", None],) * 2)
    yield line(f"n = {n}, d = 10^{len(str(d)) - 1}, 16-bit values", "`secagg`", "`oneshot`", "`ckks`, TenSEAL's part")
    yield "|---" * 4 + "|"

    def times(name: str, key: str, lost: int) -> str:
        return line(name, *(f"{short(row[lost][key] * d / 1e6)} ms" for row in columns))

    yield times("a client, in all", "client", 0)
    yield line("its vector", *(f"{short(row[0]['vector_bytes'] * d / 1e6)} MB" for row in columns))
    others = (f"{short(row[0]['other_bytes'] / 1e3)} kB" if row[0]["other_bytes"] else "" for row in columns)
    yield line("shares, keys, signatures", *others)
    yield times("server, for one vector", "upload", 0)
    yield times("opening, nobody lost", "opening", 0)
    yield times("opening, 30 % lost", "opening", 1)


def relatives() -> Iterator[str]:
    """One-shot and homomorphic encryption through TenSEAL, per entry."""
    rows = found_at(100, 10**6)
    yield measured(results("homomorphic.json"))
    yield line("per entry, n = 100, d = 10^6", "client", "server, a vector", "opening", "bytes up")
    yield "|---" * 5 + "|"
    for name, lost in (("one-shot", 0.0), ("CKKS (TenSEAL)", None), ("BFV (TenSEAL)", None)):
        row = rows[name, lost]
        costs = (f"{short(row[key])} ns" for key in ("client", "upload", "opening"))
        yield line(name, *costs, short(row["vector_bytes"]))


TABLES: dict[Path, dict[str, Callable[[], Iterator[str]]]] = {
    PAGE: {"secret sums": side_by_side, "figures to reach": figures, "a billion entries": billion},
    CHOICE: {"three protocols": choice},
    ONESHOT: {"beside homomorphic encryption": relatives},
}


def rewritten(path: Path) -> str:
    """A page with its tables as the results are now."""
    page = path.read_text(encoding="utf-8")
    for name, table in TABLES[path].items():
        begin = f"<!-- table: {name} -->\n"
        content = begin + "\n".join(table()) + "\n<!-- end -->"
        page, count = re.subn(re.escape(begin) + r".*?<!-- end -->", lambda _, new=content: new, page, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"{path}: {count} tables named {name!r}")
    return page


if __name__ == "__main__":
    for path in TABLES:
        path.write_text(rewritten(path), encoding="utf-8")
