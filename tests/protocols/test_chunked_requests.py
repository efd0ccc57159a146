"""Requests with chunks: framed, counted, bound by the header; nothing follows from a request that is not whole."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "oneshot"))

from oneshot_cohort import OneShotCohort, ends_well, refused_by_party

from protocols.chunked import ChunkLayout, IncomingChunks, OutgoingChunks
from protocols.errors import FaultReason, PeerFault
from protocols.oneshot import messages as m
from protocols.shape import Chunk
from protocols.testing.malformed import changed

ME = "c02"
PAYLOADS = [b"first", b"", b"the third"]


def layout(chunks: OutgoingChunks) -> ChunkLayout:
    sizes, digest = chunks.measure()
    return ChunkLayout(len(sizes), sizes.__getitem__, digest)


def incoming(chunks: list[Chunk]) -> IncomingChunks:
    return IncomingChunks(layout(OutgoingChunks(lambda: PAYLOADS)), chunks, nullcontext)


def test_payloads_arrive_as_they_were_sent_and_can_be_sent_again() -> None:
    sent = OutgoingChunks(lambda: PAYLOADS)
    assert sent.measure() == ((5, 0, 9), sent.digest())
    assert [bytes(chunk) for chunk in sent] == [n.to_bytes(8, "little") + p for n, p in enumerate(PAYLOADS)]
    for _ in range(2):
        received = IncomingChunks(layout(sent), sent, nullcontext)
        assert [bytes(payload) for payload in received] == PAYLOADS
        received.finish()


def test_no_chunks_are_a_request_as_well() -> None:
    received = IncomingChunks(layout(OutgoingChunks(lambda: [])), [], nullcontext)
    assert list(received) == []
    received.finish()


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_what_the_receiver_leaves_is_checked_all_the_same(taken: int) -> None:
    frames = [bytes(chunk) for chunk in OutgoingChunks(lambda: PAYLOADS)]
    received = incoming([*frames[:2], frames[2][:-1] + b"!"])
    payloads = iter(received)
    assert [bytes(next(payloads)) for _ in range(taken)] == [*PAYLOADS[:2], b"the third"[:-1] + b"!"][:taken]
    with pytest.raises(PeerFault) as caught:
        received.finish()
    assert caught.value.rule == "PT-13"


def test_pt_12_fault_that_a_receiver_swallowed_comes_up_at_the_end() -> None:
    frames = [bytes(chunk) for chunk in OutgoingChunks(lambda: PAYLOADS)]
    received = incoming(frames[1:])
    with pytest.raises(PeerFault):
        list(received)
    with pytest.raises(PeerFault) as caught:
        received.finish()
    assert (caught.value.rule, caught.value.detail) == ("PT-12", "the chunks broke off")


# -- through a session -------------------------------------------------------------------------------------------------


@pytest.fixture
def cohort() -> OneShotCohort:
    cohort = OneShotCohort()
    cohort.advance("Check")
    return cohort


def chunk_of(cohort: OneShotCohort) -> bytes:
    (chunk,) = cohort.request(ME).chunks
    return bytes(chunk)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda chunk: [], FaultReason.CHUNK_LENGTH),
        (lambda chunk: [chunk[:-1]], FaultReason.CHUNK_LENGTH),
        (lambda chunk: [chunk + b"\0"], FaultReason.CHUNK_LENGTH),
        (lambda chunk: [chunk, chunk], FaultReason.CHUNK_LENGTH),
        (lambda chunk: [b"\1" + chunk[1:]], FaultReason.CHUNK_ORDER),
        (lambda chunk: [b""], FaultReason.CHUNK_LENGTH),
    ],
)
def test_pt_12_chunk_missing_repeated_or_of_the_wrong_length_is_refused(cohort, change, reason) -> None:
    header = cohort.request(ME).header
    refused_by_party(cohort, ME, header, "PT-12", reason, chunks=change(chunk_of(cohort)))


def test_pt_13_chunks_that_the_header_does_not_stand_for_are_refused(cohort) -> None:
    """Every contribution in them is genuine: the order alone has changed."""
    request = cohort.request(ME)
    header = changed(request.header, m.CheckRequest, content=bytes(32))
    refused_by_party(cohort, ME, header, "PT-13", FaultReason.MALFORMED, chunks=request.chunks)


def test_request_breaking_off_leaves_the_session_as_it_was(cohort) -> None:
    def broken() -> Iterator[Chunk]:
        yield chunk_of(cohort)
        raise ConnectionError("gone")

    session = cohort.session(ME)
    with pytest.raises(ConnectionError):
        session.handle(cohort.request(ME).header, broken())
    assert session._session_id is None
    ends_well(cohort)


def test_repeated_request_is_answered_without_its_chunks(cohort) -> None:
    request = cohort.request(ME)
    first = cohort.session(ME).handle(request.header, request.chunks)
    again = cohort.session(ME).handle(request.header)
    assert (first.header, first.trailer) == (again.header, again.trailer)


def test_request_without_end_is_refused_in_bounded_memory(cohort) -> None:
    """A server that sends chunk after chunk, all as announced but for their number."""
    request, chunk = cohort.request(ME), chunk_of(cohort)
    sent = 0

    def endless() -> Iterator[Chunk]:
        nonlocal sent
        while True:
            sent += 1
            yield bytes(chunk)

    tracemalloc.start()
    with pytest.raises(PeerFault) as caught:
        cohort.session(ME).handle(request.header, endless())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.rule == "PT-12"
    assert sent == 2
    assert peak < 2**20
