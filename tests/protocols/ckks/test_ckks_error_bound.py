"""Records have 128 bits of security; what a decrypted slot is off by stays below what is proven, and well below."""

from __future__ import annotations

import numpy as np
import pytest
from ckks_cohort import ckks_key

from protocols.ckks.records import LARGEST_MODULUS_BITS, RECORDS, CkksRecord, check_sum, record, sum_error
from protocols.ckks.slots import exact, to_words
from protocols.errors import FaultReason, PeerFault, UsageError


@pytest.mark.parametrize("number", RECORDS)
def test_records_have_128_bits_of_security(number: int) -> None:
    used = record(number)
    assert used.id == number
    assert sum(used.moduli) <= LARGEST_MODULUS_BITS[used.degree]


def test_table_is_that_of_seal() -> None:
    """What SEAL itself allows, by asking it for one bit more."""
    tenseal = pytest.importorskip("tenseal")
    for degree, bits in LARGEST_MODULUS_BITS.items():
        if degree not in (4096, 8192):  # the degrees in use; keys of the larger ones take seconds
            continue
        parts = [55] * (bits // 55)
        parts[-1] += bits - sum(parts)
        while parts[-1] > 60:
            parts = [*parts[:-1], parts[-1] // 2, parts[-1] - parts[-1] // 2]
        tenseal.context(tenseal.SCHEME_TYPE.CKKS, degree, coeff_mod_bit_sizes=parts, n_threads=1)
        parts[0] += 1
        with pytest.raises(ValueError, match="encryption parameters are not set correctly"):
            tenseal.context(tenseal.SCHEME_TYPE.CKKS, degree, coeff_mod_bit_sizes=parts, n_threads=1)


@pytest.mark.parametrize(
    ("degree", "moduli", "problem"),
    [
        (4096, (60, 50), "110 bits of modulus; degree 4096 has 128 bits of security up to 109"),
        (8192, (60, 60, 60, 40), "220 bits of modulus; degree 8192 has 128 bits of security up to 218"),
        (4095, (20, 20), "40 bits of modulus; degree 4095 has 128 bits of security up to 0"),
        (4096, (60,), "1 prime; at least 2"),
    ],
)
def test_record_without_128_bits_or_special_prime_is_refused(
    degree: int, moduli: tuple[int, ...], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        CkksRecord(id=9, degree=degree, moduli=moduli, scale_bits=30, serialised_limit=1)


def decrypted(number: int, columns: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """What the slots of a sum of real ciphertexts decrypt to, and what they should."""
    scheme = ckks_key(record=number).scheme
    total = None
    for integers in columns:
        ciphertext = scheme.parse(scheme.encrypt(integers))
        if total is not None:
            scheme.add(ciphertext, total)
        total = ciphertext
    return scheme.decrypt(total), np.sum(columns, axis=0)


def patterns(slots: int, bound: int, clients: int) -> dict[str, list[np.ndarray]]:
    generator = np.random.default_rng(7)
    ones = np.full(slots, bound)
    return {
        "uniform": [generator.integers(-bound, bound + 1, slots) for _ in range(clients)],
        "largest": [ones] * clients,
        "smallest": [-ones] * clients,
        "alternating": [ones * (1 - 2 * (np.arange(slots) % 2))] * clients,
        "one slot": [np.eye(1, slots, 5, dtype=np.int64)[0] * bound] * clients,
    }


@pytest.mark.parametrize(
    ("number", "clients", "bound"),
    [(1, 1, 2**20), (1, 20, 2**20), (1, 3, 2**34), (2, 1, 2**20), (2, 20, 2**20), (2, 60, 2**20)],
)
def test_error_stays_below_the_proven_bound_with_margin(number: int, clients: int, bound: int) -> None:
    proven = sum_error(record(number), clients, bound)
    check_sum(record(number), clients, bound)
    for name, columns in patterns(record(number).slots, bound, clients).items():
        slots, wanted = decrypted(number, columns)
        seen = np.abs(slots - wanted).max()
        assert seen < proven / 16, name
        np.testing.assert_array_equal(exact(slots, slots.size, proven, clients * bound), wanted)


@pytest.mark.parametrize("clients", [2, 10, 100])
def test_float_error_is_below_a_millionth_of_the_clip_norm_at_default_parameters(clients: int) -> None:
    """Clip norm C <-> 2^20 units: before rounding the sum is off by at most 2^-20 C, as stated; proven and seen."""
    bound = 2**20
    slots, wanted = decrypted(1, patterns(4096, bound, clients)["uniform"])
    seen = np.abs(slots - wanted).max() / bound
    assert seen <= 2.0**-20
    assert sum_error(record(1), clients, bound) / bound <= 2.0**-20
    assert seen > 2.0**-60  # there is an error to be rounded away: CKKS is approximate


def test_bound_is_that_of_the_documentation() -> None:
    assert sum_error(record(1), 100, 2**20) == pytest.approx(0.00337, abs=1e-5)
    assert sum_error(record(2), 100, 2**20) == pytest.approx(0.395, abs=1e-3)


def test_bound_grows_with_clients_and_values() -> None:
    for number in RECORDS:
        errors = [sum_error(record(number), clients, 2**20) for clients in (1, 2, 10, 100, 1000)]
        assert errors == sorted(errors)
        assert sum_error(record(number), 10, 2**30) > sum_error(record(number), 10, 2**20)


@pytest.mark.parametrize(
    ("number", "clients", "bound", "allowed"),
    [
        (1, 14_000, 2**20, True),
        (1, 16_000, 2**20, False),
        (1, 4, 2**35, True),
        (1, 8, 2**35, False),
        (2, 125, 2**19, True),
        (2, 127, 2**19, False),
        (2, 2, 2**26 - 1, True),
        (2, 2, 2**26, False),
    ],
)
def test_sums_are_allowed_up_to_the_bound_and_no_further(number: int, clients: int, bound: int, allowed: bool) -> None:
    if allowed:
        check_sum(record(number), clients, bound)
        return
    with pytest.raises(UsageError, match=f"sums of {clients} values up to {bound}"):
        check_sum(record(number), clients, bound)


def refused(slots: list[float], entries: int = 4) -> str:
    with pytest.raises(PeerFault) as caught:
        exact(np.array(slots), entries, 0.01, 100)
    assert caught.value.reason is FaultReason.BAD_CIPHERTEXT
    return caught.value.detail


def test_only_what_is_close_to_an_integer_in_range_is_a_sum() -> None:
    np.testing.assert_array_equal(exact(np.array([1.009, -99.991, 0, -0.002]), 2, 0.01, 100), [1, -100])
    assert "from an integer" in refused([1.011, 0, 0, 0])
    assert "from an integer" in refused([0, 0, 0, float("nan")])
    assert "from an integer" in refused([0, 0, float("inf"), 0])
    assert "beyond +-100" in refused([0, 101.001, 0, 0])
    assert "beyond +-100" in refused([0, -1e300, 0, 0])
    assert "past the vector's end" in refused([0, 0, 0, 1.001], entries=3)


@pytest.mark.parametrize("bits", [8, 20, 33, 64])
def test_integers_become_words_modulo_a_power_of_two(bits: int) -> None:
    integers = np.array([0, 1, -1, 2**40 + 3, -(2**40)])
    words = to_words(integers, bits)
    assert [int(word) for word in words] == [int(value) % 2**bits for value in integers]
