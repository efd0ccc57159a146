"""Attacks on the CKKS protocol, and its limits: what an active server gets although every signature is checked."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "protocols" / "ckks"))

from ckks_cohort import HOLDER, STORAGE_KEY, CkksCohort, ckks_key, decryption, payloads
from handmade_ciphertexts import handmade

from protocols.ckks.blocks import from_block, to_block
from protocols.ckks.scheme import Scheme
from protocols.errors import FaultReason, PeerFault
from protocols.primitives.bitpack import unpack

VICTIM = "c01"


def words_of(cohort: CkksCohort, chunks: list[bytes]) -> np.ndarray:
    """The vector in the key holder's answer."""
    bits, length, slots = (
        cohort.parameters.modulus_bits,
        cohort.parameters.vector_length,
        cohort.key.scheme.record.slots,
    )
    parts = [
        unpack(payload, min(slots, length - number * slots), bits) for number, payload in enumerate(payloads(chunks))
    ]
    return np.concatenate(parts)


def with_uploads(cohort: CkksCohort) -> dict[str, list[bytes]]:
    """What the server keeps of each client, if it wants to; then the key holder's phase."""
    uploads = {party: payloads(cohort.answer(party).chunks) for party in cohort.parameters.cohort}
    cohort.advance("Decryption")
    return uploads


# -- the honest limits -------------------------------------------------------------------------------------------------


def test_limit_an_active_server_has_one_clients_ciphertext_decrypted_as_the_aggregate() -> None:
    """Stated in docs/explanation/ckks.md. Signatures say who contributed, not what the aggregate is made of."""
    cohort = CkksCohort()
    upload = with_uploads(cohort)[VICTIM]
    request = decryption(cohort, upload)  # all contributors and their genuine signatures; one client's ciphertexts
    reply = cohort.parties[HOLDER].handle(request.header, request.chunks)
    stolen = words_of(cohort, [bytes(chunk) for chunk in reply.chunks])
    np.testing.assert_array_equal(stolen, cohort.vectors[VICTIM])


def test_limit_server_and_key_holder_together_open_every_contribution() -> None:
    cohort = CkksCohort(length=2048)
    uploads = with_uploads(cohort)
    scheme = cohort.key.scheme
    for party, blocks in uploads.items():
        slots = scheme.decrypt(scheme.parse(from_block(blocks[0], scheme.record)))
        np.testing.assert_array_equal(cohort.words(np.rint(slots)), cohort.vectors[party])


def test_limit_a_key_holder_that_lies_about_the_sum_is_not_noticed() -> None:
    lies = CkksCohort(noise=lambda count: np.full(count, 1000), length=100)
    aggregate = lies.network.run()
    assert (aggregate.sum != lies.total(aggregate.contributors)).all()
    assert lies.network.refusals == []


# -- what stands -------------------------------------------------------------------------------------------------------


def test_no_client_can_open_another_clients_contribution() -> None:
    """The weakness of a secret key that all clients share: here a client has the public context alone."""
    cohort = CkksCohort()
    upload = with_uploads(cohort)[VICTIM]
    for party in cohort.parameters.cohort:
        state = cohort.parties[party].save(STORAGE_KEY)
        assert state
        public = Scheme.load(cohort.key.scheme.record, cohort.key.public_context)
        with pytest.raises(ValueError, match="doesn't hold a secret_key"):
            public.parse(from_block(upload[0], public.record)).decrypt()


def test_ciphertext_made_to_read_the_secret_key_is_refused_and_costs_the_session_its_one_decryption() -> None:
    """(0, a) decrypts to a s: without a look at the result the key would be out after one request."""
    cohort = CkksCohort()
    with_uploads(cohort)
    scheme = cohort.key.scheme
    words = np.zeros(2 * scheme.record.degree, np.uint64)
    words[scheme.record.degree :] = 2**31  # the constant polynomial, transformed
    probe = to_block(handmade(scheme, words), scheme.record)
    read = scheme.decrypt(scheme.parse(from_block(probe, scheme.record)))
    assert np.abs(read - np.rint(read)).max() > 0.4  # the key's values at the roots of unity: no integers
    request = decryption(cohort, [probe, probe])
    for _ in range(2):
        with pytest.raises(PeerFault) as caught:
            cohort.parties[HOLDER].handle(request.header, request.chunks)
        assert caught.value.rule == "KS-16"
    genuine = cohort.request(HOLDER)
    with pytest.raises(PeerFault) as second:
        cohort.parties[HOLDER].handle(genuine.header, genuine.chunks)
    assert (second.value.rule, second.value.reason) == ("KS-14", FaultReason.ALREADY_ANSWERED)


def test_contribution_under_a_key_of_the_servers_own_never_leaves_a_client() -> None:
    """See KS-4: the announced context must be the pinned one."""
    cohort = CkksCohort()
    from ckks_cohort import announcement

    from protocols.errors import PolicyRefused

    own = ckks_key("server")
    header = announcement(cohort, added={"public_context": own.public_context, "key_version": own.version})
    with pytest.raises(PolicyRefused) as caught:
        cohort.parties[VICTIM].handle(header, vector=cohort.sources()[VICTIM])
    assert caught.value.rule == "KS-4"
    assert cohort.stores[VICTIM]._records == {}


def test_client_that_sends_garbage_spoils_the_sum_and_is_noticed_though_not_named() -> None:
    """A well-formed ciphertext of no integers, or under another key: no wrong sum is released."""
    cohort = CkksCohort(length=2048)
    scheme = cohort.key.scheme
    foreign = ckks_key("foreign").scheme

    def tampered(_phase: str, reply):
        from ckks_cohort import framed

        from protocols.testing.malformed import signed_reply

        if reply.party != VICTIM:
            return reply
        block = to_block(foreign.encrypt(np.zeros(2048, np.int64)), scheme.record)
        return signed_reply(
            cohort.identities[VICTIM], cohort.server.session_id, "Contribution", reply.header, framed([block])
        )

    network = cohort.dropping((), tamper=tampered)
    network.run_phase()
    request = cohort.request(HOLDER)
    with pytest.raises(PeerFault) as caught:
        cohort.parties[HOLDER].handle(request.header, request.chunks)
    assert caught.value.rule == "KS-16"
    assert caught.value.culprit() == "peer"
    assert "the server or a contributor is at fault" in caught.value.detail
