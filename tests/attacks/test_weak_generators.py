"""Masks and keys from statistical generators or short seeds: none is asked in a whole run, and no seed is short."""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest

from protocols.primitives.prg import MaskStream
from protocols.wire import CHUNK_INDEX_BYTES
from tests.protocols.any_protocol import SLOWLY, VECTOR_PHASE, Adapter, cohort


class Asked(Exception):  # noqa: N818  what happened
    """Somebody asked a statistical generator."""


def sessions_of(attacked: Adapter) -> list[Any]:
    return [
        session
        for organisation in attacked.parties.values()
        for session in getattr(organisation, "sessions", {"": organisation}).values()
    ]


@pytest.mark.parametrize("protocol", SLOWLY)
def test_no_statistical_generator_is_asked_in_a_whole_run(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attacked = cohort(protocol)

    def refuse(*_: object, **__: object) -> None:
        raise Asked

    for module, names in (
        (random, ("random", "getrandbits", "randrange", "randbytes", "Random", "seed", "sample", "choice")),
        (np.random, ("default_rng", "rand", "randn", "randint", "normal", "bytes", "seed", "RandomState", "PCG64")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    aggregate = attacked.network.run()
    assert (aggregate.sum == attacked.total(aggregate.contributors)).all()
    with pytest.raises(Asked):
        random.getrandbits(32)


@pytest.mark.parametrize("protocol", SLOWLY)
def test_every_seed_and_key_has_256_bits_and_no_two_are_alike(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folded to 28 or 32 bits, half of 256 columns would be constant, or the draws would be four bytes long."""
    drawn: list[bytes] = []
    stream_keys: list[bytes] = []
    begin = MaskStream.__init__

    def recording_stream(stream: MaskStream, key: bytes, bits: int) -> None:
        stream_keys.append(key)
        begin(stream, key, bits)

    def entropy(count: int) -> bytes:
        drawn.append(os.urandom(count))
        return drawn[-1]

    monkeypatch.setattr(MaskStream, "__init__", recording_stream)
    for number in range(4):
        attacked = cohort(protocol, nonce=bytes([number]) * 32)
        stream_keys.clear()
        for session in sessions_of(attacked):
            session.entropy = entropy
        attacked.network.run()
        assert all(len(key) == 32 for key in stream_keys)
    seeds = [item for item in drawn if len(item) == 32]
    assert len(set(drawn)) == len(drawn)
    if protocol != "ckks":  # there, SEAL draws for itself
        assert len(seeds) >= 32
        bits = np.unpackbits(np.frombuffer(b"".join(seeds), np.uint8)).reshape(len(seeds), 256)
        assert bits.any(axis=0).all()
        assert not bits.all(axis=0).any()


@pytest.mark.parametrize("protocol", SLOWLY)
def test_what_is_sent_for_a_constant_vector_never_repeats_between_sessions_parties_and_chunks(protocol: str) -> None:
    """Predictable or reused masks show as equal blocks: here there is none among all of several sessions."""
    seen: Counter[bytes] = Counter()
    for number in range(5):
        attacked = cohort(protocol, nonce=bytes([number]) * 32, round_number=number, length=200)
        for vector in attacked.vectors.values():
            vector[:] = 1
        for session in sessions_of(attacked):
            session.entropy = os.urandom
        attacked.advance(VECTOR_PHASE[protocol])
        for party in attacked.clients:
            for chunk in attacked.answer(party).chunks:
                payload = bytes(chunk)[CHUNK_INDEX_BYTES:].rstrip(b"\0")
                payload = payload[512:] if protocol == "ckks" else payload  # behind the openings of SEAL and zstd
                seen.update(payload[at : at + 16] for at in range(0, len(payload) - 15, 16))
    assert sum(seen.values()) > 200
    assert max(seen.values()) == 1
