"""Clipping: accurate norms, bounds that hold exactly, reports that show nothing."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from protocols.errors import EncodingError, UsageError
from secfl.encoding import TensorLayout, clip_l2, clip_range, l2_norm, summation_slack
from secfl.encoding.vectors import CHUNK

DTYPES = [np.float32, np.float64]


def squared(vector: np.ndarray) -> Fraction:
    return sum((Fraction(value) ** 2 for value in vector.tolist()), Fraction(0))


def vectors(limit: float = 1e6) -> st.SearchStrategy[np.ndarray]:
    return st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, st.integers(1, 40), elements=st.floats(-limit, limit, width=32))
    )


@given(vectors(2.0**126))
def test_norm_is_within_its_stated_slack_of_the_exact_one(vector: np.ndarray):
    slack = Fraction(summation_slack(vector.size))
    computed = Fraction(l2_norm(vector))
    assert (computed * (1 - slack)) ** 2 <= squared(vector) <= (computed * (1 + slack)) ** 2


def test_norm_of_ten_million_equal_float32_is_not_lost_to_accumulation():
    vector = np.full(10_000_000, 0.1, np.float32)
    exact = math.sqrt(10_000_000) * float(np.float32(0.1))
    assert abs(l2_norm(vector) / exact - 1) <= summation_slack(vector.size)


@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1e200, 1e307])
def test_norm_neither_overflows_nor_underflows(scale: float):
    assert l2_norm(np.array([3.0, 4.0]) * scale) == pytest.approx(5 * scale, rel=1e-3 if scale < 1e-300 else 1e-15)


def test_norm_beyond_float64_is_refused():
    with pytest.raises(EncodingError, match="beyond the range of float64"):
        l2_norm(np.full(4, 1.7e308))


def test_vector_at_the_norm_is_left_alone_bit_for_bit():
    vector = np.array([3.0, -4.0, 0.0], np.float32)
    report = clip_l2(vector, 5.0)
    assert (report.norm_before, report.scale_factor, report.clipped) == (5.0, 1.0, False)
    assert vector.tolist() == [3.0, -4.0, 0.0]


@given(vectors(), st.floats(1e-3, 1e3))
def test_exact_norm_after_clipping_is_within_the_bound_and_direction_is_kept(vector: np.ndarray, norm: float):
    before = vector.copy()
    report = clip_l2(vector, norm)
    if report.clipped:
        assert squared(vector) <= Fraction(norm) ** 2
        assert squared(vector) >= (Fraction(norm) * (1 - Fraction(1, 2**20))) ** 2
        np.testing.assert_allclose(vector, before * (norm / report.norm_before), rtol=1e-6, atol=1e-40)
    else:
        assert vector.tobytes() == before.tobytes()
        assert squared(vector) <= (Fraction(norm) * (1 + Fraction(summation_slack(vector.size)))) ** 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_norm_holds_over_many_chunks(dtype: type):
    vector = np.random.default_rng(7).standard_normal(3 * CHUNK + 11).astype(dtype)
    report = clip_l2(vector, 0.7)
    assert report.clipped
    assert Fraction(0.7) ** 2 * (1 - Fraction(1, 2**20)) <= squared(vector) <= Fraction(0.7) ** 2


@pytest.mark.parametrize("clip", [clip_l2, clip_range])
@pytest.mark.parametrize("bound", [0.5, 50.0])
def test_out_receives_the_result_and_the_vector_stays(clip, bound: float):
    vector = np.array([3.0, -4.0])
    in_place, out = vector.copy(), np.empty(2)
    assert clip(vector, bound, out=out) == clip(in_place, bound)
    assert vector.tolist() == [3.0, -4.0]
    assert out.tolist() == in_place.tolist()
    assert (out.tolist() == [3.0, -4.0]) == (bound == 50.0)


@pytest.mark.parametrize("clip", [clip_l2, clip_range])
def test_bad_out_read_only_and_overlap_are_refused(clip):
    vector = np.ones(8)
    read_only = np.ones(8)
    read_only.flags.writeable = False
    for target in (np.empty(7), np.empty(8, np.float32), read_only, vector[::-1], vector[:]):
        with pytest.raises(UsageError):
            clip(vector, 0.5, out=target)
    with pytest.raises(UsageError, match="read-only"):
        clip(read_only, 0.5)
    assert vector.tolist() == [1.0] * 8


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("clip", [clip_l2, clip_range])
def test_bounds_out_of_range_are_refused(clip, bound: float):
    with pytest.raises(UsageError):
        clip(np.ones(2), bound)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("clip", [clip_l2, clip_range])
def test_not_finite_names_the_tensor_and_changes_nothing(clip, bad: float):
    layout = TensorLayout.of({"a": np.zeros(CHUNK, np.float32), "b": np.zeros(5, np.float32)})
    vector = np.full(CHUNK + 5, 9.0)
    vector[CHUNK + 3] = bad
    before = vector.copy()
    with pytest.raises(EncodingError, match=r"tensor 'b': not finite .* position 3"):
        clip(vector, 1.0, layout=layout)
    assert vector.tobytes() == before.tobytes()
    with pytest.raises(EncodingError, match=f"tensor 'vector': .* position {CHUNK + 3}"):
        clip(vector, 1.0)


@pytest.mark.parametrize(
    "bad", [np.empty(0), np.zeros((2, 2)), np.zeros(2, np.int64), np.zeros(2, np.float16), np.zeros(2, ">f8"), [1.0]]
)
def test_what_is_no_vector_is_refused(bad: object):
    for clip in (clip_l2, clip_range):
        with pytest.raises(EncodingError):
            clip(bad, 1.0)


@given(vectors(), st.floats(1e-3, 1e3))
def test_range_holds_exactly_and_the_count_is_right(vector: np.ndarray, bound: float):
    before = vector.copy()
    report = clip_range(vector, bound)
    assert max(abs(value) for value in vector.tolist()) <= bound
    assert report.clipped_count == sum(abs(value) > bound for value in before.tolist())
    assert report.largest_magnitude == max(abs(value) for value in before.tolist())
    inside = np.abs(before.astype(np.float64)) <= bound
    assert vector[inside].tobytes() == before[inside].tobytes()


def test_float32_is_clipped_below_a_bound_that_float32_lacks():
    vector = np.array([0.1, -1.0], np.float32)  # float32(0.1) > 0.1
    assert clip_range(vector, 0.1).clipped_count == 2
    below = float(np.nextafter(np.float32(0.1), np.float32(0)))
    assert vector.tolist() == [below, -below]


def test_reports_show_no_figure_of_the_vector():
    vector = np.array([3.125, -4.0])
    assert repr(clip_l2(vector.copy(), 1.0)) == "ClipReport()"
    assert repr(clip_range(vector, 1.0)) == "RangeReport()"
