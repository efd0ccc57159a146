"""A server proposes a threshold of 1, a modulus of 2, a cohort of one or of Sybils: refused by each party's floors."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from protocols import Identity, Roster, SigningKey
from protocols.errors import PolicyRefused, UsageError
from protocols.session import ClientPolicy
from protocols.shape import ArraySource
from secfl.encoding import EncodingScheme
from tests.protocols.any_protocol import COHORTS, Adapter, cohort

WEAK: dict[str, dict[str, Any]] = {
    "threshold of 1": {"threshold": 1},
    "modulus of 2": {"modulus_bits": 1},
    "cohort of one": {"cohort": ("c00",)},
    "cohort of two": {"cohort": ("c00", "c01"), "collusion_bound": 0, "minimum_contributors": 2},
    "cohort of Sybils": {"cohort": ("c00", "sybil1", "sybil2", "sybil3", "sybil4")},
    "nobody colludes": {"collusion_bound": 0},
    "sum over two": {"minimum_contributors": 2},
    "suite of no meaning": {"suite": 200},
}
CASES = [
    (protocol, weak)
    for protocol in COHORTS
    for weak in WEAK
    if (protocol, weak) != ("ckks", "threshold of 1")  # it has none: one key holder decrypts
]


def refused(attacked: Adapter, party: str, header: bytes, policy: ClientPolicy | None = None) -> PolicyRefused:
    session = attacked.fresh(party, policy)
    records = dict(attacked.stores[party]._records)
    with pytest.raises(PolicyRefused):
        session.inspect(header)
    with pytest.raises(PolicyRefused) as caught:
        session.handle(header, vector=ArraySource(attacked.vectors[party]))
    assert session._session_id is None
    assert attacked.stores[party]._records == records
    return caught.value


@pytest.mark.parametrize(("protocol", "weak"), CASES)
def test_weak_proposal_is_refused_by_every_client_on_its_own(protocol: str, weak: str) -> None:
    attacked = cohort(protocol)
    header = attacked.announcement(**WEAK[weak])
    for party in attacked.clients[:4]:
        assert refused(attacked, party, header).rule


@pytest.mark.parametrize("protocol", COHORTS)
def test_revoked_or_foreign_client_in_the_cohort_is_refused_by_server_and_clients(protocol: str) -> None:
    attacked = cohort(protocol)
    foreign = attacked.announcement(cohort=(*attacked.clients[:-1], "zz"))
    assert refused(attacked, attacked.clients[0], foreign).rule == "SP-4"
    other = Roster([*attacked.roster, Identity("stranger", SigningKey(bytes(range(32)))).member()])
    swapped = attacked.announcement(roster_hash=other.digest())
    assert refused(attacked, attacked.clients[0], swapped).rule == "SP-3"
    revoked = Roster(
        [
            msgspec.structs.replace(member, revoked=True) if member.id == attacked.clients[1] else member
            for member in attacked.roster
        ]
    )
    parameters = msgspec.structs.replace(attacked.parameters, roster_hash=revoked.digest())
    with pytest.raises(UsageError, match="not in good standing"):
        type(attacked.server)(parameters, revoked, attacked.server._phase)


@pytest.mark.parametrize("protocol", COHORTS)
def test_sum_that_would_wrap_is_refused_at_session_creation(protocol: str) -> None:
    """More clients than the modulus was planned for: a client with a range of its own refuses, one bit more is fine."""
    attacked = cohort(protocol)
    size, bits = len(attacked.clients), attacked.parameters.modulus_bits
    fits = ((1 << bits) - 1) // (2 * size)
    base = attacked.policy
    floors = {
        "protocols": base.protocols,
        "adversary_rate": base.adversary_rate,
        "collusion_bound": base.collusion_bound,
    }
    header = attacked.announcement()
    attacked.fresh(attacked.clients[0], ClientPolicy(value_range=fits, **floors)).inspect(header)
    too_large = ClientPolicy(value_range=fits + 1, **floors)
    assert refused(attacked, attacked.clients[0], header, too_large).rule == "SP-8"


@pytest.mark.parametrize("clients", [3, 100, 1024, 1025, 10**6])
@pytest.mark.parametrize("bits", [8, 16, 24])
def test_modulus_is_computed_from_the_number_of_clients_and_holds_every_sum(clients: int, bits: int) -> None:
    scheme = EncodingScheme.choose(1.0, bits, maximum_contributors=clients, layout_digest=bytes(32))
    largest = clients * scheme.largest_entry
    assert 2 * largest < 1 << scheme.modulus_bits
