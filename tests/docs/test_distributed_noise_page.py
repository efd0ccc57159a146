"""Each proof obligation on the page of distributed noise names code and a test that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "distributed-noise.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`((?:secfl|tests)/[\w/]+\.py)` `(\w+)`", PAGE)


def test_every_obligation_has_code_and_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if re.match(r"\| .* `secfl/", line)]
    assert len(rows) >= 12
    assert len(NAMED) == 2 * len(rows)


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_what_the_page_names_exists(file: str, name: str) -> None:
    assert re.search(rf"^\s*(?:def|class) {name}\b", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
