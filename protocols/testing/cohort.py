"""A whole cohort in one process: identities, roster, parameters, sessions and vectors, all fixed by a name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from protocols import secagg
from protocols.identity import Identity, Role, Roster
from protocols.primitives.ring import word_dtype
from protocols.primitives.signing import SigningKey
from protocols.secagg.client import SecAggClient
from protocols.server import ServerShell
from protocols.session import ClientPolicy, SessionParameters
from protocols.shape import ArraySource, Chunk, Reply, Request, Spool, Words
from protocols.signed import MemorySpool
from protocols.testing.network import Drop, Network, Tamper
from protocols.testing.randomness import DeterministicEntropy
from protocols.testing.storage import MemoryStore

__all__ = ["Cohort", "SessionHarness"]

STORAGE_KEY = bytes(range(32))


class SessionHarness:
    """What tests do with a session in one process, whatever its protocol."""

    parameters: SessionParameters
    server: ServerShell
    parties: dict[str, Any]
    vectors: dict[str, Words]
    network: Network

    def sources(self) -> dict[str, ArraySource]:
        """The vectors as the sessions take them."""
        return {party: ArraySource(vector) for party, vector in self.vectors.items()}

    def total(self, contributors: Iterable[str]) -> Words:
        """The plain sum modulo 2^bits."""
        bits = self.parameters.modulus_bits
        total = np.zeros(self.parameters.vector_length, np.uint64)
        for party in contributors:
            total += self.vectors[party].astype(np.uint64)
        return (total & np.uint64((1 << bits) - 1)).astype(word_dtype(bits))

    def dropping(self, drops: Iterable[Drop], tamper: Tamper | None = None) -> Network:
        """Replace the network by one that loses parties, or tampers."""
        self.network = Network(self.server, self.parties, self.sources(), drops=tuple(drops), tamper=tamper)
        return self.network

    def advance(self, phase: str) -> None:
        """Run until this phase is open."""
        while self.server.phase != phase:
            self.network.run_phase()

    def request(self, party: str) -> Request:
        """The server's request to a party in the open phase."""
        return next(item for item in self.server.requests() if item.party == party)

    def answer(self, party: str, header: bytes | None = None, chunks: Iterable[Chunk] = ()) -> Reply:
        """What a party answers to its request, or to another header and chunks; the chunks as a list."""
        if header is None:
            request = self.request(party)
            header, chunks = request.header, request.chunks
        session = self.parties[party]
        vector = self.sources()[party] if session.inspect(header).vector else None
        reply = session.handle(header, chunks, vector=vector)
        return Reply(reply.party, reply.header, [bytes(chunk) for chunk in reply.chunks], reply.trailer)


class Cohort(SessionHarness):
    """SecAgg clients ``c00, c01, ...`` and their server; equal arguments give equal bytes.

    :param size: number of clients.
    :param name: seeds every key, nonce and vector.
    :param options: further arguments of `protocols.secagg.parameters`.
    """

    def __init__(
        self,
        size: int = 5,
        *,
        name: str = "cohort",
        bits: int = 21,
        length: int = 100,
        chunk_length: int = 64,
        policy: ClientPolicy | None = None,
        spool: Callable[[], Spool] = MemorySpool,
        **options: Any,
    ) -> None:
        self.name = name
        self.policy = ClientPolicy() if policy is None else policy
        self.spool = spool
        self.identities = {
            party: Identity(party, SigningKey.generate(DeterministicEntropy(f"{name}/identity/{party}")))
            for party in (f"c{number:02}" for number in range(size))
        }
        self.roster = Roster([identity.member() for identity in self.identities.values()])
        arguments: dict[str, Any] = {
            "nonce": DeterministicEntropy(f"{name}/nonce")(32),
            "run_id": "run",
            "round_number": 1,
            "modulus_bits": bits,
            "vector_length": length,
            "context_hash": bytes(32),
            "chunk_length": chunk_length,
        }
        self.parameters: SessionParameters = secagg.parameters(self.roster, self.identities, **(arguments | options))
        self.server: ServerShell = secagg.server(self.parameters, self.roster, spool=spool)
        self.stores = {party: MemoryStore() for party in self.identities}
        self.entropies = {party: DeterministicEntropy(f"{name}/party/{party}") for party in self.identities}
        self.parties: dict[str, SecAggClient] = {party: self.fresh_party(party) for party in self.identities}
        self.vectors = {party: self.vector(party) for party in self.identities}
        self.network = Network(self.server, self.parties, self.sources())

    def fresh_party(self, party: str) -> SecAggClient:
        """A new session of a client, with its own entropy and store."""
        return secagg.party(
            Role.CLIENT,
            self.identities[party],
            self.roster,
            self.policy,
            entropy=self.entropies[party],
            store=self.stores[party],
            spool=self.spool,
        )

    def vector(self, party: str, variant: str = "") -> Words:
        """Uniform words below 2^bits."""
        bits = self.parameters.modulus_bits
        dtype = word_dtype(bits)
        drawn = DeterministicEntropy(f"{self.name}/vector/{party}{variant}")(
            self.parameters.vector_length * dtype.itemsize
        )
        words: Words = np.frombuffer(drawn, dtype) & dtype.type((1 << bits) - 1)
        return words

    def restore_party(self, party: str, blob: bytes) -> None:
        """Put a saved session in the place of a party's."""
        self.parties[party] = secagg.restore_party(
            blob,
            STORAGE_KEY,
            self.identities[party],
            self.roster,
            self.policy,
            entropy=self.entropies[party],
            store=self.stores[party],
            spool=self.spool,
        )

    def restore_server(self) -> None:
        """Save the server and continue with what was saved."""
        self.server = secagg.restore_server(self.server.save(), self.roster, spool=self.spool)
        self.network.server = self.server
