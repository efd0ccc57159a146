"""Every state with every message, and messages repeated, late, reordered and foreign in any order."""

from __future__ import annotations

import random
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocols.errors import FaultReason, PeerFault, ProtocolError, ServerFault
from protocols.shape import Reply
from protocols.testing.cohort import STORAGE_KEY, Cohort
from protocols.testing.network import deliver

PHASES = ("AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmask")
STATES = ("Idle", "Advertised", "Shared", "Masked", "Signed", "Done")
ME = "c02"


def conversation() -> dict[str, tuple[bytes, Reply]]:
    """Request to and reply of one client in each phase of a session."""
    cohort = Cohort()
    said = {}
    for phase in PHASES:
        cohort.advance(phase)
        said[phase] = (cohort.request(ME).header, cohort.answer(ME))
    return said


CONVERSATION = conversation()


def at_state(state: str) -> Cohort:
    """The same cohort, the client in this state and its server in the phase that asks it next."""
    cohort = Cohort()
    position = STATES.index(state)
    if position < len(PHASES):
        cohort.advance(PHASES[position])
    else:
        cohort.advance("Unmask")
        deliver(cohort.server, cohort.answer(ME))
    assert type(cohort.parties[ME]._state).__name__ == state
    return cohort


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("state", STATES)
def test_party_in_every_state_with_every_request(state: str, phase: str) -> None:
    cohort = at_state(state)
    session = cohort.parties[ME]
    header, reply = CONVERSATION[phase]
    position, asked = STATES.index(state), PHASES.index(phase)
    before = session._state
    vector = cohort.sources()[ME] if phase == "MaskedInput" and asked == position else None
    if asked == position:  # the one that is answered: with the bytes of the other run, so far is all determined
        answer = session.handle(header, vector=vector)
        assert (answer.header, answer.trailer) == (reply.header, reply.trailer)
        assert type(session._state).__name__ == STATES[position + 1]
    elif asked == position - 1:  # repeated: the same bytes, no change
        answer = session.handle(header)
        assert (answer.header, list(map(bytes, answer.chunks))) == (reply.header, reply.chunks)
        assert session._state is before
    else:
        with pytest.raises(ServerFault) as caught:
            session.handle(header, vector=vector)
        first = state == "Idle"
        expected = ("PT-4" if first else "PT-8", FaultReason.WRONG_PHASE)
        assert (caught.value.rule, caught.value.reason) == expected
        assert session._state is before


@pytest.mark.parametrize("replied", PHASES)
@pytest.mark.parametrize("phase", PHASES)
def test_server_in_every_phase_with_every_reply(phase: str, replied: str) -> None:
    cohort = Cohort()
    cohort.advance(phase)
    _, reply = CONVERSATION[replied]
    before = cohort.server.save()
    if replied == phase:
        deliver(cohort.server, reply)
        assert cohort.server._phase.answered == [ME]
    else:
        with pytest.raises(PeerFault) as caught:
            deliver(cohort.server, reply)
        assert (caught.value.rule, caught.value.reason) == ("SV-1", FaultReason.WRONG_PHASE)
        cohort.server._faults.clear()
        assert cohort.server.save() == before


@pytest.mark.parametrize("replied", PHASES)
def test_server_whose_session_is_over_refuses_every_reply(replied: str) -> None:
    cohort = Cohort()
    cohort.network.run()
    with pytest.raises(PeerFault) as caught:
        deliver(cohort.server, CONVERSATION[replied][1])
    assert (caught.value.rule, caught.value.reason) == ("SV-1", FaultReason.WRONG_PHASE)


FOREIGN = Cohort(nonce=b"\x09" * 32)
FOREIGN_MESSAGES: list[tuple[str, str, bytes, Reply]] = []
for _phase in PHASES:
    FOREIGN.advance(_phase)
    FOREIGN_MESSAGES += [(_phase, p, FOREIGN.request(p).header, FOREIGN.answer(p)) for p in FOREIGN.identities]
NAMES = tuple(FOREIGN.identities)


class Sessions(RuleBasedStateMachine):
    """A network that repeats, delays, reorders and mixes: whoever answers, the sum is exact or there is none."""

    def __init__(self) -> None:
        super().__init__()
        self.cohort = Cohort()
        self.requests: list[tuple[str, bytes]] = []
        self.replies: list[Reply] = []
        self.given: dict[tuple[str, str], tuple[bytes, bytes]] = {}

    def is_open(self) -> bool:
        return self.cohort.server.phase is not None

    @precondition(is_open)
    @rule(party=st.sampled_from(NAMES))
    def ask_and_answer(self, party: str) -> None:
        """What the network is for."""
        phase = self.cohort.server.phase
        header = next((r.header for r in self.cohort.server.requests() if r.party == party), None)
        if header is None:
            return
        self.requests.append((party, header))
        try:
            reply = self.cohort.answer(party, header)
        except ProtocolError:
            return
        assert self.given.setdefault((party, phase), (reply.header, reply.trailer)) == (reply.header, reply.trailer)
        self.replies.append(reply)
        if party not in self.cohort.server._phase.answered:
            deliver(self.cohort.server, reply)

    @precondition(is_open)
    @rule()
    def everybody_answers(self) -> None:
        for party in NAMES:
            self.ask_and_answer(party)

    @precondition(lambda self: self.is_open() and len(self.cohort.server._phase.answered) >= 4)
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
        party, header = choice.choice(self.requests)
        session = self.cohort.parties[party]
        before = session._state
        with suppress(ProtocolError):
            session.handle(header, vector=self.cohort.sources()[party] if vector else None)
        assert session._state is before

    @rule(message=st.sampled_from(FOREIGN_MESSAGES), party=st.sampled_from(NAMES))
    def deliver_a_foreign_message(self, message: tuple[str, str, bytes, Reply], party: str) -> None:
        phase, _, header, reply = message
        with pytest.raises(PeerFault) as caught:
            deliver(self.cohort.server, reply)
        assert caught.value.rule in {"SV-1", "SV-2"}
        session = self.cohort.parties[party]
        if phase == "AdvertiseKeys" and session._session_id is None:
            return  # a fresh party may take part in either session
        before = session._state
        with pytest.raises(ServerFault) as caught_by_party:
            session.handle(header)
        assert caught_by_party.value.rule in {"PT-4", "PT-6", "PT-7"}
        assert session._state is before

    @precondition(lambda self: self.requests)
    @rule(choice=st.randoms(use_true_random=False), party=st.sampled_from(NAMES))
    def hand_a_request_to_somebody_else(self, choice: random.Random, party: str) -> None:
        """Most requests are the same for all; the shares are not, and open for nobody else."""
        owner, header = choice.choice(self.requests)
        session = self.cohort.parties[party]
        if owner == party or b"MaskedInputRequest" not in header or type(session._state).__name__ != "Shared":
            return
        with pytest.raises(PeerFault) as caught:
            session.handle(header, vector=self.cohort.sources()[party])
        assert caught.value.rule in {"SA-14", "SA-16"}

    @precondition(is_open)
    @rule(party=st.sampled_from(NAMES))
    def restart(self, party: str) -> None:
        self.cohort.restore_party(party, self.cohort.parties[party].save(STORAGE_KEY))
        self.cohort.restore_server()

    @precondition(is_open)
    @rule(party=st.sampled_from(NAMES))
    def break_off_an_upload(self, party: str) -> None:
        if self.cohort.server.phase == "MaskedInput" and party not in self.cohort.server._phase.answered:
            mine = [r for r in self.replies if r.party == party and r.chunks]
            if mine:
                self.cohort.server.begin(mine[0].header).write(mine[0].chunks[0])

    @invariant()
    def the_sum_is_exact_or_not_there(self) -> None:
        if self.cohort.server.phase is None and self.cohort.server._result is not None:
            aggregate = self.cohort.server.result()
            assert len(aggregate.contributors) >= 4
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


class TestSessions(Sessions.TestCase):
    settings = settings(max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.slow
class TestSessionsAtLength(Sessions.TestCase):
    settings = settings(
        max_examples=400, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
    )
