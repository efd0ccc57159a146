"""Every state with every message, and messages repeated, late, reordered and foreign in any order, with restarts."""

from __future__ import annotations

import random
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from oneshot_cohort import STORAGE_KEY, OneShotCohort, advance, lie

from protocols.errors import FaultReason, PeerFault, ProtocolError, ServerFault
from protocols.identity import Role
from protocols.oneshot import messages as m
from protocols.shape import Chunk, Reply
from protocols.testing.malformed import changed, signed_reply
from protocols.testing.network import deliver

PHASES = ("Contribution", "Check", "Opening", "Blame")
MEMBER_STATES = ("Idle", "Checked", "Opened", "Blamed")
ME = "c02"
Said = tuple[bytes, list[Chunk], Reply]


def conversation(name: str = "oneshot", party: str = ME, **options) -> dict[str, Said]:
    """Requests to and replies of one organisation in each phase of a session."""
    cohort = OneShotCohort(name=name, **options)
    said = {}
    for phase in PHASES:
        advance(cohort, phase)
        request = cohort.request(party)
        said[phase] = (request.header, [bytes(chunk) for chunk in request.chunks], cohort.answer(party))
    return said


CONVERSATION = conversation()
FOREIGN = conversation(nonce=b"\x09" * 32)


def at_state(state: str) -> tuple[OneShotCohort, dict[str, Said]]:
    """The member in this state, and its conversation: sealing is randomised, so each session has its own."""
    cohort = OneShotCohort()
    said: dict[str, Said] = {}
    for phase in PHASES:
        advance(cohort, phase)
        request = cohort.request(ME)
        session = cohort.session(ME)
        blob = session.save(STORAGE_KEY)
        said[phase] = (request.header, [bytes(chunk) for chunk in request.chunks], cohort.answer(ME))
        if phase != "Contribution" and MEMBER_STATES.index(state) < PHASES.index(phase):
            cohort.restore_party(Role.COMMITTEE, ME, blob)
            break
    rest = {phase: FOREIGN[phase] for phase in PHASES if phase not in said}
    member = cohort.parties[ME].sessions[Role.COMMITTEE]
    assert type(member._state).__name__ == state
    return cohort, said | {phase: retold(cohort, phase, *rest[phase]) for phase in rest}


def retold(cohort: OneShotCohort, phase: str, header: bytes, chunks: list[Chunk], reply: Reply) -> Said:
    """Another session's request in the name of this one: what a server may say before its time."""
    kind = {"Check": m.CheckRequest, "Opening": m.OpeningRequest, "Blame": m.BlameRequest}[phase]
    fields = {"session_id": cohort.server.session_id}
    if phase == "Check":
        fields["parameters"] = cohort.parameters.to_bytes()
    return changed(header, kind, **fields), chunks, reply


@pytest.mark.parametrize("phase", PHASES[1:])
@pytest.mark.parametrize("state", MEMBER_STATES)
def test_member_in_every_state_with_every_request(state: str, phase: str) -> None:
    cohort, said = at_state(state)
    session = cohort.parties[ME].sessions[Role.COMMITTEE]
    header, chunks, reply = said[phase]
    position, asked = MEMBER_STATES.index(state), PHASES[1:].index(phase)
    before = session._state
    if asked == position:
        answer = session.handle(header, chunks)
        assert (answer.header, answer.trailer) == (reply.header, reply.trailer)
        assert type(session._state).__name__ == MEMBER_STATES[position + 1]
    elif asked == position - 1:
        answer = session.handle(header)
        assert (answer.header, answer.trailer) == (reply.header, reply.trailer)
        assert session._state is before
    else:
        with pytest.raises(ServerFault) as caught:
            session.handle(header, chunks)
        first = state == "Idle"
        assert (caught.value.rule, caught.value.reason) == ("PT-4" if first else "PT-8", FaultReason.WRONG_PHASE)
        assert session._state is before


@pytest.mark.parametrize("state", ["Idle", "Contributed"])
@pytest.mark.parametrize("phase", PHASES)
def test_client_in_every_state_with_every_request(state: str, phase: str) -> None:
    cohort = OneShotCohort()
    session = cohort.parties[ME].sessions[Role.CLIENT]
    if state == "Contributed":
        cohort.answer(ME)
    header, chunks, _ = CONVERSATION[phase]
    before = session._state
    assert type(before).__name__ == state
    if phase == "Contribution":
        vector = cohort.sources()[ME] if state == "Idle" else None
        assert session.handle(header, chunks, vector=vector).party == ME
        assert type(session._state).__name__ == "Contributed"
    else:
        with pytest.raises(ServerFault) as caught:
            session.handle(header, chunks)
        assert (caught.value.rule, caught.value.reason) == ("PT-3", FaultReason.MALFORMED)
        assert session._state is before


@pytest.mark.parametrize("replied", PHASES)
@pytest.mark.parametrize("phase", PHASES)
def test_server_in_every_phase_with_every_reply(phase: str, replied: str) -> None:
    cohort = OneShotCohort()
    advance(cohort, phase)
    before = cohort.server.save()
    if replied == phase:
        deliver(cohort.server, cohort.answer(ME))
        assert cohort.server._phase.answered == [ME]
        return
    with pytest.raises(PeerFault) as caught:
        deliver(cohort.server, CONVERSATION[replied][2])
    assert (caught.value.rule, caught.value.reason) == ("SV-1", FaultReason.WRONG_PHASE)
    cohort.server._faults.pop()
    assert cohort.server.save() == before


@pytest.mark.parametrize("replied", PHASES)
@pytest.mark.parametrize("ended", ["sum", "blame"])
def test_server_whose_session_is_over_refuses_every_reply(replied: str, ended: str) -> None:
    cohort = OneShotCohort()
    if ended == "blame":
        advance(cohort, "Blame")
    with suppress(PeerFault):
        cohort.network.run()
    assert cohort.server.phase is None
    with pytest.raises(PeerFault) as caught:
        deliver(cohort.server, CONVERSATION[replied][2])
    assert (caught.value.rule, caught.value.reason) == ("SV-1", FaultReason.WRONG_PHASE)


@pytest.mark.parametrize("phase", PHASES)
def test_message_of_another_session_is_refused_in_every_phase(phase: str) -> None:
    cohort = OneShotCohort()
    advance(cohort, phase)
    header, chunks, reply = FOREIGN[phase]
    with pytest.raises(PeerFault) as caught:
        deliver(cohort.server, reply)
    assert caught.value.rule == "SV-2"
    if phase in {"Opening", "Blame"}:
        with pytest.raises(ServerFault) as caught_by_party:
            cohort.session(ME).handle(header, chunks)
        assert caught_by_party.value.rule == "PT-7"


NAMES = ("c00", "c01", "c02", "c03")


class Sessions(RuleBasedStateMachine):
    """A network that loses, repeats, delays and mixes: whoever answers, the sum is exact or there is none."""

    def __init__(self) -> None:
        super().__init__()
        self.cohort = OneShotCohort(5, members=4, collusion_bound=1, length=7)
        self.requests: list[tuple[str, str, bytes, list[Chunk]]] = []
        self.replies: list[Reply] = []
        self.given: dict[tuple[str, str], tuple[bytes, bytes]] = {}
        self.liars: set[str] = set()

    def is_open(self) -> bool:
        return self.cohort.server.phase is not None

    @precondition(is_open)
    @rule(party=st.sampled_from((*NAMES, "c04")))
    def ask_and_answer(self, party: str) -> None:
        """What the network is for."""
        phase = self.cohort.server.phase
        request = next((item for item in self.cohort.server.requests() if item.party == party), None)
        if request is None:
            return
        self.requests.append((phase, party, request.header, [bytes(chunk) for chunk in request.chunks]))
        try:
            reply = self.cohort.answer(party)
        except ProtocolError:
            return
        assert self.given.setdefault((party, phase), (reply.header, reply.trailer)) == (reply.header, reply.trailer)
        self.replies.append(reply)
        if party not in self.cohort.server._phase.answered:
            deliver(self.cohort.server, reply)

    @precondition(lambda self: self.is_open() and self.cohort.server.phase == "Opening")
    @rule(party=st.sampled_from(NAMES))
    def open_a_wrong_share(self, party: str) -> None:
        if party not in self.cohort.server._phase.answered and party in self.cohort.server._phase.expected:
            with suppress(ProtocolError):
                lie(self.cohort, party)
                self.liars.add(party)

    @precondition(lambda self: self.is_open() and self.cohort.server.phase == "Check")
    @rule(party=st.sampled_from(NAMES), about=st.sets(st.integers(0, 4), min_size=1))
    def complain(self, party: str, about: set[int]) -> None:
        phase = self.cohort.server._phase
        if party not in phase.answered and about <= phase.contributions.keys():
            fields = m.opening_fields(self.cohort.server.session_id, m.CheckReply, self.cohort.parameters.suite)
            header = m.wire.encode(m.CheckReply(*fields, party, tuple(sorted(about))))
            identity = self.cohort.identities[party]
            deliver(self.cohort.server, signed_reply(identity, self.cohort.server.session_id, m.CHECK, header, ()))

    @precondition(is_open)
    @rule()
    def everybody_answers(self) -> None:
        for party in (*NAMES, "c04"):
            self.ask_and_answer(party)

    @precondition(lambda self: self.is_open() and len(self.cohort.server._phase.answered) >= 3)
    @rule()
    def close(self) -> None:
        phase = self.cohort.server.phase
        try:
            self.cohort.server.close_phase()
        except ProtocolError as error:
            assert phase != "Contribution"
            if isinstance(error, PeerFault):
                assert phase == "Blame"
                assert self.liars

    @precondition(lambda self: self.replies)
    @rule(choice=st.randoms(use_true_random=False))
    def repeat_a_reply(self, choice: random.Random) -> None:
        with pytest.raises(PeerFault) as caught:
            deliver(self.cohort.server, choice.choice(self.replies))
        assert caught.value.rule in {"SV-1", "SV-3", "SV-4"}

    @precondition(lambda self: self.requests)
    @rule(choice=st.randoms(use_true_random=False), chunks=st.booleans())
    def repeat_a_request(self, choice: random.Random, chunks: bool) -> None:
        phase, party, header, carried = choice.choice(self.requests)
        role = Role.CLIENT if phase == "Contribution" else Role.COMMITTEE
        session = self.cohort.parties[party].sessions[role]
        before, answered = session._state, session._answered
        with suppress(ProtocolError):
            session.handle(header, carried if chunks else ())
        assert session._state is before or answered is None or (party, phase) not in self.given

    @rule(phase=st.sampled_from(PHASES), party=st.sampled_from(NAMES))
    def deliver_a_foreign_message(self, phase: str, party: str) -> None:
        header, chunks, reply = FOREIGN[phase]
        with pytest.raises(PeerFault) as caught:
            deliver(self.cohort.server, reply)
        assert caught.value.rule in {"SV-1", "SV-2"}
        if phase in {"Contribution", "Check"}:
            return  # these open a session of their own
        session = self.cohort.parties[party].sessions[Role.COMMITTEE]
        before = session._state
        with pytest.raises(ServerFault) as caught_by_party:
            session.handle(header, chunks)
        assert caught_by_party.value.rule in {"PT-4", "PT-7"}
        assert session._state is before

    @precondition(is_open)
    @rule(party=st.sampled_from((*NAMES, "c04")))
    def restart(self, party: str) -> None:
        for role, session in list(self.cohort.parties[party].sessions.items()):
            if role is Role.COMMITTEE or session._answered is None:  # a client's spooled vector is lost in a restart
                self.cohort.restore_party(role, party, session.save(STORAGE_KEY))
        self.cohort.restore_server()

    @precondition(is_open)
    @rule(party=st.sampled_from(NAMES))
    def break_off_an_upload(self, party: str) -> None:
        if self.cohort.server.phase == "Contribution" and party not in self.cohort.server._phase.answered:
            mine = [reply for reply in self.replies if reply.party == party and reply.chunks]
            if mine:
                self.cohort.server.begin(mine[0].header).write(mine[0].chunks[0])

    @invariant()
    def the_sum_is_exact_or_not_there(self) -> None:
        if self.cohort.server.phase is None and self.cohort.server._result is not None:
            aggregate = self.cohort.server.result()
            assert len(aggregate.contributors) >= 3
            np.testing.assert_array_equal(aggregate.sum, self.cohort.total(aggregate.contributors))

    def teardown(self) -> None:
        """Whoever is still there brings it to its end."""
        with suppress(ProtocolError):
            while self.is_open():
                self.everybody_answers()
                self.cohort.server.close_phase()
        self.the_sum_is_exact_or_not_there()


class TestSessions(Sessions.TestCase):
    settings = settings(max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.slow
class TestSessionsAtLength(Sessions.TestCase):
    settings = settings(
        max_examples=400, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
    )
