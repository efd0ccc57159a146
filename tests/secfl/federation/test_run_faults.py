"""A run with parties that die, lose replies or come too late, and with records that no model can be trained on."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from small_study import PHASES, SILOS, TIGHT, Study, open_study, study_text

from protocols.errors import FaultReason, PeerFault
from secfl.engines import Incident
from secfl.federation.run import RunResult
from secfl.federation.silo import Vector
from secfl.federation.work import local_training

KINDS = ("drop", "lose_reply", "delay")
CHARGED_PHASE = PHASES.index("MaskedInput")


def incident(party: str, phase: str, round_number: int | None, kind: str, attempt: int | None = None) -> Incident:
    seconds = 601.0 if kind == "delay" else 0.0
    return Incident(party, phase, round=round_number, attempt=attempt, kind=kind, seconds=seconds)  # type: ignore[arg-type]


def without(*silos: str) -> tuple[str, ...]:
    return tuple(silo for silo in SILOS if silo not in silos)


def mean_update(study: Study, state: Vector, number: int, contributors: tuple[str, ...]) -> npt.NDArray[np.float64]:
    """What the contributors' own trainings come to: in a reproducible run they can be done over again."""
    updates = [
        local_training(study.plan, settings).update(state, study.plan.randomness(settings.name, number, 0))
        for settings in study.plan.config.silo
        if settings.name in contributors
    ]
    return np.mean([update.astype(np.float64) for update in updates], axis=0)


def check_one_death(study: Study, result: RunResult, party: str, phase: str, number: int, kind: str) -> None:
    """Both rounds end; who died is missing from its round if its vector did not arrive, and is back in the next."""
    assert (result.status, result.reason, len(result.rounds)) == ("completed", "", 2)
    counts = PHASES.index(phase) > CHARGED_PHASE
    for row in result.rounds:
        expected = SILOS if row.number != number or counts else without(party)
        assert row.contributors == expected
        dropped = {record.phase: record.dropped for record in row.phases}
        hit = row.number == number
        assert dropped[phase] == ((party,) if hit else ())
        assert sum(map(len, dropped.values())) == hit  # who is lost is not asked, hence not missed, again
    faults = [fault for row in result.rounds for record in row.phases for fault in record.faults]
    if kind == "delay":
        assert [(fault.party, fault.phase) for fault in faults] == [(party, phase)]
        assert FaultReason.WRONG_PHASE.value in faults[0].text
    else:
        assert faults == []


def charged(phase: str, kind: str) -> str | None:
    """Where the dead party's release of that round stands."""
    index = PHASES.index(phase)
    if index > CHARGED_PHASE:
        return "committed"
    return "sending" if index == CHARGED_PHASE and kind != "drop" else None


@pytest.mark.parametrize(
    ("phase", "kind"),
    [(phase, "drop") for phase in PHASES] + [("MaskedInput", "lose_reply"), ("MaskedInput", "delay")],
)
def test_a_silo_that_dies_in_any_phase_costs_its_round_at_most(tmp_path: Path, phase: str, kind: str) -> None:
    with open_study(tmp_path, study_text(private=True)) as study:
        result = study.run(study.engine(incident("north", phase, 1, kind)))
        check_one_death(study, result, "north", phase, 1, kind)
        first = charged(phase, kind)
        assert study.states("north") == ({"1/0": first} if first else {}) | {"2/0": "committed"}
        for silo in without("north"):
            assert study.states(silo) == {"1/0": "committed", "2/0": "committed"}
        full = study.parties.ledgers["east"].spent()
        assert (study.parties.ledgers["north"].spent() == full) == (first is not None)


@pytest.mark.slow
@pytest.mark.parametrize(("party", "number"), list(product(SILOS, (1, 2))))
def test_every_silo_may_die_in_every_phase_of_every_round(tmp_path: Path, party: str, number: int) -> None:
    for phase, kind in product(PHASES, KINDS):
        with open_study(tmp_path / phase / kind, study_text(private=True)) as study:
            result = study.run(study.engine(incident(party, phase, number, kind)))
            check_one_death(study, result, party, phase, number, kind)
            expected = {f"{item}/0": "committed" for item in (1, 2)}
            expected[f"{number}/0"] = charged(phase, kind) or ""
            assert study.states(party) == {release: state for release, state in expected.items() if state}


@pytest.mark.parametrize(("phase", "contributors"), [("MaskedInput", without("north")), ("Unmask", SILOS)])
def test_the_model_after_a_dropout_is_the_mean_of_those_in_the_sum(
    tmp_path: Path, phase: str, contributors: tuple[str, ...]
) -> None:
    with open_study(tmp_path, study_text(rounds=1, run="reproducible = true")) as study:
        result = study.run(study.engine(incident("north", phase, 1, "drop")))
        start = study.plan.initial_vector()
        expected = mean_update(study, start, 1, contributors)
        assert np.abs(expected).min() > 1e-3
        np.testing.assert_allclose(result.state - start, expected, atol=study.plan.scheme.step, rtol=0)
        other = mean_update(study, start, 1, without("south"))
        assert np.abs(other - expected).max() > 10 * study.plan.scheme.step


def test_two_lost_silos_fail_the_attempt_and_the_next_one_has_fresh_noise_and_is_charged(tmp_path: Path) -> None:
    incidents = [incident(silo, "MaskedInput", 1, "lose_reply", attempt=0) for silo in ("north", "south")]
    with open_study(tmp_path, study_text(private=True, rounds=1)) as study:
        updates = record_updates(study)
        result = study.run(study.engine(*incidents))
        failed, good = result.rounds
        assert failed.failure == "MaskedInput: 2 parties present, 3 required"
        assert (failed.completed, failed.contributors, failed.attempt) == (False, (), 0)
        assert (good.completed, good.contributors, good.attempt) == (True, SILOS, 1)
        assert (failed.session, failed.model_hash) != (good.session, good.model_hash)
        assert failed.model_hash == good.model_hash
        for silo in SILOS:
            lost = silo in ("north", "south")
            assert study.states(silo) == {"1/0": "sending" if lost else "committed", "1/1": "committed"}
            first, second = updates[silo]
            assert not np.array_equal(first, second)
        # Opened anew, what was sent stays spent.
        assert study.reopened("north") == {"1/0": "sending", "1/1": "committed"}


def test_a_retry_without_privacy_is_allowed_its_own_order_of_batches(tmp_path: Path) -> None:
    incidents = [incident(silo, "Unmask", 1, "drop", attempt=0) for silo in ("north", "south")]
    with open_study(tmp_path, study_text(rounds=1)) as study:
        result = study.run(study.engine(*incidents))
        assert [row.failure for row in result.rounds] == ["Unmask: 2 parties present, 3 required", ""]
        assert result.status == "completed"


def test_a_run_without_enough_silos_halts_with_the_reason_and_the_model_so_far(tmp_path: Path) -> None:
    incidents = [incident(silo, "MaskedInput", 2, "drop") for silo in ("north", "south")]
    with open_study(tmp_path, study_text(private=True, aggregation="attempts = 2")) as study:
        result = study.run(study.engine(*incidents))
        assert result.status == "halted"
        assert result.reason == (
            "round 2: attempt 2 was the last allowed and failed: MaskedInput: 2 parties present, 3 required"
        )
        assert [(row.number, row.attempt, row.completed) for row in result.rounds] == [
            (1, 0, True),
            (2, 0, False),
            (2, 1, False),
        ]
        assert np.isfinite(result.state).all()
        assert study.states("north") == {"1/0": "committed"}
        assert study.states("east") == {"1/0": "committed", "2/0": "committed", "2/1": "committed"}


def test_when_every_budget_is_spent_the_run_halts_and_says_whose(tmp_path: Path) -> None:
    with open_study(tmp_path, study_text(private=True, epsilon=TIGHT)) as study:
        result = study.run(study.engine())
        assert result.status == "halted"
        assert result.reason.startswith("round 2: the privacy budget of east, north, south, west is spent; MaskedInput")
        assert len(result.rounds) == 2  # a spent budget is not tried again
        for silo in SILOS:
            assert study.states(silo) == {"1/0": "committed"}
            assert 0 < study.parties.ledgers[silo].spent().filter_epsilon <= TIGHT


def test_one_spent_budget_is_a_dropout_as_long_as_the_others_suffice(tmp_path: Path) -> None:
    with open_study(tmp_path, study_text(private=True)) as study:
        ledger = study.parties.ledgers["west"]
        event = study.plan.event("west")
        while ledger.steps_left(event.sampling_rate, event.noise_multiplier) >= event.steps:
            number = len(tuple(ledger.releases()))
            spare = ledger.reserve(f"earlier/{number}", event, run="earlier", round=number, attempt=0)
            ledger.sending(spare)
        before = ledger.spent()
        result = study.run(study.engine())
        assert result.status == "completed"
        assert [row.contributors for row in result.rounds] == [without("west")] * 2
        (fault,) = [fault for record in result.rounds[0].phases for fault in record.faults]
        assert (fault.party, fault.phase) == ("west", "MaskedInput")
        assert "requested epsilon" in fault.text
        assert ledger.spent() == before


def test_without_privacy_an_update_that_is_not_finite_drops_its_silo_and_is_named(tmp_path: Path) -> None:
    with open_study(tmp_path, study_text(("east", "north", "broken", "west"), rounds=1)) as study:
        result = study.run(study.engine())
        assert result.status == "completed"
        assert result.rounds[0].contributors == ("east", "north", "west")
        (fault,) = [fault for record in result.rounds[0].phases for fault in record.faults]
        assert (fault.party, fault.phase) == ("broken", "MaskedInput")
        assert fault.text == "tensor '0.weight': not finite after training at silo 'broken'"
        assert np.isfinite(result.state).all()


def test_without_privacy_a_silo_without_records_drops_out_and_is_named(tmp_path: Path) -> None:
    with open_study(tmp_path, study_text(("east", "north", "hollow", "west"), rounds=1)) as study:
        result = study.run(study.engine())
        assert result.rounds[0].contributors == ("east", "north", "west")
        (fault,) = [fault for record in result.rounds[0].phases for fault in record.faults]
        assert (fault.party, fault.text) == (
            "hollow",
            "silos.hollow: no training records; allowed: at least one record",
        )


def test_when_too_many_updates_are_not_finite_the_reason_names_tensor_and_silo(tmp_path: Path) -> None:
    with open_study(tmp_path, study_text(("hollow", "north", "broken", "west"), rounds=1)) as study:
        result = study.run(study.engine())
        assert result.status == "halted"
        assert "attempt 3 was the last allowed" in result.reason
        assert "broken: tensor '0.weight': not finite after training" in result.reason
        assert "hollow: silos.hollow: no training records" in result.reason
        np.testing.assert_array_equal(result.state, study.plan.initial_vector())


@pytest.mark.parametrize("silo", ["hollow", "broken", "uniform"])
def test_with_privacy_participation_does_not_depend_on_records(tmp_path: Path, silo: str) -> None:
    names = ("east", "north", silo, "west")
    with open_study(tmp_path, study_text(names, private=True, rounds=1)) as study:
        updates = record_updates(study)
        result = study.run(study.engine())
        assert result.rounds[0].contributors == tuple(sorted(names))
        assert not any(record.faults for record in result.rounds[0].phases)
        assert study.states(silo) == {"1/0": "committed"}
        (update,) = updates[silo]
        assert np.isfinite(update).all()
        assert np.abs(update).max() > 0  # noise is sent all the same


def test_one_class_only_is_no_fault_without_privacy_either(tmp_path: Path) -> None:
    with open_study(tmp_path, study_text(("east", "north", "uniform", "west"), rounds=1)) as study:
        assert study.run(study.engine()).rounds[0].contributors == ("east", "north", "uniform", "west")


def test_an_update_of_the_wrong_shape_drops_its_silo_and_is_void(tmp_path: Path) -> None:
    with open_study(tmp_path, study_text(private=True, rounds=1)) as study:
        replace_update(study, "south", lambda update: update[:-1])
        result = study.run(study.engine())
        assert result.rounds[0].contributors == without("south")
        (fault,) = [fault for record in result.rounds[0].phases for fault in record.faults]
        assert fault.party == "south"
        assert fault.text == "tensor 'vector': 3 coordinates, the layout has 4"
        assert study.states("south") == {"1/0": "void"}


def test_a_late_reply_is_a_peer_fault_and_its_release_stays_spent(tmp_path: Path) -> None:
    with open_study(tmp_path, study_text(private=True, rounds=1)) as study:
        engine = study.engine(incident("west", "MaskedInput", None, "delay"))
        outcomes = []
        run_session = engine.run_session

        def keep(*arguments: object) -> object:
            outcomes.append(run_session(*arguments))  # type: ignore[arg-type]
            return outcomes[-1]

        engine.run_session = keep  # type: ignore[assignment, method-assign]
        assert study.run(engine).rounds[0].contributors == without("west")
        (event,) = [event for record in outcomes[0].phases for event in record.events]
        assert isinstance(event.error, PeerFault)
        assert event.error.reason is FaultReason.WRONG_PHASE
        assert study.states("west") == {"1/0": "sending"}
        assert study.parties.ledgers["west"].spent() == study.parties.ledgers["east"].spent()


def record_updates(study: Study) -> dict[str, list[Vector]]:
    """Every update that a silo trains from now on."""
    updates: dict[str, list[Vector]] = {name: [] for name in study.parties.silos}
    for name in study.parties.silos:
        replace_update(study, name, lambda update, seen=updates[name]: seen.append(update) or update)
    return updates


def replace_update(study: Study, silo: str, change: object) -> None:
    """Change what a silo's training gives."""
    training = study.parties.silos[silo]._training
    update = training.update
    object.__setattr__(training, "update", lambda state, entropy: change(update(state, entropy)))  # type: ignore[operator]
