"""The figures on the encoding page are those of the kept results."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_figures_on_the_encoding_page_are_those_of_the_kept_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    script = runpy.run_path(str(ROOT / "benchmarks" / "encoding.py"))
    page = script["PAGE"].read_text(encoding="utf-8")
    assert script["rewritten"](page) == page
