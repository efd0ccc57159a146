"""A run under the one-shot protocol whose parties die, lose replies or come too late, in every phase of it."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from small_study import SILOS, Study, open_study, study_text

from protocols.errors import FaultReason
from secfl.engines import EmbeddedEngine, Incident
from secfl.federation.run import RunResult

PHASES = ("Contribution", "Check", "Opening")
"""Of a session in which nobody lies."""
KINDS = ("drop", "lose_reply", "delay")
ONESHOT = 'protocol = "oneshot"\n'


def engine(study: Study, *incidents: Incident) -> EmbeddedEngine:
    return EmbeddedEngine(study.parties.answering, incidents=incidents)


def incident(party: str, phase: str, round_number: int, kind: str) -> Incident:
    seconds = 601.0 if kind == "delay" else 0.0
    return Incident(party, phase, round=round_number, kind=kind, seconds=seconds)  # type: ignore[arg-type]


def missed(phase: str, kind: str) -> tuple[str, ...]:
    """Phases of its round in which whoever meets this incident is missing.

    The committee is asked whether or not a member contributed; who was late, not lost, answers again. In the opening
    only those are asked who checked.
    """
    if phase == "Contribution":
        return ("Contribution",) if kind == "delay" else ("Contribution", "Check")
    return (phase,)


def check_one_death(result: RunResult, party: str, phase: str, number: int, kind: str) -> None:
    """Both rounds end; who died is missing from its round if its vector did not arrive, and is back in the next."""
    assert (result.status, result.reason, len(result.rounds)) == ("completed", "", 2)
    for row in result.rounds:
        hit = row.number == number
        lost = hit and phase == "Contribution"
        assert row.contributors == tuple(silo for silo in SILOS if not (lost and silo == party))
        dropped = {record.phase: record.dropped for record in row.phases}
        assert tuple(dropped) == PHASES
        assert dropped == {name: (party,) if hit and name in missed(phase, kind) else () for name in PHASES}
    faults = [fault for row in result.rounds for record in row.phases for fault in record.faults]
    if kind == "delay":
        assert [(fault.party, fault.phase) for fault in faults] == [(party, phase)]
        assert FaultReason.WRONG_PHASE.value in faults[0].text
    else:
        assert faults == []


def charged(phase: str, kind: str) -> str | None:
    """Where the dead party's release of that round stands: charged unless it was never asked."""
    if phase != "Contribution":
        return "committed"
    return None if kind == "drop" else "sending"


@pytest.mark.parametrize(("phase", "kind"), list(product(PHASES, KINDS)))
def test_a_silo_that_dies_in_any_phase_costs_its_round_at_most(tmp_path: Path, phase: str, kind: str) -> None:
    check_death(tmp_path, "north", phase, 1, kind)


@pytest.mark.slow
@pytest.mark.parametrize(("party", "number"), list(product(SILOS, (1, 2))))
def test_every_silo_may_die_in_every_phase_of_every_round(tmp_path: Path, party: str, number: int) -> None:
    for phase, kind in product(PHASES, KINDS):
        check_death(tmp_path / phase / kind, party, phase, number, kind)


def check_death(directory: Path, party: str, phase: str, number: int, kind: str) -> None:
    with open_study(directory, study_text(private=True, aggregation=ONESHOT)) as study:
        result = study.run(engine(study, incident(party, phase, number, kind)))
        check_one_death(result, party, phase, number, kind)
        expected = {f"{item}/0": "committed" for item in (1, 2)}
        expected[f"{number}/0"] = charged(phase, kind) or ""
        assert study.states(party) == {release: state for release, state in expected.items() if state}
        for silo in SILOS:
            if silo != party:
                assert study.states(silo) == {"1/0": "committed", "2/0": "committed"}


def test_two_silos_lost_after_contributing_fail_the_attempt_and_the_next_is_charged_as_well(tmp_path: Path) -> None:
    incidents = [Incident(silo, "Check", round=1, attempt=0) for silo in ("north", "south")]
    with open_study(tmp_path, study_text(private=True, rounds=1, aggregation=ONESHOT)) as study:
        result = study.run(engine(study, *incidents))
        failed, good = result.rounds
        assert (failed.failure, failed.contributors) == ("Check: 2 parties present, 3 required", ())
        assert (good.completed, good.contributors, good.attempt) == (True, SILOS, 1)
        for silo in SILOS:  # all had sent before the committee was asked
            assert study.states(silo) == {"1/0": "committed", "1/1": "committed"}


def test_a_spent_budget_keeps_a_silo_out_of_the_sum_and_on_the_committee(tmp_path: Path) -> None:
    with open_study(tmp_path, study_text(private=True, aggregation=ONESHOT)) as study:
        ledger, event = study.parties.ledgers["west"], study.plan.event("west")
        while ledger.steps_left(event.sampling_rate, event.noise_multiplier) >= event.steps:
            number = len(tuple(ledger.releases()))
            ledger.sending(ledger.reserve(f"earlier/{number}", event, run="earlier", round=number, attempt=0))
        before = ledger.spent()
        result = study.run(engine(study))
        assert result.status == "completed"
        for row in result.rounds:
            answered = {record.phase: record.answered for record in row.phases}
            assert answered["Contribution"] == row.contributors == ("east", "north", "south")
            assert answered["Opening"] == SILOS
        assert ledger.spent() == before
