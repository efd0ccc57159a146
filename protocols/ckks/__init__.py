"""CKKS with a key holder: clients encrypt to it, the server adds, the key holder decrypts the sum and nothing else.

Homomorphic encryption by TenSEAL (Microsoft SEAL), the extra ``he``. Server and key holder must be two parties that do
not work together: together they see every vector, and a server that does what it likes can have one client's ciphertext
decrypted as if it were the sum; see docs/explanation/ckks.md. `protocols.oneshot` needs no such trust.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from protocols.ckks.agreement import CkksParameters, validate_agreement
from protocols.ckks.client import CkksClient
from protocols.ckks.keyholder import CkksKeyHolder
from protocols.ckks.keys import CkksKey, KeyHolderIdentity
from protocols.ckks.messages import PROTOCOL
from protocols.ckks.records import DEFAULT_RECORD
from protocols.ckks.server import PHASES, CkksServer, Contribution
from protocols.errors import UsageError
from protocols.identity import Identity, Role, Roster
from protocols.session import DEFAULT_CHUNK_LENGTH, ClientPolicy, SessionParameters, default_collusion_bound
from protocols.shape import Entropy, OnceStore, Spool
from protocols.signed import MemorySpool
from protocols.workers import SERIAL, Workers

__all__ = [
    "PHASE_ROLES",
    "PROTOCOL",
    "REQUEST_ROLES",
    "CkksClient",
    "CkksKey",
    "CkksKeyHolder",
    "CkksParameters",
    "CkksServer",
    "KeyHolderIdentity",
    "parameters",
    "party",
    "restore_party",
    "restore_server",
    "server",
]

_PARTIES: Mapping[Role, type[CkksClient | CkksKeyHolder]] = {
    Role.CLIENT: CkksClient,
    Role.KEY_HOLDER: CkksKeyHolder,
}
_STEPS = [(role, step) for role, kind in _PARTIES.items() for step in kind.TRANSITIONS]
PHASE_ROLES: Mapping[str, Role] = {step.phase: role for role, step in _STEPS}
"""Phases in order, each with the role that is asked in it."""
REQUEST_ROLES: Mapping[str, Role] = {step.request.KIND: role for role, step in _STEPS}
"""Kinds of requests, each with the role that answers it."""


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
    public_context: bytes,
    value_bound: int,
    encoding: bytes = b"",
    threshold: int | None = None,
    collusion_bound: int | None = None,
    minimum_contributors: int | None = None,
    chunk_length: int = DEFAULT_CHUNK_LENGTH,
    record: int = DEFAULT_RECORD,
    suite: int = 1,
) -> SessionParameters:
    """Parameters of a session whose key holder is the member of the roster that pins the public context.

    :param public_context: `CkksKey.public_context`.
    :param value_bound: largest absolute value of a signed entry, at least 1.
    :param threshold: 1, if given: the key holder decrypts alone.
    :param collusion_bound: c, clients in league with the server; by default a third of the cohort.
    :param minimum_contributors: by default c + 2.
    :param record: of CKKS parameters; a chunk is one ciphertext of it, whatever the `chunk_length`.
    :raises UsageError: values that no session may have; sums that would not be exact.
    :raises MissingExtra: TenSEAL is not installed.
    """
    clients = tuple(sorted(cohort))
    collusion = default_collusion_bound(len(clients)) if collusion_bound is None else collusion_bound
    chosen = SessionParameters(
        protocol=PROTOCOL,
        suite=suite,
        nonce=nonce,
        run_id=run_id,
        round_number=round_number,
        attempt=attempt,
        roster_hash=roster.digest(),
        cohort=clients,
        threshold=1 if threshold is None else threshold,
        collusion_bound=collusion,
        minimum_contributors=collusion + 2 if minimum_contributors is None else minimum_contributors,
        modulus_bits=modulus_bits,
        vector_length=vector_length,
        chunk_length=chunk_length,
        encoding=encoding,
        context_hash=context_hash,
        extension=CkksParameters.proposed(roster, public_context, record, value_bound).to_bytes(),
    )
    _validate(chosen, roster)
    return chosen


def _validate(chosen: SessionParameters, roster: Roster) -> None:
    chosen.validate()
    validate_agreement(chosen, roster)


def server(
    chosen: SessionParameters,
    roster: Roster,
    *,
    spool: Callable[[], Spool] = MemorySpool,
    workers: Workers = SERIAL,
) -> CkksServer:
    """The server's side of a session.

    :param workers: not used: TenSEAL keeps the interpreter lock.
    :raises UsageError: parameters that no session may have, or another roster's.
    """
    _validate(chosen, roster)
    return CkksServer(chosen, roster, Contribution(expected=chosen.clients()), spool=spool, workers=workers)


def restore_server(
    blob: bytes, roster: Roster, *, spool: Callable[[], Spool] = MemorySpool, workers: Workers = SERIAL
) -> CkksServer:
    """A saved server session."""
    return CkksServer.restore(blob, roster, PHASES, spool=spool, workers=workers)


def _party_class(role: Role) -> type[CkksClient | CkksKeyHolder]:
    if role not in _PARTIES:
        raise UsageError(f"{PROTOCOL} has no role {role.value!r}")
    return _PARTIES[role]


def party(
    role: Role,
    identity: Identity,
    roster: Roster,
    policy: ClientPolicy,
    *,
    entropy: Entropy,
    store: OnceStore,
    spool: Callable[[], Spool] = MemorySpool,
    workers: Workers = SERIAL,
) -> CkksClient | CkksKeyHolder:
    """A party's side of a session, in one of its roles; an organisation may hold both, with one store.

    :param identity: for the key holder a `KeyHolderIdentity`.
    :param workers: not used: TenSEAL keeps the interpreter lock.
    :raises UsageError: another role, or a key holder without its key.
    """
    return _party_class(role)(identity, roster, policy, entropy=entropy, store=store, spool=spool, workers=workers)


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
    workers: Workers = SERIAL,
) -> CkksClient | CkksKeyHolder:
    """A party's saved session; see `protocols.party.PartyShell.restore`."""
    kind = _party_class(role)
    return kind.restore(blob, key, identity, roster, policy, entropy=entropy, store=store, spool=spool, workers=workers)
