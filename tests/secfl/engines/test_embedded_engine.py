"""The embedded engine: any protocol through it, every byte counted, what goes wrong on schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from protocols import secagg
from protocols.errors import FaultReason, PeerFault, ProtocolError, SecflError, ThresholdNotMet
from protocols.identity import Identity, Role, Roster
from protocols.primitives.signing import SigningKey
from protocols.session import ClientPolicy, SessionParameters
from protocols.shape import (
    Aggregate,
    ArraySource,
    Chunk,
    MessageLimits,
    PartySession,
    PhaseSummary,
    Reply,
    Request,
    ServerSession,
    Upload,
    Words,
)
from protocols.testing import plain
from protocols.testing.randomness import DeterministicEntropy
from protocols.testing.storage import MemoryStore
from protocols.wire import encode
from secfl.engines import DurableServer, EmbeddedEngine, Incident, ServerJournal

CLIENTS = ("a", "b", "c", "d")
COMMITTEE = ("x", "y", "z")
CONTEXT = b"the global model"
LENGTH = 100


class SessionParty:
    """One organisation in one session: what an engine needs around a party session."""

    def __init__(self, session: PartySession, vector: Words | None) -> None:
        self.session = session
        self.vector = vector
        self.contexts: list[bytes] = []
        self.taken: list[Reply] = []

    def answer(self, header: bytes, chunks: Iterable[Chunk], context: bytes) -> Reply:
        self.contexts.append(context)
        need = self.session.inspect(header)
        source = ArraySource(self.vector) if need.vector and self.vector is not None else None
        return self.session.handle(header, chunks, vector=source)

    def delivered(self, reply: Reply) -> None:
        self.taken.append(reply)


class Transcript(ServerSession):
    """A server session that writes down every byte that passes its door."""

    def __init__(self, inner: ServerSession) -> None:
        self.inner = inner
        self.up: dict[str, list[bytes]] = {}
        self.down: dict[str, list[bytes]] = {}

    @property
    def parameters(self) -> SessionParameters:
        return self.inner.parameters

    @property
    def phase(self) -> str | None:
        return self.inner.phase

    def requests(self) -> Iterator[Request]:
        for request in self.inner.requests():
            chunks = [bytes(chunk) for chunk in request.chunks]
            self.down.setdefault(self.phase or "", []).extend([request.header, *chunks])
            yield Request(request.party, request.header, chunks)

    def reply_limits(self) -> MessageLimits:
        return self.inner.reply_limits()

    def begin(self, header: bytes) -> Upload:
        self.up.setdefault(self.phase or "", []).append(header)
        return _Written(self.inner.begin(header), self.up[self.phase or ""])

    def ready(self) -> bool:
        return self.inner.ready()

    def close_phase(self) -> PhaseSummary:
        return self.inner.close_phase()

    def result(self, out: Words | None = None) -> Aggregate:
        return self.inner.result(out)

    def save(self) -> bytes:
        return self.inner.save()


class _Written(Upload):
    def __init__(self, inner: Upload, log: list[bytes]) -> None:
        self.inner = inner
        self.log = log

    def write(self, chunk: Chunk) -> None:
        self.log.append(bytes(chunk))
        self.inner.write(chunk)

    def commit(self, trailer: bytes) -> None:
        self.log.append(trailer)
        self.inner.commit(trailer)

    def abort(self) -> None:
        self.inner.abort()


class Setting:
    """Parties of both protocols around the same vectors."""

    def __init__(self, protocol: str, round_number: int = 3) -> None:
        names = CLIENTS + (COMMITTEE if protocol == "plain" else ())
        identities = {name: Identity(name, SigningKey.generate(DeterministicEntropy(name))) for name in names}
        roster = self.roster = Roster([identity.member() for identity in identities.values()])
        generator = np.random.default_rng(1)
        self.vectors = {name: generator.integers(0, 2**12, LENGTH).astype(np.uint16) for name in CLIENTS}
        if protocol == "plain":
            parameters = SessionParameters(
                protocol="plain",
                nonce=bytes(32),
                run_id="run",
                round_number=round_number,
                attempt=1,
                roster_hash=roster.digest(),
                cohort=CLIENTS,
                threshold=2,
                collusion_bound=1,
                minimum_contributors=3,
                modulus_bits=12,
                vector_length=LENGTH,
                chunk_length=64,
                context_hash=bytes(32),
                extension=encode(plain.Committee(COMMITTEE)),
            )
            self.server: ServerSession = plain.server(parameters, roster)
        else:
            parameters = secagg.parameters(
                roster,
                CLIENTS,
                nonce=bytes(32),
                run_id="run",
                round_number=round_number,
                attempt=1,
                modulus_bits=12,
                vector_length=LENGTH,
                context_hash=bytes(32),
                chunk_length=64,
            )
            self.server = secagg.server(parameters, roster)
        make = plain.party if protocol == "plain" else secagg.party
        policy = ClientPolicy(protocols=frozenset({protocol}))
        self.parties = {
            name: SessionParty(
                make(
                    Role.CLIENT if name in CLIENTS else Role.COMMITTEE,
                    identity,
                    roster,
                    policy,
                    entropy=DeterministicEntropy(f"{name}/{protocol}"),
                    store=MemoryStore(),
                ),
                self.vectors.get(name),
            )
            for name, identity in identities.items()
        }

    def total(self, contributors: Iterable[str]) -> list[int]:
        return list(sum(self.vectors[name].astype(np.int64) for name in contributors) % 2**12)

    def engine(self, *incidents: Incident, **options: float) -> EmbeddedEngine:
        return EmbeddedEngine(self.parties, incidents=incidents, **options)


@pytest.fixture(params=["plain", "secagg"])
def setting(request: pytest.FixtureRequest) -> Setting:
    return Setting(request.param)


PHASES = {
    "plain": ("Contribute", "Countersign"),
    "secagg": ("AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmask"),
}


def test_both_protocols_give_the_sum_through_one_engine(setting: Setting) -> None:
    carried = setting.engine().run_session(setting.server, CONTEXT)
    assert carried.failure is None
    assert carried.aggregate is not None
    assert list(carried.aggregate.sum) == setting.total(CLIENTS)
    assert tuple(phase.phase for phase in carried.phases) == PHASES[setting.server.parameters.protocol]
    assert all(not phase.dropped and not phase.events for phase in carried.phases)
    for name, party in setting.parties.items():
        asked = [phase.phase for phase in carried.phases if name in phase.answered]
        assert len(party.taken) == len(asked) == len(party.contexts)
        assert set(party.contexts) == {CONTEXT}


def test_bytes_counted_are_the_bytes_of_the_transcript(setting: Setting) -> None:
    server = Transcript(setting.server)
    carried = setting.engine().run_session(server, CONTEXT)
    for phase in carried.phases:
        assert phase.bytes_up == sum(map(len, server.up[phase.phase])) > 0
        assert phase.bytes_down == sum(map(len, server.down[phase.phase])) > 0


def test_refused_bytes_are_counted_too() -> None:
    setting = Setting("secagg")
    server = Transcript(setting.server)
    carried = setting.engine(Incident("b", "MaskedInput", kind="delay", seconds=601)).run_session(server, CONTEXT)
    masked, checked = carried.phases[2:4]
    # The late reply's header reaches the server when the next phase is open, and is refused there.
    late = server.up["ConsistencyCheck"][0]
    assert masked.bytes_up == sum(map(len, server.up["MaskedInput"])) + len(late)
    assert checked.bytes_up == sum(map(len, server.up["ConsistencyCheck"])) - len(late)


def test_a_party_that_is_dropped_is_not_asked_again_in_the_session(setting: Setting) -> None:
    phase = PHASES[setting.server.parameters.protocol][0]
    carried = setting.engine(Incident("b", phase)).run_session(setting.server, CONTEXT)
    assert setting.parties["b"].contexts == []
    assert carried.phases[0].dropped == ("b",)
    assert carried.aggregate is not None
    assert carried.aggregate.contributors == ("a", "c", "d")
    assert list(carried.aggregate.sum) == setting.total(("a", "c", "d"))


def test_a_lost_reply_was_given_but_never_taken(setting: Setting) -> None:
    phase = {"plain": "Contribute", "secagg": "MaskedInput"}[setting.server.parameters.protocol]
    carried = setting.engine(Incident("b", phase, kind="lose_reply")).run_session(setting.server, CONTEXT)
    assert carried.aggregate is not None
    assert carried.aggregate.contributors == ("a", "c", "d")
    party = setting.parties["b"]
    assert len(party.contexts) == len(party.taken) + 1


@pytest.mark.parametrize(("seconds", "contributors"), [(601.0, ("a", "c", "d")), (1.0, CLIENTS)])
def test_only_what_comes_after_the_deadline_is_refused(
    setting: Setting, seconds: float, contributors: tuple[str, ...]
) -> None:
    phase = {"plain": "Contribute", "secagg": "MaskedInput"}[setting.server.parameters.protocol]
    incident = Incident("b", phase, kind="delay", seconds=seconds)
    carried = setting.engine(incident).run_session(setting.server, CONTEXT)
    assert carried.aggregate is not None
    assert carried.aggregate.contributors == contributors
    events = [event for record in carried.phases for event in record.events]
    if contributors == CLIENTS:
        assert events == []
        return
    (event,) = events
    assert (event.party, event.phase) == ("b", phase)
    assert isinstance(event.error, PeerFault)
    assert event.error.reason is FaultReason.WRONG_PHASE


def test_a_reply_after_the_last_phase_is_refused_and_recorded(setting: Setting) -> None:
    protocol = setting.server.parameters.protocol
    phase, party = PHASES[protocol][-1], {"plain": "z", "secagg": "d"}[protocol]
    carried = setting.engine(Incident(party, phase, kind="delay", seconds=601)).run_session(setting.server, CONTEXT)
    assert carried.aggregate is not None
    assert list(carried.aggregate.sum) == setting.total(CLIENTS)
    (event,) = carried.phases[-1].events
    assert isinstance(event.error, PeerFault)
    assert (event.party, event.error.reason) == (party, FaultReason.WRONG_PHASE)


def test_a_party_slower_than_the_deadline_is_late_without_any_incident() -> None:
    setting = Setting("secagg")
    now = [0.0]

    def slow(party: SessionParty, answer: Callable[..., Reply]) -> Callable[..., Reply]:
        def answered(header: bytes, chunks: Iterable[Chunk], context: bytes) -> Reply:
            now[0] += 11.0 if party.session.inspect(header).vector else 1.0
            return answer(header, chunks, context)

        return answered

    setting.parties["b"].answer = slow(setting.parties["b"], setting.parties["b"].answer)  # type: ignore[method-assign]
    engine = EmbeddedEngine(setting.parties, deadline_seconds=10, clock=lambda: now[0])
    carried = engine.run_session(setting.server, CONTEXT)
    assert carried.aggregate is not None
    assert carried.aggregate.contributors == ("a", "c", "d")
    assert carried.phases[2].seconds == 11.0


@pytest.mark.parametrize(
    ("round_number", "attempt", "hit"),
    [
        (None, None, True),
        (3, None, True),
        (None, 1, True),
        (3, 1, True),
        (2, None, False),
        (3, 0, False),
        (2, 1, False),
    ],
)
def test_incidents_happen_in_their_round_and_attempt_only(
    setting: Setting, round_number: int | None, attempt: int | None, hit: bool
) -> None:
    phase = PHASES[setting.server.parameters.protocol][0]  # of round 3, attempt 1
    incident = Incident("b", phase, round=round_number, attempt=attempt)
    carried = setting.engine(incident).run_session(setting.server, CONTEXT)
    assert carried.phases[0].dropped == (("b",) if hit else ())


def test_too_few_parties_end_the_session_with_the_reason(setting: Setting) -> None:
    phase = {"plain": "Contribute", "secagg": "MaskedInput"}[setting.server.parameters.protocol]
    server = Transcript(setting.server)
    carried = setting.engine(Incident("a", phase), Incident("b", phase)).run_session(server, CONTEXT)
    assert carried.aggregate is None
    assert isinstance(carried.failure, ThresholdNotMet)
    assert (carried.failure.required, carried.failure.present, carried.failure.phase) == (3, 2, phase)
    assert carried.phases[-1].phase == phase


@pytest.mark.parametrize("error", [ProtocolError("refused"), SecflError("broken")])
def test_a_party_that_refuses_is_a_dropout_with_a_name(setting: Setting, error: SecflError) -> None:
    def refuse(*_arguments: object) -> Reply:
        raise error

    setting.parties["c"].answer = refuse  # type: ignore[method-assign]
    carried = setting.engine().run_session(setting.server, CONTEXT)
    assert carried.aggregate is not None
    assert carried.aggregate.contributors == ("a", "b", "d")
    assert [(event.party, event.error) for event in carried.phases[0].events] == [("c", error)]


def test_a_party_that_cannot_remember_its_delivery_stays_in_the_sum(setting: Setting) -> None:
    error = SecflError("no room")

    def refuse(_reply: Reply) -> None:
        raise error

    setting.parties["c"].delivered = refuse  # type: ignore[method-assign]
    carried = setting.engine().run_session(setting.server, CONTEXT)
    assert carried.aggregate is not None
    assert carried.aggregate.contributors == CLIENTS
    assert {(event.party, event.error) for phase in carried.phases for event in phase.events} == {("c", error)}


def test_an_error_that_is_nobodys_fault_is_not_taken_for_a_dropout(setting: Setting) -> None:
    def bug(*_arguments: object) -> Reply:
        raise ZeroDivisionError

    setting.parties["c"].answer = bug  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        setting.engine().run_session(setting.server, CONTEXT)


def test_the_last_session_is_in_the_journal_and_no_other(tmp_path: Path) -> None:
    journal = ServerJournal(tmp_path / "server.sqlite")
    for round_number in (3, 4):
        setting = Setting("secagg", round_number)
        carried = EmbeddedEngine(setting.parties, journal=journal).run_session(setting.server, CONTEXT)
        assert carried.aggregate is not None
        assert list(carried.aggregate.sum) == setting.total(CLIENTS)
        session_id = setting.server.parameters.session_id()
        assert journal.sessions() == {session_id: "secagg"}
    journal.close()
    journal = ServerJournal(tmp_path / "server.sqlite")
    again = DurableServer.restore(journal, secagg, session_id, setting.roster).result()
    assert (list(again.sum), again.contributors) == (list(carried.aggregate.sum), CLIENTS)
    journal.close()


def test_a_journal_that_fails_ends_the_session_with_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting("secagg")
    journal = ServerJournal(tmp_path / "server.sqlite")

    def refuse(*_arguments: object) -> None:
        raise ProtocolError("the disk refused")

    monkeypatch.setattr(journal, "accept", refuse)
    carried = EmbeddedEngine(setting.parties, journal=journal).run_session(setting.server, CONTEXT)
    assert carried.aggregate is None
    assert isinstance(carried.failure, ProtocolError)
    assert "can be restored" in str(carried.failure)
    first = carried.phases[0].events[0]
    assert (first.party, str(first.error)) == ("a", "the disk refused")
    journal.close()
