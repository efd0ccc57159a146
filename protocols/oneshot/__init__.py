"""One-shot aggregation: a client speaks once, a committee opens the sum of the keys.

A vector of any length is encrypted under one short ring-LWE key, which is shared among a committee; the sum of the
ciphertexts opens under the sum of the keys. Sources: ACORN (eprint 2022/1461) for the key-homomorphic masks, OPA (arXiv
2410.22303) for the shares of a key to a committee.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from protocols.errors import UsageError
from protocols.identity import Identity, Role, Roster
from protocols.oneshot.agreement import (
    CommitteeParameters,
    committee_threshold,
    pinned_committee,
    validate_agreement,
)
from protocols.oneshot.client import OneShotClient
from protocols.oneshot.committee import OneShotMember
from protocols.oneshot.messages import PROTOCOL, SUITE
from protocols.oneshot.sealing import CommitteeIdentity, CommitteeKey
from protocols.oneshot.server import PHASES, Contribution
from protocols.server import ServerShell
from protocols.session import DEFAULT_CHUNK_LENGTH, ClientPolicy, SessionParameters, default_collusion_bound
from protocols.shape import Entropy, OnceStore, Spool
from protocols.signed import MemorySpool

__all__ = [
    "PROTOCOL",
    "CommitteeIdentity",
    "CommitteeKey",
    "CommitteeParameters",
    "OneShotClient",
    "OneShotMember",
    "parameters",
    "party",
    "restore_party",
    "restore_server",
    "server",
]


def parameters(  # noqa: PLR0913  a session's parameters, all but two by keyword
    roster: Roster,
    cohort: Iterable[str],
    *,
    nonce: bytes,
    run_id: str,
    round_number: int,
    attempt: int = 0,
    modulus_bits: int,
    vector_length: int,
    context_hash: bytes,
    encoding: bytes = b"",
    value_bound: int = 0,
    threshold: int | None = None,
    collusion_bound: int | None = None,
    minimum_contributors: int | None = None,
    packed: int = 1,
    lattice: int = 1,
    chunk_length: int = DEFAULT_CHUNK_LENGTH,
) -> SessionParameters:
    """Parameters of a session whose committee is all members of the roster with a sealing key.

    :param nonce: 32 random bytes of the server's.
    :param value_bound: largest absolute value of an entry read as a signed number; 0 for encodings that may wrap.
    :param threshold: t of the committee; by default the smallest with 2 t >= m + c + 2 l - 1.
    :param collusion_bound: c, clients and members in league with the server; by default a third of the cohort.
    :param minimum_contributors: by default c + 2.
    :param packed: l, secrets to a polynomial; more make shares shorter and thresholds higher.
    :raises UsageError: values that no session may have.
    """
    clients = tuple(sorted(cohort))
    committee = tuple(member.id for member in pinned_committee(roster))
    collusion = default_collusion_bound(len(clients)) if collusion_bound is None else collusion_bound
    chosen = SessionParameters(
        protocol=PROTOCOL,
        suite=SUITE,
        nonce=nonce,
        run_id=run_id,
        round_number=round_number,
        attempt=attempt,
        roster_hash=roster.digest(),
        cohort=clients,
        threshold=committee_threshold(len(committee), collusion, packed) if threshold is None else threshold,
        collusion_bound=collusion,
        minimum_contributors=collusion + 2 if minimum_contributors is None else minimum_contributors,
        modulus_bits=modulus_bits,
        vector_length=vector_length,
        chunk_length=chunk_length,
        encoding=encoding,
        context_hash=context_hash,
        extension=CommitteeParameters(committee, packed, lattice, value_bound).to_bytes(),
    )
    chosen.validate()
    validate_agreement(chosen, roster)
    return chosen


def server(chosen: SessionParameters, roster: Roster, *, spool: Callable[[], Spool] = MemorySpool) -> ServerShell:
    """The server's side of a session.

    :raises UsageError: parameters that no session may have, or another roster's.
    """
    chosen.validate()
    accumulator = bytearray(8 * validate_agreement(chosen, roster).coefficients)
    return ServerShell(chosen, roster, Contribution(expected=chosen.clients(), accumulator=accumulator), spool=spool)


def restore_server(blob: bytes, roster: Roster, *, spool: Callable[[], Spool] = MemorySpool) -> ServerShell:
    """A saved server session."""
    return ServerShell.restore(blob, roster, PHASES, spool=spool)


def _party_class(role: Role) -> type[OneShotClient | OneShotMember]:
    if role is Role.CLIENT:
        return OneShotClient
    if role is Role.COMMITTEE:
        return OneShotMember
    raise UsageError(f"{PROTOCOL} has no role {role.value!r}")


def party(
    role: Role,
    identity: Identity,
    roster: Roster,
    policy: ClientPolicy,
    *,
    entropy: Entropy,
    store: OnceStore,
    spool: Callable[[], Spool] = MemorySpool,
) -> OneShotClient | OneShotMember:
    """A party's side of a session, in one of its roles; an organisation may hold both, with one store.

    :raises UsageError: another role, or a member without its committee key.
    """
    return _party_class(role)(identity, roster, policy, entropy=entropy, store=store, spool=spool)


def restore_party(  # noqa: PLR0913  all but four by keyword
    role: Role,
    blob: bytes,
    key: bytes,
    identity: Identity,
    roster: Roster,
    policy: ClientPolicy,
    *,
    entropy: Entropy,
    store: OnceStore,
    spool: Callable[[], Spool] = MemorySpool,
) -> OneShotClient | OneShotMember:
    """A party's saved session; see `protocols.party.PartyShell.restore`."""
    kind = _party_class(role)
    return kind.restore(blob, key, identity, roster, policy, entropy=entropy, store=store, spool=spool)
