"""Any protocol's cohort behind one face: what attacks, and the fuzzer, do to all of them alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from protocols import ClientPolicy
from protocols.session import SessionParameters
from protocols.shape import Reply
from protocols.testing.cohort import STORAGE_KEY, Cohort
from protocols.testing.malformed import changed
from tests.protocols.ckks.ckks_cohort import CkksCohort
from tests.protocols.oneshot.oneshot_cohort import OneShotCohort

SPARSE_POLICY = ClientPolicy(adversary_rate=0.05)


def _sparse(**options: Any) -> Cohort:
    arguments: dict[str, Any] = {"graph": "harary", "adversary_rate": 0.05, "policy": SPARSE_POLICY}
    return Cohort(100, **(arguments | options))


COHORTS: dict[str, Callable[..., Any]] = {
    "secagg": lambda **options: Cohort(5, **options),
    "secagg-sparse": _sparse,
    "oneshot": lambda **options: OneShotCohort(4, **options),
    "ckks": lambda **options: CkksCohort(4, **options),
}
SLOWLY = [
    pytest.param(protocol, marks=[pytest.mark.slow] if protocol == "secagg-sparse" else []) for protocol in COHORTS
]
"""All four for `pytest.mark.parametrize`; the hundred clients on the sparse graph in the slow run."""
PHASES = {
    "secagg": ("AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmask"),
    "secagg-sparse": ("AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmask"),
    "oneshot": ("Contribution", "Check", "Opening"),
    "ckks": ("Contribution", "Decryption"),
}
"""Of a round in which nobody cheats."""
SPARSE_PHASES = ("MaskedInput", "Unmask")
EVERY_PHASE = [
    (protocol, phase)
    for protocol, phases in PHASES.items()
    for phase in phases
    if protocol != "secagg-sparse" or phase in SPARSE_PHASES
]
"""For attacks on one phase after another; of the hundred clients on the sparse graph two phases stand for all."""
VECTOR_PHASE = {
    "secagg": "MaskedInput",
    "secagg-sparse": "MaskedInput",
    "oneshot": "Contribution",
    "ckks": "Contribution",
}


def cohort(protocol: str, **options: Any) -> Adapter:
    """A cohort of this protocol, on a short vector."""
    return Adapter(COHORTS[protocol](**({"length": 70} | options)))


class Adapter:
    """One way to save, restore and ask the parties of any protocol's cohort."""

    def __init__(self, cohort: Any) -> None:
        self._cohort = cohort

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cohort, name)

    def session(self, party: str) -> Any:
        """The party's session that the open phase asks."""
        return self._cohort.session(party) if hasattr(self._cohort, "session") else self._cohort.parties[party]

    def saved(self, party: str) -> Any:
        """Blob of that session; None if it was not asked before."""
        return self.session(party).save(STORAGE_KEY)

    def restored(self, party: str, blob: bytes) -> None:
        """Put a fresh copy of that session in its place."""
        session = self.session(party)
        restored = type(session).restore(
            blob,
            STORAGE_KEY,
            session.identity,
            session.roster,
            session.policy,
            entropy=session.entropy,
            store=session._store,
            spool=session._new_spool,
        )
        self._replace(party, session, restored)

    def _replace(self, party: str, session: Any, restored: Any) -> None:
        held = self._cohort.parties[party]
        if held is session:
            self._cohort.parties[party] = restored
            return
        for role, candidate in held.sessions.items():
            if candidate is session:
                held.sessions[role] = restored

    def answered(self, party: str, header: bytes, chunks: list[bytes]) -> Reply:
        """The genuine reply, chunks as a list."""
        session = self.session(party)
        vector = self.sources()[party] if session.inspect(header).vector else None
        reply = session.handle(header, chunks, vector=vector)
        return Reply(reply.party, reply.header, [bytes(chunk) for chunk in reply.chunks], reply.trailer)

    def restore_from(self, blob: bytes) -> None:
        """The server from a saved session."""
        server = self._cohort.server
        phases = type(server._phase)
        self._cohort.server = type(server).restore(blob, server.roster, phases, spool=server.new_spool)
        self._cohort.network.server = self._cohort.server

    def fresh(self, party: str, policy: ClientPolicy | None = None) -> Any:
        """The party's session as after a restart that lost its state: same identity, store, entropy."""
        old = self.session(party)
        options = {"entropy": old.entropy, "store": old._store, "spool": old._new_spool}
        return type(old)(old.identity, old.roster, policy or old.policy, **options)

    def restart(self, party: str) -> None:
        """Put such a session in the place of the party's."""
        self._replace(party, self.session(party), self.fresh(party))

    def announcement(self, **fields: Any) -> bytes:
        """The first request of a server that changed some parameters."""
        parameters: SessionParameters = msgspec.structs.replace(self.parameters, **fields)
        kind = type(self.session(self.clients[0])).TRANSITIONS[0].request
        return changed(
            self.request(self.clients[0]).header,
            kind,
            parameters=parameters.to_bytes(),
            session_id=parameters.session_id(),
            suite=parameters.suite,
        )

    @property
    def clients(self) -> tuple[str, ...]:
        """Who has a vector."""
        return tuple(map(str, self.parameters.cohort))

    def asked(self) -> str:
        """The first party that the open phase asks."""
        return str(next(iter(self.server.requests())).party)

    def vector_of(self, party: str, header: bytes) -> Any:
        """The party's vector, if the request wants it."""
        return self.sources()[party] if self.session(party).inspect(header).vector else None
