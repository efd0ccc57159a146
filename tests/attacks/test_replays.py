"""Replays of contributions, shares and signatures: refused with the reason, and the round ends well afterwards."""

from __future__ import annotations

import msgspec
import pytest

from protocols.errors import FaultReason, PeerFault, ServerFault
from protocols.shape import Reply
from protocols.testing.network import deliver
from tests.protocols.any_protocol import COHORTS, EVERY_PHASE, PHASES, VECTOR_PHASE, Adapter, cohort

OTHERS = {"another session": {"nonce": b"\x09" * 32}, "another round": {"round_number": 2}}


def refused(attacked: Adapter, reply: Reply, reason: FaultReason, rule: str) -> None:
    before = list(attacked.server._phase.answered)
    with pytest.raises(PeerFault) as caught:
        deliver(attacked.server, reply)
    assert (caught.value.reason, caught.value.rule) == (reason, rule)
    assert attacked.server._phase.answered == before
    assert attacked.server.faults[-1].reason is reason


def ends_well(attacked: Adapter) -> None:
    aggregate = attacked.network.run()
    assert aggregate.contributors == attacked.parameters.clients()
    assert (aggregate.sum == attacked.total(aggregate.contributors)).all()


def in_the_name_of(header: bytes, reply: Reply, party: str) -> Reply:
    """The same reply with another sender in its header."""
    fields = msgspec.msgpack.decode(header)
    fields[5] = party
    return Reply(reply.party, msgspec.msgpack.encode(fields), reply.chunks, reply.trailer)


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize(("protocol", "phase"), [case for case in EVERY_PHASE if case != ("secagg-sparse", "Unmask")])
def test_reply_and_request_of_another_session_or_round_are_refused(protocol: str, phase: str, other: str) -> None:
    attacked, source = cohort(protocol), cohort(protocol, **OTHERS[other])
    for either in (attacked, source):
        either.advance(phase)
    party = attacked.asked()
    request = source.request(party)
    chunks = [bytes(chunk) for chunk in request.chunks]
    vector = attacked.vector_of(party, attacked.request(party).header)
    if phase != PHASES[protocol][0] and attacked.session(party)._session_id is not None:
        with pytest.raises(ServerFault) as caught:
            attacked.session(party).handle(request.header, chunks, vector=vector)
        assert (caught.value.reason, caught.value.rule) == (FaultReason.WRONG_SESSION, "PT-7")
    refused(attacked, source.answered(party, request.header, chunks), FaultReason.WRONG_SESSION, "SV-2")
    ends_well(attacked)


@pytest.mark.parametrize("protocol", COHORTS)
def test_vector_that_another_client_sent_is_refused_under_ones_own_name(protocol: str) -> None:
    attacked = cohort(protocol)
    attacked.advance(VECTOR_PHASE[protocol])
    victim, thief = attacked.clients[:2]
    reply = attacked.answer(victim)
    refused(attacked, in_the_name_of(reply.header, reply, thief), FaultReason.BAD_SIGNATURE, "SV-5")
    refused(attacked, in_the_name_of(reply.header, reply, "stranger"), FaultReason.UNKNOWN_PARTY, "SV-3")
    ends_well(attacked)


@pytest.mark.parametrize("protocol", COHORTS)
def test_vector_is_counted_once(protocol: str) -> None:
    attacked = cohort(protocol)
    attacked.advance(VECTOR_PHASE[protocol])
    reply = attacked.answer(attacked.clients[0])
    deliver(attacked.server, reply)
    refused(attacked, reply, FaultReason.ALREADY_ANSWERED, "SV-4")
    ends_well(attacked)


@pytest.mark.parametrize("protocol", COHORTS)
def test_unsigned_vector_is_refused(protocol: str) -> None:
    attacked = cohort(protocol)
    attacked.advance(VECTOR_PHASE[protocol])
    reply = attacked.answer(attacked.clients[0])
    for trailer in (bytes(64), b"", attacked.answer(attacked.clients[1]).trailer):
        unsigned = Reply(reply.party, reply.header, reply.chunks, trailer)
        refused(attacked, unsigned, FaultReason.BAD_SIGNATURE, "SV-5")
    ends_well(attacked)


@pytest.mark.parametrize("protocol", [protocol for protocol in COHORTS if len(PHASES[protocol]) > 1])
def test_reply_of_an_earlier_phase_is_refused(protocol: str) -> None:
    attacked = cohort(protocol)
    earlier = attacked.answer(attacked.clients[0])
    attacked.network.run_phase()
    refused(attacked, earlier, FaultReason.WRONG_PHASE, "SV-1")
    ends_well(attacked)
