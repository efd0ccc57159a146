"""Sums are exact: for few and many clients, all dropouts, both records, the extremes of the range, at any restart."""

from __future__ import annotations

import tracemalloc
from itertools import combinations

import numpy as np
import pytest
from ckks_cohort import HOLDER, STORAGE_KEY, CkksCohort

from protocols import ckks
from protocols.ckks.slots import signed
from protocols.errors import ThresholdNotMet, UsageError
from protocols.identity import Role
from protocols.organisation import Organisation
from protocols.primitives.ring import centre
from protocols.session import ClientPolicy
from protocols.signed import MemorySpool
from protocols.testing.network import Drop

PAIR = ClientPolicy(protocols=frozenset({"ckks"}), minimum_cohort=2, minimum_contributors=2, collusion_bound=0)


@pytest.mark.parametrize("record", [1, 2])
@pytest.mark.parametrize("size", [2, 10, 100])
def test_sum_is_exact(size: int, record: int) -> None:
    length = 300 if size == 100 else 10_000
    cohort = CkksCohort(size, policy=PAIR, collusion_bound=0, record=record, length=length)
    aggregate = cohort.network.run()
    assert aggregate.contributors == cohort.parameters.clients()
    assert aggregate.sum.dtype == np.uint32
    np.testing.assert_array_equal(aggregate.sum, cohort.total(aggregate.contributors))
    assert cohort.network.refusals == []


@pytest.mark.parametrize("bits", [17, 21, 32, 33, 64])
def test_sum_is_exact_at_the_bound_of_twenty_bit_values(bits: int) -> None:
    """The words may hold the whole sum or let it wrap: integers are exact first, words modulo 2^b afterwards."""
    bound = min(2**20, 2 ** (bits - 1) - 1)
    cohort = CkksCohort(8, bits=bits, value_bound=bound, record=1, length=5000)
    for sign, parties in ((1, "c00 c01 c02 c03 c04"), (-1, "c05 c06")):
        for party in parties.split():
            cohort.vectors[party] = cohort.words(np.full(5000, sign * bound))
    cohort.dropping(())
    aggregate = cohort.network.run()
    np.testing.assert_array_equal(aggregate.sum, cohort.total(aggregate.contributors))


def test_weighted_sum_of_31_bits_is_exact() -> None:
    """Values of 20 bits times weights: 2^31 and more in one slot."""
    cohort = CkksCohort(4, bits=40, value_bound=2**30, record=1, length=4096)
    for party in cohort.vectors:
        cohort.vectors[party] = cohort.words(np.full(4096, 2**30 - 1))
    cohort.dropping(())
    aggregate = cohort.network.run()
    assert (centre(aggregate.sum, 40) == 4 * (2**30 - 1)).all()


def dropouts() -> list[tuple[str, ...]]:
    names = [f"c{number:02}" for number in range(5)]
    return [lost for count in range(6) for lost in combinations(names, count)]


@pytest.mark.parametrize("lost", dropouts(), ids=lambda lost: "-".join(lost) or "nobody")
def test_every_subset_of_clients_may_drop_out(lost: tuple[str, ...]) -> None:
    """n = 5, c = 1: three contributors are enough."""
    cohort = CkksCohort(5, length=100)
    network = cohort.dropping([Drop(party, "Contribution") for party in lost])
    present = tuple(party for party in cohort.parameters.cohort if party not in lost)
    if len(present) < 3:
        with pytest.raises(ThresholdNotMet) as caught:
            network.run()
        assert (caught.value.required, caught.value.present) == (3, len(present))
        return
    aggregate = network.run()
    assert aggregate.contributors == present
    np.testing.assert_array_equal(aggregate.sum, cohort.total(present))


def test_without_the_key_holder_there_is_no_sum() -> None:
    cohort = CkksCohort(length=100)
    with pytest.raises(ThresholdNotMet):
        cohort.dropping([Drop(HOLDER, "Decryption")]).run()
    with pytest.raises(UsageError, match="the session failed"):
        cohort.server.result()


def test_key_holder_adds_its_own_noise_and_says_so() -> None:
    drawn = []

    def noise(count: int) -> np.ndarray:
        drawn.append(np.arange(count) % 7 - 3)
        return drawn[-1]

    cohort = CkksCohort(noise=noise, length=5000)
    aggregate = cohort.network.run()
    assert [item.size for item in drawn] == [2048, 2048, 904]
    plain = cohort.total(aggregate.contributors)
    np.testing.assert_array_equal(aggregate.sum, cohort.words(centre(plain, 20) + np.concatenate(drawn)))
    assert aggregate.checks[2] == "key holder 'holder' says that it added integer noise of its own"
    assert len(CkksCohort(length=100).network.run().checks) == 2


@pytest.mark.parametrize("wrong", [np.zeros(99, np.int64), np.zeros(100, np.float64), np.zeros((100, 1), np.int64)])
def test_noise_of_another_kind_is_refused(wrong: np.ndarray) -> None:
    cohort = CkksCohort(noise=lambda _count: wrong, length=100)
    cohort.advance("Decryption")
    request = cohort.request(HOLDER)
    with pytest.raises(UsageError, match="noise: "):
        cohort.parties[HOLDER].handle(request.header, request.chunks)


def test_client_that_holds_the_key_as_well_answers_in_both_roles() -> None:
    """One organisation, one store: the records of its two roles do not meet."""
    cohort = CkksCohort(length=100)
    both = cohort.identities[HOLDER]
    cohort.parameters = ckks.parameters(
        cohort.roster,
        [*cohort.parameters.cohort, HOLDER],
        nonce=bytes(32),
        run_id="run",
        round_number=1,
        modulus_bits=20,
        vector_length=100,
        context_hash=bytes(32),
        public_context=cohort.key.public_context,
        value_bound=2**15,
        record=2,
    )
    cohort.server = ckks.server(cohort.parameters, cohort.roster)
    cohort.vectors[HOLDER] = cohort.vector(HOLDER)
    options = {"entropy": cohort.entropies[HOLDER], "store": cohort.stores[HOLDER]}
    client = ckks.party(Role.CLIENT, both, cohort.roster, cohort.policy, **options)
    holder = cohort.parties[HOLDER]
    cohort.parties[HOLDER] = client
    cohort.dropping(()).run_phase()
    cohort.parties[HOLDER] = holder
    aggregate = cohort.network.run()
    assert aggregate.contributors == cohort.parameters.cohort
    np.testing.assert_array_equal(aggregate.sum, cohort.total(aggregate.contributors))


def test_organisations_are_asked_by_the_kind_of_request() -> None:
    cohort = CkksCohort(length=3000)
    for party, identity in cohort.identities.items():
        cohort.parties[party] = Organisation(
            ckks,
            identity,
            cohort.roster,
            cohort.policy,
            entropy=cohort.entropies[party],
            store=cohort.stores[party],
            roles=[cohort.role(party)],
        )
    aggregate = cohort.dropping(()).run()
    assert cohort.network.refusals == []
    np.testing.assert_array_equal(aggregate.sum, cohort.total(aggregate.contributors))


def restart(cohort: CkksCohort) -> None:
    for party, session in list(cohort.parties.items()):
        cohort.restore_party(party, session.save(STORAGE_KEY))
    cohort.restore_server()


def test_sum_is_exact_with_everybody_restored_after_every_single_message() -> None:
    cohort = CkksCohort(6)
    cohort.dropping([Drop("c01", "Contribution")])
    while cohort.server.phase is not None:
        phase = cohort.server.phase
        for request in list(cohort.server.requests()):
            restart(cohort)
            again = next(item for item in cohort.server.requests() if item.party == request.party)
            assert again.header == request.header
            assert list(map(bytes, again.chunks)) == list(map(bytes, request.chunks))
            cohort.network._carry(phase, request)
        restart(cohort)
        cohort.server.close_phase()
    aggregate = cohort.server.result()
    assert aggregate.contributors == ("c00", "c02", "c03", "c04", "c05")
    np.testing.assert_array_equal(aggregate.sum, cohort.total(aggregate.contributors))
    assert cohort.network.refusals == []


def test_server_keeps_one_sum_whatever_the_number_of_clients() -> None:
    """Ciphertexts: one a block. Bytes: what is kept of a further contribution is its digest and signature."""
    sizes = []
    for size in (4, 12):
        cohort = CkksCohort(size)
        for party in cohort.parameters.cohort:
            cohort.network._carry("Contribution", cohort.request(party))
        assert len(cohort.server.aggregate) == 2
        sizes.append(len(cohort.server.save()))
    assert abs(sizes[1] - sizes[0]) < 8 * 400


def test_spooled_aggregate_is_forgotten_once_it_is_decrypted() -> None:
    spools: list[MemorySpool] = []

    def spool() -> MemorySpool:
        spools.append(MemorySpool())
        return spools[-1]

    cohort = CkksCohort(spool=spool)
    cohort.advance("Decryption")
    spools.clear()
    cohort.answer_request(cohort.request(HOLDER))
    aggregate, reply = spools
    assert list(aggregate.chunks()) == []
    assert [len(chunk) for chunk in reply.chunks()] == [8 + 5120, 8 + 1130]


def test_python_memory_of_a_contribution_is_of_a_few_blocks() -> None:
    cohort = CkksCohort(length=20_000, spool=CountingSpool)
    cohort.parties["c00"].inspect(cohort.request("c00").header)
    tracemalloc.start()
    try:
        cohort.answer_request(cohort.request("c00")).chunks.clear()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Ten blocks of 66 kB go by; the chunks of the reply are kept by no one but the spool, which counts them.
    assert CountingSpool.appended == 10
    assert peak < 2_000_000


class CountingSpool(MemorySpool):
    """Forgets what it is given."""

    appended = 0

    def append(self, chunk: bytes | bytearray | memoryview) -> None:
        CountingSpool.appended += 1


def test_signed_refuses_what_does_not_fit() -> None:
    with pytest.raises(UsageError, match="does not fit into 20 bits"):
        signed(np.array([2**20], np.uint32), 20, 2**15, 4)
    with pytest.raises(UsageError, match=r"beyond \+-32768"):
        signed(np.array([2**15 + 1], np.uint32), 20, 2**15, 4)
    with pytest.raises(UsageError, match=r"beyond \+-32768"):
        signed(np.array([2**20 - 2**15 - 1], np.uint32), 20, 2**15, 4)
    np.testing.assert_array_equal(signed(np.array([2**20 - 1, 5], np.uint32), 20, 2**15, 4), [-1, 5, 0, 0])
