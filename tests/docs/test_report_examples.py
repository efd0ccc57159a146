"""The committed reports of real runs: they verify, are of today's schema, and say nothing that only a silo may see."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from page_runner import require

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
NAMES = ("heart", "digits", "fashion")
MODES = {"heart": "local-dp-sgd", "digits": "distributed-dp-sgd", "fashion": "client-level"}


def raw(name: str) -> bytes:
    packed = EXAMPLES / name / "report.json.gz"
    return gzip.decompress(packed.read_bytes()) if packed.exists() else (EXAMPLES / name / "report.json").read_bytes()


def test_the_committed_run_verifies():
    require("safetensors", "dp_accounting", "opacus", "jinja2", "matplotlib")
    from secfl.federation.verification import verify_report

    found = verify_report(EXAMPLES / "heart" / "report.json")
    assert (found.page, found.unchecked) == (True, ())
    assert {silo.name for silo in found.report.silos} == {"cleveland", "hungarian", "switzerland", "va"}


@pytest.mark.parametrize("name", NAMES)
def test_a_report_of_each_mode_is_of_todays_schema_and_its_page_is_made_from_it(name):
    require("jinja2", "matplotlib")
    from secfl.report import RunReport, render_html
    from secfl.report.page import readable

    report = RunReport.from_json(raw(name))
    assert report.privacy_mode == MODES[name]
    assert readable((EXAMPLES / name / "report.html").read_text()) == readable(render_html(report))


def test_the_examples_are_small_and_hold_nothing_of_a_silos_own():
    files = [path for path in EXAMPLES.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2_000_000
    assert not [path for path in files if path.name in ("identity.key", "local.jsonl", "answers.log")]
