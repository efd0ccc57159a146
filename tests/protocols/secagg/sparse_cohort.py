"""What the tests on the Harary graph share: a cohort at its smallest, and messages that a malicious server can make."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from protocols import wire
from protocols.primitives.merkle import MerkleTree
from protocols.secagg import messages as m
from protocols.secagg.graph import Graph, graph_of
from protocols.session import ClientPolicy
from protocols.testing.cohort import Cohort
from protocols.testing.malformed import signed_reply

POLICY = ClientPolicy(adversary_rate=0.05)


def sparse(size: int = 100, **options: Any) -> Cohort:
    """A hundred clients of 16 neighbours each, 11 of whom rebuild a secret; 95 at least contribute."""
    arguments: dict[str, Any] = {"length": 3, "graph": "harary", "adversary_rate": 0.05, "policy": POLICY}
    return Cohort(size, **(arguments | options))


def root_of(cohort: Cohort) -> bytes:
    """T0, once it is fixed."""
    phase = cohort.server._phase
    return (phase.keys if hasattr(phase, "keys") else phase.sharing.keys).root


def graph(cohort: Cohort) -> Graph:
    return graph_of(cohort.parameters, root_of(cohort))


def party(cohort: Cohort, index: int) -> str:
    return str(cohort.parameters.client(index))


def view(cohort: Cohort, receiver: int, advertisements: Iterable[m.Advertisement]) -> m.ShareKeysRequest:
    """A consistent request of phase 1 over any advertisements, with the T0 that fits them."""
    known = {item.index: item for item in advertisements}
    size, session_id = len(cohort.parameters.cohort), cohort.server.session_id
    tree = MerkleTree(list(m.advertisement_leaves(range(size), known.values()).values()))
    root = m.advertisements_root(session_id, tree.root)
    near = graph_of(cohort.parameters, root).neighbourhood(receiver)
    listed = tuple(known[index] for index in near if index in known)
    fields = m.opening_fields(session_id, m.ShareKeysRequest)
    return m.ShareKeysRequest(*fields, root, listed, tuple(tree.joint_path(near)))


def encoded(request: m.ShareKeysRequest, **fields: Any) -> bytes:
    return wire.encode(msgspec.structs.replace(request, **fields))


def certificate(
    cohort: Cohort, root: bytes, contributors: tuple[int, ...], signers: Iterable[int]
) -> tuple[m.SignedSet, ...]:
    """Signatures over a set in the names of these clients, whose keys the server has."""
    session_id, digest = cohort.server.session_id, m.contributors_hash(root, contributors)
    signed = []
    for index in signers:
        header = m.consistency_header(session_id, party(cohort, index), digest)
        reply = signed_reply(cohort.identities[party(cohort, index)], session_id, m.CONSISTENCY_CHECK, header, ())
        signed.append(m.SignedSet(index, reply.trailer))
    return tuple(signed)


def check_request(cohort: Cohort, contributors: Iterable[int]) -> bytes:
    fields = m.opening_fields(cohort.server.session_id, m.ConsistencyCheckRequest)
    return wire.encode(m.ConsistencyCheckRequest(*fields, tuple(contributors)))


def unmask_request(cohort: Cohort, contributors: tuple[int, ...], signatures: tuple[m.SignedSet, ...]) -> bytes:
    fields = m.opening_fields(cohort.server.session_id, m.UnmaskRequest)
    return wire.encode(m.UnmaskRequest(*fields, contributors, signatures))
