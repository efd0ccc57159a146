"""What the tests of protocols share: refusals that must leave a session as it was."""

from __future__ import annotations

import numpy as np
import pytest

from protocols.errors import FaultReason, PeerFault, ProtocolError, ServerFault
from protocols.shape import Reply
from protocols.testing.cohort import Cohort
from protocols.testing.network import deliver


class Refusals:
    """Asserts on one cohort."""

    def __init__(self, cohort: Cohort) -> None:
        self.cohort = cohort

    def by_party(
        self,
        party: str,
        header: bytes,
        rule: str,
        reason: FaultReason,
        kind: type[PeerFault] = ServerFault,
        chunks: tuple[bytes, ...] = (),
    ) -> PeerFault:
        """The party refuses the request, nothing about it has changed, and the session ends well."""
        session = self.cohort.parties[party]
        before = (session._state, session._answered, session._spool, session._parameters, session._session_id)
        records = dict(session._store._records)
        if self.cohort.server.phase == "MaskedInput" and not chunks:
            with pytest.raises(kind) as looked_at:  # before anybody trains for it
                session.inspect(header)
            assert (looked_at.value.rule, looked_at.value.reason) == (rule, reason)
        with pytest.raises(PeerFault) as caught:
            session.handle(header, chunks, vector=self.vector(party))
        fault = caught.value
        assert type(fault) is kind
        assert (fault.rule, fault.reason) == (rule, reason)
        assert fault.culprit() == ("server" if kind is ServerFault else "peer")
        after = (session._state, session._answered, session._spool, session._parameters, session._session_id)
        assert all(one is other for one, other in zip(before, after, strict=True))
        assert session._store._records == records
        self.ends_well()
        return fault

    def vector(self, party: str):
        wanted = self.cohort.server.phase == "MaskedInput"
        return self.cohort.sources()[party] if wanted else None

    def by_server(
        self,
        reply: Reply,
        rule: str,
        reason: FaultReason,
        culprit: str,
        genuine: Reply | None = None,
    ) -> PeerFault:
        """The server refuses the reply, its phase is as it was, the genuine reply counts and the session ends well."""
        server = self.cohort.server
        before = server.save()
        faults = len(server.faults)
        with pytest.raises(PeerFault) as caught:
            deliver(server, reply)
        fault = caught.value
        assert (fault.rule, fault.reason, fault.culprit()) == (rule, reason, culprit)
        assert len(server.faults) == faults + 1
        recorded = server.faults[-1]
        assert (recorded.reason, recorded.rule, recorded.proven) == (reason, rule, culprit != "peer")
        server._faults.pop()
        assert server.save() == before
        if genuine is not None:
            deliver(server, genuine)
        self.ends_well()
        return fault

    def ends_well(self) -> None:
        """Everybody is asked again and answers; the sum over all is exact."""
        aggregate = self.cohort.network.run()
        assert aggregate.contributors == self.cohort.parameters.clients()
        np.testing.assert_array_equal(aggregate.sum, self.cohort.total(aggregate.contributors))
        assert all(self.harmless(phase, error) for phase, _, error in self.cohort.network.refusals)

    @staticmethod
    def harmless(phase: str, error: ProtocolError) -> bool:
        """A reply that was delivered by hand is there when the network carries it again."""
        return isinstance(error, PeerFault) and error.rule == "SV-4"


@pytest.fixture
def cohort() -> Cohort:
    """Five clients; the threshold is 4."""
    return Cohort()


@pytest.fixture
def refused(cohort: Cohort) -> Refusals:
    """Asserts on `cohort`."""
    return Refusals(cohort)


@pytest.fixture
def refusals_of() -> type[Refusals]:
    """Asserts on a cohort of the test's own."""
    return Refusals
