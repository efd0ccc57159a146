"""A server sends different models to different silos: their sessions differ, and no sum comes of it."""

from __future__ import annotations

import pytest

from protocols.errors import ThresholdNotMet
from tests.protocols.any_protocol import COHORTS, PHASES, cohort

DIVERTED = {"secagg": 2, "secagg-sparse": 6, "oneshot": 2, "ckks": 2}
"""How many clients are told of another model: more than may be missing in the sum."""


@pytest.mark.parametrize("protocol", COHORTS)
def test_server_that_sends_different_models_gets_no_sum(protocol: str) -> None:
    attacked = cohort(protocol)
    other = attacked.announcement(context_hash=b"\x01" * 32)
    diverted = attacked.clients[: DIVERTED[protocol]]
    for party in diverted:
        session = attacked.session(party)
        assert session.inspect(other).context_hash == b"\x01" * 32  # what a silo compares with the model at hand
        session.handle(other, vector=attacked.vector_of(party, other))
    with pytest.raises(ThresholdNotMet) as caught:
        attacked.network.run()
    assert caught.value.phase == PHASES[protocol][0]
    refused = {(party, error.rule) for _, party, error in attacked.network.refusals}
    assert refused == {(party, "PT-7") for party in diverted}
