"""One-shot with files as spools: memory does not grow with the vector, but for the sum and the result."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocols import ClientPolicy, Identity, Role, Roster, SigningKey, oneshot
from protocols.oneshot.agreement import Agreement
from protocols.primitives.prg import MaskStream
from protocols.testing.network import deliver
from protocols.testing.storage import MemoryStore
from secfl.engines.spool import FileSpool

BITS = 16
CHUNK = 61440
"""Five blocks of three slots: the vectors below end with a full chunk."""
POLICY = ClientPolicy(protocols=frozenset({oneshot.PROTOCOL}), collusion_bound=1)
LENGTHS = (16 * CHUNK, 48 * CHUNK)


@dataclass(frozen=True)
class StreamSource:
    """A vector that exists only while it is read."""

    key: bytes
    length: int

    def read(self, start: int, stop: int) -> np.ndarray:
        return MaskStream(self.key, BITS).words(start, stop - start)


def peak_of(function: Callable[[], Any]) -> int:
    """Bytes that a call had at most, beyond those that were there before; numpy's arrays are counted."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def peaks_of_a_session(length: int, directory: Path) -> dict[str, int]:
    """By step; the sum is compared in full."""
    clients = [Identity(f"c{index}", SigningKey.generate(os.urandom)) for index in range(3)]
    members = [
        oneshot.CommitteeIdentity(
            f"m{index}", SigningKey.generate(os.urandom), oneshot.CommitteeKey.generate(os.urandom)
        )
        for index in range(4)
    ]
    roster = Roster([identity.member() for identity in [*clients, *members]])
    parameters = oneshot.parameters(
        roster,
        [identity.id for identity in clients],
        nonce=os.urandom(32),
        run_id="streaming",
        round_number=0,
        modulus_bits=BITS,
        vector_length=length,
        context_hash=bytes(32),
        collusion_bound=1,
        chunk_length=CHUNK,
    )
    spool = partial(FileSpool, directory)

    def party(role: Role, identity: Identity) -> Any:
        return oneshot.party(role, identity, roster, POLICY, entropy=os.urandom, store=MemoryStore(), spool=spool)

    server = oneshot.server(parameters, roster, spool=spool)
    header = next(iter(server.requests())).header
    sources = [StreamSource(bytes([index]) * 32, length) for index in range(len(clients))]
    peaks: dict[str, int] = {}
    for identity, source in zip(clients, sources, strict=True):
        client = party(Role.CLIENT, identity)
        replies: list[Any] = []
        peaks["client"] = peak_of(lambda: replies.append(client.handle(header, vector=source)))  # noqa: B023
        peaks["upload"] = peak_of(lambda: deliver(server, replies[0]))  # noqa: B023
    committee = {identity.id: party(Role.COMMITTEE, identity) for identity in members}
    while server.phase is not None:
        phase = server.phase
        for request in server.requests() if phase != "Contribution" else ():
            deliver(server, committee[request.party].handle(request.header, request.chunks))
        peaks[phase] = peak_of(server.close_phase)
    expected = sum((source.read(0, length) for source in sources), np.zeros(length, np.uint16))
    np.testing.assert_array_equal(server.result().sum, expected)
    peaks["sum"] = 8 * Agreement.of(parameters).coefficients
    peaks["result"] = expected.nbytes
    return peaks


def test_memory_of_client_and_upload_does_not_grow_with_the_vector(tmp_path: Path) -> None:
    shorter, longer = (peaks_of_a_session(length, tmp_path) for length in LENGTHS)
    assert longer["sum"] + longer["result"] == pytest.approx(3 * (shorter["sum"] + shorter["result"]), rel=1e-4)
    for step in ("client", "upload", "Contribution"):
        assert longer[step] < shorter[step] + 2**17
        assert longer[step] < longer["sum"]
    # The server's sum and the result exist once each; beside them there are pieces, whatever the length.
    beside = [(peaks["Check"] - peaks["sum"], peaks["Opening"] - peaks["result"]) for peaks in (shorter, longer)]
    for after, before in zip(beside[1], beside[0], strict=True):
        assert 0 < after < before + 2**17
        assert after < 2**22
    assert not list(tmp_path.iterdir())
