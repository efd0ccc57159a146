"""A one-shot federation in one process: clients, committee, server; fixed by a name but for the sealing of shares."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import numpy as np
import pytest

from protocols import oneshot, wire
from protocols.errors import FaultReason, PeerFault, PolicyRefused, ServerFault
from protocols.identity import Identity, Role, Roster
from protocols.oneshot import messages as m
from protocols.oneshot.sealing import CommitteeIdentity, CommitteeKey
from protocols.oneshot.server import Received
from protocols.party import PartyShell
from protocols.primitives.merkle import root
from protocols.primitives.ring import word_dtype
from protocols.primitives.signing import SigningKey
from protocols.session import ClientPolicy, SessionParameters
from protocols.shape import (
    Aggregate,
    Chunk,
    Need,
    PartySession,
    Reply,
    Spool,
    VectorSource,
    Words,
)
from protocols.signed import MemorySpool
from protocols.testing.cohort import SessionHarness
from protocols.testing.malformed import changed
from protocols.testing.network import Network, deliver
from protocols.testing.randomness import DeterministicEntropy
from protocols.testing.storage import MemoryStore
from protocols.wire import peek_kind

STORAGE_KEY = bytes(range(32))
POLICY = ClientPolicy(protocols=frozenset({"oneshot"}))
CLIENT_KIND = "ContributionRequest"
KEYS: dict[str, CommitteeKey] = {}


def committee_key(name: str) -> CommitteeKey:
    """Made once a run: half a millisecond each."""
    if name not in KEYS:
        KEYS[name] = CommitteeKey.generate(DeterministicEntropy(f"{name}/committee-key"))
    return KEYS[name]


class Organisation(PartySession):
    """A party with one session for each of its roles; the kind of a request says whose it is."""

    def __init__(self, sessions: dict[Role, PartyShell[Any]]) -> None:
        self.sessions = sessions

    def of(self, header: bytes) -> PartyShell[Any]:
        return self.sessions[Role.CLIENT if peek_kind(header)[1] == CLIENT_KIND else Role.COMMITTEE]

    def inspect(self, header: bytes) -> Need:
        return self.of(header).inspect(header)

    def handle(self, header: bytes, chunks: Iterable[Chunk] = (), *, vector: VectorSource | None = None) -> Reply:
        return self.of(header).handle(header, chunks, vector=vector)

    def save(self, key: bytes) -> bytes:
        raise NotImplementedError


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
        **options: Any,
    ) -> None:
        self.name, self.policy, self.spool = name, policy, spool
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
        self.server = oneshot.server(self.parameters, self.roster, spool=spool)
        self.stores = {party: MemoryStore() for party in names}
        self.entropies = {party: DeterministicEntropy(f"{name}/party/{party}") for party in names}
        self.parties = {party: Organisation(self.fresh_sessions(party)) for party in names}
        self.vectors = {party: self.vector(party) for party in names}
        self.network = Network(self.server, self.parties, self.sources())

    def identity(self, party: str, *, committee: bool) -> Identity:
        signing_key = SigningKey.generate(DeterministicEntropy(f"{self.name}/identity/{party}"))
        return (
            CommitteeIdentity(party, signing_key, committee_key(party)) if committee else Identity(party, signing_key)
        )

    def fresh_sessions(self, party: str) -> dict[Role, PartyShell[Any]]:
        roles = [Role.CLIENT, Role.COMMITTEE] if party in self.members else [Role.CLIENT]
        return {role: self.fresh_party(role, party) for role in roles}

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
) -> PeerFault:
    """The party refuses the request with this rule, nothing about it has changed, and the session ends well."""
    session = cohort.session(party)
    before = (session._state, session._answered, session._spool, session._parameters, session._session_id)
    records = dict(session._store._records)
    vector = cohort.sources()[party] if cohort.server.phase == "Contribution" else None
    with pytest.raises(PeerFault) as caught:
        session.handle(header, vector=vector)
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


def opening_request(cohort: OneShotCohort, contributors: tuple[int, ...]) -> bytes:
    """A server's request to open this set."""
    return wire.encode(m.OpeningRequest(*m.opening_fields(cohort.server.session_id, m.OpeningRequest), contributors))


def dealt_badly(cohort: OneShotCohort, dealer: str, bad_for: Iterable[int]) -> Received:
    """What the server would hold had this client sealed rubbish for some members, and signed it."""
    held = cohort.server._phase.contributions[cohort.parameters.index(dealer)]
    sealed = list(held.sealed_shares)
    for member in bad_for:
        sealed[member] = bytes(len(sealed[member]))
    digest = m.contribution_digest(cohort.server.session_id, dealer, root(sealed), held.content)
    return Received(root(sealed), held.content, cohort.identities[dealer].signing_key.sign(digest), tuple(sealed))
