"""Asynchronous rounds: parties of different speed, a window of models, a quota, sessions that overlap."""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np
import pytest
from oneshot_cohort import (
    OneShotCohort,
    announcement,
    ends_well,
    policy_refused,
    refused_by_server,
    relayed,
    relaying,
)

from protocols.errors import FaultReason, PeerFault, ServerFault, ThresholdNotMet, UsageError
from protocols.identity import Role
from protocols.oneshot import messages as m
from protocols.primitives.merkle import MerkleTree
from protocols.session import ClientPolicy
from protocols.shape import Aggregate, ArraySource, BasedVector, Reply
from protocols.signed import ContentDigest
from protocols.testing.cohort import Cohort
from protocols.testing.malformed import changed, signed_reply
from protocols.testing.network import deliver

ME = "c02"
POLICY = ClientPolicy(protocols=frozenset({"oneshot"}), collusion_bound=1)


def model(version: int) -> bytes:
    """Hash of the global model's version."""
    return hashlib.sha256(f"model {version}".encode()).digest()


def session(number: int, newest: int = 0, size: int = 7, **options) -> OneShotCohort:
    """From model `newest` or the two before it, ready at three contributions; all silos are on the committee."""
    older = tuple(model(version) for version in range(max(0, newest - 2), newest))[::-1]
    fields = {"nonce": bytes([number]) * 32, "round_number": number, "context_hash": model(newest)}
    fields |= {"bases": older, "quota": 3, "collusion_bound": 1}
    return OneShotCohort(size, policy=POLICY, name="asynchronous", **(fields | options))


def contribution(cohort: OneShotCohort, party: str, base: bytes | None, fill: int | None = None) -> Reply:
    """What a party answers that trained from this model; None for one that does not say from which."""
    if fill is not None:
        cohort.vectors[party] = np.full_like(cohort.vectors[party], fill)
    header = cohort.request(party).header
    assert cohort.parties[party].inspect(header).vector
    source = ArraySource(cohort.vectors[party])
    reply = cohort.parties[party].handle(header, vector=source if base is None else BasedVector(source, base))
    return Reply(reply.party, reply.header, [bytes(chunk) for chunk in reply.chunks], reply.trailer)


def contribute(cohort: OneShotCohort, party: str, base: int, fill: int | None = None) -> None:
    deliver(cohort.server, contribution(cohort, party, model(base), fill))


def committee_phase(cohort: OneShotCohort, members: tuple[str, ...] | None = None) -> None:
    """Ask some members in the open phase."""
    for request in list(cohort.server.requests()):
        if members is None or request.party in members:
            cohort.network._carry(cohort.server.phase, request)


def finish(cohort: OneShotCohort) -> Aggregate:
    """Close the phase of contributions, if it is open; then the committee's."""
    if cohort.server.phase == m.CONTRIBUTION:
        cohort.server.close_phase()
    aggregate = cohort.network.run()
    assert cohort.network.refusals == []
    np.testing.assert_array_equal(aggregate.sum, cohort.total(aggregate.contributors))
    return aggregate


# -- parties of different speed ----------------------------------------------------------------------------------------


def test_sessions_overlap_and_a_slow_client_gets_in() -> None:
    """c00 and c01 are fast, c02 and c03 take a round longer, c04 takes three; c05 and c06 only sit on the committee."""
    stores = session(1).stores

    def opened(number: int, newest: int) -> OneShotCohort:
        cohort = session(number, newest)
        cohort.stores = stores  # one durable record a party, over all sessions
        cohort.parties.update({party: cohort.organisation(party) for party in cohort.identities})
        return cohort

    first = opened(1, 1)
    for party, base, fill in (("c00", 1, 11), ("c01", 1, 12), (ME, 0, 13)):
        assert not first.server.ready()
        contribute(first, party, base, fill)
    assert first.server.ready()
    first.server.close_phase()

    second = opened(2, 1)  # while the first has its committee phases before it
    contribute(second, "c03", 0, 20)
    committee_phase(first)
    first.server.close_phase()
    contribute(second, "c00", 1, 21)
    committee_phase(first, ("c00", "c01", "c03", "c04", "c05"))
    first.server.close_phase()
    one = first.server.result()
    assert one.contributors == ("c00", "c01", "c02")
    assert one.bases == (model(1), model(1), model(0))
    assert (one.sum == 11 + 12 + 13).all()

    third = opened(3, 2)  # model 2 is the first sum's; the second session is still open for contributions
    contribute(third, "c04", 0, 30)  # trained from model 0 all this time
    contribute(second, ME, 1, 22)
    assert second.server.ready()
    contribute(second, "c01", 1, 23)  # beyond the quota, before the phase is closed
    contribute(third, "c00", 2, 31)
    two = finish(second)
    assert two.contributors == ("c00", "c01", "c02", "c03")
    assert two.bases == (model(1), model(1), model(1), model(0))
    assert (two.sum == 20 + 21 + 22 + 23).all()

    contribute(third, "c01", 2, 32)
    three = finish(third)
    assert three.contributors == ("c00", "c01", "c04")
    assert three.bases == (model(2), model(2), model(0))
    assert (three.sum == 30 + 31 + 32).all()


def test_sessions_with_one_store_do_not_use_up_each_others_answers() -> None:
    cohorts = [session(number) for number in range(1, 5)]
    for cohort in cohorts:
        cohort.stores = cohorts[0].stores
        cohort.parties.update({party: cohort.organisation(party) for party in cohort.identities})
    while any(cohort.server.phase for cohort in cohorts):
        for cohort in reversed(cohorts):  # each is a phase on before the next one's is over
            if cohort.server.phase:
                cohort.network.run_phase()
    for cohort in cohorts:
        assert len(cohort.server.result().contributors) == 7
        np.testing.assert_array_equal(cohort.server.result().sum, cohort.total(cohort.parameters.cohort))


def test_vector_without_base_starts_from_the_context() -> None:
    cohort = session(1, 2)
    for party in ("c00", "c01"):
        deliver(cohort.server, contribution(cohort, party, None))
    contribute(cohort, ME, 2)
    assert finish(cohort).bases == (model(2),) * 3


def test_synchronous_round_reports_no_bases_and_needs_the_context_alone() -> None:
    cohort = session(1, quota=0)
    assert cohort.parties[ME].inspect(cohort.request(ME).header).bases == (model(0),)
    assert ends_well(cohort).bases == ()


def test_need_shows_the_window_newest_first() -> None:
    cohort = session(1, 2)
    need = cohort.parties[ME].inspect(cohort.request(ME).header)
    assert need.bases == (model(2), model(1), model(0))
    assert need.context_hash == model(2)


# -- the quota ---------------------------------------------------------------------------------------------------------


def test_quota_survives_a_restore_of_the_server() -> None:
    cohort = session(1, 1)
    for party in ("c00", "c01", ME):
        assert not cohort.server.ready()
        contribute(cohort, party, 0)
        cohort.restore_server()
    assert cohort.server.ready()
    cohort.server.close_phase()
    cohort.restore_server()
    cohort.network.run_phase()
    cohort.restore_server()
    aggregate = finish(cohort)
    assert aggregate.bases == (model(0),) * 3
    assert len(aggregate.contributors) == 3


def test_phase_may_be_closed_between_minimum_and_quota_and_not_below_the_minimum() -> None:
    cohort = session(1, quota=5)
    for party in ("c00", "c01", ME):
        contribute(cohort, party, 0)
    assert not cohort.server.ready()
    assert len(finish(cohort).contributors) == 3
    cohort = session(1, quota=5)
    for party in ("c00", "c01"):
        contribute(cohort, party, 0)
    with pytest.raises(ThresholdNotMet) as caught:
        cohort.server.close_phase()
    assert (caught.value.required, caught.value.present) == (3, 2)


def test_contribution_after_the_phase_was_closed_is_refused_and_not_in_the_sum() -> None:
    cohort = session(1)
    for party in ("c00", "c01", ME):
        contribute(cohort, party, 0)
    late = contribution(cohort, "c03", model(0))
    cohort.server.close_phase()
    with pytest.raises(PeerFault) as caught:
        deliver(cohort.server, late)
    assert (caught.value.rule, caught.value.reason) == ("SV-1", FaultReason.WRONG_PHASE)
    assert finish(cohort).contributors == ("c00", "c01", "c02")


@pytest.mark.parametrize("quota", [1, 2, 8])
def test_os_19_quota_below_the_minimum_or_above_the_cohort_is_refused(quota: int) -> None:
    cohort = session(1)
    refusal = policy_refused(cohort, Role.CLIENT, ME, announcement(cohort, added={"quota": quota}), "OS-19")
    assert (refusal.what, refusal.proposed, refusal.required) == ("quota", quota, "0, or 3 to 7")
    with pytest.raises(UsageError, match="OS-19"):
        session(1, quota=quota)


def test_os_19_quota_at_the_minimum_and_at_the_cohort_is_taken() -> None:
    cohort = session(1)
    for quota in (0, 3, 7):
        header = announcement(cohort, added={"quota": quota})
        assert cohort.fresh_party(Role.CLIENT, ME).inspect(header).vector


# -- the window --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bases", [(model(1), model(1)), (model(2),), (model(1), model(0), model(2))])
def test_os_18_model_listed_twice_is_refused(bases: tuple[bytes, ...]) -> None:
    cohort = session(1, 2)
    policy_refused(cohort, Role.CLIENT, ME, announcement(cohort, added={"bases": bases}), "OS-18")
    with pytest.raises(UsageError, match="OS-18"):
        session(1, 2, bases=bases)


@pytest.mark.parametrize("bases", [(b"\1" * 31,), (b"",), tuple(bytes([1, n]) + bytes(30) for n in range(256)) * 2])
def test_window_is_bounded(bases: tuple[bytes, ...]) -> None:
    cohort = session(1, 2)
    with pytest.raises(ServerFault) as caught:
        cohort.fresh_party(Role.CLIENT, ME).inspect(announcement(cohort, added={"bases": bases}))
    assert caught.value.reason is FaultReason.MALFORMED


def test_client_refuses_to_contribute_from_a_model_that_is_not_in_the_window() -> None:
    cohort = session(1, 4)
    for base in (model(1), model(5), b""):
        with pytest.raises(UsageError, match="none of this session's"):
            contribution(cohort, ME, base)
        assert cohort.stores[ME]._records == {}
    contribute(cohort, ME, 2)


def test_secagg_client_refuses_a_vector_from_another_model() -> None:
    cohort = Cohort()
    cohort.advance("MaskedInput")
    header = cohort.request(ME).header
    assert cohort.parties[ME].inspect(header).bases == (cohort.parameters.context_hash,)
    source = cohort.sources()[ME]
    with pytest.raises(UsageError, match="none of this session's"):
        cohort.parties[ME].handle(header, vector=BasedVector(source, model(1)))
    cohort.network.vectors = {
        party: BasedVector(vector, cohort.parameters.context_hash) for party, vector in cohort.sources().items()
    }
    aggregate = cohort.network.run()
    np.testing.assert_array_equal(aggregate.sum, cohort.total(aggregate.contributors))
    assert aggregate.bases == ()


def from_model(cohort: OneShotCohort, party: str, base: bytes) -> Reply:
    """A well signed contribution of a client that ignores the window, or changed its mind."""
    genuine = contribution(cohort, party, None)
    header = changed(genuine.header, m.ContributionReply, base=base)
    return signed_reply(cohort.identities[party], cohort.server.session_id, m.CONTRIBUTION, header, genuine.chunks)


def test_ov_10_contribution_from_a_model_outside_of_the_window_is_refused_and_proven() -> None:
    cohort = session(1, 2)
    reply = from_model(cohort, ME, model(7))
    refused_by_server(cohort, reply, "OV-10", FaultReason.CONTEXT_MISMATCH, "client 'c02'")


def test_sv_5_base_is_signed() -> None:
    """On its way another model of the window is put in the place of the client's."""
    cohort = session(1, 2)
    genuine = contribution(cohort, ME, model(0))
    header = changed(genuine.header, m.ContributionReply, base=model(1))
    forged = Reply(genuine.party, header, genuine.chunks, genuine.trailer)
    refused_by_server(cohort, forged, "SV-5", FaultReason.BAD_SIGNATURE, "peer")


def checking(cohort: OneShotCohort) -> list[m.RelayedContribution]:
    """Three contributions, then Check: what this member is shown."""
    for party, base in (("c00", 1), ("c01", 1), (ME, 0)):
        contribute(cohort, party, base)
    cohort.server.close_phase()
    return relayed(cohort, ME)


def checked_by_me(cohort: OneShotCohort, items: list[m.RelayedContribution]) -> ServerFault:
    header, chunks = relaying(cohort.request(ME).header, m.CheckRequest, items)
    with pytest.raises(ServerFault) as caught:
        cohort.parties[ME].handle(header, chunks)
    return caught.value


def test_os_12_server_that_lies_about_a_base_to_the_committee_is_refused() -> None:
    cohort = session(1, 2)
    items = checking(cohort)
    lie = changed(items[2].header, m.ContributionReply, base=model(1))
    fault = checked_by_me(cohort, [*items[:2], msgspec.structs.replace(items[2], header=lie)])
    assert (fault.rule, fault.reason) == ("OS-12", FaultReason.BAD_SIGNATURE)
    assert finish(cohort).bases == (model(1), model(1), model(0))


def test_os_20_contribution_from_a_model_outside_of_the_window_is_refused_by_members() -> None:
    """Client and server are in league: well signed, and relayed."""
    cohort = session(1, 2)
    foreign = from_model(cohort, ME, model(7))
    content = ContentDigest()
    for chunk in foreign.chunks:
        content.update(chunk)
    for party in ("c00", "c01", "c03"):
        contribute(cohort, party, 1)
    cohort.server.close_phase()
    items = relayed(cohort, ME)
    sealed = [bytes(chunk)[8:] for chunk in foreign.chunks[: len(cohort.members)]]
    place = cohort.members.index(ME)
    path = tuple(MerkleTree(sealed).path(place))
    index = cohort.parameters.index(ME)
    forged = m.RelayedContribution(index, foreign.header, content.digest(), foreign.trailer, sealed[place], path)
    fault = checked_by_me(cohort, [*items, forged])
    assert (fault.rule, fault.reason) == ("OS-20", FaultReason.CONTEXT_MISMATCH)
    assert "'c02' from model" in fault.detail
    assert finish(cohort).contributors == ("c00", "c01", "c03")


def test_set_that_members_open_covers_the_bases() -> None:
    """Everything alike but one base: another contribution, so another set."""
    cohort = session(1, 2)
    genuine = contribution(cohort, ME, model(0)).header
    other = changed(genuine, m.ContributionReply, base=model(1))
    session_id = cohort.server.session_id
    sets = {
        m.contributors_hash(session_id, [(2, m.contribution_digest(session_id, header, bytes(32)))])
        for header in (genuine, other)
    }
    assert len(sets) == 2
