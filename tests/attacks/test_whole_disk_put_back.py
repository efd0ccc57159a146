"""A party's whole disk is put back, its once-only record with it: it counts as one that colludes, and nobody else does.

The others' records stand, and no sum is opened without a quorum of them. See docs/explanation/rollback.md.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

from protocols import wire
from protocols.errors import FaultReason, ServerFault, ThresholdNotMet
from protocols.secagg import messages as m
from protocols.testing.malformed import decoded
from protocols.testing.network import Network
from tests.protocols.any_protocol import SLOWLY, Adapter, cohort
from tests.protocols.secagg.sparse_cohort import view


def put_back(attacked: Adapter, party: str) -> None:
    """Store, sessions and process are as they were before the round; only its randomness is fresh."""
    attacked.stores[party]._records.clear()
    attacked.restart(party)
    attacked.session(party).entropy = os.urandom


@pytest.mark.parametrize("protocol", SLOWLY)
def test_second_session_of_the_same_attempt_has_no_sum_although_one_party_forgot_the_first(protocol: str) -> None:
    first, second = cohort(protocol), cohort(protocol, nonce=b"\x07" * 32)
    aggregate = first.network.run()
    np.testing.assert_array_equal(aggregate.sum, first.total(aggregate.contributors))
    for party, store in first.stores.items():
        second.stores[party]._records.update(store._records)
    victim = second.clients[0]
    put_back(second, victim)
    network: Network = second.network
    with pytest.raises(ThresholdNotMet):
        network.run()
    assert {error.rule for _, party, error in network.refusals if party != victim} == {"PT-10"}
    assert victim not in {party for _, party, _ in network.refusals}
    assert len({party for _, party, _ in network.refusals}) == len(second.clients) - 1


def test_party_that_forgot_a_session_is_brought_to_mask_a_second_vector_by_no_server() -> None:
    """It advertises and shares anew, under another T0; but no honest client seals a share for that T0."""
    attacked = cohort("secagg")
    victim = attacked.clients[0]
    attacked.advance("ShareKeys")
    advertised = dict(attacked.server._phase.keys.advertisements)
    attacked.advance("ConsistencyCheck")
    put_back(attacked, victim)
    reply = attacked.session(victim).handle(announcement(attacked))
    message = decoded(reply.header, m.AdvertiseKeysReply)
    advertised[0] = m.Advertisement(0, message.masking_key, message.sealing_key, reply.trailer)
    request = wire.encode(view(attacked._cohort, 0, advertised.values()))
    attacked.session(victim).handle(request)
    for other in attacked.clients[1:]:
        with pytest.raises(ServerFault) as refused:
            attacked.session(other).handle(wire.encode(view(attacked._cohort, 1, advertised.values())))
        assert (refused.value.rule, refused.value.reason) == ("PT-8", FaultReason.WRONG_PHASE)
    fields = m.opening_fields(attacked.server.session_id, m.MaskedInputRequest)
    header = wire.encode(m.MaskedInputRequest(*fields, ()))
    with pytest.raises(ServerFault) as caught:
        attacked.session(victim).handle(header, vector=attacked.sources()[victim])
    assert (caught.value.rule, caught.value.reason) == ("SA-15", FaultReason.TOO_FEW)
    aggregate = attacked.network.run()
    assert (aggregate.sum == attacked.total(aggregate.contributors)).all()


def announcement(attacked: Adapter) -> bytes:
    fields = m.opening_fields(attacked.server.session_id, m.AdvertiseKeysRequest)
    return wire.encode(m.AdvertiseKeysRequest(*fields, attacked.parameters.to_bytes()))
