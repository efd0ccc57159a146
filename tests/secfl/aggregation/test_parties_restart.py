"""Server and parties of a deployment that die between any two messages and go on from their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocols import Identity, Roster, SessionId, SigningKey
from protocols.errors import FaultReason, PeerFault, ThresholdNotMet, UsageError
from protocols.testing.randomness import DeterministicEntropy
from secfl.aggregation import AggregationParty, AggregationServer, Agreement, Limits
from secfl.engines import FileStore, SealedSessions, ServerJournal

PARTIES = ("a", "b", "c", "d")
IDENTITIES = {name: Identity(name, SigningKey.generate(DeterministicEntropy(f"id/{name}"))) for name in PARTIES}
ROSTER = Roster(identity.member() for identity in IDENTITIES.values())
LIKE = np.zeros(5, np.int64)
VALUES = {name: np.arange(5) * 10**at for at, name in enumerate(PARTIES)}
AGREEMENT = Agreement.of(PARTIES, LIKE, limits=Limits(clip=10**6))
KEY = bytes(range(32))


class Deployment:
    """Everything of it is in files; any part can be thrown away and made again from them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stores = {name: FileStore(directory / name / "answers.log") for name in PARTIES}
        self.parties = {name: self.party(name) for name in PARTIES}
        self.journal = ServerJournal(directory / "server" / "journal.sqlite")
        self.server = AggregationServer(AGREEMENT, ROSTER, run_id="run", journal=self.journal)

    def party(self, name: str, **options: Any) -> AggregationParty:
        arguments: dict[str, Any] = {"store": self.stores[name], "state": SealedSessions(self.sessions(name), KEY)}
        return AggregationParty(IDENTITIES[name], ROSTER, AGREEMENT, **(arguments | options))

    def sessions(self, name: str) -> Path:
        return self.directory / name / "sessions"

    def restart_party(self, name: str) -> None:
        self.stores[name].close()
        self.stores[name] = FileStore(self.directory / name / "answers.log")
        self.parties[name] = self.party(name)

    def restart_server(self, **options: Any) -> None:
        self.journal.close()
        self.journal = ServerJournal(self.directory / "server" / "journal.sqlite")
        self.server = AggregationServer.restore(AGREEMENT, ROSTER, self.journal, **options)

    def request(self, name: str) -> bytes:
        return next(item.message for item in self.server.requests() if item.party == name)

    def answer(self, name: str) -> bytes:
        return self.parties[name].answer(self.request(name), VALUES[name])

    def phase(self, *absent: str) -> None:
        for item in list(self.server.requests()):
            if item.party not in absent:
                self.server.receive(self.answer(item.party))
        self.server.close_phase()

    def advance(self, phase: str) -> None:
        while self.server.phase != phase:
            self.phase()

    def close(self) -> None:
        self.journal.close()
        for store in self.stores.values():
            store.close()


@pytest.fixture
def deployment(tmp_path: Path) -> Any:
    made = Deployment(tmp_path)
    yield made
    made.close()


def test_sum_is_exact_with_everybody_restarted_after_every_message(deployment: Deployment) -> None:
    while deployment.server.phase is not None:
        waiting = [item.party for item in deployment.server.requests()]
        while waiting:
            deployment.server.receive(deployment.answer(waiting[0]))
            deployment.restart_party(waiting.pop(0))
            deployment.restart_server()
            assert [item.party for item in deployment.server.requests()] == waiting
        assert deployment.server.ready()
        deployment.server.close_phase()
        deployment.restart_server()
    result = deployment.server.result()
    assert result.contributors == PARTIES
    np.testing.assert_array_equal(result.sum, sum(VALUES.values()))


def test_party_without_sealed_files_is_left_out_after_a_restart(deployment: Deployment) -> None:
    deployment.advance("MaskedInput")
    deployment.parties["b"] = deployment.party("b", state=None)
    with pytest.raises(PeerFault) as caught:
        deployment.answer("b")
    assert caught.value.reason is FaultReason.WRONG_PHASE


@pytest.mark.parametrize("phase", ["AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmask"])
def test_old_file_brought_back_gives_the_same_answer_or_none(deployment: Deployment, phase: str) -> None:
    deployment.advance(phase)
    old = {path.name: path.read_bytes() for path in deployment.sessions("b").iterdir()}
    first = deployment.answer("b")
    for path in deployment.sessions("b").iterdir():
        path.unlink()
    for name, content in old.items():
        (deployment.sessions("b") / name).write_bytes(content)
    deployment.restart_party("b")
    if phase in ("AdvertiseKeys", "ShareKeys"):  # the answer was drawn, and would be drawn anew
        with pytest.raises(PeerFault) as caught:
            deployment.answer("b")
        assert (caught.value.rule, caught.value.reason) == ("PT-11", FaultReason.ALREADY_ANSWERED)
    else:
        assert deployment.answer("b") == first


def test_nothing_leaves_when_the_session_cannot_be_saved_and_the_same_answer_leaves_later(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = deployment.request("b")

    def refuse(*_arguments: object, mode: int) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("secfl.engines.sealed_sessions.write_whole", refuse)
        with pytest.raises(OSError, match="No space"):
            deployment.parties["b"].answer(request, VALUES["b"])
    first = deployment.parties["b"].answer(request, VALUES["b"])
    deployment.restart_party("b")
    assert deployment.parties["b"].answer(request, VALUES["b"]) == first


def test_sealed_files_hold_the_open_sessions_alone(deployment: Deployment) -> None:
    for number in range(2, 5):
        server = AggregationServer(AGREEMENT, ROSTER, run_id="run", round_number=number)
        message = next(item.message for item in server.requests() if item.party == "b")
        deployment.parties["b"].answer(message, VALUES["b"])
    assert len(list(deployment.sessions("b").iterdir())) == 2


def test_session_that_failed_fails_again(deployment: Deployment) -> None:
    with pytest.raises(ThresholdNotMet):
        deployment.phase("a", "b")
    with pytest.raises(ThresholdNotMet):
        deployment.restart_server()


def test_session_must_be_named_where_there_are_two_or_none(deployment: Deployment) -> None:
    other = AggregationServer(AGREEMENT, ROSTER, run_id="run", round_number=2, journal=deployment.journal)
    with pytest.raises(UsageError, match="2 sessions; say which"):
        deployment.restart_server()
    deployment.restart_server(session_id=other.parameters.session_id())
    assert deployment.server.parameters == other.parameters
    for session in deployment.journal.sessions():
        deployment.journal.forget(session)
    with pytest.raises(UsageError, match="0 sessions; say which"):
        deployment.restart_server()
    with pytest.raises(UsageError, match="no session"):
        deployment.restart_server(session_id=SessionId(bytes(32)))


@pytest.mark.parametrize(
    "other",
    [
        Agreement.of(PARTIES[:3], LIKE, limits=Limits(clip=10**6)),
        Agreement.of(PARTIES, LIKE, limits=Limits(clip=10**7)),
        Agreement.of(PARTIES, np.zeros(6, np.int64), limits=Limits(clip=10**6)),
    ],
)
def test_session_under_another_agreement_is_refused(deployment: Deployment, other: Agreement) -> None:
    with pytest.raises(UsageError, match="one under another agreement"):
        AggregationServer.restore(other, ROSTER, deployment.journal)
