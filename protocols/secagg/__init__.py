"""SecAgg against an active server (Bonawitz et al. 2017, eprint 2017/281), and on sparse graphs (Bell et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from protocols.errors import UsageError
from protocols.identity import Identity, Role, Roster
from protocols.secagg.agreement import GraphChoice, validate_graph
from protocols.secagg.client import SecAggClient
from protocols.secagg.degrees import find_fully_active_graph_parameters, find_graph_parameters
from protocols.secagg.graph import HararyClaim
from protocols.secagg.messages import PROTOCOL, SUITE
from protocols.secagg.server import PHASES, AdvertiseKeys
from protocols.server import ServerShell
from protocols.session import DEFAULT_CHUNK_LENGTH, ClientPolicy, SessionParameters
from protocols.shape import Entropy, OnceStore, Spool
from protocols.signed import MemorySpool
from protocols.workers import SERIAL, Workers

__all__ = [
    "PHASE_ROLES",
    "PROTOCOL",
    "REQUEST_ROLES",
    "SecAggClient",
    "find_fully_active_graph_parameters",
    "find_graph_parameters",
    "parameters",
    "party",
    "restore_party",
    "restore_server",
    "server",
]

PHASE_ROLES: Mapping[str, Role] = {step.phase: Role.CLIENT for step in SecAggClient.TRANSITIONS}
"""Phases in order, each with the role that is asked in it."""
REQUEST_ROLES: Mapping[str, Role] = {step.request.KIND: Role.CLIENT for step in SecAggClient.TRANSITIONS}
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
    encoding: bytes = b"",
    threshold: int | None = None,
    collusion_bound: int | None = None,
    minimum_contributors: int | None = None,
    graph: str | None = None,
    adversary_rate: float | None = None,
    dropout_rate: float | None = None,
    claim: HararyClaim | None = None,
    chunk_length: int = DEFAULT_CHUNK_LENGTH,
) -> SessionParameters:
    """Parameters of a session, with the design's defaults for what is not given.

    :param nonce: 32 random bytes of the server's.
    :param threshold: t, shares that rebuild a client's secrets; by default the smallest that the graph allows: with
        2 t > n + c on the complete graph, of a client's k neighbours on the Harary graph.
    :param collusion_bound: c; by default what `adversary_rate` stands for.
    :param minimum_contributors: by default c + 2 (complete graph), all but the dropout rate (Harary graph).
    :param graph: ``"complete"`` (by default up to 200 clients, and always below 100) or ``"harary"``.
    :param adversary_rate: fraction of the cohort that colludes; by default a third.
    :param dropout_rate: fraction of the cohort that may be missing in the sum (Harary graph); by default .05.
    :param claim: server that the Harary graph withstands, ``"semi-malicious"`` (default) or ``"fully active"``.
    :raises UsageError: values that no session may have.
    """
    clients = tuple(sorted(cohort))
    choice = GraphChoice(graph, collusion_bound, adversary_rate, dropout_rate, claim)
    agreed = choice.resolve(len(clients), threshold, minimum_contributors)
    chosen = SessionParameters(
        protocol=PROTOCOL,
        suite=SUITE,
        nonce=nonce,
        run_id=run_id,
        round_number=round_number,
        attempt=attempt,
        roster_hash=roster.digest(),
        cohort=clients,
        modulus_bits=modulus_bits,
        vector_length=vector_length,
        chunk_length=chunk_length,
        encoding=encoding,
        context_hash=context_hash,
        **agreed.fields(),
    )
    return _validated(chosen)


def _validated(chosen: SessionParameters) -> SessionParameters:
    chosen.validate()
    validate_graph(chosen)
    return chosen


def server(
    chosen: SessionParameters,
    roster: Roster,
    *,
    spool: Callable[[], Spool] = MemorySpool,
    workers: Workers = SERIAL,
) -> ServerShell:
    """The server's side of a session.

    :raises UsageError: parameters that no session may have, or another roster's.
    """
    return ServerShell(
        _validated(chosen), roster, AdvertiseKeys(expected=chosen.clients()), spool=spool, workers=workers
    )


def restore_server(
    blob: bytes, roster: Roster, *, spool: Callable[[], Spool] = MemorySpool, workers: Workers = SERIAL
) -> ServerShell:
    """A saved server session."""
    return ServerShell.restore(blob, roster, PHASES, spool=spool, workers=workers)


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
) -> SecAggClient:
    """A party's side of a session; clients are the only role.

    :raises UsageError: another role.
    """
    if role is not Role.CLIENT:
        raise UsageError(f"secagg has no role {role.value!r}")
    return SecAggClient(identity, roster, policy, entropy=entropy, store=store, spool=spool, workers=workers)


restore_party = SecAggClient.restore
