"""Framing: a message survives any cutting, and every rule FR-1 to FR-7 refuses what breaks exactly it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import FaultReason, PeerFault, UsageError
from secfl.aggregation import FrameDecoder, FrameLimits, Message, write_frames
from secfl.aggregation.framing import CHUNK, HEADER, PREAMBLE, TRAILER

LIMITS = FrameLimits(header=20, chunk=10, chunks=3, trailer=4)


def frame(kind: bytes, body: bytes, length: int | None = None) -> bytes:
    return kind + (len(body) if length is None else length).to_bytes(4, "little") + body


GOOD = PREAMBLE + frame(HEADER, b"head") + frame(CHUNK, b"one") + frame(CHUNK, b"") + frame(TRAILER, b"sign")


def test_message_has_the_documented_bytes() -> None:
    assert b"".join(write_frames(b"head", [b"one", b""], b"sign")) == GOOD
    assert GOOD.hex() == "534543464c01480400000068656164430300000" + "06f6e65430000000054040000007369676e"


@given(
    header=st.binary(max_size=20),
    chunks=st.lists(st.binary(max_size=10), max_size=3),
    trailer=st.binary(max_size=4),
    cuts=st.lists(st.integers(1, 7), min_size=1),
)
def test_message_survives_any_cutting(header: bytes, chunks: list[bytes], trailer: bytes, cuts: list[int]) -> None:
    raw = b"".join(write_frames(header, chunks, trailer))
    decoder, frames, position, turn = FrameDecoder(LIMITS), [], 0, 0
    while position < len(raw):
        size = cuts[turn % len(cuts)]
        frames += decoder.feed(raw[position : position + size])
        position, turn = position + size, turn + 1
    decoder.finish()
    assert [item.body for item in frames] == [header, *chunks, trailer]
    assert Message.from_bytes(raw, LIMITS) == Message(header, tuple(chunks), trailer)


HEAD = PREAMBLE + frame(HEADER, b"head")


@pytest.mark.parametrize(
    ("raw", "rule", "reason"),
    [
        (b"SECFL\x02" + GOOD[6:], "FR-1", FaultReason.MALFORMED),
        (b"HTTP/1.1 200", "FR-1", FaultReason.MALFORMED),
        (PREAMBLE + frame(CHUNK, b"one"), "FR-2", FaultReason.MALFORMED),
        (PREAMBLE + frame(TRAILER, b""), "FR-2", FaultReason.MALFORMED),
        (HEAD + frame(HEADER, b"head"), "FR-2", FaultReason.MALFORMED),
        (HEAD + frame(b"X", b"one"), "FR-3", FaultReason.MALFORMED),
        (PREAMBLE + frame(HEADER, b"", 21), "FR-4", FaultReason.TOO_LARGE),
        (HEAD + frame(CHUNK, b"", 11), "FR-4", FaultReason.TOO_LARGE),
        (HEAD + frame(TRAILER, b"", 5), "FR-4", FaultReason.TOO_LARGE),
        (HEAD + frame(CHUNK, b"", 2**32 - 1), "FR-4", FaultReason.TOO_LARGE),
        (HEAD + 4 * frame(CHUNK, b"one"), "FR-5", FaultReason.TOO_LARGE),
        (GOOD + b"\x00", "FR-6", FaultReason.MALFORMED),
        (GOOD + GOOD, "FR-6", FaultReason.MALFORMED),
        (b"", "FR-7", FaultReason.MALFORMED),
        (HEAD, "FR-7", FaultReason.MALFORMED),
    ],
)
def test_message_that_breaks_one_rule_is_refused_by_it(raw: bytes, rule: str, reason: FaultReason) -> None:
    with pytest.raises(PeerFault) as fault:
        Message.from_bytes(raw, LIMITS)
    assert (fault.value.rule, fault.value.reason) == (rule, reason)


@pytest.mark.parametrize("length", range(len(GOOD)))
def test_every_prefix_of_a_message_is_cut_short(length: int) -> None:
    with pytest.raises(PeerFault) as fault:
        Message.from_bytes(GOOD[:length], LIMITS)
    assert fault.value.rule == "FR-7"


@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_a_fault_and_nothing_else(tail: bytes) -> None:
    for raw in (tail, PREAMBLE + tail, HEAD + tail):
        try:
            read = Message.from_bytes(raw, LIMITS)
        except PeerFault:
            continue
        assert b"".join(write_frames(read.header, read.chunks, read.trailer)) == raw


def test_announced_length_is_refused_before_its_body_comes() -> None:
    decoder = FrameDecoder(FrameLimits(header=10))
    decoder.feed(PREAMBLE + HEADER + (11).to_bytes(4, "little")[:3])
    with pytest.raises(PeerFault, match="11 bytes, at most 10"):
        decoder.feed((11).to_bytes(4, "little")[3:])
    with pytest.raises(UsageError, match="was refused"):
        decoder.feed(b"x")


def test_next_message_on_a_stream_is_left_over() -> None:
    decoder = FrameDecoder(LIMITS)
    assert [item.body for item in decoder.feed(GOOD + GOOD[:5])] == [b"head", b"one", b"", b"sign"]
    assert decoder.finished
    assert decoder.left_over == GOOD[:5]
    with pytest.raises(UsageError, match="is whole"):
        decoder.feed(GOOD[5:])
