"""Every state with every message, and messages repeated, late, reordered and foreign in any order."""

from __future__ import annotations

import random
from contextlib import suppress

import numpy as np
import pytest
from ckks_cohort import HOLDER, STORAGE_KEY, CkksCohort
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocols.errors import FaultReason, PeerFault, ProtocolError, ServerFault
from protocols.shape import Reply, Request
from protocols.testing.network import deliver

ME = "c02"
PHASES = ("Contribution", "Decryption")
STATES = {ME: ("Idle", "Contributed"), HOLDER: ("Idle", "Decrypted")}


def small(**options) -> CkksCohort:
    return CkksCohort(length=40, **options)


def asked(cohort: CkksCohort) -> Request:
    """A request, its chunks as a list."""
    party = ME if cohort.server.phase == "Contribution" else HOLDER
    request = cohort.request(party)
    return Request(request.party, request.header, [bytes(chunk) for chunk in request.chunks])


def conversation() -> dict[str, tuple[Request, Reply]]:
    """Request and reply of each phase of a session."""
    cohort, said = small(), {}
    for phase in PHASES:
        cohort.advance(phase)
        request = asked(cohort)
        said[phase] = (request, cohort.answer_request(request))
    return said


CONVERSATION = conversation()


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("party", "state"), [(party, state) for party in STATES for state in STATES[party]])
def test_party_in_every_state_with_every_request(party: str, state: str, phase: str) -> None:
    """The key holder's messages come from a session whose ciphertexts are others: it is the requests that count."""
    cohort = small()
    own = "Contribution" if party == ME else "Decryption"
    cohort.advance(own)
    session = cohort.parties[party]
    if state != "Idle":
        answered = cohort.answer_request(asked(cohort))
    assert type(session._state).__name__ == state
    before = session._state
    request = asked(cohort) if phase == own else CONVERSATION[phase][0]
    vector = cohort.sources()[ME] if (party, phase, state) == (ME, own, "Idle") else None
    if phase != own:  # the request of the other role
        with pytest.raises(ServerFault) as caught:
            session.handle(request.header, request.chunks, vector=vector)
        assert (caught.value.rule, caught.value.reason) == ("PT-3", FaultReason.MALFORMED)
    elif state == "Idle":
        reply = session.handle(request.header, request.chunks, vector=vector)
        assert reply.header == CONVERSATION[phase][1].header or party == HOLDER
        assert type(session._state).__name__ == STATES[party][1]
        return
    else:  # repeated: the same bytes, no change
        reply = session.handle(request.header, request.chunks)
        assert (reply.header, list(map(bytes, reply.chunks))) == (answered.header, answered.chunks)
    assert session._state is before


@pytest.mark.parametrize("replied", PHASES)
@pytest.mark.parametrize("phase", PHASES)
def test_server_in_every_phase_with_every_reply(phase: str, replied: str) -> None:
    cohort = small()
    cohort.advance(phase)
    before = cohort.server.save()
    if replied == phase:
        deliver(cohort.server, cohort.answer_request(asked(cohort)))
        assert len(cohort.server._phase.answered) == 1
        return
    with pytest.raises(PeerFault) as caught:
        deliver(cohort.server, CONVERSATION[replied][1])
    assert (caught.value.rule, caught.value.reason) == ("SV-1", FaultReason.WRONG_PHASE)
    cohort.server._faults.clear()
    assert cohort.server.save() == before


@pytest.mark.parametrize("replied", PHASES)
def test_server_whose_session_is_over_refuses_every_reply(replied: str) -> None:
    cohort = small()
    cohort.network.run()
    with pytest.raises(PeerFault) as caught:
        deliver(cohort.server, CONVERSATION[replied][1])
    assert (caught.value.rule, caught.value.reason) == ("SV-1", FaultReason.WRONG_PHASE)


def foreign_messages() -> list[tuple[Request, Reply]]:
    """Of a session with another nonce."""
    cohort, messages = small(nonce=b"\x09" * 32), []
    for phase in PHASES:
        cohort.advance(phase)
        for item in list(cohort.server.requests()):
            request = Request(item.party, item.header, [bytes(chunk) for chunk in item.chunks])
            messages.append((request, cohort.answer_request(request)))
    return messages


FOREIGN = foreign_messages()
NAMES = tuple(small().parameters.cohort)


class Sessions(RuleBasedStateMachine):
    """A network that repeats, delays, reorders and mixes: whoever answers, the sum is exact or there is none."""

    def __init__(self) -> None:
        super().__init__()
        self.cohort = small()
        self.requests: list[Request] = []
        self.replies: list[Reply] = []
        self.given: dict[tuple[str, str], tuple[bytes, bytes]] = {}

    def is_open(self) -> bool:
        return self.cohort.server.phase is not None

    @precondition(is_open)
    @rule(choice=st.randoms(use_true_random=False))
    def ask_and_answer(self, choice: random.Random) -> None:
        """What the network is for."""
        phase = self.cohort.server.phase
        request = choice.choice(list(self.cohort.server.requests()))
        request = Request(request.party, request.header, [bytes(chunk) for chunk in request.chunks])
        self.requests.append(request)
        try:
            reply = self.cohort.answer_request(request)
        except ProtocolError:
            return  # it answered before a restart, and its spool is gone
        key = (request.party, phase)
        assert self.given.setdefault(key, (reply.header, reply.trailer)) == (reply.header, reply.trailer)
        self.replies.append(reply)
        if request.party not in self.cohort.server._phase.answered:
            deliver(self.cohort.server, reply)

    @precondition(is_open)
    @rule()
    def everybody_answers(self) -> None:
        for number in range(len(list(self.cohort.server.requests()))):
            self.ask_and_answer(Fixed(number))

    @precondition(lambda self: self.is_open() and enough(self.cohort))
    @rule()
    def close(self) -> None:
        self.cohort.server.close_phase()

    @precondition(lambda self: self.replies)
    @rule(choice=st.randoms(use_true_random=False))
    def repeat_a_reply(self, choice: random.Random) -> None:
        with pytest.raises(PeerFault) as caught:
            deliver(self.cohort.server, choice.choice(self.replies))
        assert caught.value.rule in {"SV-1", "SV-3", "SV-4"}

    @precondition(lambda self: self.requests)
    @rule(choice=st.randoms(use_true_random=False), vector=st.booleans())
    def repeat_a_request(self, choice: random.Random, vector: bool) -> None:
        request = choice.choice(self.requests)
        session = self.cohort.parties[request.party]
        before = session._state
        source = self.cohort.sources().get(request.party) if vector else None
        with suppress(ProtocolError):
            session.handle(request.header, request.chunks, vector=source)
        assert session._state is before

    @rule(message=st.sampled_from(FOREIGN), party=st.sampled_from((*NAMES, HOLDER)))
    def deliver_a_foreign_message(self, message: tuple[Request, Reply], party: str) -> None:
        request, reply = message
        with pytest.raises(PeerFault) as caught:
            deliver(self.cohort.server, reply)
        assert caught.value.rule in {"SV-1", "SV-2"}
        session = self.cohort.parties[party]
        if session._session_id is None:
            return  # a fresh party may take part in either session
        before = session._state
        with pytest.raises(ServerFault) as caught_by_party:
            session.handle(request.header, request.chunks)
        assert caught_by_party.value.rule in {"PT-3", "PT-6", "PT-7"}
        assert session._state is before

    @precondition(is_open)
    @rule(party=st.sampled_from((*NAMES, HOLDER)))
    def restart(self, party: str) -> None:
        self.cohort.restore_party(party, self.cohort.parties[party].save(STORAGE_KEY))
        self.cohort.restore_server()

    @precondition(is_open)
    @rule()
    def break_off_an_upload(self) -> None:
        waiting = [
            reply
            for reply in self.replies
            if self.cohort.server.phase == "Contribution" and reply.party not in self.cohort.server._phase.answered
        ]
        if waiting:
            self.cohort.server.begin(waiting[0].header).write(waiting[0].chunks[0])

    @invariant()
    def the_sum_is_exact_or_not_there(self) -> None:
        if self.cohort.server.phase is None and self.cohort.server._result is not None:
            aggregate = self.cohort.server.result()
            assert len(aggregate.contributors) >= 3
            np.testing.assert_array_equal(aggregate.sum, self.cohort.total(aggregate.contributors))

    def teardown(self) -> None:
        """Whoever is still there brings it to its end."""
        if self.is_open():
            try:
                while self.is_open():
                    self.everybody_answers()
                    self.cohort.server.close_phase()
            except ProtocolError:
                return
            self.the_sum_is_exact_or_not_there()


class Fixed:
    """Chooses the item of a given number."""

    def __init__(self, number: int) -> None:
        self.number = number

    def choice(self, items: list) -> object:
        return items[self.number]


def enough(cohort: CkksCohort) -> bool:
    return len(cohort.server._phase.answered) >= (3 if cohort.server.phase == "Contribution" else 1)


class TestSessions(Sessions.TestCase):
    settings = settings(max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.slow
class TestSessionsAtLength(Sessions.TestCase):
    settings = settings(
        max_examples=200, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
    )
