"""One-shot aggregation: a client speaks once, a committee opens the sum of the keys.

A vector of any length is encrypted under one short ring-LWE key, which is shared among a committee; the sum of the
ciphertexts opens under the sum of the keys. Sources: ACORN (eprint 2022/1461) for the key-homomorphic masks, OPA (arXiv
2410.22303) for the shares of a key to a committee.

An asynchronous round has a window of models and a quota: a vector starts from any of the models and says from which
(`protocols.shape.BasedVector`), the session goes on when the quota is there, and the next one, whose window still holds
a slow client's model, is opened meanwhile. Weights for staleness are the caller's: applied to the update before it is
encoded, so that `value_bound` covers them. Not for noise that the clients of a cohort in step share out among each
other; nothing here knows what noise there is. A window costs something: an active server that shows clients different
models of it learns more from their sum than from one over a single model. An update that was sent to one session goes
to no other, not even if it was refused there: see `protocols.oneshot.server.Contribution`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Unpack

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
from protocols.session import ClientPolicy, CommonParameters, SessionParameters, default_collusion_bound
from protocols.shape import Entropy, OnceStore, Spool
from protocols.signed import MemorySpool
from protocols.workers import SERIAL, Workers

__all__ = [
    "PHASE_ROLES",
    "PROTOCOL",
    "REQUEST_ROLES",
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

_PARTIES: Mapping[Role, type[OneShotClient | OneShotMember]] = {
    Role.CLIENT: OneShotClient,
    Role.COMMITTEE: OneShotMember,
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
    value_bound: int = 0,
    threshold: int | None = None,
    collusion_bound: int | None = None,
    committee_collusion: int | None = None,
    minimum_contributors: int | None = None,
    packed: int = 1,
    lattice: int = 1,
    suite: int = SUITE,
    bases: Iterable[bytes] = (),
    quota: int = 0,
    **common: Unpack[CommonParameters],
) -> SessionParameters:
    """Parameters of a session whose committee is all members of the roster with a sealing key.

    :param value_bound: largest absolute value of an entry read as a signed number; 0 for encodings that may wrap.
    :param threshold: t of the committee; by default the smallest with 2 t >= m + k + 2 l - 1.
    :param collusion_bound: c, clients in league with the server; by default a third of the cohort.
    :param committee_collusion: k, members in league with it; by default c: all of those may sit on the committee. Less
        is for a small committee of a large cohort, and every party's own policy must allow it.
    :param minimum_contributors: by default c + 2.
    :param packed: l, secrets to a polynomial; more make shares shorter and thresholds higher.
    :param suite: see `protocols.suites`.
    :param bases: hashes of older models from which a vector may start, beside the one of `context_hash`.
    :param quota: contributions that are enough to go on, at least `minimum_contributors`; 0 for the whole cohort.
    :raises UsageError: values that no session may have.
    """
    clients = tuple(sorted(cohort))
    committee = tuple(member.id for member in pinned_committee(roster))
    collusion = default_collusion_bound(len(clients)) if collusion_bound is None else collusion_bound
    members = collusion if committee_collusion is None else committee_collusion
    chosen = SessionParameters(
        protocol=PROTOCOL,
        suite=suite,
        roster_hash=roster.digest(),
        cohort=clients,
        threshold=committee_threshold(len(committee), members, packed) if threshold is None else threshold,
        collusion_bound=collusion,
        minimum_contributors=collusion + 2 if minimum_contributors is None else minimum_contributors,
        extension=CommitteeParameters(
            committee, packed, lattice, value_bound, tuple(bases), quota, committee_collusion
        ).to_bytes(),
        **common,
    )
    chosen.validate()
    validate_agreement(chosen, roster)
    return chosen


def server(
    chosen: SessionParameters,
    roster: Roster,
    *,
    spool: Callable[[], Spool] = MemorySpool,
    fold_at_once: bool = False,
    workers: Workers = SERIAL,
) -> ServerShell:
    """The server's side of a session.

    Ciphertexts wait in their spools until the committee has opened its shares of their keys, so that clients who dealt
    badly can be left out: memory for all of them, or a spool on disk.

    :param fold_at_once: add ciphertexts up as they come instead, in memory for one; then no client can be left out,
        and a few that deal badly to enough members end the session.
    :param workers: not used yet.
    :raises UsageError: parameters that no session may have, or another roster's.
    """
    chosen.validate()
    agreement = validate_agreement(chosen, roster)
    accumulator = bytearray(8 * agreement.coefficients if fold_at_once else 0)
    opening = Contribution(expected=chosen.clients(), fold_at_once=fold_at_once, accumulator=accumulator)
    return ServerShell(chosen, roster, opening, spool=spool, workers=workers)


def restore_server(
    blob: bytes, roster: Roster, *, spool: Callable[[], Spool] = MemorySpool, workers: Workers = SERIAL
) -> ServerShell:
    """A saved server session."""
    return ServerShell.restore(blob, roster, PHASES, spool=spool, workers=workers)


def _party_class(role: Role) -> type[OneShotClient | OneShotMember]:
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
) -> OneShotClient | OneShotMember:
    """A party's side of a session, in one of its roles; an organisation may hold both, with one store.

    :raises UsageError: another role, or a member without its committee key.
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
) -> OneShotClient | OneShotMember:
    """A party's saved session; see `protocols.party.PartyShell.restore`."""
    kind = _party_class(role)
    return kind.restore(blob, key, identity, roster, policy, entropy=entropy, store=store, spool=spool, workers=workers)
