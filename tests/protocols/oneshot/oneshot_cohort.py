"""A one-shot federation in one process: clients, committee, server; fixed by a name but for the sealing of shares."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import msgspec
import numpy as np
import pytest

from protocols import oneshot, wire
from protocols.errors import FaultReason, PeerFault, PolicyRefused, ServerFault
from protocols.identity import Identity, Role, Roster
from protocols.oneshot import messages as m
from protocols.oneshot.agreement import Agreement
from protocols.oneshot.packed_shamir import PRIME, Elements, pack_share, unpack_share
from protocols.oneshot.relay import relay
from protocols.oneshot.relay import relayed as server_relayed
from protocols.oneshot.sealing import CommitteeIdentity, CommitteeKey, seal_share, share_label
from protocols.organisation import Organisation
from protocols.party import PartyShell
from protocols.primitives.merkle import root
from protocols.primitives.ring import word_dtype
from protocols.primitives.signing import PostQuantumSigningKey, SigningKey
from protocols.session import ClientPolicy, SessionParameters
from protocols.shape import (
    Aggregate,
    Chunk,
    Reply,
    Spool,
    Words,
)
from protocols.signed import NO_CHUNKS, MemorySpool
from protocols.suites import SUITES, SealingKem
from protocols.testing.cohort import SessionHarness
from protocols.testing.malformed import changed, decoded, signed_reply
from protocols.testing.network import Network, deliver
from protocols.testing.randomness import DeterministicEntropy
from protocols.testing.storage import MemoryStore

STORAGE_KEY = bytes(range(32))
POLICY = ClientPolicy(protocols=frozenset({"oneshot"}))
Carried = tuple[bytes, list[Chunk]]
"""A request's header and chunks."""


@cache
def committee_key(name: str, kem: SealingKem = SealingKem.MLKEM768_X25519) -> CommitteeKey:
    """Made once a run: half a millisecond each."""
    return CommitteeKey.generate(DeterministicEntropy(f"{name}/committee-key"), kem)


@cache
def post_quantum_key(name: str) -> PostQuantumSigningKey:
    return PostQuantumSigningKey.generate(DeterministicEntropy(f"{name}/post-quantum"))


class OneShotCohort(SessionHarness):
    """Silos ``c00, c01, ...``: all are clients, the first `members` (all by default) are the committee.

    :param name: seeds every key, nonce and vector.
    :param options: further arguments of `protocols.oneshot.parameters`.
    """

    def __init__(
        self,
        size: int = 4,
        *,
        members: int | None = None,
        name: str = "oneshot",
        bits: int = 20,
        length: int = 150,
        chunk_length: int = 64,
        policy: ClientPolicy = POLICY,
        spool: Callable[[], Spool] = MemorySpool,
        fold_at_once: bool = False,
        **options: Any,
    ) -> None:
        self.name, self.policy, self.spool = name, policy, spool
        self.suite = SUITES[options.get("suite", 1)]
        names = [f"c{number:02}" for number in range(size)]
        self.members = names[: size if members is None else members]
        self.identities: dict[str, Identity] = {
            party: self.identity(party, committee=party in self.members) for party in names
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
        self.parameters: SessionParameters = oneshot.parameters(self.roster, names, **(arguments | options))
        self.server = oneshot.server(self.parameters, self.roster, spool=spool, fold_at_once=fold_at_once)
        self.stores = {party: MemoryStore() for party in names}
        self.entropies = {party: DeterministicEntropy(f"{name}/party/{party}") for party in names}
        self.parties = {party: self.organisation(party) for party in names}
        self.vectors = {party: self.vector(party) for party in names}
        self.network = Network(self.server, self.parties, self.sources())

    def identity(self, party: str, *, committee: bool) -> Identity:
        signing_key = SigningKey.generate(DeterministicEntropy(f"{self.name}/identity/{party}"))
        post_quantum = post_quantum_key(party) if self.suite.signature.post_quantum else None
        if not committee:
            return Identity(party, signing_key, post_quantum_key=post_quantum)
        key = committee_key(party, self.suite.sealing)
        return CommitteeIdentity(party, signing_key, key, post_quantum_key=post_quantum)

    def organisation(self, party: str) -> Organisation:
        roles = [Role.CLIENT, Role.COMMITTEE] if party in self.members else [Role.CLIENT]
        organisation = Organisation(
            oneshot,
            self.identities[party],
            self.roster,
            self.policy,
            entropy=self.entropies[party],
            store=self.stores[party],
            roles=roles,
            spool=self.spool,
        )
        for role in roles:
            organisation.session(role)
        return organisation

    def fresh_party(self, role: Role, party: str) -> PartyShell[Any]:
        return oneshot.party(
            role,
            self.identities[party],
            self.roster,
            self.policy,
            entropy=self.entropies[party],
            store=self.stores[party],
            spool=self.spool,
        )

    def vector(self, party: str) -> Words:
        """Uniform words below 2^bits; within the bound if there is one."""
        bits = self.parameters.modulus_bits
        dtype = word_dtype(bits)
        drawn = DeterministicEntropy(f"{self.name}/vector/{party}")(self.parameters.vector_length * dtype.itemsize)
        bound = self.bound()
        words: Words = np.frombuffer(drawn, dtype)
        if bound:
            words = words % dtype.type(2 * bound + 1) - dtype.type(bound)
        return words & dtype.type((1 << bits) - 1)

    def bound(self) -> int:
        return oneshot.CommitteeParameters.of(self.parameters).value_bound

    def session(self, party: str) -> PartyShell[Any]:
        """The party's session that the open phase asks."""
        role = Role.CLIENT if self.server.phase == "Contribution" else Role.COMMITTEE
        return self.parties[party].sessions[role]

    def restore_party(self, role: Role, party: str, blob: bytes) -> None:
        self.parties[party].sessions[role] = oneshot.restore_party(
            role,
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
        self.server = oneshot.restore_server(self.server.save(), self.roster, spool=self.spool)
        self.network.server = self.server


def refused_by_party(
    cohort: OneShotCohort,
    party: str,
    header: bytes,
    rule: str,
    reason: FaultReason,
    kind: type[PeerFault] = ServerFault,
    chunks: Iterable[Chunk] = (),
) -> PeerFault:
    """The party refuses the request with this rule, nothing about it has changed, and the session ends well."""
    session = cohort.session(party)
    before = (session._state, session._answered, session._spool, session._parameters, session._session_id)
    records = dict(session._store._records)
    vector = cohort.sources()[party] if cohort.server.phase == "Contribution" else None
    with pytest.raises(PeerFault) as caught:
        session.handle(header, chunks, vector=vector)
    fault = caught.value
    assert type(fault) is kind
    assert (fault.rule, fault.reason) == (rule, reason)
    after = (session._state, session._answered, session._spool, session._parameters, session._session_id)
    assert all(one is other for one, other in zip(before, after, strict=True))
    assert session._store._records == records
    ends_well(cohort)
    return fault


def policy_refused(cohort: OneShotCohort, role: Role, party: str, header: bytes, rule: str) -> PolicyRefused:
    """A fresh session refuses the parameters with this rule, when it looks and when it is to answer."""
    session = cohort.fresh_party(role, party)
    records = dict(cohort.stores[party]._records)
    with pytest.raises(PolicyRefused) as caught:
        session.inspect(header)
    assert caught.value.rule == rule
    vector = cohort.sources()[party] if role is Role.CLIENT else None
    with pytest.raises(PolicyRefused):
        session.handle(header, vector=vector)
    assert session._session_id is None
    assert cohort.stores[party]._records == records
    return caught.value


def refused_by_server(cohort: OneShotCohort, reply: Reply, rule: str, reason: FaultReason, culprit: str) -> PeerFault:
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


def ends_well(cohort: OneShotCohort) -> Aggregate:
    """Everybody is asked again and answers; the sum over all is exact."""
    aggregate = cohort.network.run()
    assert aggregate.contributors == cohort.parameters.clients()
    np.testing.assert_array_equal(aggregate.sum, cohort.total(aggregate.contributors))
    assert all(getattr(error, "rule", "") == "SV-4" for _, _, error in cohort.network.refusals)
    return aggregate


def announcement(cohort: OneShotCohort, /, **fields: Any) -> bytes:
    """The announcement of a server that changed some parameters; `added` changes those of the protocol itself."""
    return reannounced(cohort, cohort.request(cohort.parameters.cohort[0]).header, m.ContributionRequest, **fields)


def reannounced(cohort: OneShotCohort, header: bytes, kind: Any, /, **fields: Any) -> bytes:
    added = fields.pop("added", {})
    extension = oneshot.CommitteeParameters.of(cohort.parameters)
    fields.setdefault("extension", msgspec.structs.replace(extension, **added).to_bytes())
    parameters = msgspec.structs.replace(cohort.parameters, **fields)
    return changed(
        header,
        kind,
        parameters=parameters.to_bytes(),
        session_id=parameters.session_id(),
        suite=parameters.suite,
    )


def relayed(cohort: OneShotCohort, member: str) -> list[m.RelayedContribution]:
    """The contributions that a member's request in the open phase carries."""
    groups = [wire.decode_record(bytes(chunk)[8:], m.RelayedGroup) for chunk in cohort.request(member).chunks]
    return [item for group in groups for item in group.contributions]


def relaying(header: bytes, kind: Any, items: Iterable[m.RelayedContribution], **fields: Any) -> Carried:
    """The request with other contributions, and the sizes and digest that fit them."""
    records = [wire.encode(item) for item in items]
    chunks, groups, content = relay(lambda: records)
    return changed(header, kind, groups=groups, content=content, **fields), list(chunks)


def opening_request(cohort: OneShotCohort, contributors: tuple[int, ...], member: str = "c00") -> Carried:
    """A server's request to open this set of those that all members were shown."""
    fields = m.opening_fields(cohort.server.session_id, m.OpeningRequest, cohort.parameters.suite)
    header = wire.encode(m.OpeningRequest(*fields, contributors, (), NO_CHUNKS))
    phase = cohort.server._phase
    arrived = tuple(phase.contributions) if cohort.server.phase == m.CHECK else phase.arrived
    left_out = set(range(len(cohort.parameters.cohort))) - set(contributors)
    records = server_relayed(cohort.server, member, arrived, left_out)
    return relaying(header, m.OpeningRequest, [wire.decode_record(record, m.RelayedContribution) for record in records])


def resealed(cohort: OneShotCohort, dealer: str, shares: dict[str, bytes]) -> Reply:
    """The dealer's contribution with other sealed shares for some members, signed by the dealer."""
    genuine = cohort.answer(dealer)
    members = len(cohort.members)
    sealed = [chunk[8:] for chunk in genuine.chunks[:members]]
    for member, share in shares.items():
        sealed[cohort.members.index(member)] = share
    header = changed(genuine.header, m.ContributionReply, shares_root=root(sealed))
    frames = [frame[:8] + share for frame, share in zip(genuine.chunks, sealed, strict=False)]
    chunks = [*frames, *genuine.chunks[members:]]
    return signed_reply(
        cohort.identities[dealer], cohort.server.session_id, m.CONTRIBUTION, header, chunks, cohort.server.signature
    )


def deal_rubbish(cohort: OneShotCohort, dealer: str, members: Iterable[str]) -> None:
    """The dealer seals what does not open for these members."""
    length = Agreement.of(cohort.parameters).sealed_share_bytes
    deliver(cohort.server, resealed(cohort, dealer, {member: bytes(length) for member in members}))


def dealt(cohort: OneShotCohort, dealer: str, member: str, chunks: list[Chunk]) -> Elements:
    """The share that a contribution's chunks hold for a member."""
    agreement = Agreement.of(cohort.parameters)
    position = cohort.members.index(member)
    label = share_label(cohort.server.session_id, cohort.parameters.index(dealer), position)
    opened = cohort.identities[member].committee_key.open_share(bytes(chunks[position])[8:], label)
    return unpack_share(opened, agreement.share_elements)


def deal_off(cohort: OneShotCohort, dealer: str, members: Iterable[str], position: int = 0, by: int = 1) -> None:
    """The dealer seals shares that open but are off their polynomials, in one element."""
    genuine = cohort.answer(dealer)
    shares = {}
    for member in members:
        share = dealt(cohort, dealer, member, genuine.chunks)
        share[position] = (int(share[position]) + by) % PRIME
        place = cohort.members.index(member)
        label = share_label(cohort.server.session_id, cohort.parameters.index(dealer), place)
        shares[member] = seal_share(cohort.roster.member(member).sealing_key, pack_share(share), label)
    deliver(cohort.server, resealed(cohort, dealer, shares))


def lie(cohort: OneShotCohort, member: str) -> None:
    """Deliver a share of the sum that is off, so that blame follows."""
    genuine = cohort.answer(member)
    share = unpack_share(decoded(genuine.header, m.OpeningReply).share, 4101)
    share[0] += np.uint64(1)
    forged = changed(genuine.header, m.OpeningReply, share=pack_share(share))
    deliver(cohort.server, signed_reply(cohort.identities[member], cohort.server.session_id, m.OPENING, forged, ()))


def advance(cohort: OneShotCohort, phase: str) -> None:
    """Open this phase; c03 lies in the opening if it is blame."""
    if phase == "Blame":
        cohort.advance("Opening")
        lie(cohort, "c03")
    cohort.advance(phase)
