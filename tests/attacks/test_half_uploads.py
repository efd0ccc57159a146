"""Half a vector and then silence, a million times: not in the sum, bounded in memory, the oldest dropped and named."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from protocols.errors import FaultReason, PeerFault
from protocols.server import MAXIMUM_FAULTS, MAXIMUM_UPLOADS
from protocols.shape import Chunk, Reply
from protocols.signed import MemorySpool
from protocols.testing.cohort import Cohort
from tests.protocols.any_protocol import COHORTS, VECTOR_PHASE, Adapter, cohort


class CountedSpool(MemorySpool):
    """Knows how many bytes all spools hold."""

    held = 0
    most = 0

    def append(self, chunk: Chunk) -> None:
        super().append(chunk)
        CountedSpool.held += len(chunk)
        CountedSpool.most = max(CountedSpool.most, CountedSpool.held)

    def discard(self) -> None:
        CountedSpool.held -= sum(len(chunk) for chunk in self.chunks())
        super().discard()


def half(server: Any, reply: Reply) -> Any:
    """Begin, write the first half of the chunks, say nothing more."""
    upload = server.begin(reply.header)
    for chunk in list(reply.chunks)[: max(1, len(list(reply.chunks)) // 2)]:
        upload.write(chunk)
    return upload


def ready(protocol: str) -> tuple[Adapter, list[Reply]]:
    """A cohort in the phase of the vector, and everybody's genuine reply."""
    attacked = cohort(protocol, length=200)
    attacked.advance(VECTOR_PHASE[protocol])
    return attacked, [attacked.answer(party) for party in attacked.clients]


def flood(protocol: str, number: int) -> None:
    attacked, replies = ready(protocol)
    server = attacked.server
    server.new_spool = CountedSpool
    CountedSpool.held = CountedSpool.most = 0
    largest = max(sum(len(chunk) for chunk in reply.chunks) for reply in replies)
    tracemalloc.start()
    try:
        for count in range(number):
            half(server, replies[count % len(replies)])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    names = min(len(replies), MAXIMUM_UPLOADS)
    assert CountedSpool.most <= names * largest
    assert len(server._uploads) <= names
    assert len(server.faults) == min(MAXIMUM_FAULTS, number - names)
    assert server.faults_omitted == max(0, number - names - MAXIMUM_FAULTS)
    assert {fault.rule for fault in server.faults} == {"SV-9"}
    assert {fault.party for fault in server.faults} == set(attacked.clients)
    assert not any(fault.proven for fault in server.faults)  # anybody can begin in anybody's name
    assert peak < names * largest + MAXIMUM_FAULTS * 8192 + 2**22
    aggregate = attacked.network.run()  # everybody is asked again, and answers in full
    assert aggregate.contributors == attacked.parameters.clients()
    assert (aggregate.sum == attacked.total(aggregate.contributors)).all()
    assert CountedSpool.held >= 0


@pytest.mark.parametrize("protocol", COHORTS)
def test_half_uploads_leave_no_trace_in_the_sum_and_hold_no_more_than_one_each(protocol: str) -> None:
    flood(protocol, 3000)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_million_half_uploads() -> None:
    flood("secagg", 1_000_000)


def test_half_upload_that_nobody_finishes_is_not_in_the_sum() -> None:
    attacked, replies = ready("secagg")
    uploads = [half(attacked.server, reply) for reply in replies[:1]]
    for reply in replies[1:]:
        upload = attacked.server.begin(reply.header)
        for chunk in reply.chunks:
            upload.write(chunk)
        upload.commit(reply.trailer)
    attacked.server.close_phase()
    with pytest.raises(PeerFault) as caught:
        uploads[0].write(list(replies[0].chunks)[1])
    assert caught.value.rule == "SV-1"
    aggregate = attacked.network.run()
    assert aggregate.contributors == attacked.parameters.clients()[1:]
    assert (aggregate.sum == attacked.total(aggregate.contributors)).all()


def test_sv_10_oldest_upload_makes_room_when_too_many_are_under_way_and_is_named() -> None:
    """In the first phase of a cohort of 300: nobody's upload has a chunk, all count."""
    attacked = Cohort(MAXIMUM_UPLOADS + 44, length=64, graph="complete")
    replies = [attacked.answer(party) for party in attacked.parameters.cohort]
    uploads = [attacked.server.begin(reply.header) for reply in replies]
    assert len(attacked.server._uploads) == MAXIMUM_UPLOADS
    assert [fault.party for fault in attacked.server.faults] == [str(reply.party) for reply in replies[:44]]
    for upload, reply in zip(uploads[:44], replies[:44], strict=True):
        with pytest.raises(PeerFault) as caught:
            upload.commit(reply.trailer)
        assert (caught.value.rule, caught.value.reason) == ("SV-10", FaultReason.TOO_LARGE)
        assert str(reply.party) in caught.value.detail
    for upload, reply in zip(uploads[44:], replies[44:], strict=True):
        upload.commit(reply.trailer)
    for reply in replies[:44]:  # tried again, they count
        attacked.server.begin(reply.header).commit(reply.trailer)
    assert attacked.server.ready()
