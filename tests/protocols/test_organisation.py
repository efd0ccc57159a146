"""One organisation in all of its roles: which session answers, which rules refuse, what is saved."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocols import oneshot, secagg
from protocols.errors import FaultReason, PeerFault, ServerFault, UsageError
from protocols.identity import Role
from protocols.organisation import Organisation
from protocols.testing.cohort import Cohort

sys.path.insert(0, str(Path(__file__).parent / "oneshot"))
from oneshot_cohort import STORAGE_KEY, OneShotCohort, ends_well

ME = "c01"


def organisation(cohort: OneShotCohort, party: str = ME, roles: Any = None) -> Organisation:
    return Organisation(
        oneshot,
        cohort.identities[party],
        cohort.roster,
        cohort.policy,
        entropy=cohort.entropies[party],
        store=cohort.stores[party],
        roles=roles,
    )


def test_sessions_are_made_when_their_role_is_first_asked() -> None:
    cohort = OneShotCohort()
    mine = cohort.parties[ME] = organisation(cohort)
    assert mine.sessions == {}
    cohort.network.run_phase()
    assert set(mine.sessions) == {Role.CLIENT}
    cohort.network.run_phase()
    assert set(mine.sessions) == {Role.CLIENT, Role.COMMITTEE}
    client, member = mine.session(Role.CLIENT), mine.session(Role.COMMITTEE)
    cohort.network.run_phase()
    assert (mine.session(Role.CLIENT), mine.session(Role.COMMITTEE)) == (client, member)
    np.testing.assert_array_equal(cohort.server.result().sum, cohort.total(cohort.parameters.clients()))


def test_a_protocol_with_one_role_needs_nothing_more() -> None:
    cohort = Cohort(4)
    parties: dict[str, Any] = {
        party: Organisation(
            secagg,
            cohort.identities[party],
            cohort.roster,
            cohort.policy,
            entropy=cohort.entropies[party],
            store=cohort.stores[party],
        )
        for party in cohort.identities
    }
    cohort.parties = parties
    cohort.network.parties = parties
    aggregate = cohort.network.run()
    np.testing.assert_array_equal(aggregate.sum, cohort.total(aggregate.contributors))
    assert all(party.roles == {Role.CLIENT} for party in parties.values())
    assert repr(parties["c00"]) == "Organisation('c00', client)"


def refused(mine: Organisation, header: bytes, rule: str, reason: FaultReason) -> None:
    for ask in (mine.inspect, mine.handle):
        with pytest.raises(ServerFault) as caught:
            ask(header)
        assert (caught.value.rule, caught.value.reason) == (rule, reason)
    assert mine.sessions == {}


@pytest.mark.parametrize("header", [b"", b"\xff", b"\x95\x01\xa7oneshot\x01"])
def test_og_1_bytes_that_are_no_message(header: bytes) -> None:
    refused(organisation(OneShotCohort()), header, "OG-1", FaultReason.MALFORMED)


def test_og_1_request_of_another_protocol_or_of_no_known_kind() -> None:
    cohort = OneShotCohort()
    refused(organisation(cohort), Cohort(4).request("c00").header, "OG-1", FaultReason.MALFORMED)
    reply = cohort.answer("c02").header
    refused(organisation(cohort), reply, "OG-1", FaultReason.MALFORMED)
    ends_well(cohort)


@pytest.mark.parametrize(
    ("phase", "roles"), [("Contribution", [Role.COMMITTEE]), ("Check", [Role.CLIENT]), ("Check", [])]
)
def test_og_2_request_to_a_role_that_the_organisation_does_not_have(phase: str, roles: list[Role]) -> None:
    cohort = OneShotCohort()
    cohort.advance(phase)
    refused(organisation(cohort, roles=roles), cohort.request(ME).header, "OG-2", FaultReason.UNKNOWN_PARTY)
    ends_well(cohort)


def test_a_role_without_its_key_is_the_callers_mistake() -> None:
    cohort = OneShotCohort(5, members=4)
    with pytest.raises(UsageError, match="'c04' has no committee key"):
        organisation(cohort, "c04").session(Role.COMMITTEE)
    with pytest.raises(UsageError, match="no role 'key_holder'"):
        organisation(cohort).session(Role.KEY_HOLDER)


def test_all_sessions_are_saved_sealed_and_go_on_after_a_restore() -> None:
    cohort = OneShotCohort()
    cohort.advance("Opening")
    mine = cohort.parties[ME]
    blob = mine.save(STORAGE_KEY)
    options = {"entropy": cohort.entropies[ME], "store": cohort.stores[ME]}
    common = (oneshot, cohort.identities[ME], cohort.roster, cohort.policy)
    restored = Organisation.restore(blob, STORAGE_KEY, *common, **options)
    assert set(restored.sessions) == {Role.CLIENT, Role.COMMITTEE}
    cohort.parties[ME] = restored
    aggregate = cohort.network.run()
    assert "4 of 4 committee members" in aggregate.checks[0]
    np.testing.assert_array_equal(aggregate.sum, cohort.total(aggregate.contributors))
    for wrong, reason in ((blob[:-1] + b"\0", FaultReason.BAD_CIPHERTEXT), (blob[:-1], FaultReason.MALFORMED)):
        with pytest.raises(PeerFault) as caught:
            Organisation.restore(wrong, STORAGE_KEY, *common, **options)
        assert caught.value.reason is reason
    with pytest.raises(PeerFault):
        Organisation.restore(blob, bytes(32), *common, **options)


def test_reply_limits_are_those_of_the_open_phase() -> None:
    cohort = OneShotCohort()
    while cohort.server.phase is not None:
        limits = cohort.server.reply_limits()
        assert limits.trailer == 64
        assert (limits.chunks > 0) is (cohort.server.phase == "Contribution")
        assert (limits.chunk > 0) is (limits.chunks > 0)
        cohort.network.run_phase()
    with pytest.raises(UsageError, match="the session is over"):
        cohort.server.reply_limits()
