"""Cohort sampling and the sources of randomness of a run."""

from __future__ import annotations

import os
from collections import Counter
from itertools import combinations

import pytest
from scipy.stats import chisquare

from protocols.errors import UsageError
from secfl.federation.cohort import sample_cohort
from secfl.federation.randomness import operating_system, seeded

SILOS = ("a", "b", "c", "d", "e")


def test_without_a_size_everybody_is_asked() -> None:
    assert sample_cohort(SILOS, None, os.urandom) == SILOS


@pytest.mark.parametrize("size", [2, 3, 5])
def test_a_cohort_has_its_size_no_repeats_and_the_silos_order(size: int) -> None:
    for _ in range(20):
        cohort = sample_cohort(SILOS, size, os.urandom)
        assert len(cohort) == size
        assert list(cohort) == sorted(set(cohort))


@pytest.mark.parametrize("size", [0, 1, 6])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(UsageError, match="allowed: 2 to 5"):
        sample_cohort(SILOS, size, os.urandom)


def test_every_cohort_is_equally_likely() -> None:
    entropy = seeded(3)("server", 0, 0)
    counts = Counter(sample_cohort(SILOS, 2, entropy) for _ in range(4000))
    assert set(counts) == set(combinations(SILOS, 2))
    assert chisquare(list(counts.values())).pvalue > 1e-6


def test_seeded_randomness_differs_by_party_and_round_but_not_by_attempt() -> None:
    source = seeded(1)
    first = source("a", 1, 0)
    assert first(10) != first(10)
    assert source("a", 1, 0)(20) == source("a", 1, 3)(20)
    assert len({source(who, number, 0)(16) for who in ("a", "b") for number in (1, 2)}) == 4
    assert seeded(2)("a", 1, 0)(16) != source("a", 1, 0)(16)


def test_the_operating_system_is_the_source_with_privacy() -> None:
    assert operating_system("a", 1, 0) is os.urandom
