"""A client listed twice: what counts contributors, and what is signed, has each of them once."""

from __future__ import annotations

import pytest

from protocols.ckks.messages import DecryptionRequest
from protocols.errors import FaultReason, ServerFault
from protocols.secagg import messages as secagg_messages
from protocols.testing.malformed import changed, decoded
from tests.protocols.any_protocol import cohort


@pytest.mark.parametrize("protocol", ["secagg", "secagg-sparse"])
def test_set_of_contributors_that_names_a_client_twice_is_not_signed(protocol: str) -> None:
    attacked = cohort(protocol)
    attacked.advance("ConsistencyCheck")
    party = attacked.asked()
    header = attacked.request(party).header
    contributors = decoded(header, secagg_messages.ConsistencyCheckRequest).contributors
    twice = changed(
        header, secagg_messages.ConsistencyCheckRequest, contributors=(*contributors[:3], *contributors[2:])
    )
    with pytest.raises(ServerFault) as caught:
        attacked.session(party).handle(twice)
    assert (caught.value.rule, caught.value.reason) == ("SA-18", FaultReason.DUPLICATE_PARTY)


def test_key_holder_decrypts_for_no_list_that_names_a_client_twice() -> None:
    attacked = cohort("ckks")
    attacked.advance("Decryption")
    party = attacked.asked()
    request = attacked.request(party)
    listed = decoded(request.header, DecryptionRequest).contributions
    twice = changed(request.header, DecryptionRequest, contributions=(*listed[:2], *listed[1:]))
    with pytest.raises(ServerFault) as caught:
        attacked.session(party).handle(twice, [bytes(chunk) for chunk in request.chunks])
    assert caught.value.reason is FaultReason.DUPLICATE_PARTY
    assert attacked.network.run().contributors == attacked.parameters.clients()
