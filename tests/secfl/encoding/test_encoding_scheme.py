"""Scheme: what is refused, the modulus against brute force, one canonical encoding."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from protocols.errors import EncodingError, UsageError
from secfl.encoding import EncodingScheme

DIGEST = bytes(range(32))


def scheme(**changes: Any) -> EncodingScheme:
    fields: dict[str, Any] = {
        "value_range": 1.0,
        "fraction_bits": 15,
        "maximum_contributors": 10,
        "layout_digest": DIGEST,
    }
    return EncodingScheme(**{**fields, **changes})


def chosen(value_range: float, value_bits: int, **options: Any) -> EncodingScheme:
    return EncodingScheme.choose(
        value_range, value_bits, **{"maximum_contributors": 10, "layout_digest": DIGEST, **options}
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 2),
        ("version", True),
        ("value_range", 0.0),
        ("value_range", -1.0),
        ("value_range", math.nan),
        ("value_range", math.inf),
        ("value_range", 1),
        ("value_range", 0.1),  # no float32 number
        ("value_range", 2.0**-127),
        ("fraction_bits", 1.0),
        ("fraction_bits", -1),  # no step within the range
        ("fraction_bits", 54),  # beyond 2^53 steps
        ("maximum_contributors", 1),
        ("maximum_contributors", 0),
        ("maximum_contributors", True),
        ("maximum_contributors", 2**32 + 1),
        ("maximum_weight", 0),
        ("maximum_weight", 2),  # without weighting
        ("maximum_weight", 1.0),
        ("noise_tail", -1.0),
        ("noise_tail", -0.0),
        ("noise_tail", 1),
        ("noise_tail", math.nan),
        ("noise_tail", math.inf),
        ("rounding", "floor"),
        ("weighting", "secret"),
        ("on_overflow", "wrap"),
        ("layout_digest", bytes(31)),
        ("layout_digest", bytearray(32)),
    ],
)
def test_field_out_of_its_range_is_refused_by_name(field: str, value: object):
    with pytest.raises(EncodingError, match=f"encoding scheme: {field} is"):
        scheme(**{field: value})


@pytest.mark.parametrize("weight", [0, 2**29])
def test_maximum_weight_has_its_limits(weight: int):
    with pytest.raises(EncodingError, match="maximum_weight"):
        scheme(weighting="public", maximum_weight=weight)
    assert scheme(weighting="public", maximum_weight=2**29 - 1).maximum_weight == 2**29 - 1


def test_private_weights_and_noise_exclude_each_other():
    assert scheme(weighting="private", maximum_weight=5).word_count(7) == 8
    assert scheme(weighting="public", maximum_weight=5, noise_tail=12.0).word_count(7) == 7
    with pytest.raises(EncodingError, match="noise_tail"):
        scheme(weighting="private", maximum_weight=5, noise_tail=12.0)


def test_a_modulus_beyond_64_bits_is_refused_and_64_is_not():
    # peak 2^53: the sum of n contributors is n 2^53, which needs 55 + floor(log2 n) bits.
    assert scheme(fraction_bits=53, maximum_contributors=2**10 - 1).modulus_bits == 64
    with pytest.raises(EncodingError, match="needs 65 bits, at most 64"):
        scheme(fraction_bits=53, maximum_contributors=2**10)


@pytest.mark.parametrize(
    ("changes", "bits"),
    [
        ({}, 20),  # 10 * 2^15 = 327680 <= 2^19 - 1
        ({"maximum_contributors": 15}, 20),  # 491520
        ({"maximum_contributors": 16}, 21),  # 2^19 just does not fit below 2^19
        ({"maximum_contributors": 100}, 23),
        ({"fraction_bits": 3, "maximum_contributors": 15}, 8),  # 120 <= 127
        ({"fraction_bits": 3, "maximum_contributors": 16}, 9),  # 128
        ({"fraction_bits": 0, "maximum_contributors": 2}, 8),  # never below 8
        ({"weighting": "public", "maximum_weight": 1000}, 30),  # 327680000 <= 2^29 - 1
        ({"noise_tail": 0.5, "maximum_contributors": 16}, 21),
        ({"noise_tail": 19660.0}, 20),  # 10 * (32768 + 19660) = 524280 <= 524287
        ({"noise_tail": 19660.5}, 21),  # the tail is rounded up: 524290
        ({"value_range": 1.5, "fraction_bits": 0, "maximum_contributors": 63}, 8),  # 63 * 2
        ({"value_range": 1.5, "fraction_bits": 0, "maximum_contributors": 64}, 9),
        ({"value_range": 1.25, "fraction_bits": 0, "maximum_contributors": 127, "rounding": "nearest"}, 8),  # 127 * 1
        ({"value_range": 1.25, "fraction_bits": 0, "maximum_contributors": 127}, 9),  # stochastic: 127 * 2
        ({"value_range": 1.5, "fraction_bits": 0, "maximum_contributors": 127, "rounding": "nearest"}, 9),
        ({"fraction_bits": 0, "weighting": "private", "maximum_weight": 63}, 11),  # 630 <= 1023
        # A grid coarser than one unit: the weight's own coordinate decides: 2 * 100 = 200, not 2 * 25.
        (
            {
                "value_range": 4.0,
                "fraction_bits": -2,
                "weighting": "private",
                "maximum_weight": 100,
                "maximum_contributors": 2,
            },
            9,
        ),
    ],
)
def test_modulus_of_known_cases(changes: dict[str, Any], bits: int):
    assert scheme(**changes).modulus_bits == bits


@given(
    st.floats(1e-3, 1e3),
    st.integers(8, 20),
    st.integers(2, 10**4),
    st.integers(1, 10**4),
    st.floats(0, 1e6),
    st.sampled_from(["stochastic", "nearest"]),
)
def test_modulus_is_the_smallest_that_holds_the_sum(
    value_range: float, bits: int, contributors: int, weight: int, tail: float, rounding: str
):
    some = chosen(
        value_range,
        bits,
        maximum_contributors=contributors,
        weighting="public",
        maximum_weight=weight,
        noise_tail=tail,
        rounding=rounding,
    )
    extreme = contributors * (some.peak + math.ceil(tail))
    assert extreme <= 2 ** (some.modulus_bits - 1) - 1
    assert some.modulus_bits == 8 or extreme > 2 ** (some.modulus_bits - 2) - 1
    assert some.word_dtype.itemsize * 8 >= some.modulus_bits
    assert some.word_dtype.itemsize == 1 or some.word_dtype.itemsize * 4 < some.modulus_bits
    assert some.describe()["contributors_before_wrap"] >= contributors


@pytest.mark.parametrize(
    ("value_range", "bits", "fraction"), [(1.0, 16, 15), (1.5, 16, 14), (0.25, 8, 9), (1000.0, 8, -3)]
)
def test_choose_takes_the_finest_power_of_two(value_range: float, bits: int, fraction: int):
    assert chosen(value_range, bits).fraction_bits == fraction


@given(st.floats(2.0**-100, 2.0**100), st.integers(8, 32))
def test_choose_uses_the_bits_it_is_given(value_range: float, bits: int):
    some = chosen(value_range, bits, maximum_contributors=2)
    assert value_range <= some.value_range <= value_range * (1 + 2.0**-23)
    assert some.value_range == float(np.float32(some.value_range))
    assert 2 ** (bits - 2) < some.value_range * some.steps <= 2 ** (bits - 1)
    assert some.step * some.steps == 1.0


@pytest.mark.parametrize("bits", [7, 33, 16.0, True])
def test_choose_refuses_other_value_bits(bits: Any):
    with pytest.raises(UsageError):
        chosen(1.0, bits)


@pytest.mark.parametrize("value_range", [0.0, -1.0, math.nan, math.inf, 1e39, 1e-39])
def test_choose_refuses_other_ranges(value_range: float):
    with pytest.raises(EncodingError, match="value_range"):
        chosen(value_range, 16)


def test_describe_tells_the_user_the_numbers():
    shown = chosen(1.0, 16, maximum_contributors=100).describe()
    assert shown["modulus_bits"] == 23
    assert shown["step"] == 2.0**-15
    assert shown["bytes_per_parameter"] == 2.875
    assert shown["contributors_before_wrap"] == 127
    assert shown["largest_rounding_error_of_sum"] == 100 * 2.0**-15
    assert chosen(1.0, 16, rounding="nearest").describe()["largest_rounding_error_of_sum"] == 5 * 2.0**-15


def test_canonical_bytes_are_what_they_have_always_been():
    assert scheme().to_bytes().hex() == (
        "9a01cb3ff00000000000000f0ac420"
        + DIGEST.hex()
        + "aa73746f63686173746963a46e6f6e6501cb0000000000000000a56572726f72"
    )


@given(
    st.floats(2.0**-50, 2.0**50),
    st.integers(8, 24),
    st.integers(2, 1000),
    st.sampled_from(["none", "public", "private"]),
    st.integers(1, 1000),
    st.floats(0, 1e6),
    st.data(),
)
def test_bytes_round_trip_and_no_changed_byte_passes_as_the_same(
    value_range: float, bits: int, contributors: int, weighting: Any, weight: int, tail: float, data: st.DataObject
):
    some = chosen(
        value_range,
        bits,
        maximum_contributors=contributors,
        weighting=weighting,
        maximum_weight=1 if weighting == "none" else weight,
        noise_tail=0.0 if weighting == "private" else tail,
    )
    encoded = bytearray(some.to_bytes())
    assert EncodingScheme.from_bytes(bytes(encoded)) == some
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        other = EncodingScheme.from_bytes(bytes(encoded))
    except EncodingError:
        return
    assert other != some
    assert other.to_bytes() == bytes(encoded)


def test_malformed_bytes_are_refused():
    fields = msgspec.msgpack.decode(scheme().to_bytes())
    encode = msgspec.msgpack.encode
    good = encode(fields)

    def with_field(position: int, value: object) -> bytes:
        return encode([value if at == position else field for at, field in enumerate(fields)])

    for bad, match in (
        (good + b"\0", "malformed"),
        (good[:-1], "malformed"),
        (encode(fields[:-1]), "canonical"),  # a default may not be left out
        (encode([*fields, 0]), "malformed"),
        (with_field(0, 2), "malformed"),
        (with_field(1, 1), "canonical"),  # an integer in a float's place
        (with_field(2, 15.0), "malformed|canonical"),
        (with_field(3, 1), "maximum_contributors"),
        (with_field(4, b"short"), "layout_digest"),
        (with_field(5, "floor"), "malformed"),
        (good.replace(bytes([0x0F, 0x0A]), bytes([0xCC, 0x0F, 0x0A])), "canonical"),
        (b"\x91" * 1000, "malformed"),
        (bytes(1025), "at most"),
    ):
        with pytest.raises(EncodingError, match=match):
            EncodingScheme.from_bytes(bad)


def test_scheme_cannot_be_changed():
    with pytest.raises(AttributeError):
        scheme().value_range = 2.0  # type: ignore[misc]


@given(st.integers(2, 50), st.integers(1, 60), st.floats(0.5, 8, width=16))
def test_reachable_sum_bounds_every_split_of_the_weight(contributors: int, total: int, value_range: float):
    some = scheme(
        value_range=value_range,
        fraction_bits=1,
        maximum_contributors=contributors,
        weighting="public",
        maximum_weight=60,
        noise_tail=1.5,
    )
    assume(total >= 2)
    count = min(contributors, total)
    weights = [total - count + 1] + [1] * (count - 1)
    assert some.reachable_sum(total) >= sum(math.ceil(w * value_range * 2) + 2 for w in weights)
    assert some.reachable_sum(total) >= math.ceil(total * value_range * 2) + 2
