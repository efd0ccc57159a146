"""Codec: sums within their rounding error, no wrap at the extremes, every refusal, no figure in a message."""

from __future__ import annotations

import math
import os
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from protocols.errors import EncodingError, UsageError
from secfl.encoding import Encoder, EncodingScheme, TensorLayout, decode_mean, decode_sum
from secfl.encoding.vectors import CHUNK

DIGEST = bytes(32)
ROUNDINGS = ["stochastic", "nearest"]


def chosen(value_range: float = 1.0, value_bits: int = 16, **options: Any) -> EncodingScheme:
    return EncodingScheme.choose(
        value_range, value_bits, **{"maximum_contributors": 10, "layout_digest": DIGEST, **options}
    )


def encode(scheme: EncodingScheme, vector: np.ndarray, weight: int = 1) -> np.ndarray:
    return Encoder(scheme, os.urandom).encode(vector, weight)[0]


def add(scheme: EncodingScheme, parts: list[np.ndarray]) -> np.ndarray:
    """The protocol's group: addition modulo 2^b."""
    total = sum(part.astype(object) for part in parts) % 2**scheme.modulus_bits
    return total.astype(scheme.word_dtype)


cohorts = st.integers(2, 6).flatmap(
    lambda n: st.integers(1, 6).flatmap(
        lambda d: st.tuples(
            st.sampled_from([np.float32, np.float64]).flatmap(
                lambda dtype: hnp.arrays(dtype, (n, d), elements=st.floats(-1, 1, width=32))
            ),
            st.lists(st.integers(1, 1000), min_size=n, max_size=n),
        )
    )
)


@given(cohorts, st.integers(8, 32), st.sampled_from(ROUNDINGS))
def test_decoded_sum_is_within_the_rounding_error_of_the_exact_weighted_sum(cohort: Any, bits: int, rounding: Any):
    vectors, weights = cohort
    n, d = vectors.shape
    scheme = chosen(1.0, bits, maximum_contributors=n, rounding=rounding, weighting="public", maximum_weight=1000)
    words = add(scheme, [encode(scheme, vector, weight) for vector, weight in zip(vectors, weights, strict=True)])
    total = decode_sum(words, scheme, sum(weights))
    bound = Fraction(scheme.step) * n / (1 if rounding == "stochastic" else 2)
    for column in range(d):
        exact = sum(Fraction(x) * w for x, w in zip(vectors[:, column].tolist(), weights, strict=True))
        assert abs(Fraction(total[column]) - exact) <= bound
    assert np.array_equal(decode_mean(words, scheme, sum(weights)), total / sum(weights))


@given(
    st.integers(2, 5).flatmap(lambda n: hnp.arrays(np.int64, (n, 4), elements=st.integers(-(2**15), 2**15))),
    st.sampled_from(ROUNDINGS),
)
def test_grid_values_are_summed_exactly(integers: np.ndarray, rounding: Any):
    scheme = chosen(4.0, 16, maximum_contributors=len(integers), rounding=rounding)
    vectors = (integers * scheme.step).astype(np.float32)
    words = add(scheme, [encode(scheme, vector) for vector in vectors])
    assert np.array_equal(decode_sum(words, scheme, len(integers)), integers.sum(axis=0) * scheme.step)


@given(
    st.floats(2.0**-20, 2.0**20),
    st.integers(8, 20),
    st.integers(2, 5000),
    st.integers(1, 5000),
    st.sampled_from(ROUNDINGS),
    st.sampled_from([np.float32, np.float64]),
)
def test_all_clients_at_the_bound_with_the_largest_weight_do_not_wrap(
    value_range: float, bits: int, contributors: int, weight: int, rounding: Any, dtype: type
):
    scheme = chosen(
        value_range,
        bits,
        maximum_contributors=contributors,
        rounding=rounding,
        weighting="public",
        maximum_weight=weight,
    )
    vector = np.array([scheme.value_range, -scheme.value_range, -scheme.value_range], dtype)
    words = encode(scheme, vector, weight)
    total = (words.astype(object) * contributors % 2**scheme.modulus_bits).astype(scheme.word_dtype)
    decoded = decode_sum(total, scheme, contributors * weight)
    for got, coordinate in zip(decoded.tolist(), vector.tolist(), strict=True):
        assert abs(Fraction(got) - Fraction(coordinate) * weight * contributors) <= contributors * Fraction(scheme.step)


def test_the_modulus_is_needed_one_more_contributor_would_wrap():
    scheme = chosen(1.0, 8, maximum_contributors=3)  # 3 * 128 = 384 <= 511, 4 * 128 = 512 is not
    assert scheme.modulus_bits == 10
    words = encode(scheme, np.ones(1))
    assert decode_sum(add(scheme, [words] * 3), scheme, 3).tolist() == [3.0]
    with pytest.raises(EncodingError, match="allowed: 1 to 3"):
        decode_sum(add(scheme, [words] * 4), scheme, 4)


@pytest.mark.parametrize(
    ("bits", "contributors", "dtype"), [(8, 2, "<u2"), (16, 10, "<u4"), (24, 4, "<u4"), (32, 10, "<u8")]
)
def test_words_have_the_smallest_dtype_and_stay_below_the_modulus(bits: int, contributors: int, dtype: str):
    scheme = chosen(1.0, bits, maximum_contributors=contributors)
    words = encode(scheme, np.linspace(-1, 1, 1001))
    assert words.dtype == np.dtype(dtype)
    assert int(words.max()) < 2**scheme.modulus_bits
    assert int(words.max()) > 2**scheme.modulus_bits - 2 ** (bits - 1) - 1  # negative values are there


def test_eight_bit_words_when_they_suffice():
    scheme = EncodingScheme(value_range=1.0, fraction_bits=5, maximum_contributors=3, layout_digest=DIGEST)
    assert scheme.modulus_bits == 8
    words = encode(scheme, np.array([1.0, -1.0]))
    assert words.tolist() == [32, 224]
    assert words.dtype == np.uint8
    assert decode_mean(add(scheme, [words] * 3), scheme, 3).tolist() == [1.0, -1.0]


def test_sixty_four_bit_modulus_is_summed_modulo_two_to_the_64():
    scheme = EncodingScheme(
        value_range=1.0, fraction_bits=53, maximum_contributors=1023, layout_digest=DIGEST, rounding="nearest"
    )
    assert scheme.modulus_bits == 64
    words = encode(scheme, np.array([1.0, -1.0, 2.0**-53]))
    assert words.tolist() == [2**53, 2**64 - 2**53, 1]
    total = add(scheme, [words] * 1023)
    assert decode_sum(total, scheme, 1023).tolist() == [1023.0, -1023.0, 1023 * 2.0**-53]


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_every_chunk_of_a_long_vector_is_encoded_in_place(rounding: Any):
    size = 3 * CHUNK + 5
    scheme = chosen(rounding=rounding)
    integers = np.arange(size) % 65537 - 32768
    vector = (integers * scheme.step).astype(np.float32)
    out = np.empty(size, scheme.word_dtype)
    words, report = Encoder(scheme, os.urandom).encode(vector, out=out)
    assert words is out
    assert np.array_equal(words, integers % 2**scheme.modulus_bits)
    decoded = np.empty(size)
    assert decode_sum(words, scheme, 1, out=decoded) is decoded
    assert np.array_equal(decoded, vector.astype(np.float64))
    assert (report.clipped_count, report.largest_magnitude, report.rounding) == (0, 1.0, rounding)


def test_two_encodings_of_one_vector_draw_fresh_dither():
    vector = np.full(256, 0.5 + 2.0**-17, np.float32)
    encoder = Encoder(chosen(), os.urandom)
    assert encoder.encode(vector)[0].tolist() != encoder.encode(vector)[0].tolist()


def test_chunks_of_one_encoding_do_not_share_dither():
    scheme = chosen()
    vector = np.full(2 * CHUNK, scheme.step / 2)
    words = encode(scheme, vector)
    assert words[:CHUNK].tolist() != words[CHUNK:].tolist()


def test_nearest_rounding_asks_for_no_entropy():
    def none(count: int) -> bytes:
        raise AssertionError(count)

    Encoder(chosen(rounding="nearest"), none).encode(np.zeros(3))


class TestRange:
    LAYOUT = TensorLayout.of({"first": np.zeros(CHUNK, np.float32), "second": np.zeros((2, 2), np.float32)})

    def vector(self, value: float, dtype: type = np.float32) -> np.ndarray:
        vector = np.zeros(self.LAYOUT.size, dtype)
        vector[CHUNK + 2] = value
        return vector

    def encoder(self, **options: Any) -> Encoder:
        return Encoder(chosen(layout_digest=self.LAYOUT.digest, **options), os.urandom, self.LAYOUT)

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("on_overflow", ["error", "clip"])
    def test_not_finite_names_the_tensor_and_writes_nothing(self, bad: float, on_overflow: Any):
        encoder = self.encoder(on_overflow=on_overflow)
        out = np.full(self.LAYOUT.size, 77, encoder.scheme.word_dtype)
        with pytest.raises(EncodingError, match=r"tensor 'second': not finite .* position 2$"):
            encoder.encode(self.vector(bad), out=out)
        assert (out == 77).all()

    @pytest.mark.parametrize("sign", [1, -1])
    @pytest.mark.parametrize(
        ("dtype", "above"), [(np.float32, np.nextafter(np.float32(1), np.float32(2))), (np.float64, 1 + 2.0**-52)]
    )
    def test_the_next_number_beyond_the_bound_is_an_error_that_shows_no_value(
        self, sign: int, dtype: type, above: float
    ):
        encoder = self.encoder()
        out = np.full(self.LAYOUT.size, 77, encoder.scheme.word_dtype)
        with pytest.raises(EncodingError) as caught:
            encoder.encode(self.vector(sign * above, dtype), out=out)
        assert str(caught.value) == "tensor 'second': the value at position 2 is beyond the range, 1"
        assert (out == 77).all()
        encoder.encode(self.vector(sign * 1.0, dtype))

    def test_the_first_coordinate_beyond_the_bound_is_named(self):
        vector = self.vector(5.0)
        vector[17] = -1.5
        with pytest.raises(EncodingError, match="tensor 'first': the value at position 17"):
            self.encoder().encode(vector)
        with pytest.raises(EncodingError, match=f"tensor 'vector': the value at position {CHUNK + 2}"):
            Encoder(chosen(), os.urandom).encode(self.vector(5.0))

    def test_clipping_counts_and_leaves_the_vector(self):
        vector = np.array([0.5, 1.0, -1.0, 1.25, -8.0], np.float32)
        before = vector.copy()
        scheme = chosen(on_overflow="clip")
        words, report = Encoder(scheme, os.urandom).encode(vector)
        assert decode_sum(words, scheme, 1).tolist() == [0.5, 1.0, -1.0, 1.0, -1.0]
        assert (report.clipped_count, report.largest_magnitude) == (2, 8.0)
        assert vector.tobytes() == before.tobytes()

    def test_a_range_that_float32_lacks_still_admits_its_own_float32(self):
        scheme = chosen(0.1)
        words = encode(scheme, np.array([0.1, -0.1], np.float32))
        assert decode_sum(words, scheme, 1) == pytest.approx([0.1, -0.1], abs=scheme.step)
        encode(scheme, np.array([0.1, -0.1]))

    def test_another_length_or_layout_is_refused(self):
        with pytest.raises(EncodingError, match="3 coordinates, the layout has"):
            self.encoder().encode(np.zeros(3))
        scheme = self.encoder().scheme
        other = TensorLayout.of({"w": np.zeros(3, np.float32)})
        with pytest.raises(EncodingError, match="digest"):
            Encoder(scheme, os.urandom, other)
        with pytest.raises(EncodingError, match="digest"):
            decode_sum(np.zeros(3, scheme.word_dtype), scheme, 2, layout=other)
        with pytest.raises(EncodingError, match="3 coordinates, the layout has"):
            decode_sum(np.zeros(3, scheme.word_dtype), scheme, 2, layout=self.LAYOUT)

    def test_report_shows_no_figure_of_the_vector(self):
        _, report = self.encoder(on_overflow="clip").encode(self.vector(3.125))
        assert repr(report) == "LocalReport(rounding='stochastic', step=3.0517578125e-05)"


@pytest.mark.parametrize("bad", [np.empty(0), np.zeros((2, 2)), np.zeros(2, np.int64), np.zeros(2, np.float16), [1.0]])
def test_what_is_no_vector_is_refused(bad: object):
    with pytest.raises(EncodingError):
        Encoder(chosen(), os.urandom).encode(bad)  # type: ignore[arg-type]


def test_encode_and_decode_refuse_an_out_that_does_not_fit():
    scheme = chosen()
    read_only = np.empty(4, scheme.word_dtype)
    read_only.flags.writeable = False
    for out in (np.empty(5, scheme.word_dtype), np.empty(4, np.uint64), read_only):
        with pytest.raises(UsageError):
            Encoder(scheme, os.urandom).encode(np.zeros(4), out=out)
    for decoded in (np.empty(5), np.empty(4, np.float32)):
        with pytest.raises(UsageError):
            decode_sum(np.zeros(4, scheme.word_dtype), scheme, 2, out=decoded)


@pytest.mark.parametrize("weighting", ["public", "private"])
@pytest.mark.parametrize("weight", [0, -1, 11, 1.0, True, np.int64(3), None])
def test_weights_out_of_their_range_are_refused(weighting: Any, weight: Any):
    with pytest.raises(EncodingError, match="weight"):
        Encoder(chosen(weighting=weighting, maximum_weight=10), os.urandom).encode(np.zeros(1), weight)


def test_a_refused_private_weight_is_not_shown():
    with pytest.raises(EncodingError) as caught:
        Encoder(chosen(weighting="private", maximum_weight=10), os.urandom).encode(np.zeros(1), 4711)
    assert "4711" not in str(caught.value)


def test_without_weighting_a_weight_is_refused():
    with pytest.raises(EncodingError, match="allowed: 1 to 1"):
        Encoder(chosen(), os.urandom).encode(np.zeros(1), 2)


class TestPrivateWeights:
    SCHEME = chosen(weighting="private", maximum_weight=500, maximum_contributors=3)

    def test_the_mean_is_weighted_by_weights_that_nobody_is_told(self):
        vectors = [np.array([0.5, -1.0]), np.array([-0.25, 1.0]), np.array([0.0, 0.125])]
        weights = [500, 1, 123]
        words = add(
            self.SCHEME, [encode(self.SCHEME, vector, weight) for vector, weight in zip(vectors, weights, strict=True)]
        )
        assert words.size == 3
        assert int(words[-1]) == 624
        assert np.array_equal(decode_mean(words, self.SCHEME), np.average(vectors, axis=0, weights=weights))
        assert decode_sum(words, self.SCHEME).tolist() == [500 * 0.5 - 0.25, -500.0 + 1 + 123 / 8]

    @pytest.mark.parametrize("weight", [0, 1501, 2**27 - 1, 2**SCHEME.modulus_bits + 3])
    def test_a_sum_of_weights_out_of_range_is_refused(self, weight: int):
        words = np.array([0, weight], self.SCHEME.word_dtype)
        with pytest.raises(EncodingError, match="allowed: 1 to 1500"):
            decode_mean(words, self.SCHEME)

    def test_a_weight_beside_the_private_one_is_refused(self):
        with pytest.raises(UsageError, match="exactly when"):
            decode_mean(encode(self.SCHEME, np.zeros(2)), self.SCHEME, 3)

    def test_the_weight_alone_is_nothing_to_decode(self):
        with pytest.raises(EncodingError, match="empty"):
            decode_mean(np.ones(1, self.SCHEME.word_dtype), self.SCHEME)


class TestDecodeRefuses:
    SCHEME = chosen(maximum_contributors=4)

    @pytest.mark.parametrize("weight", [0, -1, 5])
    def test_weights_that_sum_to_zero_or_to_too_much(self, weight: int):
        for decode in (decode_sum, decode_mean):
            with pytest.raises(EncodingError, match=f"sum to {weight}; allowed: 1 to 4"):
                decode(np.zeros(2, self.SCHEME.word_dtype), self.SCHEME, weight)

    @pytest.mark.parametrize("weight", [None, 2.0, True])
    def test_weights_of_another_type(self, weight: Any):
        with pytest.raises(UsageError):
            decode_mean(np.zeros(2, self.SCHEME.word_dtype), self.SCHEME, weight)

    @pytest.mark.parametrize("words", [np.zeros(2, np.uint64), np.zeros((2, 1), np.uint32), np.zeros(2, np.int32)])
    def test_words_of_another_shape_or_dtype(self, words: np.ndarray):
        with pytest.raises(UsageError):
            decode_sum(words, self.SCHEME, 2)

    def test_no_words(self):
        with pytest.raises(EncodingError, match="empty"):
            decode_sum(np.zeros(0, self.SCHEME.word_dtype), self.SCHEME, 2)

    def test_a_word_above_the_modulus(self):
        words = np.array([0, 2**self.SCHEME.modulus_bits], self.SCHEME.word_dtype)
        with pytest.raises(EncodingError, match=f"more than {self.SCHEME.modulus_bits} bits"):
            decode_sum(words, self.SCHEME, 2)

    @pytest.mark.parametrize("sign", [1, -1])
    def test_a_sum_out_of_reach_of_its_contributors_names_the_tensor(self, sign: int):
        layout = TensorLayout.of({"a": np.zeros(3, np.float32), "b": np.zeros(3, np.float32)})
        scheme = chosen(maximum_contributors=4, layout_digest=layout.digest)
        words = np.zeros(6, scheme.word_dtype)
        words[4] = sign * 2 * 2**15 % 2**scheme.modulus_bits
        assert decode_sum(words, scheme, 2, layout=layout)[4] == sign * 2.0
        words[4] = sign * (2 * 2**15 + 1) % 2**scheme.modulus_bits
        with pytest.raises(EncodingError, match="tensor 'b': the sum at position 1 is out of"):
            decode_sum(words, scheme, 2, layout=layout)

    def test_noise_within_its_tail_is_in_reach(self):
        scheme = chosen(maximum_contributors=4, noise_tail=99.5)
        words = np.array([4 * (2**15 + 100)], scheme.word_dtype)
        assert decode_sum(words, scheme, 4)[0] * scheme.steps == 4 * (2**15 + 100)
        with pytest.raises(EncodingError, match="reach"):
            decode_sum(words + words.dtype.type(1), scheme, 4)


@pytest.mark.slow
def test_stochastic_mean_of_many_encodings_converges_where_nearest_is_off():
    value, repeats = np.float32(0.3 * 2.0**-7), 200 * CHUNK  # three tenths of a step
    vector = np.full(repeats, value)
    stochastic, nearest = chosen(1.0, 8), chosen(1.0, 8, rounding="nearest")
    means = {
        scheme.rounding: float(decode_sum(encode(scheme, vector), scheme, 1).mean()) for scheme in (stochastic, nearest)
    }
    assert means["nearest"] == 0.0
    # The standard deviation of one is sqrt(.3 * .7) steps; 6.1 of them are exceeded once in 10^9 runs.
    assert abs(means["stochastic"] - float(value)) < 6.1 * math.sqrt(0.21) * stochastic.step / math.sqrt(repeats)
