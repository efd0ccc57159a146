"""Products are exact, also at the edge of what the error bound allows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import UsageError
from protocols.oneshot.negacyclic import (
    BATCH_BLOCKS,
    LIMB_CHOICES,
    PERMITTED_ERROR,
    NegacyclicProduct,
    choose_limbs,
    error_bound,
)

N = 4096
WIDTH = 16
"""Bytes of a coefficient when polynomials are written as one large integer."""


def exact(public: np.ndarray, short: np.ndarray) -> list[int]:
    """a * s modulo X^N + 1 and 2^64 by Python integers: Kronecker substitution, one product for each sign of s."""
    degree = len(public)
    product = [0] * (2 * degree)
    large = int.from_bytes(b"".join(int(word).to_bytes(WIDTH, "little") for word in public), "little")
    for sign in (1, -1):
        part = [max(0, sign * int(value)) for value in short]
        other = int.from_bytes(b"".join(value.to_bytes(WIDTH, "little") for value in part), "little")
        raw = (large * other).to_bytes(2 * degree * WIDTH, "little")
        for k in range(2 * degree):
            product[k] += sign * int.from_bytes(raw[k * WIDTH : (k + 1) * WIDTH], "little")
    return [(product[k] - product[k + degree]) % 2**64 for k in range(degree)]


def schoolbook(public: np.ndarray, short: np.ndarray) -> list[int]:
    """The definition."""
    degree = len(public)
    result = [0] * degree
    for i, word in enumerate(public):
        for j, value in enumerate(short):
            sign = 1 if i + j < degree else -1
            result[(i + j) % degree] += sign * int(word) * int(value)
    return [value % 2**64 for value in result]


def product(public: np.ndarray, short: np.ndarray) -> np.ndarray:
    accumulator = np.zeros_like(public)
    NegacyclicProduct(short).add_into(accumulator, public)
    return accumulator


def words(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, shape, dtype=np.uint64)


def centred_binomial(seed: int, degree: int = N) -> np.ndarray:
    return np.bitwise_count(words(seed, degree)).astype(np.int64) - 32


LOWEST_LIMBS = np.uint64(-(2**21 + 2**43 + 2**63) % 2**64)
HIGHEST_LIMBS = np.uint64(2**21 - 1 + ((2**21 - 1) << 22) + ((2**19 - 1) << 44))


@given(st.integers(2, 5), st.integers(0, 2**32), st.sampled_from([1, 32, 1000]))
@settings(max_examples=40, deadline=None)
def test_product_is_the_schoolbook_one(log_degree: int, seed: int, scale: int) -> None:
    degree = 2**log_degree
    short = np.random.default_rng(seed).integers(-scale, scale + 1, degree)
    public = words(seed + 1, 2, degree)
    assert exact(public[0], short) == schoolbook(public[0], short)
    assert product(public, short).tolist() == [exact(row, short) for row in public]


def test_product_of_a_client_key_is_exact_in_three_limbs() -> None:
    short = centred_binomial(1)
    assert NegacyclicProduct(short).limbs == (22, 22, 20)
    public = words(2, BATCH_BLOCKS + 1, N)  # a whole batch and a part of one
    assert product(public, short).tolist() == [exact(row, short) for row in public]


@pytest.mark.parametrize(
    "word", [0, 1, 2**63, 2**63 - 1, 2**64 - 1, LOWEST_LIMBS, HIGHEST_LIMBS, np.uint64(2**21), np.uint64(2**43)]
)
@pytest.mark.parametrize("value", [32, -32, 0])
def test_product_of_extreme_coefficients_is_exact(word: int, value: int) -> None:
    public = np.full((1, N), word, np.uint64)
    short = np.full(N, value, np.int64)
    assert product(public, short)[0].tolist() == exact(public[0], short)
    short[1::2] *= -1
    assert product(public, short)[0].tolist() == exact(public[0], short)


@pytest.mark.parametrize("limbs", LIMB_CHOICES)
def test_product_at_the_edge_of_the_error_bound_is_exact(limbs: tuple[int, ...]) -> None:
    """The longest key for which this many limbs are taken, against limbs of the largest norm; signs at random."""
    longest = int(PERMITTED_ERROR / error_bound(N, max(limbs), 1.0) / math.sqrt(N))
    signs = np.where(words(3, N) & np.uint64(1), 1, -1)
    short = longest * signs
    lowest = sum(1 << (sum(limbs[: i + 1]) - 1) for i in range(len(limbs)))
    public = np.stack([np.full(N, -lowest % 2**64, np.uint64), words(4, N)])
    public[0, ::3] = lowest % 2**64
    multiplication = NegacyclicProduct(short)
    assert multiplication.limbs == limbs
    accumulator = np.zeros_like(public)
    multiplication.add_into(accumulator, public)
    assert accumulator.tolist() == [exact(row, short) for row in public]
    # What the transforms left, before rounding: off by less than the bound says, and not by nothing.
    images = multiplication._folded[:, :2]
    errors = [np.abs(part - np.rint(part)).max() for part in (images.real, images.imag)]
    assert 0 < max(errors) < error_bound(N, max(limbs), float(np.linalg.norm(short))) < PERMITTED_ERROR


def test_sums_of_many_keys_take_four_limbs_and_longer_ones_are_refused() -> None:
    norm = 4 * math.sqrt(N)
    assert choose_limbs(N, norm) == choose_limbs(N, norm * math.sqrt(200)) == (22, 22, 20)
    assert choose_limbs(N, norm * math.sqrt(1000)) == (16, 16, 16, 16)
    assert choose_limbs(N, norm * math.sqrt(10**6)) == (16, 16, 16, 16)
    with pytest.raises(UsageError, match="too long"):
        choose_limbs(N, norm * math.sqrt(2 * 10**6))
    assert error_bound(N, 16, norm * math.sqrt(10**5)) == pytest.approx(0.0719, abs=1e-3)


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


def _arctan(inverse: int, one: int) -> int:
    total, term, n = 0, one // inverse, 1
    while term:
        total += term // n if n % 4 == 1 else -(term // n)
        term //= inverse * inverse
        n += 2
    return total
