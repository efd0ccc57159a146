"""Message and archive bombs: huge lengths, deep nesting, frames that unpack to gigabytes. Bounded before allocation."""

from __future__ import annotations

import struct
import time
import tracemalloc
from contextlib import suppress

import pytest

from protocols.errors import SecflError
from protocols.testing.malformed import signed_reply
from protocols.testing.network import deliver
from tests.fuzz.readers import all_readers
from tests.protocols.any_protocol import SLOWLY, VECTOR_PHASE, cohort

MOST_BYTES = 48 * 2**20
MOST_SECONDS = 20.0
"""For every reader together with each bomb, on a busy machine; each takes milliseconds."""
BOMBS = {
    "array of 2^32 - 1": b"\xdd\xff\xff\xff\xff",
    "map of 2^32 - 1": b"\xdf\xff\xff\xff\xff",
    "bytes of 2^32 - 1": b"\xc6\xff\xff\xff\xff",
    "text of 2^32 - 1": b"\xdb\xff\xff\xff\xff",
    "arrays a million deep": b"\x91" * 10**6,
    "maps a million deep": b"\x81\x01" * 10**6,
    "JSON lists a million deep": b"[" * 10**6,
    "JSON objects a million deep": b'{"a":' * 10**5,
    "TOML lists a hundred thousand deep": b"a = " + b"[" * 10**5,
    "safetensors header of 2^63": struct.pack("<Q", 2**63) + b"{}",
    "frames of 2^63": struct.pack("<Q", 2**63) * 4,
    "nothing": b"",
    "a megabyte of zeros": bytes(2**20),
}


@pytest.fixture(scope="module")
def readers() -> list[tuple[object, bytes]]:
    """Every decoder of every protocol, and of every file."""
    return list(all_readers())


@pytest.mark.parametrize("bomb", BOMBS)
def test_bomb_ends_in_a_named_error_or_nothing_in_bounded_time_and_memory(bomb: str, readers: list) -> None:
    began = time.process_time()
    tracemalloc.start()
    try:
        for read, genuine in readers:
            opening = genuine[: min(len(genuine), 40)]
            for raw in (BOMBS[bomb], opening + BOMBS[bomb], genuine[:-1] + BOMBS[bomb]):
                tracemalloc.reset_peak()
                before = tracemalloc.get_traced_memory()[0]
                with suppress(SecflError):
                    read(raw)
                assert tracemalloc.get_traced_memory()[1] - before < MOST_BYTES
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < MOST_SECONDS


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("protocol", SLOWLY)
def test_bomb_in_the_place_of_a_message_changes_no_session(protocol: str, bomb: str) -> None:
    attacked = cohort(protocol)
    attacked.advance(VECTOR_PHASE[protocol])
    party = attacked.clients[0]
    state, server = attacked.session(party)._state, attacked.server.save()
    for raw in (BOMBS[bomb], attacked.request(party).header[:-1] + BOMBS[bomb]):
        with pytest.raises(SecflError):
            attacked.session(party).inspect(raw)
        with pytest.raises(SecflError):
            attacked.server.begin(raw)
    assert attacked.session(party)._state is state
    attacked.server._faults.clear()
    assert attacked.server.save() == server


def test_ciphertext_whose_frame_unpacks_to_gigabytes_is_refused_before_it_is_unpacked() -> None:
    """A zstd frame says how much it holds: the server looks at that before SEAL does."""
    attacked = cohort("ckks")
    reply = attacked.answer(attacked.clients[0])
    (chunk,) = reply.chunks
    at = bytes(chunk).index(b"\x28\xb5\x2f\xfd")
    # A descriptor for eight bytes of content size, and the size: 2^40.
    bomb = bytes(chunk[: at + 4]) + b"\xe0" + struct.pack("<Q", 2**40) + bytes(chunk[at + 13 :])
    forged = signed_reply(
        attacked.identities[attacked.clients[0]], attacked.server.session_id, "Contribution", reply.header, [bomb]
    )
    tracemalloc.start()
    try:
        with pytest.raises(SecflError) as caught:
            deliver(attacked.server, forged)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
    assert "zstd frame" in str(caught.value)
    aggregate = attacked.network.run()
    assert (aggregate.sum == attacked.total(aggregate.contributors)).all()
