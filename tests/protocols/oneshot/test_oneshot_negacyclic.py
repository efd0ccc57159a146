"""Products are exact, also at the edge of what the error bound allows."""

from __future__ import annotations

import math
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import UsageError
from protocols.oneshot.negacyclic import (
    BATCH_BLOCKS,
    LIMB_COUNTS,
    PERMITTED_ERROR,
    NegacyclicProduct,
    choose_limbs,
    error_bound,
)

N = 4096
WIDTH = 16
"""Bytes of a coefficient when polynomials are written as one large integer."""


def natural(stored: np.ndarray) -> np.ndarray:
    """Coefficients from the lowest: word 2 k is coefficient k, word 2 k + 1 is coefficient k + N/2."""
    return np.concatenate([stored[0::2], stored[1::2]])


def exact(public: np.ndarray, short: np.ndarray, bits: int = 64) -> list[int]:
    """a * s modulo X^N + 1 and 2^bits by Python integers: Kronecker substitution, one product for each sign of s."""
    degree = len(public)
    public, short = natural(public), natural(short)
    product = [0] * (2 * degree)
    large = int.from_bytes(b"".join(int(word).to_bytes(WIDTH, "little") for word in public), "little")
    for sign in (1, -1):
        part = [max(0, sign * int(value)) for value in short]
        other = int.from_bytes(b"".join(value.to_bytes(WIDTH, "little") for value in part), "little")
        raw = (large * other).to_bytes(2 * degree * WIDTH, "little")
        for k in range(2 * degree):
            product[k] += sign * int.from_bytes(raw[k * WIDTH : (k + 1) * WIDTH], "little")
    return stored([(product[k] - product[k + degree]) % 2**bits for k in range(degree)])


def stored(coefficients: list[int]) -> list[int]:
    half = len(coefficients) // 2
    return [coefficients[k // 2 + k % 2 * half] for k in range(2 * half)]


def schoolbook(public: np.ndarray, short: np.ndarray) -> list[int]:
    """The definition."""
    degree = len(public)
    result = [0] * degree
    for i, word in enumerate(natural(public)):
        for j, value in enumerate(natural(short)):
            sign = 1 if i + j < degree else -1
            result[(i + j) % degree] += sign * int(word) * int(value)
    return stored([value % 2**64 for value in result])


def product(public: np.ndarray, short: np.ndarray, bits: int = 64) -> np.ndarray:
    accumulator = np.zeros_like(public)
    NegacyclicProduct(short, bits).add_into(accumulator, public)
    return accumulator & np.uint64(2**bits - 1)


def words(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, shape, dtype=np.uint64)


def centred_binomial(seed: int, degree: int = N) -> np.ndarray:
    return np.bitwise_count(words(seed, degree)).astype(np.int64) - 32


def extreme(limbs: tuple[int, ...], *, lowest: bool) -> int:
    """The word, modulo 2^Q, all of whose limbs are as low, or as high, as they can be."""
    ends = list(accumulate(limbs))
    low = -sum(1 << (end - 1) for end in ends)
    return (low if lowest else low + (1 << ends[-1]) - 1) % 2 ** ends[-1]


def measures(short: np.ndarray) -> tuple[float, float]:
    """Norm, and largest absolute value in the transform."""
    folded = (short[0::2] + 1j * short[1::2]) * np.exp(1j * np.pi * np.arange(len(short) // 2) / len(short))
    return float(np.linalg.norm(short)), float(np.abs(np.fft.fft(folded)).max())


@given(st.integers(2, 5), st.integers(0, 2**32), st.sampled_from([1, 32, 1000]))
@settings(max_examples=40, deadline=None)
def test_product_is_the_schoolbook_one(log_degree: int, seed: int, scale: int) -> None:
    degree = 2**log_degree
    short = np.random.default_rng(seed).integers(-scale, scale + 1, degree)
    public = words(seed + 1, 2, degree)
    assert exact(public[0], short) == schoolbook(public[0], short)
    assert product(public, short).tolist() == [exact(row, short) for row in public]


@pytest.mark.parametrize(("bits", "limbs"), [(64, (22, 22, 20)), (57, (29, 28)), (62, (21, 21, 20)), (44, (22, 22))])
def test_product_of_a_client_key_is_exact_in_two_or_three_limbs(bits: int, limbs: tuple[int, ...]) -> None:
    short = centred_binomial(1)
    assert NegacyclicProduct(short, bits).limbs == limbs
    public = words(2, BATCH_BLOCKS + 1, N)  # a whole batch and a part of one
    assert product(public, short, bits).tolist() == [exact(row, short, bits) for row in public]


@pytest.mark.parametrize(("bits", "limbs"), [(64, (22, 22, 20)), (57, (29, 28))])
@pytest.mark.parametrize("value", [32, -32, 0])
def test_product_of_extreme_coefficients_is_exact(bits: int, limbs: tuple[int, ...], value: int) -> None:
    short = np.full(N, value, np.int64)
    ends = extreme(limbs, lowest=True), extreme(limbs, lowest=False)
    for word in (0, 1, 2**63, 2**63 - 1, 2**64 - 1, 2 ** (bits - 1), *ends, *(1 << (bit - 1) for bit in limbs)):
        public = np.full((1, N), word, np.uint64)
        assert product(public, short, bits)[0].tolist() == exact(public[0], short, bits)
        short[1::3] *= -1
        assert product(public, short, bits)[0].tolist() == exact(public[0], short, bits)


@pytest.mark.parametrize(("bits", "count"), [(64, 3), (64, 4), (57, 2), (57, 3), (36, 2)])
def test_product_at_the_edge_of_the_error_bound_is_exact(bits: int, count: int) -> None:
    """The longest key for which this many limbs are taken, against limbs of the largest norm; signs at random."""
    assert count in LIMB_COUNTS
    signs = np.where(words(3, N) & np.uint64(1), 1, -1)
    widest = -(-bits // count)
    short = int(PERMITTED_ERROR / error_bound(N, widest, *measures(signs))) * signs
    multiplication = NegacyclicProduct(short, bits)
    limbs = multiplication.limbs
    assert (len(limbs), max(limbs), sum(limbs)) == (count, widest, bits)
    public = np.stack([np.full(N, extreme(limbs, lowest=True), np.uint64), words(4, N)])
    public[0, ::3] = extreme(limbs, lowest=False)
    accumulator = np.zeros_like(public)
    multiplication.add_into(accumulator, public)
    modulus = np.uint64(2**bits - 1)
    assert (accumulator & modulus).tolist() == [exact(row, short, bits) for row in public]
    # What the transforms leave before rounding: off by less than the bound says, and not by nothing.
    images = multiplication._images(public)
    errors = [np.abs(part - np.rint(part)).max() for part in (images.real, images.imag)]
    assert 0 < max(errors) < error_bound(N, widest, *measures(short)) < PERMITTED_ERROR
    assert error_bound(N, widest, *measures(short + np.sign(short))) > 0.99 * PERMITTED_ERROR


def test_limbs_of_keys_and_of_sums_of_keys() -> None:
    """A client's key (norm 256, peak 3.3 times that) at n = 100 and 16 bits takes two limbs, an unusual one three;
    sums take more; what is longer still is refused.
    """
    norm = 4 * math.sqrt(N)

    def chosen(bits: int, clients: int, peak: float = 3.3) -> tuple[int, ...]:
        return choose_limbs(N, bits, norm * math.sqrt(clients), peak * norm * math.sqrt(clients))

    assert chosen(57, 1) == chosen(57, 1, 4.2) == (29, 28)
    assert chosen(57, 1, 4.4) == chosen(57, 100) == chosen(57, 10**5) == (19, 19, 19)
    assert chosen(64, 1) == chosen(64, 10**4) == (22, 22, 20)
    assert chosen(64, 10**5) == chosen(64, 10**7) == (16, 16, 16, 16)
    with pytest.raises(UsageError, match="too long"):
        chosen(64, 10**9)
    assert error_bound(N, 29, norm, 3.3 * norm) == pytest.approx(0.2103, abs=1e-4)
    assert error_bound(N, 16, norm * math.sqrt(10**5), 3.3 * norm * math.sqrt(10**5)) == pytest.approx(
        0.00812, abs=1e-5
    )


def test_product_is_added_to_what_is_there_and_the_public_polynomial_is_unchanged() -> None:
    short, public, before = centred_binomial(5), words(6, 1, N), words(7, 1, N)
    accumulator, kept = before.copy(), public.copy()
    NegacyclicProduct(short).add_into(accumulator, public)
    NegacyclicProduct(-short).add_into(accumulator, public)
    assert (accumulator == before).all()
    assert (public == kept).all()


@pytest.mark.parametrize(
    "polynomial",
    [np.zeros(2, np.int64), np.zeros(12, np.int64), np.zeros((4, 4), np.int64), np.zeros(8, np.int32)],
)
def test_polynomial_of_another_shape_or_type_is_refused(polynomial: np.ndarray) -> None:
    with pytest.raises(UsageError, match="a polynomial is int64"):
        NegacyclicProduct(polynomial)


@pytest.mark.parametrize("bits", [7, 65])
def test_modulus_out_of_range_is_refused(bits: int) -> None:
    with pytest.raises(UsageError, match="the modulus is"):
        NegacyclicProduct(np.ones(8, np.int64), bits)


def test_blocks_of_another_shape_or_type_are_refused() -> None:
    multiplication = NegacyclicProduct(np.ones(8, np.int64))
    good = np.zeros((2, 8), np.uint64)
    for bad in (np.zeros((2, 4), np.uint64), np.zeros(8, np.uint64), np.zeros((2, 8), np.int64)):
        with pytest.raises(UsageError, match="blocks are uint64"):
            multiplication.add_into(good, bad)
        with pytest.raises(UsageError, match="blocks are uint64"):
            multiplication.add_into(bad, good)
    with pytest.raises(UsageError, match="1 public polynomials for 2 blocks"):
        multiplication.add_into(good, good[:1])


def test_twists_are_accurate_to_four_units() -> None:
    """What the error bound assumes of exp(i pi k / N), against a Taylor series in integers of 200 bits."""
    one = 1 << 200
    pi = 4 * (4 * _arctan(5, one) - _arctan(239, one))
    twist = NegacyclicProduct(np.zeros(N, np.int64))._twist
    for k in [*range(0, N // 2, 61), N // 2 - 1]:
        angle = pi * k // N
        cosine = sine = 0
        term, power = one, 0
        while term:
            if power % 2:
                sine += term if power % 4 == 1 else -term
            else:
                cosine += term if power % 4 == 0 else -term
            power += 1
            term = term * angle // one // power
        difference = math.hypot(
            (int(twist[k].real * 2**100) * 2**100 - cosine) / one, (int(twist[k].imag * 2**100) * 2**100 - sine) / one
        )
        assert difference <= 4 * 2.0**-53


def test_factors_of_the_transform_are_accurate_to_eight_units() -> None:
    """What the error bound assumes of the transform: unit vectors give products of its factors, one of each pass.

    They are compared with roots of unity in extended precision; the transform's own roundings are in the difference.
    """
    half = N // 2
    turns = np.arange(half, dtype=np.longdouble) * 2 * np.arctan2(np.longdouble(0), np.longdouble(-1)) / half
    cosine, sine = np.cos(turns), np.sin(turns)
    largest = 0.0
    for first in range(0, half, 128):
        places = np.arange(first, first + 128)
        units = np.zeros((128, half), np.complex128)
        units[np.arange(128), places] = 1
        image = np.fft.fft(units)
        powers = places[:, np.newaxis] * np.arange(half) % half
        difference = np.hypot(image.real - cosine[powers], image.imag + sine[powers])
        largest = max(largest, float(difference.max()))
    assert 0 < largest < 8 * 2.0**-53


def _arctan(inverse: int, one: int) -> int:
    total, term, n = 0, one // inverse, 1
    while term:
        total += term // n if n % 4 == 1 else -(term // n)
        term //= inverse * inverse
        n += 2
    return total
