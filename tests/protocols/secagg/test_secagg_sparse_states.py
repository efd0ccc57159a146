"""The Harary graph: every state with every message, restores, and a network that repeats and mixes."""

from __future__ import annotations

import random

import numpy as np
import pytest
from sparse_cohort import party, sparse

from protocols.errors import FaultReason, PeerFault, ServerFault
from protocols.shape import Reply
from protocols.testing.cohort import STORAGE_KEY, Cohort
from protocols.testing.network import deliver

PHASES = ("AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmask")
STATES = ("Idle", "Advertised", "Shared", "Masked", "Signed", "Done")


class Recorded:
    """One session in which a client's blob before each phase, its request and its reply are kept."""

    def __init__(self) -> None:
        self.cohort = sparse()
        self.me = party(self.cohort, 42)
        self.requests: dict[str, bytes] = {}
        self.replies: dict[str, Reply] = {}
        self.blobs: list[bytes] = []
        self.servers: dict[str, bytes] = {}
        for phase in PHASES:
            self.cohort.advance(phase)
            self.servers[phase] = self.cohort.server.save()
            self.requests[phase] = self.cohort.request(self.me).header
            self.blobs.append(self.cohort.parties[self.me].save(STORAGE_KEY))
            self.replies[phase] = self.cohort.answer(self.me)
        self.blobs.append(self.cohort.parties[self.me].save(STORAGE_KEY))


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    return Recorded()


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("state", STATES)
def test_sparse_party_in_every_state_with_every_request(recorded: Recorded, state: str, phase: str) -> None:
    cohort, me = recorded.cohort, recorded.me
    position, asked = STATES.index(state), PHASES.index(phase)
    cohort.restore_party(me, recorded.blobs[position])
    session = cohort.parties[me]
    before = session._state
    assert type(before).__name__ == state
    vector = cohort.sources()[me] if phase == "MaskedInput" and asked == position else None
    header, reply = recorded.requests[phase], recorded.replies[phase]
    if asked == position and phase in {"AdvertiseKeys", "ShareKeys"}:
        # The restored party draws other randomness: the store has the first answer on record.
        with pytest.raises(PeerFault) as caught:
            session.handle(header)
        assert caught.value.rule == "PT-11"
    elif asked == position:
        answer = session.handle(header, vector=vector)
        assert (answer.header, answer.trailer) == (reply.header, reply.trailer)
        assert type(session._state).__name__ == STATES[position + 1]
    elif asked == position - 1 and phase != "MaskedInput":
        answer = session.handle(header)
        assert (answer.header, answer.trailer) == (reply.header, reply.trailer)
        assert session._state is before
    elif asked != position - 1:
        with pytest.raises(ServerFault) as refused:
            session.handle(header, vector=vector)
        expected = ("PT-4" if state == "Idle" else "PT-8", FaultReason.WRONG_PHASE)
        assert (refused.value.rule, refused.value.reason) == expected
        assert session._state is before


@pytest.mark.parametrize("replied", PHASES)
@pytest.mark.parametrize("phase", PHASES)
def test_sparse_server_in_every_phase_with_every_reply(recorded: Recorded, phase: str, replied: str) -> None:
    from protocols import secagg

    server = secagg.restore_server(recorded.servers[phase], recorded.cohort.roster)
    assert server.save() == recorded.servers[phase]
    if replied == phase:
        deliver(server, recorded.replies[replied])
        assert server._phase.answered == [recorded.me]
        with pytest.raises(PeerFault) as caught:
            deliver(server, recorded.replies[replied])
        assert caught.value.rule == "SV-4"
    else:
        with pytest.raises(PeerFault) as caught:
            deliver(server, recorded.replies[replied])
        assert (caught.value.rule, caught.value.reason) == ("SV-1", FaultReason.WRONG_PHASE)
        server._faults.clear()
        assert server.save() == recorded.servers[phase]


@pytest.mark.parametrize("seed", [1, 2])
def test_sparse_session_survives_restarts_repeats_and_a_shuffled_order(seed: int) -> None:
    """In each phase: any order, everybody saved and restored, requests and replies repeated, one client lost."""
    choice = random.Random(seed)
    cohort: Cohort = sparse(name=f"restarts {seed}")
    lost: set[str] = set()
    while cohort.server.phase is not None:
        phase = cohort.server.phase
        requests = list(cohort.server.requests())
        choice.shuffle(requests)
        lost.add(str(requests[0].party))
        for request in requests:
            name = str(request.party)
            if name in lost:
                continue
            if choice.random() < 0.2:
                cohort.restore_party(name, cohort.parties[name].save(STORAGE_KEY))
            reply = cohort.answer(name, request.header)
            deliver(cohort.server, reply)
            if choice.random() < 0.2:
                again = cohort.answer(name, request.header)
                assert (again.header, again.trailer) == (reply.header, reply.trailer)
                with pytest.raises(PeerFault, match="answer"):
                    deliver(cohort.server, again)
            if choice.random() < 0.02:
                cohort.restore_server()
        cohort.server.close_phase()
        assert phase in PHASES
    aggregate = cohort.server.result()
    assert len(aggregate.contributors) == 97
    np.testing.assert_array_equal(aggregate.sum, cohort.total(aggregate.contributors))
