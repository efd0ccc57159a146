"""What must not depend on a silo's records, seen from outside: who takes part, what is sent, what is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_study import MODEL, study_text, write_study

from protocols.errors import ConfigError
from secfl.config import load_config
from secfl.federation.compare import compare
from secfl.federation.session import FinishedRun, simulate

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")

ODD = ("hollow", "uniform", "broken", "east")
"""No records; one class; values that are not finite; ordinary."""


def text_of(mode: str, silos: tuple[str, ...]) -> str:
    text = study_text(silos, private=True, epsilon=30.0)
    if mode != "local-dp-sgd":
        text = text.replace("value_range = 4.0\n", "").replace("local-dp-sgd", mode)
    if mode == "distributed-dp-sgd":
        return text.replace("steps_per_round = 2", "steps_per_round = 1")
    return text.replace("delta = 1e-5", 'delta = 1e-5\nunit = "client"') if mode == "client-level" else text


def run(tmp_path: Path, mode: str, silos: tuple[str, ...]) -> FinishedRun:
    path = write_study(tmp_path / silos[0], text_of(mode, silos))
    config, text = load_config(path)
    return simulate(config, text, path.parent, output=tmp_path / silos[0] / "runs")


@pytest.mark.parametrize("mode", ["local-dp-sgd", "distributed-dp-sgd", "client-level"])
def test_silos_with_odd_records_look_like_others_from_outside(tmp_path: Path, mode: str) -> None:
    odd, plain = run(tmp_path, mode, ODD), run(tmp_path, mode, ("aaaaaa", "bbbbbbb", "cccccc", "dddd"))
    assert odd.result.status == plain.result.status == "completed"
    for one, other in zip(odd.result.rounds, plain.result.rounds, strict=True):
        assert len(one.contributors) == len(other.contributors) == 4
        assert [(phase.bytes_up, phase.bytes_down) for phase in one.phases] == [
            (phase.bytes_up, phase.bytes_down) for phase in other.phases
        ]
    assert [silo.spent_epsilon for silo in odd.report.silos] == [silo.spent_epsilon for silo in plain.report.silos]


@pytest.mark.parametrize("mode", ["local-dp-sgd", "distributed-dp-sgd"])
def test_counts_of_records_stay_in_the_silos_own_notes(tmp_path: Path, mode: str) -> None:
    finished = run(tmp_path, mode, ODD)
    private = {"clipped", "left_out", "records"}
    notes = [json.loads(line) for line in (finished.directory / "ledgers" / "broken" / "local.jsonl").open()]
    assert any(private & note.keys() for note in notes)
    shared = (finished.directory / "events.jsonl").read_text()
    for line in shared.splitlines():
        assert not private & json.loads(line).keys()


def test_comparison_needs_records_that_are_declared_unprotected(tmp_path: Path) -> None:
    text = study_text(private=True).replace(
        'kind = "benchmark"\nmetric = "accuracy"', 'kind = "secure"\nmetric = "auc"\nepsilon = 1.0'
    )
    path = write_study(tmp_path, text, MODEL)
    config, _ = load_config(path)
    with pytest.raises(ConfigError, match="does not declare its test records unprotected"):
        compare(config, path.parent, range(1))
