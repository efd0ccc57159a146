"""A server session in its journal: killed between any two messages it goes on, and asks the same questions again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocols import oneshot, secagg
from protocols.errors import FaultReason, PeerFault, ProtocolError, ThresholdNotMet, UsageError
from protocols.identity import Identity, Roster
from protocols.organisation import Organisation
from protocols.primitives.signing import SigningKey
from protocols.session import ClientPolicy
from protocols.shape import ArraySource, Reply, Request
from protocols.signed import MemorySpool
from protocols.testing.network import deliver
from protocols.testing.randomness import DeterministicEntropy
from protocols.testing.storage import MemoryStore
from secfl.engines import DurableServer, ServerJournal

NAMES = ("a", "b", "c", "d")
BITS, LENGTH = 20, 150
MODULES: dict[str, Any] = {"secagg": secagg, "oneshot": oneshot}
VECTOR_PHASE = {"secagg": "MaskedInput", "oneshot": "Contribution"}


class Setting:
    """Four organisations of one protocol, and the server's journal."""

    def __init__(self, protocol: str, directory: Path) -> None:
        self.protocol = protocol
        self.module = MODULES[protocol]
        identities = {name: self.identity(name) for name in NAMES}
        self.roster = Roster([identity.member() for identity in identities.values()])
        policy = ClientPolicy(protocols=frozenset({protocol}))
        self.parties = {
            name: Organisation(
                self.module,
                identity,
                self.roster,
                policy,
                entropy=DeterministicEntropy(f"{name}/{protocol}"),
                store=MemoryStore(),
            )
            for name, identity in identities.items()
        }
        generator = np.random.default_rng(1)
        self.vectors = {name: generator.integers(0, 2**BITS, LENGTH).astype(np.uint32) for name in NAMES}
        self.parameters = self.module.parameters(
            self.roster,
            NAMES,
            nonce=bytes(32),
            run_id="run",
            round_number=1,
            modulus_bits=BITS,
            vector_length=LENGTH,
            context_hash=bytes(32),
            chunk_length=64,
        )
        self.path = directory / "journal.sqlite"
        self.journal = ServerJournal(self.path)
        self.server = DurableServer.adopt(self.journal, self.module.server(self.parameters, self.roster))

    def identity(self, name: str) -> Identity:
        key = SigningKey.generate(DeterministicEntropy(name))
        if self.protocol == "oneshot":
            committee = oneshot.CommitteeKey.generate(DeterministicEntropy(f"{name}/committee"))
            return oneshot.CommitteeIdentity(name, key, committee)
        return Identity(name, key)

    def restart(self, **options: Any) -> DurableServer:
        """Nothing but the file connects the server with the one before it."""
        session_id = self.server.session_id
        self.journal.close()
        self.journal = ServerJournal(self.path)
        self.server = DurableServer.restore(self.journal, self.module, session_id, self.roster, **options)
        return self.server

    def answer(self, request: Request) -> Reply:
        party = self.parties[request.party]
        needed = party.inspect(request.header).vector
        source = ArraySource(self.vectors[request.party]) if needed else None
        reply = party.handle(request.header, request.chunks, vector=source)
        return Reply(reply.party, reply.header, [bytes(chunk) for chunk in reply.chunks], reply.trailer)

    def replies(self, *absent: str) -> list[Reply]:
        return [self.answer(request) for request in self.server.requests() if request.party not in absent]

    def phase(self, *absent: str) -> None:
        for reply in self.replies(*absent):
            deliver(self.server, reply)
        self.server.close_phase()

    def advance(self, phase: str) -> None:
        while self.server.phase != phase:
            self.phase()

    def total(self, *names: str) -> list[int]:
        return list(sum(self.vectors[name].astype(np.int64) for name in names) % 2**BITS)


@pytest.fixture(params=["secagg", "oneshot"])
def setting(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Setting]:
    made = Setting(request.param, tmp_path)
    yield made
    made.journal.close()


@pytest.fixture
def secagg_setting(tmp_path: Path) -> Iterator[Setting]:
    made = Setting("secagg", tmp_path)
    yield made
    made.journal.close()


def asked(server: DurableServer) -> list[tuple[str, bytes]]:
    return [(request.party, request.header) for request in server.requests()]


def test_restored_after_every_message_and_phase_it_asks_the_same_and_gives_the_exact_sum(setting: Setting) -> None:
    while setting.server.phase is not None:
        absent = ("d",) if setting.server.phase in VECTOR_PHASE.values() else ()
        before = asked(setting.server)
        for number, reply in enumerate(setting.replies(*absent)):
            deliver(setting.server, reply)
            limits, blob = setting.server.reply_limits(), setting.server.save()
            server = setting.restart()
            assert asked(server) == before
            assert len(server.answered) == number + 1
            assert server.answered[-1] == reply.party
            assert (server.reply_limits(), server.save()) == (limits, blob)
        summary = setting.server.close_phase()
        assert setting.restart().phase == summary.next_phase
    for _ in range(2):  # the result, too, outlives the process
        aggregate = setting.restart().result()
        assert aggregate.contributors == ("a", "b", "c")
        assert list(aggregate.sum) == setting.total("a", "b", "c")


def test_accepted_reply_is_not_taken_again_after_a_restart(setting: Setting) -> None:
    first = setting.replies()[0]
    deliver(setting.server, first)
    with pytest.raises(PeerFault) as caught:
        setting.restart().begin(first.header)
    assert caught.value.rule == "SV-4"


def test_upload_that_is_committed_twice_stays_in_the_journal(setting: Setting) -> None:
    setting.advance(VECTOR_PHASE[setting.protocol])
    first = setting.replies()[0]
    upload = setting.server.begin(first.header)
    for chunk in first.chunks:
        upload.write(chunk)
    upload.commit(first.trailer)
    with pytest.raises(UsageError, match="the upload is over"):
        upload.commit(first.trailer)
    upload.abort()
    blob = setting.server.save()
    assert (setting.restart().answered, setting.server.save()) == ((first.party,), blob)


def test_session_that_is_over_closes_no_phase_and_says_what_it_is(setting: Setting) -> None:
    while setting.server.phase is not None:
        setting.phase()
    events = list(setting.journal.events(setting.server.session_id))
    with pytest.raises(UsageError, match="the session is over"):
        setting.server.close_phase()
    assert list(setting.journal.events(setting.server.session_id)) == events
    assert repr(setting.server) == f"DurableServer(ServerShell({setting.server.session_id.hex()[:16]}, closed))"


def test_reply_under_way_when_the_process_dies_leaves_no_trace(setting: Setting) -> None:
    setting.advance(VECTOR_PHASE[setting.protocol])
    first, second, *_ = setting.replies()
    deliver(setting.server, first)
    blob = setting.server.save()
    upload = setting.server.begin(second.header)
    for chunk in second.chunks:
        upload.write(chunk)
    server = setting.restart()
    assert (server.answered, server.save()) == ((first.party,), blob)
    assert len(setting.journal._rows("SELECT DISTINCT upload FROM chunk")) == 1
    deliver(server, second)
    assert server.answered == (first.party, second.party)


def test_refused_superseded_and_aborted_replies_leave_nothing_in_the_journal(setting: Setting) -> None:
    setting.advance(VECTOR_PHASE[setting.protocol])
    reply = setting.replies()[0]
    chunks = list(reply.chunks)

    def begun() -> Any:
        upload = setting.server.begin(reply.header)
        for chunk in chunks:
            upload.write(chunk)
        return upload

    def stored() -> int:
        return len(setting.journal._rows("SELECT 1 FROM chunk"))

    before = stored()
    begun().abort()
    assert stored() == before
    older = begun()
    assert stored() == before + len(chunks)
    with pytest.raises(PeerFault, match="signature does not verify"):
        begun().commit(bytes(64))
    assert stored() == before
    with pytest.raises(PeerFault) as caught:
        older.commit(reply.trailer)
    assert caught.value.rule == "SV-9"
    with pytest.raises(PeerFault) as caught:
        setting.server.begin(reply.header).write(chunks[1])
    assert caught.value.reason in (FaultReason.CHUNK_ORDER, FaultReason.CHUNK_LENGTH)
    assert stored() == before
    assert list(setting.journal.events(setting.server.session_id)) == []
    deliver(setting.server, reply)
    assert setting.restart().answered == (reply.party,)


def test_phase_that_began_to_close_is_closed_after_a_restart(setting: Setting) -> None:
    """Nobody was asked about the next phase yet, so it could be either; it must be the same one for ever."""
    replies = setting.replies("d")
    for reply in replies:
        deliver(setting.server, reply)
    phase = setting.server.phase
    setting.journal.close_phase(setting.server.session_id, phase or "")
    server = setting.restart()
    assert server.phase not in (None, phase)
    with pytest.raises(PeerFault):
        server.begin(replies[0].header)


def test_session_that_failed_fails_again_with_the_same_error(setting: Setting) -> None:
    setting.advance(VECTOR_PHASE[setting.protocol])
    with pytest.raises(ThresholdNotMet) as first:
        setting.phase("a", "b")
    assert setting.server.phase is None
    with pytest.raises(ThresholdNotMet) as again:
        setting.restart()
    assert str(again.value) == str(first.value)


def test_events_give_way_to_a_snapshot_when_a_phase_ends(secagg_setting: Setting) -> None:
    setting = secagg_setting
    for phase in ("ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmask"):
        setting.phase()
        assert setting.server.phase == phase
        assert list(setting.journal.events(setting.server.session_id)) == []
        assert setting.journal._rows("SELECT 1 FROM chunk") == []


def test_events_give_way_to_a_snapshot_when_too_much_has_piled_up(secagg_setting: Setting) -> None:
    setting = secagg_setting
    setting.advance("MaskedInput")
    setting.restart(replay_bytes=500)
    counts = []
    for reply in setting.replies():
        deliver(setting.server, reply)
        counts.append(len(list(setting.journal.events(setting.server.session_id))))
    assert counts == [1, 0, 1, 0]  # 375 bytes each
    setting.restart()
    assert setting.server.answered == NAMES
    setting.server.close_phase()
    setting.advance("Unmask")
    setting.phase()
    assert list(setting.server.result().sum) == setting.total(*NAMES)


def test_replies_that_the_session_still_reads_stay_in_the_journal_instead_of_a_snapshot(tmp_path: Path) -> None:
    """The one-shot server adds ciphertexts up when it knows whose: until then no snapshot has room for all of them."""
    setting = Setting("oneshot", tmp_path)
    events = []
    while setting.server.phase is not None:
        setting.phase("d") if setting.server.phase == "Contribution" else setting.phase()
        events.append([event.phase for event in setting.journal.events(setting.server.session_id)])
        setting.restart()
    contributed = [*[""] * 3, "Contribution"]
    assert events == [contributed, [], [*[""] * 4, "Opening"]]
    assert list(setting.server.result().sum) == setting.total("a", "b", "c")
    setting.journal.close()


def test_forgotten_session_is_gone(setting: Setting) -> None:
    setting.phase()
    setting.server.forget()
    assert setting.journal.sessions() == {}
    with pytest.raises(UsageError, match="no session"):
        setting.restart()


class TestFailingJournal:
    def test_chunk_that_the_disk_refuses_ends_that_upload_alone(self, setting: Setting) -> None:
        setting.advance(VECTOR_PHASE[setting.protocol])
        replies = setting.replies()
        deliver(setting.server, replies[0])
        blob = setting.server.save()
        filler = self.fill(setting)
        upload = setting.server.begin(replies[1].header)
        with pytest.raises(ProtocolError, match="disk is full"):
            upload.write(next(iter(replies[1].chunks)))
        setting.journal._run("PRAGMA max_page_count = 1000000")
        setting.journal.drop(filler)
        assert setting.server.save() == blob
        for reply in replies[1:]:
            deliver(setting.server, reply)
        assert setting.restart().answered == NAMES

    @pytest.mark.parametrize("call", ["accept", "close_phase", "compact"])
    def test_failure_in_a_commit_or_at_the_end_of_a_phase_ends_the_object_and_loses_nothing(
        self, setting: Setting, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        setting.advance({"secagg": "AdvertiseKeys", "oneshot": "Check"}[setting.protocol])
        replies = setting.replies()
        for reply in replies[:-1]:
            deliver(setting.server, reply)

        def refuse(*_arguments: object) -> None:
            raise ProtocolError("the disk refused")

        with monkeypatch.context() as patched:
            patched.setattr(setting.journal, call, refuse)
            if call != "accept":
                deliver(setting.server, replies[-1])
            with pytest.raises(ProtocolError, match="the disk refused"):
                deliver(setting.server, replies[-1]) if call == "accept" else setting.server.close_phase()
        assert setting.server.phase is None
        for action in (
            setting.server.close_phase,
            setting.server.ready,
            setting.server.result,
            setting.server.save,
            setting.server.requests,
            setting.server.reply_limits,
            lambda: setting.server.begin(replies[0].header),
        ):
            with pytest.raises(ProtocolError, match="can be restored"):
                action()
        server = setting.restart()
        assert server.answered == {"accept": NAMES[:-1], "close_phase": NAMES, "compact": ()}[call]
        while setting.server.phase is not None:
            known = set(setting.server.answered)
            setting.phase(*known)
        assert list(setting.server.result().sum) == setting.total(*NAMES)

    def fill(self, setting: Setting) -> int:
        """Until there is no room for another byte; the upload that did it."""
        journal = setting.journal
        pages = journal._run("PRAGMA page_count").fetchone()[0]
        journal._run(f"PRAGMA max_page_count = {pages}")
        filler = journal.new_upload()
        for number in itertools.count():
            try:
                journal.append(filler, number, b"")
            except ProtocolError:
                return filler
        raise AssertionError


class TestDamage:
    def test_session_of_another_protocol_or_roster_is_refused(self, secagg_setting: Setting) -> None:
        setting = secagg_setting
        with pytest.raises(UsageError, match="is one of secagg"):
            DurableServer.restore(setting.journal, oneshot, setting.server.session_id, setting.roster)
        other = Roster([setting.identity(name).member() for name in (*NAMES, "e")])
        with pytest.raises(UsageError, match="roster"):
            DurableServer.restore(setting.journal, secagg, setting.server.session_id, other)

    def test_snapshot_of_another_version_is_refused(self, setting: Setting) -> None:
        setting.journal.compact(setting.server.session_id, b"\xc0")
        with pytest.raises(UsageError, match="damaged: not a session that this version saved"):
            setting.restart()

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ("UPDATE event SET trailer = zeroblob(64) WHERE number = 1", "signature does not verify"),
            ("UPDATE event SET header = zeroblob(64) WHERE number = 1", "malformed"),
            ("UPDATE chunk SET body = zeroblob(length(body)) WHERE number = 1", "signature does not verify"),
            ("UPDATE event SET chunks = chunks - 1 WHERE number = 0", "wrong length"),
            ("UPDATE event SET phase = 'Elsewhere' WHERE number = 2", "Elsewhere closes in phase"),
            ("UPDATE event SET trailer = 'text' WHERE number = 1", "event 1 is none"),
            ("DELETE FROM chunk WHERE number = 0", "chunk 0 of upload"),
            ("DELETE FROM event WHERE number = 2", "the 2 events are not those that were written"),
        ],
    )
    def test_changed_event_is_noticed(self, setting: Setting, change: str, problem: str) -> None:
        setting.advance(VECTOR_PHASE[setting.protocol])
        for reply in setting.replies()[:3]:
            deliver(setting.server, reply)
        setting.journal._run(change)
        with pytest.raises(UsageError, match=problem):
            setting.restart()

    def test_any_flipped_byte_of_the_file_ends_in_the_same_session_or_a_named_error(
        self, secagg_setting: Setting
    ) -> None:
        setting = secagg_setting
        setting.advance("MaskedInput")
        for reply in setting.replies()[:3]:
            deliver(setting.server, reply)
        blob, session_id = setting.server.save(), setting.server.session_id
        setting.journal.close()
        content = setting.path.read_bytes()
        ends = {"same": 0, "named": 0}
        for position in range(0, len(content), 61):
            flipped = bytearray(content)
            flipped[position] ^= 0xFF
            setting.path.write_bytes(flipped)
            try:
                journal = ServerJournal(setting.path)
            except (UsageError, ProtocolError):
                ends["named"] += 1
                continue
            try:
                restored = DurableServer.restore(journal, secagg, session_id, setting.roster)
                assert restored.save() == blob
                ends["same"] += 1
            except (UsageError, ProtocolError):
                ends["named"] += 1
            finally:
                journal.close()
            setting.path.with_name(f"{setting.path.name}-wal").unlink(missing_ok=True)
        assert min(ends.values()) > 50
        setting.path.write_bytes(content)
        assert setting.restart().save() == blob


def test_session_that_a_journal_cannot_give_back_is_not_adopted(secagg_setting: Setting) -> None:
    with pytest.raises(UsageError, match="DurableServer: not a session that a journal can give back"):
        DurableServer.adopt(secagg_setting.journal, secagg_setting.server)


def test_session_in_the_journal_is_not_adopted_again(secagg_setting: Setting) -> None:
    again = secagg.server(secagg_setting.parameters, secagg_setting.roster)
    with pytest.raises(UsageError, match="is in the journal; restore it"):
        DurableServer.adopt(secagg_setting.journal, again)


def test_session_that_takes_a_reply_without_a_spool_is_refused(secagg_setting: Setting) -> None:
    reply = secagg_setting.replies()[0]
    secagg_setting.server._session.new_spool = MemorySpool
    with pytest.raises(UsageError, match="without asking for a spool"):
        secagg_setting.server.begin(reply.header)
