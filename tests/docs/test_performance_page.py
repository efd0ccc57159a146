"""The tables of secret sums on the performance page are those of the kept results."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_tables_of_secret_sums_are_those_of_the_kept_results() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "performance_page.py"))
    assert script["results"]("oneshot_billion.json")["entries"] == 10**9
    assert {row["d"] for row in script["results"]("homomorphic.json")["rows"]} == {10**5, 10**6, 10**7}
    page = script["PAGE"].read_text(encoding="utf-8")
    assert script["rewritten"](page) == page
