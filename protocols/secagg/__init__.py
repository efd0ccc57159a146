"""SecAgg on the complete graph, active-server suite (Bonawitz et al. 2017, eprint 2017/281)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from protocols.errors import UsageError
from protocols.identity import Identity, Role, Roster
from protocols.secagg.client import SecAggClient
from protocols.secagg.graph import GraphParameters, validate_complete_graph
from protocols.secagg.messages import PROTOCOL, SUITE
from protocols.secagg.server import PHASES, AdvertiseKeys
from protocols.server import ServerShell
from protocols.session import (
    DEFAULT_CHUNK_LENGTH,
    ClientPolicy,
    SessionParameters,
    default_collusion_bound,
    majority_threshold,
)
from protocols.shape import Entropy, OnceStore, Spool
from protocols.signed import MemorySpool

__all__ = ["PROTOCOL", "SecAggClient", "parameters", "party", "restore_party", "restore_server", "server"]


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
    threshold: int | None = None,
    collusion_bound: int | None = None,
    minimum_contributors: int | None = None,
    chunk_length: int = DEFAULT_CHUNK_LENGTH,
) -> SessionParameters:
    """Parameters of a session on the complete graph, with the design's defaults for what is not given.

    :param nonce: 32 random bytes of the server's.
    :param threshold: t; by default the smallest with 2 t > n + c.
    :param collusion_bound: c; by default a third of the cohort, rounded down.
    :param minimum_contributors: by default c + 2.
    :raises UsageError: values that no session may have.
    """
    clients = tuple(sorted(cohort))
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
        threshold=majority_threshold(len(clients), collusion) if threshold is None else threshold,
        collusion_bound=collusion,
        minimum_contributors=collusion + 2 if minimum_contributors is None else minimum_contributors,
        modulus_bits=modulus_bits,
        vector_length=vector_length,
        chunk_length=chunk_length,
        encoding=encoding,
        context_hash=context_hash,
        extension=GraphParameters("complete", len(clients) - 1).to_bytes(),
    )
    _validate(chosen)
    return chosen


def _validate(chosen: SessionParameters) -> None:
    chosen.validate()
    validate_complete_graph(chosen)


def server(chosen: SessionParameters, roster: Roster, *, spool: Callable[[], Spool] = MemorySpool) -> ServerShell:
    """The server's side of a session.

    :raises UsageError: parameters that no session may have, or another roster's.
    """
    _validate(chosen)
    return ServerShell(chosen, roster, AdvertiseKeys(expected=chosen.clients()), spool=spool)


def restore_server(blob: bytes, roster: Roster, *, spool: Callable[[], Spool] = MemorySpool) -> ServerShell:
    """A saved server session."""
    return ServerShell.restore(blob, roster, PHASES, spool=spool)


def party(
    role: Role,
    identity: Identity,
    roster: Roster,
    policy: ClientPolicy,
    *,
    entropy: Entropy,
    store: OnceStore,
    spool: Callable[[], Spool] = MemorySpool,
) -> SecAggClient:
    """A party's side of a session; clients are the only role.

    :raises UsageError: another role.
    """
    if role is not Role.CLIENT:
        raise UsageError(f"secagg has no role {role.value!r}")
    return SecAggClient(identity, roster, policy, entropy=entropy, store=store, spool=spool)


restore_party = SecAggClient.restore
