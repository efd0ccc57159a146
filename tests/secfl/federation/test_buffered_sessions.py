"""When sessions of buffered rounds close, what goes wrong in them, and how a killed run goes on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from small_study import open_study, states_in, write_study
from test_buffered_rounds import SLOW, Watching, ages, buffered_text, watch_updates, watched

from protocols.errors import ThresholdNotMet
from protocols.shape import ServerSession
from secfl.config import load_config
from secfl.engines import EmbeddedEngine, Incident
from secfl.engines.base import Carried
from secfl.federation.checkpoint import DirectoryJournal, load_checkpoint
from secfl.federation.roster_file import read_roster
from secfl.federation.session import FinishedRun, resume, simulate
from secfl.privacy.ledger import ReleaseState, verify
from secfl.report.model import RoundRow

FAST = ("east", "north", "south")


def incident(party: str, phase: str, kind: str = "drop", round: int = 2, **more: Any) -> str:  # noqa: A002
    lines = {"party": party, "phase": phase, "kind": kind, "round": round, **more}
    return "\n[[simulation.incidents]]\n" + "\n".join(f"{key} = {value!r}" for key, value in lines.items()) + "\n"


def seconds(row: RoundRow) -> float:
    return next(phase.seconds for phase in row.phases if phase.phase == "Contribution")


def faults(row: RoundRow) -> list[tuple[str, str]]:
    return [(fault.party, fault.text) for phase in row.phases for fault in phase.faults]


def run_with_incidents(directory: Path, text: str, **options: Any) -> FinishedRun:
    config, text = load_config(write_study(directory, text))
    return simulate(config, text, directory, output=directory / "runs", **options)


# -- when a session closes ---------------------------------------------------------------------------------------------


def test_silo_slower_than_the_window_is_late_never_starved(tmp_path: Path) -> None:
    """The session whose window has its model for the last time waits for it, however early the quota is there."""
    result, engine, _ = watched(tmp_path, buffered_text(9, window=2))
    assert result.status == "completed"
    assert [age.get(SLOW) for age in ages(engine)] == [None, None, 2, None, None, 2, None, None, 2]
    # Two sessions of a second; a third that waits until 7.5 seconds are over since the slow one began.
    assert [seconds(row) for row in result.rounds] == [1.0, 1.0, 5.5, 1.0, 1.0, 5.5, 1.0, 1.0, 5.5]
    assert all(set(row.contributors) == {*FAST, SLOW} for row in result.rounds[2::3])


def test_session_closes_at_its_deadline_with_the_minimum(tmp_path: Path) -> None:
    text = buffered_text(9, slow=8.0, more="deadline_seconds = 1.25\n").replace("quota = 3", "quota = 4")
    result, engine, _ = watched(tmp_path, text)
    assert [seconds(row) for row in result.rounds[:5]] == [1.25] * 5
    late = [row for row in result.rounds if SLOW in row.contributors]
    assert [(row.number, seconds(row)) for row in late] == [(7, 1.0)]  # done at 8, in the one open from 6 * 1.25 on
    assert all(set(row.contributors) == set(FAST) for row in result.rounds if row not in late)
    assert ages(engine)[6] == {"east": 0, "north": 0, "south": 0, SLOW: 6}


def test_deadline_that_passes_with_too_few_closes_as_soon_as_the_minimum_is_there(tmp_path: Path) -> None:
    text = buffered_text(2, more="deadline_seconds = 1.25\n").replace("quota = 3", "quota = 4")
    text = text.replace('name = "south"\n', 'name = "south"\ntraining_seconds = 5.0\n')
    result, _, _ = watched(tmp_path, text)
    assert seconds(result.rounds[0]) == 5.0
    assert result.rounds[0].contributors == ("east", "north", "south")


class Overlapping(Watching):
    """Notes how many updates had come to later sessions when the committee was asked to open one."""

    def run_session(self, server: ServerSession, context: bytes) -> Carried:
        this = bytes(server.parameters.session_id())
        seen = list(dict.fromkeys(session for _, session, _ in self.sent))
        self.early.append(sum(session in seen[seen.index(this) + 1 :] for _, session, _ in self.sent))
        return super().run_session(server, context)


@pytest.mark.parametrize(("opening", "early", "taken"), [(0.5, 1, 3), (1.5, 4, 4)])
def test_next_session_is_open_while_the_committee_opens_the_last(
    tmp_path: Path, opening: float, early: int, taken: int
) -> None:
    """Of four silos one is too late for a quota of three: it needs the next session. In 1.5 seconds all train again."""
    with open_study(tmp_path, buffered_text(6, slow=1.0, more=f"opening_seconds = {opening}\n")) as study:
        engine = Overlapping(study)
        engine.sent, engine.early = watch_updates(study), []
        result = study.run(engine)
    assert result.status == "completed"
    assert engine.early == [early] * 5 + [0]  # nothing is opened beside the last session
    assert [len(total.contributors) for _, total in engine.sums] == [3] + [taken] * 5
    for agreement, total in engine.sums:
        assert total.session_id == agreement.parameters.session_id()
    models = [agreement.bases[0] for agreement, _ in engine.sums]
    assert models[0] == models[1]  # the second session was open before the first had given a model
    assert len(set(models)) == 5
    assert [len(agreement.bases) for agreement, _ in engine.sums] == [1, 1, 2, 3, 4, 5]


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_committee_that_fails_costs_a_session_and_its_updates_and_the_run_goes_on(tmp_path: Path) -> None:
    text = buffered_text(3, slow=1.0, private=True, epsilon=50.0)
    text += incident("north", "Check") + incident("south", "Check")
    finished = run_with_incidents(tmp_path, text)
    rows = finished.report.rounds
    assert finished.report.status == "completed"
    assert [(row.number, row.attempt, row.completed) for row in rows] == [
        (1, 0, True),
        (2, 0, False),
        (3, 0, True),
        (4, 0, True),
    ]
    assert rows[1].model_hash == rows[2].model_hash  # no new version came of it
    assert "Check" in rows[1].failure
    assert len(rows[1].phases[0].answered) == 3
    for silo in finished.report.silos:  # what was sent is charged, in whichever session
        charged = sum(row.releases for row in silo.releases if row.state == "committed")
        assert charged == sum(silo.name in row.phases[0].answered for row in rows)


def test_session_that_was_open_already_survives_the_failure_of_the_one_before(tmp_path: Path) -> None:
    text = buffered_text(3, slow=1.0, more="opening_seconds = 1.5\n")
    text += incident("north", "Opening") + incident("south", "Opening")
    finished = run_with_incidents(tmp_path, text)
    rows = finished.report.rounds
    assert [(row.number, row.completed) for row in rows] == [(1, True), (2, False), (3, True), (4, True)]
    assert finished.report.status == "completed"
    assert all(len(row.contributors) >= 3 for row in rows if row.completed)


def test_run_halts_when_sessions_fail_as_often_as_is_allowed(tmp_path: Path) -> None:
    with open_study(tmp_path, buffered_text(2, slow=1.0, attempts=2)) as study:
        lost = [Incident(name, "Check") for name in ("north", "south")]
        result = study.run(EmbeddedEngine(study.parties.answering, incidents=lost))
    assert result.status == "halted"
    assert [row.number for row in result.rounds] == [1, 2]
    assert "Check" in result.reason


def test_silo_that_is_not_reached_gives_its_update_to_the_next_session(tmp_path: Path) -> None:
    text = buffered_text(10, more="") + incident(SLOW, "Contribution", round=8)
    finished = run_with_incidents(tmp_path, text)
    rows = finished.report.rounds
    assert [row.number for row in rows if SLOW in row.contributors] == [9]  # it was done in the eighth
    assert f"{SLOW} 8" in rows[8].checks[-1]
    assert not any(SLOW in phase.answered for phase in rows[7].phases)


def test_reply_that_is_lost_is_charged_and_in_no_sum(tmp_path: Path) -> None:
    text = buffered_text(4, slow=1.0, private=True, epsilon=50.0) + incident("east", "Contribution", "lose_reply")
    finished = run_with_incidents(tmp_path, text)
    rows = finished.report.rounds
    assert [row.number for row in rows if "east" in row.contributors] == [1, 3, 4]
    assert not any("east" in phase.answered for phase in rows[1].phases)  # nor is it asked as a member
    (east,) = (silo for silo in finished.report.silos if silo.name == "east")
    (second,) = (row for row in east.releases if row.first_round <= 2 <= row.last_round)
    assert (second.state, second.releases) == ("sending", 1)


def test_reply_that_comes_after_its_session_is_refused_and_one_that_comes_in_time_counts(tmp_path: Path) -> None:
    """The first is three seconds late, the second a tenth of one, in a session that waits for the fourth silo."""
    text = buffered_text(6, slow=1.0)
    text += incident("east", "Contribution", "delay", seconds=3.0)
    finished = run_with_incidents(tmp_path / "late", text)
    rows = finished.report.rounds
    assert [row.number for row in rows if "east" in row.contributors] == [1, 3, 4, 5, 6]
    found = [(row.number, *fault) for row in rows for fault in faults(row)]
    assert [(number, party) for number, party, _ in found] == [(5, "east")]
    assert "ContributionReply" in found[0][2]
    text = buffered_text(3, slow=1.0).replace("quota = 3", "quota = 4")
    text += incident("east", "Contribution", "delay", seconds=0.125)
    finished = run_with_incidents(tmp_path / "in time", text)
    assert [seconds(row) for row in finished.report.rounds] == [1.0, 1.125, 1.0]
    assert all("east" in row.contributors for row in finished.report.rounds)


def test_budget_covers_a_contribution_to_every_session_and_no_more(tmp_path: Path) -> None:
    text = buffered_text(6, slow=1.0, private=True, epsilon=50.0, more="opening_seconds = 1.5\n")
    with open_study(tmp_path, text) as study:
        engine = Watching(study)
        study.run(engine)
        states = {silo: Counter(states_in(ledger).values()) for silo, ledger in study.parties.ledgers.items()}
    for silo, found in states.items():
        assert found["committed"] == sum(silo in age for age in ages(engine)) <= 6


# -- a run that is killed ----------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for the end of the process: nothing may catch it."""


@pytest.mark.parametrize("opening", [0.0, 1.5])
def test_killed_run_goes_on_with_sessions_of_new_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opening: float
) -> None:
    """It dies in its third session, of which everybody has sent an update; with an overlap the fourth is open too."""
    original, calls = EmbeddedEngine.run_session, 0

    def dying(self: EmbeddedEngine, server: ServerSession, context: bytes) -> Carried:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Killed
        return original(self, server, context)

    text = buffered_text(5, slow=1.0, private=True, epsilon=50.0, more=f"opening_seconds = {opening}\n")
    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedEngine, "run_session", dying)
        with pytest.raises(Killed):
            run_with_incidents(tmp_path, text)
    (directory,) = (tmp_path / "runs").iterdir()
    assert load_checkpoint(directory).progress.finished_round == 2
    begun = 4 if opening else 3
    assert DirectoryJournal(directory).next_round() == begun + 1
    before = ledger_states(directory)
    assert sum(state in CHARGED for state in before.values()) >= 9  # three sessions of three updates
    resumed = resume(directory)
    rows = resumed.report.rounds
    assert resumed.report.status == "completed"
    assert [row.number for row in rows] == [1, 2, begun + 1, begun + 2, begun + 3]
    assert all(row.completed for row in rows)
    after = ledger_states(directory)
    for release, state in before.items():  # what had left, or may have, stays charged; what was in training is void
        assert after[release] in (CHARGED if state in CHARGED else (ReleaseState.VOID,))


CHARGED = (ReleaseState.SENDING, ReleaseState.COMMITTED)


def ledger_states(directory: Path) -> dict[tuple[str, str], ReleaseState]:
    """Of every release of every silo, read without opening the ledgers for writing."""
    roster = read_roster(directory / "roster.toml")
    return {
        (silo, release.reservation.release_id): release.state
        for silo in (*FAST, SLOW)
        for release in verify(
            directory / "ledgers" / silo / "records.ledger", roster.member(silo).identity_key
        ).releases
    }


def test_threshold_of_the_committee_is_named_when_a_session_fails(tmp_path: Path) -> None:
    with open_study(tmp_path, buffered_text(2, slow=1.0)) as study:
        lost = [Incident(name, "Check", round=1) for name in ("north", "south")]

        class Keeping(EmbeddedEngine):
            failures: list[Any] = []  # noqa: RUF012

            def run_session(self, server: ServerSession, context: bytes) -> Carried:
                carried = super().run_session(server, context)
                self.failures.append(carried.failure)
                return carried

        study.run(Keeping(study.parties.answering, incidents=lost))
    assert isinstance(Keeping.failures[0], ThresholdNotMet)
    assert (Keeping.failures[0].required, Keeping.failures[0].present) == (3, 2)
    assert Keeping.failures[1:] == [None, None]
