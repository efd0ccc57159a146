"""Budgets, deltas and events refuse what means nothing, and name it."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from protocols.errors import PrivacyError
from secfl.privacy.budget import PrivacyBudget, check_delta
from secfl.privacy.events import SampledGaussian


@pytest.mark.parametrize("epsilon", [0, -1.0, math.inf, math.nan, True, "3"])
def test_budget_with_a_meaningless_epsilon_is_refused(epsilon: object) -> None:
    with pytest.raises(PrivacyError, match=r"^epsilon: "):
        PrivacyBudget(epsilon, 1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("delta", [0, -1e-6, 1.1e-5, 0.1, 1, math.nan, False])
def test_budget_with_a_meaningless_delta_is_refused(delta: float) -> None:
    with pytest.raises(PrivacyError, match=r"^delta: "):
        PrivacyBudget(3, delta)


def test_budget_per_person_is_refused() -> None:
    with pytest.raises(PrivacyError, match=r"unit: 'person'; allowed: 'record', 'client'"):
        PrivacyBudget(3, 1e-5, "person")  # type: ignore[arg-type]


def test_budget_is_frozen_and_compares_by_value() -> None:
    budget = PrivacyBudget(3, 1e-5)
    assert budget == PrivacyBudget(3.0, 1e-5, "record")
    with pytest.raises(AttributeError):
        budget.epsilon = 4.0  # type: ignore[misc]


@pytest.mark.parametrize(("delta", "records"), [(1e-5, 1), (1e-5, 10_000), (1e-6, 100_000), (1e-7, 1_000_000)])
def test_delta_at_its_limit_is_allowed(delta: float, records: int) -> None:
    check_delta(delta, records)


@pytest.mark.parametrize(("delta", "records"), [(1.01e-5, 1), (1e-5, 10_001), (1e-6, 100_001)])
def test_delta_above_a_tenth_of_one_over_n_is_refused_with_the_limit(delta: float, records: int) -> None:
    with pytest.raises(PrivacyError, match=rf"^delta: .*allowed: at most {min(1e-5, 0.1 / records):g}"):
        check_delta(delta, records)


@pytest.mark.parametrize("delta", [1e-6, 2e-6])
def test_delta_of_one_over_n_is_refused_with_the_reason(delta: float) -> None:
    with pytest.raises(PrivacyError, match="is at least 1/1000000: publishing one record in full would satisfy it"):
        check_delta(delta, 1_000_000)


@pytest.mark.parametrize("records", [0, -1, 2.0, True])
def test_number_of_records_that_is_none_is_refused(records: int) -> None:
    with pytest.raises(PrivacyError, match=r"^total_records: "):
        check_delta(1e-6, records)


@pytest.mark.parametrize(
    ("field", "value"),
    [("sampling_rate", value) for value in (0, -0.1, 1.0001, math.nan, math.inf, True, "0.1", None)]
    + [("noise_multiplier", value) for value in (0, -1, 9e-4, 1.1e6, math.nan, math.inf, True, "1")]
    + [("steps", value) for value in (0, -1, 1.0, 10**9 + 1, True, "1")],
)
def test_event_with_a_parameter_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    parameters = {"sampling_rate": 0.1, "noise_multiplier": 1.0, "steps": 1, field: value}
    with pytest.raises(PrivacyError, match=rf"^{field}: .*allowed"):
        SampledGaussian(**parameters)  # type: ignore[arg-type]


def test_event_given_as_integers_or_numpy_scalars_is_the_same_record() -> None:
    event = SampledGaussian(np.float64(1), 5, 50)
    assert event == SampledGaussian(1.0, 5.0, 50)
    assert type(event.sampling_rate) is float
    assert type(event.noise_multiplier) is float


def test_stored_form_of_an_event_never_changes() -> None:
    stored = b'{"kind":"sampled-gaussian","sampling_rate":0.01,"noise_multiplier":1.0,"steps":1000}'
    assert msgspec.json.encode(SampledGaussian(0.01, 1.0, 1000)) == stored
    assert msgspec.json.decode(stored, type=SampledGaussian) == SampledGaussian(0.01, 1.0, 1000)
