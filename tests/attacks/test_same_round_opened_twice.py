"""The same round opened twice: no party answers a phase in two ways, whatever its process or its disk forgot."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import pytest

from protocols.errors import FaultReason, PeerFault, ProtocolError, UsageError
from protocols.testing.malformed import changed
from tests.protocols.any_protocol import COHORTS, EVERY_PHASE, VECTOR_PHASE, Adapter, cohort

FORGOTTEN = ("restored from an older blob", "started anew without its blob")


def forget(attacked: Adapter, party: str, blob: bytes, how: str) -> None:
    """The party's process ends and begins again, and it draws other random bytes than before."""
    if how == FORGOTTEN[0]:
        attacked.restored(party, blob)
    else:
        attacked.restart(party)
    attacked.session(party).entropy = os.urandom


def asked_again(attacked: Adapter, party: str, header: bytes, chunks: list[bytes]) -> Any:
    try:
        return attacked.answered(party, header, chunks)
    except ProtocolError as error:
        return error


@pytest.mark.parametrize("how", FORGOTTEN)
@pytest.mark.parametrize(("protocol", "phase"), EVERY_PHASE)
def test_phase_is_answered_once_whatever_the_process_forgot(protocol: str, phase: str, how: str) -> None:
    """The same request again gets the same bytes, or a refusal by name: the record is no part of what was restored."""
    attacked = cohort(protocol)
    attacked.advance(phase)
    party = attacked.asked()
    request = attacked.request(party)
    header, chunks = request.header, [bytes(chunk) for chunk in request.chunks]
    blob = attacked.saved(party)
    first = attacked.answered(party, header, chunks)
    records = dict(attacked.stores[party]._records)
    forget(attacked, party, blob, how)
    again = asked_again(attacked, party, header, chunks)
    if isinstance(again, ProtocolError):
        assert isinstance(again, PeerFault | UsageError)
        assert not isinstance(again, PeerFault) or again.reason in {
            FaultReason.ALREADY_ANSWERED,
            FaultReason.WRONG_PHASE,
        }
    else:
        assert (again.header, list(again.chunks), again.trailer) == (first.header, list(first.chunks), first.trailer)
    assert attacked.stores[party]._records == records


@pytest.mark.parametrize("how", FORGOTTEN)
@pytest.mark.parametrize("protocol", COHORTS)
def test_attempt_at_a_round_gives_its_vector_to_one_session_whatever_the_process_forgot(
    protocol: str, how: str
) -> None:
    """A second session of the attempt, all fresh but the round: the difference of two sums would be one vector."""
    first, second = cohort(protocol), cohort(protocol, nonce=b"\x07" * 32)
    for attacked in (first, second):
        attacked.advance(VECTOR_PHASE[protocol])
    party = first.asked()
    blob = first.saved(party)
    first.answer(party)
    forget(first, party, blob, how)
    session = second.session(party)
    session._store = first.stores[party]
    header = second.request(party).header
    with pytest.raises(PeerFault) as caught:
        session.handle(header, vector=second.vector_of(party, header))
    assert (caught.value.rule, caught.value.reason) == ("PT-10", FaultReason.ALREADY_ANSWERED)


def other_set(attacked: Adapter, header: bytes, missing: int) -> bytes:
    """The same request about one contributor less."""
    kind = next(
        step.request
        for step in type(attacked.session(attacked.asked())).TRANSITIONS
        if step.phase == attacked.server.phase
    )
    message = msgspec.msgpack.decode(header)
    position = kind.__struct_fields__.index("contributors")
    return changed(header, kind, contributors=tuple(item for item in message[position] if item != missing))


@pytest.mark.parametrize("how", ["in the same process", *FORGOTTEN])
@pytest.mark.parametrize("protocol", ["secagg", "secagg-sparse"])
def test_second_set_of_contributors_is_not_signed(protocol: str, how: str) -> None:
    attacked = cohort(protocol)
    attacked.advance("ConsistencyCheck")
    party = attacked.asked()
    header, blob = attacked.request(party).header, attacked.saved(party)
    attacked.answered(party, header, [])
    if how != "in the same process":
        forget(attacked, party, blob, how)
    with pytest.raises(PeerFault) as caught:
        attacked.session(party).handle(other_set(attacked, header, missing=3))
    expected = {
        "in the same process": FaultReason.WRONG_PHASE,
        FORGOTTEN[0]: FaultReason.ALREADY_ANSWERED,
        FORGOTTEN[1]: FaultReason.WRONG_PHASE,
    }
    assert caught.value.reason is expected[how]
    # Whoever forgot nothing else than the process goes on, and the round ends well.
    aggregate = attacked.network.run()
    assert (aggregate.sum == attacked.total(aggregate.contributors)).all()
