"""Shown numbers never flatter; group and guessing bounds against independent formulas."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_run import LATE, halted_report, sample_report

from secfl.report import display, summary


@given(st.floats(min_value=1e-300, max_value=1e12))
def test_bound_is_shown_no_smaller_than_it_is(value):
    shown, exact = Decimal(display.rounded_up(value)), Decimal(repr(value))
    assert exact <= shown < exact + max(Decimal("1e-300"), min(Decimal("0.001"), exact * Decimal("0.1000001")))


@given(st.floats(min_value=0, max_value=1e12))
def test_rest_is_shown_no_larger_than_it_is(value):
    shown, exact = Decimal(display.rounded_down(value)), Decimal(repr(value))
    assert shown <= exact < shown + Decimal("0.001")


@pytest.mark.parametrize(
    ("show", "value", "text"),
    [
        (display.rounded_up, 2.0004, "2.001"),
        (display.rounded_up, 3.0, "3.000"),
        (display.rounded_up, 0.0, "0"),
        (display.rounded_up, 0.000123, "0.00013"),
        (display.rounded_up, 1e-5, "0.00001"),
        (display.rounded_up, 1.01e-9, "1.1e-09"),
        (display.rounded_down, 0.2996, "0.299"),
        (display.rounded_down, 0.0009, "0"),
        (display.decimal, 1e-5, "0.00001"),
        (display.decimal, 3.57992128, "3.57992"),
        (display.decimal, 1.5e-12, "1.5e-12"),
        (display.decimal, 0.0, "0"),
        (display.decimal, -0.25, "-0.25"),
        (display.measured, 0.882, "0.8820"),
        (display.measured, 0.881963, "0.8820"),
        (display.measured, 1234.56, "1235"),
        (display.measured, 123456.7, "123457"),
        (display.measured, 0.0, "0"),
        (display.byte_size, 999, "999 B"),
        (display.byte_size, 1_000, "1 kB"),
        (display.byte_size, 2_229_800, "2.23 MB"),
        (display.byte_size, 999_999, "1 MB"),
        (display.duration, 0.0304, "30.4 ms"),
        (display.duration, 0.99999, "1 s"),
        (display.duration, 94.0, "94 s"),
        (display.duration, 99.96, "1 min 40 s"),
        (display.duration, 7325.0, "2 h 2 min"),
        (display.grouped, 14_210, "14\u2009210"),
        (display.moment, "2025-03-04T09:12:31+00:00", "2025-03-04 09:12:31 UTC"),
        (display.moment, "yesterday", "yesterday"),
        (display.visible, "a\u202eb\x00c\u200d\ud800\td\n", "a\ufffdb\ufffdc\ufffd\ufffd\td\n"),
    ],
)
def test_shown_as(show, value, text):
    assert show(value) == text


@given(st.floats(0, 8), st.floats(1e-12, 1e-5), st.integers(1, 6))
def test_group_bound_is_the_sum_of_the_chain(epsilon, delta, size):
    """k applications of the definition: delta (1 + e^eps + ... + e^((k-1) eps))."""
    bound = summary.group_bound(epsilon, delta, size)
    chain = math.fsum(delta * math.exp(step * epsilon) for step in range(size))
    assert bound.epsilon == size * epsilon
    if chain < 1 - 1e-9:
        assert bound.delta == pytest.approx(chain, rel=1e-7)
    elif chain > 1 + 1e-9:
        assert bound.delta is None


def test_group_bound_of_one_record_is_the_claim_itself():
    assert summary.group_bound(2.9999999987, 1e-5, 1) == summary.GroupBound(1, 2.9999999987, 1e-5)


def test_group_bound_that_no_float_can_hold_promises_nothing():
    assert summary.group_bound(400.0, 1e-5, 5) == summary.GroupBound(5, 2000.0, None)


def test_group_bound_of_pure_privacy_keeps_delta_at_zero():
    assert summary.group_bound(400.0, 0.0, 5) == summary.GroupBound(5, 2000.0, 0.0)


@given(st.floats(0, 30), st.floats(1e-12, 0.1))
def test_guess_bound_is_met_by_the_worst_pair_of_distributions(epsilon, delta):
    """The pair that attains (eps, delta): with delta the answer gives itself away, else randomised response."""
    told = Fraction(delta)
    response = math.exp(epsilon) / (math.exp(epsilon) + 1)
    assert summary.guess_bound(epsilon, delta) == pytest.approx(float(told + (1 - told) * Fraction(response)), rel=1e-9)


def test_phase_totals_are_sums_over_all_attempts():
    report = sample_report()
    totals = {total.phase: total for total in summary.phase_totals(report.rounds)}
    masked = totals["MaskedInput"]
    assert masked.times == 10
    assert masked.bytes_up == 57_210 * (9 * 4 + 3)
    assert masked.bytes_down == 1_450 * 4 * 10
    assert masked.seconds == pytest.approx(10 * 0.874 + 0.55)
    assert (masked.dropouts, masked.faults) == (1, 0)
    assert (totals["ShareKeys"].dropouts, totals["ShareKeys"].faults) == (0, 1)


def test_check_that_one_round_left_out_is_counted_so():
    report = sample_report()
    row = msgspec.structs.replace(report.rounds[0], checks=report.rounds[0].checks[1:])
    first, *_ = sorted(summary.checks((row, *report.rounds[1:])), key=lambda check: check.rounds)
    assert first == summary.Check(report.rounds[0].checks[0], 9, 10)


def test_failed_attempts_are_told_apart_and_check_nothing():
    rounds = halted_report().rounds
    assert [summary.attempt_label(row) for row in rounds] == ["1", "2", "3", "4", "4.2"]
    assert {check.completed for check in summary.checks(rounds)} == {3}


def test_dropouts_name_phase_and_party():
    assert summary.dropouts(sample_report().rounds[LATE - 1]) == (("MaskedInput", ("va",)),)


def test_run_time_is_missing_where_a_time_is_no_time():
    report = sample_report()
    assert summary.run_seconds(report) == 94.0
    assert summary.run_seconds(msgspec.structs.replace(report, finished="")) is None
    assert summary.run_seconds(msgspec.structs.replace(report, finished="2025-03-04T09:14:05")) is None


def test_adversaries_with_equal_bounds_share_a_table_and_others_get_their_own():
    points = list(sample_report().groups)
    points[3] = msgspec.structs.replace(points[3], epsilon=7.5)
    tables = summary.grouped(tuple(points))
    assert [names for names, _ in tables] == [("outsider", "another silo"), ("server",)]
    assert tables[1][1][0].epsilon == 7.5


def test_worst_guess_is_against_the_weakest_claim():
    claims = sample_report().claims
    weaker = msgspec.structs.replace(claims[1], epsilon=7.5)
    none = msgspec.structs.replace(claims[2], epsilon=None, delta=None)
    assert summary.worst_guess((claims[0], weaker, none)) == summary.guess_bound(7.5, 1e-5)
    assert summary.worst_guess((none,)) is None


@pytest.mark.parametrize(("value", "text"), [(1.0, "1"), (1.0000000788, "1 + 7.9e-8"), (1.25, "1 + 0.25")])
def test_inflation_is_shown_as_what_it_adds(value, text):
    assert display.inflation(value) == text
