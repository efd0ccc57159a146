"""A CKKS federation in one process: clients, key holder, server; fixed by a name but for SEAL's own randomness."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import pytest

from protocols import ckks, wire
from protocols.ckks import messages as m
from protocols.ckks.keys import CkksKey, KeyHolderIdentity, Noise
from protocols.ckks.server import CkksServer
from protocols.errors import FaultReason, PeerFault, PolicyRefused, ServerFault
from protocols.identity import Identity, Role, Roster
from protocols.primitives.ring import word_dtype
from protocols.primitives.signing import SigningKey
from protocols.session import ClientPolicy, SessionParameters
from protocols.shape import Aggregate, Chunk, Reply, Request, Spool, Words
from protocols.signed import ContentDigest, MemorySpool, frame
from protocols.testing.cohort import SessionHarness
from protocols.testing.malformed import changed
from protocols.testing.network import Network, deliver
from protocols.testing.randomness import DeterministicEntropy
from protocols.testing.storage import MemoryStore

STORAGE_KEY = bytes(range(32))
POLICY = ClientPolicy(protocols=frozenset({"ckks"}))
HOLDER = "holder"


def ckks_key(name: str = "ours", record: int = 2) -> CkksKey:
    """Made once a run."""
    return _made(name, record)


@lru_cache(maxsize=16)
def _made(_name: str, record: int) -> CkksKey:
    return CkksKey.generate(record)


class CkksCohort(SessionHarness):
    """Clients ``c00, c01, ...`` and the party ``holder``.

    :param name: seeds identities, nonce and vectors.
    :param record: of CKKS parameters; 2, the smaller one, unless a test is about the other.
    :param options: further arguments of `protocols.ckks.parameters`.
    """

    def __init__(
        self,
        size: int = 4,
        *,
        name: str = "ckks",
        bits: int = 20,
        length: int = 2500,
        value_bound: int = 2**15,
        record: int = 2,
        policy: ClientPolicy = POLICY,
        noise: Noise | None = None,
        spool: Callable[[], Spool] = MemorySpool,
        **options: Any,
    ) -> None:
        self.name, self.policy, self.spool, self.bound = name, policy, spool, value_bound
        names = [f"c{number:02}" for number in range(size)]
        self.key = ckks_key(record=record)
        self.identities: dict[str, Identity] = {party: Identity(party, self.signing_key(party)) for party in names}
        self.identities[HOLDER] = KeyHolderIdentity(HOLDER, self.signing_key(HOLDER), self.key, noise=noise)
        self.roster = Roster([identity.member() for identity in self.identities.values()])
        arguments: dict[str, Any] = {
            "nonce": DeterministicEntropy(f"{name}/nonce")(32),
            "run_id": "run",
            "round_number": 1,
            "modulus_bits": bits,
            "vector_length": length,
            "context_hash": bytes(32),
            "public_context": self.key.public_context,
            "value_bound": value_bound,
            "record": record,
        }
        self.parameters: SessionParameters = ckks.parameters(self.roster, names, **(arguments | options))
        self.server: CkksServer = ckks.server(self.parameters, self.roster, spool=spool)
        self.stores = {party: MemoryStore() for party in self.identities}
        self.entropies = {party: DeterministicEntropy(f"{name}/party/{party}") for party in self.identities}
        self.parties = {party: self.fresh_party(party) for party in self.identities}
        self.vectors = {party: self.vector(party) for party in names}
        self.network = Network(self.server, self.parties, self.sources())

    def signing_key(self, party: str) -> SigningKey:
        return SigningKey.generate(DeterministicEntropy(f"{self.name}/identity/{party}"))

    @staticmethod
    def role(party: str) -> Role:
        return Role.KEY_HOLDER if party == HOLDER else Role.CLIENT

    def fresh_party(self, party: str) -> Any:
        """A new session of a party, with its own entropy and store."""
        return ckks.party(
            self.role(party),
            self.identities[party],
            self.roster,
            self.policy,
            entropy=self.entropies[party],
            store=self.stores[party],
            spool=self.spool,
        )

    def vector(self, party: str) -> Words:
        """Uniform integers in [-bound, bound] as words modulo 2^bits; the first two are the extremes."""
        drawn = DeterministicEntropy(f"{self.name}/vector/{party}")(8 * self.parameters.vector_length)
        signed = (np.frombuffer(drawn, np.uint64) % np.uint64(2 * self.bound + 1)).astype(np.int64) - self.bound
        signed[:2] = (self.bound, -self.bound)[: signed.size]
        return self.words(signed)

    def words(self, signed: np.ndarray) -> Words:
        """Signed integers as words modulo 2^bits."""
        bits = self.parameters.modulus_bits
        return (signed.astype(np.int64).view(np.uint64) & np.uint64((1 << bits) - 1)).astype(word_dtype(bits))

    def restore_party(self, party: str, blob: bytes) -> None:
        """Put a saved session in the place of a party's."""
        self.parties[party] = ckks.restore_party(
            self.role(party),
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
        self.server = ckks.restore_server(self.server.save(), self.roster, spool=self.spool)
        self.network.server = self.server

    def answer_request(self, request: Request) -> Reply:
        """A party's answer to its request, chunks included."""
        session = self.parties[request.party]
        vector = self.sources()[request.party] if session.inspect(request.header).vector else None
        reply = session.handle(request.header, request.chunks, vector=vector)
        return Reply(reply.party, reply.header, [bytes(chunk) for chunk in reply.chunks], reply.trailer)


def ends_well(cohort: CkksCohort) -> Aggregate:
    """Everybody is asked again and answers; the sum over all is exact."""
    aggregate = cohort.network.run()
    assert aggregate.contributors == cohort.parameters.clients()
    np.testing.assert_array_equal(aggregate.sum, cohort.total(aggregate.contributors))
    assert all(getattr(error, "rule", "") == "SV-4" for _, _, error in cohort.network.refusals)
    return aggregate


def snapshot(session: Any) -> tuple[Any, ...]:
    return (session._state, session._answered, session._spool, session._parameters, session._session_id)


def refused_by_party(
    cohort: CkksCohort,
    request: Request,
    rule: str,
    reason: FaultReason,
    kind: type[PeerFault] = ServerFault,
    *,
    recorded: bool = False,
) -> PeerFault:
    """The party refuses the request with this rule, and nothing about it has changed.

    :param recorded: the refused decryption is on record, so that no other one follows; else the session ends well.
    """
    session, vectors = cohort.parties[request.party], cohort.sources()
    before, records = snapshot(session), dict(session._store._records)
    vector = vectors.get(request.party) if cohort.server.phase == "Contribution" else None
    with pytest.raises(PeerFault) as caught:
        session.handle(request.header, request.chunks, vector=vector)
    fault = caught.value
    assert type(fault) is kind
    assert (fault.rule, fault.reason) == (rule, reason)
    assert all(one is other for one, other in zip(before, snapshot(session), strict=True))
    assert len(session._store._records) == len(records) + recorded
    if not recorded:
        ends_well(cohort)
    return fault


def policy_refused(cohort: CkksCohort, party: str, header: bytes, rule: str) -> PolicyRefused:
    """A fresh session refuses the parameters with this rule, when it looks and when it is to answer."""
    session = cohort.fresh_party(party)
    records = dict(cohort.stores[party]._records)
    with pytest.raises(PolicyRefused) as caught:
        session.inspect(header)
    assert caught.value.rule == rule
    with pytest.raises(PolicyRefused):
        session.handle(header, vector=cohort.sources().get(party))
    assert session._session_id is None
    assert cohort.stores[party]._records == records
    return caught.value


def refused_by_server(cohort: CkksCohort, reply: Reply, rule: str, reason: FaultReason, culprit: str) -> PeerFault:
    """The server refuses the reply, its phase is as it was, and the session ends well."""
    server = cohort.server
    before, faults = server.save(), len(server.faults)
    with pytest.raises(PeerFault) as caught:
        deliver(server, reply)
    fault = caught.value
    assert (fault.rule, fault.reason, fault.culprit()) == (rule, reason, culprit)
    assert len(server.faults) == faults + 1
    assert (server.faults[-1].rule, server.faults[-1].proven) == (rule, culprit != "peer")
    server._faults.pop()
    assert server.save() == before
    ends_well(cohort)
    return fault


def announcement(cohort: CkksCohort, /, **fields: Any) -> bytes:
    """The announcement of a server that changed some parameters; `added` changes those of the protocol itself."""
    added = fields.pop("added", {})
    extension = ckks.CkksParameters.of(cohort.parameters)
    fields.setdefault("extension", msgspec.structs.replace(extension, **added).to_bytes())
    parameters = msgspec.structs.replace(cohort.parameters, **fields)
    return changed(
        cohort.request(cohort.parameters.cohort[0]).header,
        m.ContributionRequest,
        parameters=parameters.to_bytes(),
        session_id=parameters.session_id(),
        suite=parameters.suite,
    )


def framed(blocks: Iterable[bytes]) -> list[bytes]:
    """Blocks as the chunks of a message."""
    chunks = []
    for number, block in enumerate(blocks):
        buffer, payload = frame(number, len(block))
        payload[:] = np.frombuffer(block, np.uint8)
        chunks.append(bytes(buffer))
    return chunks


def content_digest(chunks: Iterable[Chunk]) -> bytes:
    content = ContentDigest()
    for chunk in chunks:
        content.update(chunk)
    return content.digest()


def decryption(cohort: CkksCohort, blocks: Iterable[bytes] | None = None, **fields: Any) -> Request:
    """The server's request to the key holder, with other blocks, or other contents of the header."""
    genuine = cohort.request(HOLDER)
    chunks = [bytes(chunk) for chunk in genuine.chunks] if blocks is None else framed(blocks)
    fields.setdefault("aggregate", content_digest(chunks))
    return Request(genuine.party, changed(genuine.header, m.DecryptionRequest, **fields), chunks)


def payloads(chunks: Iterable[Chunk]) -> list[bytes]:
    """Chunks without their numbers."""
    return [bytes(chunk)[wire.CHUNK_INDEX_BYTES :] for chunk in chunks]
