"""Tables of secret sums in the documentation are those of the kept results."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_tables_of_secret_sums_are_those_of_the_kept_results() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "performance_page.py"))
    assert script["results"]("oneshot_billion.json")["entries"] == 10**9
    assert {row["d"] for row in script["results"]("homomorphic.json")["rows"]} == {10**5, 10**6, 10**7}
    assert len(script["TABLES"]) == 3
    for path in script["TABLES"]:
        assert script["rewritten"](path) == path.read_text(encoding="utf-8"), f"{path}: run the script"
