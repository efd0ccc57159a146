"""The sweep's plain sums are what the protocol opens; the page shows the kept figures."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
pytest.importorskip("opacus", reason="extra 'train' is not installed")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return runpy.run_path(str(ROOT / "benchmarks" / "utility.py"))


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("heart", "B"),
        pytest.param("heart", "A", marks=pytest.mark.slow),
        pytest.param("heart", "none", marks=pytest.mark.slow),
        pytest.param("digits", "B", marks=pytest.mark.slow),
    ],
)
def test_plain_sums_of_the_sweep_are_those_that_a_session_opens(script: dict[str, Any], name: str, mode: str) -> None:
    """The script itself raises where a sum or the model differs in a bit."""
    setting = replace(script["SETTINGS"][name, mode], rounds=2)
    noise = script["noise_for"](script["DATA_SETS"][name], setting, 3.0, 1)
    run = script["through_the_protocol"](name, setting, noise, 1)
    assert (run["rounds"], run["equal"]) == (2, "every opened sum and the model, bit for bit")


def test_a_sum_that_is_not_the_plain_one_is_noticed(script: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    namespace = script["through_the_protocol"].__globals__
    original = namespace["plain_sums"]

    def off_by_one(*arguments: Any) -> Any:
        for total, state in original(*arguments):
            total[0] += 1
            yield total, state

    monkeypatch.setitem(namespace, "plain_sums", off_by_one)
    setting = replace(script["SETTINGS"]["heart", "B"], rounds=1)
    with pytest.raises(SystemExit, match="the sum of round 1 is not the plain one"):
        script["through_the_protocol"]("heart", setting, 5.0, 1)


def test_figures_on_the_page_are_those_of_the_kept_results(script: dict[str, Any]) -> None:
    page = script["PAGE"].read_text(encoding="utf-8")
    assert script["rewritten"](page) == page
