"""Buffered rounds: a slow silo is late, not starved; each update is in one sum; only what was sent is charged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_study import TIGHT, Study, open_study, states_in, study_text, write_study

from protocols.errors import ConfigError, FaultReason, ServerFault, UsageError
from protocols.oneshot.agreement import Agreement
from protocols.shape import Aggregate, ServerSession
from secfl.config import Config, load_config, parse_config
from secfl.engines import EmbeddedEngine
from secfl.engines.base import Carried
from secfl.federation.buffered_silo import BufferedSilo, staleness_units
from secfl.federation.run import RunResult, _buffered, round_plan
from secfl.federation.session import simulate
from secfl.federation.silo import context_hash

SLOW = "west"
ONESHOT = 'protocol = "oneshot"\n'


def buffered_text(
    rounds: int, *, window: int = 8, slow: float = 7.5, more: str = "", attempts: int = 3, **options: Any
) -> str:
    """Three silos that train in a second each, one that takes longer."""
    section = f'[rounds]\nmode = "buffered"\nquota = 3\nwindow = {window}\n{more}'
    options = {"run": "" if options.get("private") else "reproducible = true\n", **options}
    aggregation = f"{ONESHOT}attempts = {attempts}\n"
    text = study_text(rounds=rounds, aggregation=aggregation, rest=section, **options)
    name = f'name = "{SLOW}"\n'
    return text.replace(name, f"{name}training_seconds = {slow}\n")


class Watching(EmbeddedEngine):
    """Keeps every sum, and the words that silos put into it."""

    def __init__(self, study: Study) -> None:
        super().__init__(study.parties.answering)
        self.sums: list[tuple[Agreement, Aggregate]] = []

    def run_session(self, server: ServerSession, context: bytes) -> Carried:
        carried = super().run_session(server, context)
        assert carried.aggregate is not None
        self.sums.append((Agreement.of(server.parameters), carried.aggregate))
        return carried


def watch_updates(study: Study) -> list[tuple[str, bytes, np.ndarray]]:
    """All that leaves the silos' encoders: silo, session, words as int64, in order."""
    sent: list[tuple[str, bytes, np.ndarray]] = []
    for name, silo in study.parties.silos.items():

        def contribute(session: Any, need: Any, *rest: Any, silo: Any = silo, name: str = name) -> Any:
            handle = session.party.handle

            def handled(header: bytes, chunks: Any = (), *, vector: Any = None) -> Any:
                if vector is None:  # asked as a member of the committee
                    return handle(header, chunks)
                bits = need.parameters.modulus_bits
                words = vector.read(0, vector.length).astype(np.int64)
                sent.append((name, bytes(need.session_id), np.where(words >> (bits - 1), words - (1 << bits), words)))
                return handle(header, chunks, vector=vector)

            session.party.handle = handled
            return type(silo)._contribute(silo, session, need, *rest)

        silo._contribute = contribute  # type: ignore[method-assign]
    return sent


def ages(engine: Watching) -> list[dict[str, int]]:
    return [
        {
            str(p): a.bases.index(base)
            for p, base in zip(total.contributors, total.bases or a.bases[:1] * 4, strict=False)
        }
        for a, total in engine.sums
    ]


def watched(directory: Path, text: str) -> tuple[RunResult, Watching, list[tuple[str, bytes, np.ndarray]]]:
    with open_study(directory, text) as study:
        sent, engine = watch_updates(study), Watching(study)
        return study.run(engine), engine, sent


def test_slow_silo_is_late_and_contributes_and_sums_are_those_of_what_was_sent(tmp_path: Path) -> None:
    result, engine, sent = watched(tmp_path, buffered_text(24))
    assert (result.status, len(engine.sums)) == ("completed", 24)
    late = [age[SLOW] for age in ages(engine) if SLOW in age]
    assert late == [7, 7, 7]
    # Who was a moment too late for a session that the slow one helped to fill is in the next, one version behind.
    assert {age for session in ages(engine) for silo, age in session.items() if silo != SLOW} == {0, 1}
    assert len({(silo, session) for silo, session, _ in sent}) == len(sent)
    assert len({words.tobytes() for _, _, words in sent}) == len(sent)  # no update under two sessions
    for agreement, total in engine.sums:
        parts = {silo: words for silo, session, words in sent if session == bytes(agreement.parameters.session_id())}
        assert set(parts) == set(total.contributors)
        bits = agreement.parameters.modulus_bits
        np.testing.assert_array_equal(total.sum.astype(np.int64), sum(parts.values()) & ((1 << bits) - 1))
    assert any(f"{SLOW} 7" in check for check in result.rounds[7].checks)


def test_same_seed_gives_the_same_run(tmp_path: Path) -> None:
    text = buffered_text(10, more='staleness = "polynomial"\n')
    (one, first, _), (two, second, _) = watched(tmp_path / "1", text), watched(tmp_path / "2", text)
    assert one.state.tobytes() == two.state.tobytes()
    assert ages(first) == ages(second)
    assert [row.contributors for row in one.rounds] == [row.contributors for row in two.rounds]


def test_mean_is_weighted_by_staleness(tmp_path: Path) -> None:
    with open_study(tmp_path, buffered_text(9, more='staleness = "polynomial"\n')) as study:
        sent, engine = watch_updates(study), Watching(study)
        rounds = round_plan(study.plan, study.parties, "run-1")
        numbers = iter(range(1, 10))
        buffered = _buffered(rounds, study.plan, study.parties, lambda: next(numbers))
        assert buffered is not None
        state = study.plan.initial_vector()
        outcomes = []
        for _ in range(9):
            outcomes.append(buffered.run(engine, state))
            state = state + np.float32(0.125)
        buffered.close()
    position = next(i for i, age in enumerate(ages(engine)) if SLOW in age)
    parts = [words for _, session, words in sent if session.hex() == outcomes[position].session]
    age = ages(engine)[position]
    units = sum(40 * round(64 / np.sqrt(1 + a)) for a in age.values())
    assert units == 40 * (64 * (len(age) - 1) + 23)  # 64 / sqrt(8) is 22.6
    np.testing.assert_allclose(outcomes[position].mean, sum(parts) * study.plan.scheme.step / units, rtol=1e-12)
    assert study.plan.scheme.maximum_weight == 40 * 64


def test_late_update_is_encoded_with_its_lower_weight(tmp_path: Path) -> None:
    """It starts from the initial model with the same seed in both runs, so it is the same update."""
    late = {}
    for staleness in ("none", "polynomial"):
        text = buffered_text(8, more=f'staleness = "{staleness}"\n')
        _, _, sent = watched(tmp_path / staleness, text)
        late[staleness] = next(words for silo, _, words in sent if silo == SLOW)
    assert np.abs(late["none"]).max() > 40_000
    np.testing.assert_allclose(late["polynomial"] / (40 * 23), late["none"] / 40, atol=0.05)


def test_update_whose_model_left_the_window_is_dropped_uncharged_and_trained_again(tmp_path: Path) -> None:
    """A deadline is stronger than the wait for a slow silo."""
    text = buffered_text(12, window=4, private=True, epsilon=50.0, more="deadline_seconds = 1.5\n")
    with open_study(tmp_path, text) as study:
        engine = Watching(study)
        result = study.run(engine)
        states = {silo: list(states_in(ledger).items()) for silo, ledger in study.parties.ledgers.items()}
        spent = {silo: ledger.spent().filter_epsilon for silo, ledger in study.parties.ledgers.items()}
    assert result.status == "completed"
    assert not any(SLOW in age for age in ages(engine))
    assert states[SLOW] == [("1/0", "void"), ("7/0", "void")]  # trained again from the newest; given up at the end
    assert spent[SLOW] == 0
    for silo in set(states) - {SLOW}:
        assert states[silo] == [(f"{number}/0", "committed") for number in range(1, 13)]


def test_private_silos_pay_for_contributions_alone(tmp_path: Path) -> None:
    with open_study(tmp_path, buffered_text(10, private=True, epsilon=50.0)) as study:
        engine = Watching(study)
        study.run(engine)
        states = {silo: list(states_in(ledger).values()) for silo, ledger in study.parties.ledgers.items()}
    for silo, found in states.items():
        assert found.count("committed") == sum(silo in age for age in ages(engine))
        assert set(found) <= {"committed", "void"}
    assert states[SLOW] == ["committed", "void"]


def test_session_that_too_few_can_join_ends_the_run(tmp_path: Path) -> None:
    text = buffered_text(2, private=True, slow=1.0, epsilon=TIGHT)
    with open_study(tmp_path, text) as study:
        result = study.run(EmbeddedEngine(study.parties.answering))
    assert result.status == "halted"
    assert "privacy budget" in result.reason


# -- what a silo refuses -----------------------------------------------------------------------------------------------


class Announcing:
    """A server that shows one silo the models that it likes."""

    def __init__(self, study: Study, name: str = "east") -> None:
        silo = study.parties.silos[name]
        assert isinstance(silo, BufferedSilo)
        self.name, self.silo, self.study = name, silo, study
        self.plan = round_plan(study.plan, study.parties, "run-1")

    def context(self, fill: float) -> bytes:
        return np.full(self.study.plan.layout.size, fill, "<f4").tobytes()

    def header(self, number: int, fill: float, *older: float) -> bytes:
        bases = tuple(context_hash(self.plan.layout, self.context(value)) for value in older)
        silos = tuple(self.study.parties.silos)
        parameters = self.plan.parameters(number, 0, silos, self.context(fill), bases=bases, quota=3)
        requests = self.plan.open(parameters).requests()
        return next(request.header for request in requests if request.party == self.name)


@pytest.fixture
def announcing(tmp_path: Path) -> Any:
    with open_study(tmp_path, buffered_text(3, window=2)) as study:
        yield Announcing(study)


def test_silo_refuses_a_window_with_another_model_than_the_one_that_was_announced(announcing: Announcing) -> None:
    silo = announcing.silo
    silo.announced(announcing.header(1, 1.0))
    silo.announced(announcing.header(2, 2.0, 1.0))
    for number, models in ((3, (3.0, 2.5, 1.0)), (3, (3.0, 2.0, 1.5)), (3, (3.0, 1.0, 2.0)), (2, (2.5, 1.0))):
        with pytest.raises(ServerFault, match="not the one that was announced") as caught:
            silo.announced(announcing.header(number, *models))
        assert caught.value.reason is FaultReason.CONTEXT_MISMATCH
    silo.announced(announcing.header(3, 3.0, 2.0, 1.0))


def test_silo_refuses_a_window_longer_than_agreed(announcing: Announcing) -> None:
    with pytest.raises(ServerFault, match="3 older models; agreed: 2"):
        announcing.silo.announced(announcing.header(4, 4.0, 3.0, 2.0, 1.0))


def test_silo_trains_from_announced_models_alone_and_once_for_each(announcing: Announcing) -> None:
    silo, header, context = announcing.silo, announcing.header(1, 1.0), announcing.context(1.0)
    with pytest.raises(UsageError, match="cannot begin"):
        silo.begin(header, context)
    silo.announced(header)
    with pytest.raises(ServerFault, match="not the one that the session is bound to"):
        silo.begin(header, announcing.context(2.0))
    silo.begin(header, context)
    silo.drop()
    with pytest.raises(UsageError, match="cannot begin"):
        silo.begin(header, context)


def test_update_goes_to_no_session_whose_window_lacks_its_model(announcing: Announcing) -> None:
    silo, header = announcing.silo, announcing.header(1, 1.0)
    silo.announced(header)
    silo.begin(header, announcing.context(1.0))
    later = announcing.header(4, 4.0, 3.0, 2.0)
    assert silo.fits(header)
    assert not silo.fits(later)
    with pytest.raises(UsageError, match="takes no update from model"):
        silo.answer(later, (), announcing.context(4.0))
    with pytest.raises(UsageError, match="no update to contribute"):
        silo.answer(announcing.header(1, 1.0), (), announcing.context(1.0))


# -- configuration -----------------------------------------------------------------------------------------------------


def test_units_are_those_of_fedbuff() -> None:
    assert staleness_units("none", 2) == (1, 1, 1)
    assert staleness_units("polynomial", 8) == (64, 45, 37, 32, 29, 26, 24, 23, 21)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ((ONESHOT, ""), "rounds.mode"),
        (("quota = 3", "quota = 5"), "rounds.quota"),
        (("quota = 3", "quota = 2"), "rounds.quota"),
        (('mode = "buffered"', 'mode = "synchronous"'), "rounds.quota"),
        (('mode = "buffered"\nquota = 3\nwindow = 8', ""), "silo.3.training_seconds"),
        (("[rounds]", "[server]\ncohort_size = 3\n[rounds]"), "server.cohort_size"),
        (('mode = "buffered"\nquota = 3\nwindow = 8', "deadline_seconds = 2"), "rounds.deadline_seconds"),
        (('mode = "buffered"\nquota = 3\nwindow = 8', "opening_seconds = 2"), "rounds.opening_seconds"),
        (("window = 8", "opening_seconds = -1"), "rounds.opening_seconds"),
        (
            ("[rounds]", '[[simulation.incidents]]\nparty = "east"\nphase = "Unmask"\n[rounds]'),
            "simulation.incidents.0.phase",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(change: tuple[str, str], key: str) -> None:
    text = buffered_text(2)
    assert change[0] in text
    with pytest.raises(ConfigError) as caught:
        parse_config(text.replace(*change))
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("mode", "changes"),
    [
        ("distributed-dp-sgd", {"steps_per_round = 2": "steps_per_round = 1"}),
        ("client-level", {"[privacy]\n": '[privacy]\nunit = "client"\n'}),
    ],
)
def test_noise_that_a_cohort_shares_out_is_refused(mode: str, changes: dict[str, str]) -> None:
    """Every sum must hold all of its parts: a late update would bring noise that was made for another."""
    text = buffered_text(2, private=True)
    for old, new in {'mode = "local-dp-sgd"': f'mode = "{mode}"', "value_range = 4.0\n": "", **changes}.items():
        assert old in text
        text = text.replace(old, new)
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    assert (caught.value.key, mode in str(caught.value)) == ("rounds.mode", True)


def test_whole_run_ends_with_its_report(tmp_path: Path) -> None:
    path = write_study(tmp_path, buffered_text(9))
    config, text = load_config(path)
    assert isinstance(config, Config)
    finished = simulate(config, text, tmp_path, output=tmp_path / "runs")
    report = finished.report
    assert (report.status, len(report.rounds)) == ("completed", 9)
    assert SLOW in report.rounds[7].contributors
    assert any(check == f"versions behind the model: east 0, north 0, {SLOW} 7" for check in report.rounds[7].checks)
    assert any("different models" in item for item in report.not_protected)
