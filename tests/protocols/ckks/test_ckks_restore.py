"""Sessions saved, restored and rolled back: a contribution and a decryption happen once."""

from __future__ import annotations

import numpy as np
import pytest
from ckks_cohort import HOLDER, STORAGE_KEY, CkksCohort, decryption, ends_well, payloads

from protocols import ckks
from protocols.ckks import messages as m
from protocols.ckks.blocks import to_block
from protocols.errors import FaultReason, PeerFault, PolicyRefused, UsageError
from protocols.identity import Role, Roster
from protocols.shape import Reply, Request
from protocols.testing.malformed import decoded
from protocols.testing.network import deliver

ME = "c02"


def one_clients_ciphertext(cohort: CkksCohort) -> Request:
    """Another aggregate, for which there are valid signatures: what a server would ask about next."""
    scheme = cohort.key.scheme
    zeros = to_block(scheme.encrypt(np.zeros(2048, np.int64)), scheme.record)
    return decryption(cohort, [zeros, zeros])


@pytest.mark.parametrize("again", ["same process", "restored", "rolled back", "forgotten"])
def test_ks_14_key_holder_asked_for_a_second_aggregate_refuses(again: str) -> None:
    cohort = CkksCohort()
    cohort.advance("Decryption")
    second = one_clients_ciphertext(cohort)
    before = cohort.parties[HOLDER].save(STORAGE_KEY)
    cohort.answer_request(cohort.request(HOLDER))
    if again == "restored":
        cohort.restore_party(HOLDER, cohort.parties[HOLDER].save(STORAGE_KEY))
    elif again == "rolled back":
        cohort.restore_party(HOLDER, before)
    elif again == "forgotten":
        cohort.parties[HOLDER] = cohort.fresh_party(HOLDER)
    records = dict(cohort.stores[HOLDER]._records)
    with pytest.raises(PeerFault) as caught:
        cohort.parties[HOLDER].handle(second.header, second.chunks)
    in_memory = again in ("same process", "restored")
    assert caught.value.rule == ("PT-8" if in_memory else "KS-14")
    assert caught.value.reason is (FaultReason.WRONG_PHASE if in_memory else FaultReason.ALREADY_ANSWERED)
    assert cohort.stores[HOLDER]._records == records


def test_ks_14_smaller_set_after_a_rollback_is_refused() -> None:
    """Two sums that differ by one client would give that client away."""
    cohort = CkksCohort()
    cohort.advance("Decryption")
    before = cohort.parties[HOLDER].save(STORAGE_KEY)
    items = decoded(cohort.request(HOLDER).header, m.DecryptionRequest).contributions
    smaller = decryption(cohort, contributions=items[:3])
    cohort.answer_request(cohort.request(HOLDER))
    cohort.restore_party(HOLDER, before)
    with pytest.raises(PeerFault) as caught:
        cohort.parties[HOLDER].handle(smaller.header, smaller.chunks)
    assert caught.value.rule == "KS-14"


def test_same_request_gets_the_same_bytes_in_one_process() -> None:
    cohort = CkksCohort()
    cohort.advance("Decryption")
    request = cohort.request(HOLDER)
    first, again = cohort.answer_request(request), cohort.answer_request(request)
    assert (first.header, first.chunks, first.trailer) == (again.header, again.chunks, again.trailer)
    deliver(cohort.server, again)
    ends_well(cohort)


@pytest.mark.parametrize("again", ["restored", "rolled back"])
def test_same_request_after_a_restart_gets_the_same_sum_or_a_refusal(again: str) -> None:
    cohort = CkksCohort()
    cohort.advance("Decryption")
    request = cohort.request(HOLDER)
    before = cohort.parties[HOLDER].save(STORAGE_KEY)
    first = cohort.answer_request(request)
    if again == "restored":
        cohort.restore_party(HOLDER, cohort.parties[HOLDER].save(STORAGE_KEY))
        with pytest.raises(UsageError, match="answered already before a restart"):
            cohort.parties[HOLDER].handle(request.header, request.chunks)
        return
    cohort.restore_party(HOLDER, before)
    second = cohort.answer_request(request)
    assert (first.header, first.chunks, first.trailer) == (second.header, second.chunks, second.trailer)


def test_noise_is_not_drawn_twice_for_one_sum() -> None:
    """The same request after a rollback: a sum with other noise would average the noise away."""
    generator = np.random.default_rng(5)
    cohort = CkksCohort(noise=lambda count: generator.integers(-9, 10, count))
    cohort.advance("Decryption")
    request = cohort.request(HOLDER)
    before = cohort.parties[HOLDER].save(STORAGE_KEY)
    cohort.answer_request(request)
    cohort.restore_party(HOLDER, before)
    with pytest.raises(PeerFault) as caught:
        cohort.parties[HOLDER].handle(request.header, request.chunks)
    assert (caught.value.rule, caught.value.reason) == ("PT-11", FaultReason.ALREADY_ANSWERED)


def test_second_contribution_is_refused_although_the_process_forgot_the_first() -> None:
    cohort = CkksCohort()
    header = cohort.request(ME).header
    cohort.answer(ME)
    cohort.parties[ME] = cohort.fresh_party(ME)
    with pytest.raises(PeerFault) as caught:
        cohort.parties[ME].handle(header, vector=cohort.sources()[ME])
    assert (caught.value.rule, caught.value.reason) == ("PT-11", FaultReason.ALREADY_ANSWERED)


def test_one_attempt_at_a_round_gives_its_vector_to_one_session_only() -> None:
    cohort, other = CkksCohort(), CkksCohort(nonce=b"\x07" * 32)
    cohort.answer(ME)
    other.stores = cohort.stores
    session = other.fresh_party(ME)
    with pytest.raises(PeerFault) as caught:
        session.handle(other.request(ME).header, vector=other.sources()[ME])
    assert caught.value.rule == "PT-10"


def test_contribution_in_one_process_is_repeated_byte_for_byte() -> None:
    cohort = CkksCohort()
    first, again = cohort.answer(ME), cohort.answer(ME)
    assert (first.header, first.chunks, first.trailer) == (again.header, again.chunks, again.trailer)


def test_server_saved_twice_without_a_word_in_between_is_saved_alike() -> None:
    cohort = CkksCohort()
    deliver(cohort.server, cohort.answer("c00"))
    blob = cohort.server.save()
    cohort.restore_server()
    assert cohort.server.aggregate is None  # parsed when it is needed
    assert cohort.server.save() == blob
    deliver(cohort.server, cohort.answer("c01"))
    assert len(cohort.server.aggregate) == 2
    cohort.restore_server()
    ends_well(cohort)


def test_restored_key_holder_with_another_roster_is_refused() -> None:
    cohort = CkksCohort()
    cohort.advance("Decryption")
    cohort.answer_request(cohort.request(HOLDER))
    blob = cohort.parties[HOLDER].save(STORAGE_KEY)
    cohort.roster = Roster([cohort.identities[party].member() for party in ("c00", "c01", "c02", HOLDER)])
    with pytest.raises(PolicyRefused) as caught:
        cohort.restore_party(HOLDER, blob)
    assert caught.value.rule == "SP-3"


def test_saved_session_of_one_role_is_not_that_of_the_other() -> None:
    cohort = CkksCohort()
    both = cohort.identities[HOLDER]
    options = {"entropy": cohort.entropies[HOLDER], "store": cohort.stores[HOLDER]}
    client = ckks.party(Role.CLIENT, both, cohort.roster, cohort.policy, **options)
    with pytest.raises(PeerFault) as caught:
        cohort.restore_party(HOLDER, client.save(STORAGE_KEY))
    assert caught.value.reason is FaultReason.BAD_CIPHERTEXT


def test_interrupted_aggregate_may_be_sent_again() -> None:
    cohort = CkksCohort()
    cohort.advance("Decryption")
    request = cohort.request(HOLDER)
    chunks = [bytes(chunk) for chunk in request.chunks]
    with pytest.raises(PeerFault) as caught:
        cohort.parties[HOLDER].handle(request.header, chunks[:1])
    assert caught.value.rule == "PT-12"
    assert len(payloads(chunks)) == 2
    reply: Reply = cohort.answer_request(request)
    deliver(cohort.server, reply)
    ends_well(cohort)
