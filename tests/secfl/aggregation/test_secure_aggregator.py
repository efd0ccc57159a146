"""SecureAggregator: exact sums, weighted means, dropouts, and errors that name the culprit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import Identity, Roster, SigningKey
from protocols.errors import EncodingError, ThresholdNotMet, UsageError
from protocols.testing.randomness import DeterministicEntropy
from secfl.aggregation import SecureAggregator
from secfl.engines import Incident

PARTIES = ("a", "b", "c", "d", "e")


def integers(shape: tuple[int, ...] = (3, 4), dtype: str = "int64") -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    return {party: generator.integers(-50, 50, shape).astype(dtype) for party in PARTIES}


def total(values: dict[str, np.ndarray], parties: tuple[str, ...] = PARTIES) -> np.ndarray:
    return np.sum([values[party].astype(np.int64) for party in parties], axis=0)


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64"])
def test_integers_are_summed_exactly_in_their_shape(dtype: str) -> None:
    values = integers(dtype=dtype)
    result = SecureAggregator(PARTIES).sum(values)
    assert result.sum.dtype == np.int64
    np.testing.assert_array_equal(result.sum, total(values))
    assert result.contributors == PARTIES
    assert result.dropped == result.excluded == ()


@settings(max_examples=15, deadline=None)
@given(
    bits=st.integers(2, 60),
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(3, 6),
    extreme=st.sampled_from([-1, 1, 0]),
)
def test_no_sum_of_allowed_integers_wraps(bits: int, seed: int, size: int, extreme: int) -> None:
    bound = 2 ** (bits - 1) - 1
    names = [f"p{number}" for number in range(size)]
    generator = np.random.default_rng(seed)
    values = {name: generator.integers(-bound, bound, 5, dtype=np.int64, endpoint=True) for name in names}
    if extreme:  # everybody at the same end of the range: the sum that would wrap first
        values = {name: np.full(5, extreme * bound, np.int64) for name in names}
    result = SecureAggregator(names, bits=bits).sum(values)
    assert result.sum.tolist() == [sum(int(values[name][at]) for name in names) for at in range(5)]


def test_integer_weights_multiply_exactly() -> None:
    values, weights = integers(), dict(zip(PARTIES, (1, 20, 300, 2**20, 7), strict=True))
    result = SecureAggregator(PARTIES).mean(values, weights)
    expected = sum(values[party] * weights[party] for party in PARTIES)
    np.testing.assert_array_equal(result.sum, expected)
    assert result.sum.dtype == np.int64
    np.testing.assert_array_equal(result.mean, expected / sum(weights.values()))
    assert result.weights == weights


def test_bool_unsigned_and_python_numbers_are_counted() -> None:
    aggregator = SecureAggregator(PARTIES)
    assert aggregator.sum(dict.fromkeys(PARTIES, 3)).sum == 15
    flags = {party: np.array([True, party < "c"]) for party in PARTIES}
    np.testing.assert_array_equal(aggregator.sum(flags).sum, [5, 2])
    large = {party: np.array([2**31 - 1], np.uint64) for party in PARTIES}
    assert aggregator.sum(large).sum.tolist() == [5 * (2**31 - 1)]


def test_named_arrays_come_back_by_name_shape_and_dtype() -> None:
    generator = np.random.default_rng(2)
    values = {
        party: {
            "weight": generator.uniform(-1, 1, (2, 3)).astype(np.float32),
            "bias": np.asarray(generator.uniform(-1, 1)),
            "half": generator.uniform(-1, 1, 4).astype(np.float16),
        }
        for party in PARTIES
    }
    result = SecureAggregator(PARTIES, clip=1.0).sum(values)
    assert {name: (array.shape, array.dtype.name) for name, array in result.sum.items()} == {
        "weight": ((2, 3), "float32"),
        "bias": ((), "float64"),
        "half": ((4,), "float16"),
    }
    plain = np.sum([values[party]["weight"].astype(np.float64) for party in PARTIES], axis=0)
    # Five roundings of one grid step each, 2^-31, and the last one to float32.
    np.testing.assert_allclose(result.sum["weight"], plain, rtol=2**-24, atol=5 * 2**-31)


def test_float64_keeps_its_precision_to_the_grid() -> None:
    values = {party: np.array([0.1 * (at + 1)]) for at, party in enumerate(PARTIES)}
    result = SecureAggregator(PARTIES, clip=1.0, rounding="nearest").sum(values)
    # Through float32 the error could be 5 * 2^-25; the grid allows 5 * 2^-32.
    assert abs(result.sum[0] - 1.5) <= 5 * 2**-32


def test_float_weights_are_quantised_as_documented() -> None:
    weights = dict(zip(PARTIES, (0.1, 0.2, 0.3, 0.4, 0.8), strict=True))
    values = {party: np.array([1.0 if party == "a" else 0.0]) for party in PARTIES}
    result = SecureAggregator(PARTIES, clip=1.0, rounding="nearest").mean(values, weights)
    units = {party: round(2**16 * weight / 0.8) for party, weight in weights.items()}
    assert result.weights == {party: unit * 0.8 / 2**16 for party, unit in units.items()}
    assert result.mean[0] == units["a"] / sum(units.values())
    assert abs(result.mean[0] - 0.1 / 1.8) < 2**-16


def test_party_of_weight_zero_is_not_asked() -> None:
    values = integers()
    result = SecureAggregator(PARTIES).sum(values, weights={"a": 0, "b": 1, "c": 1, "d": 1, "e": 1})
    np.testing.assert_array_equal(result.sum, total(values, PARTIES[1:]))
    assert result.excluded == ("a",)
    assert result.contributors == PARTIES[1:]
    assert result.dropped == ()


@pytest.mark.parametrize("phase", ["AdvertiseKeys", "ShareKeys", "MaskedInput"])
def test_party_lost_before_its_vector_came_is_left_out_of_an_exact_sum(phase: str) -> None:
    values = integers()
    result = SecureAggregator(PARTIES, incidents=[Incident("c", phase)]).sum(values)
    np.testing.assert_array_equal(result.sum, total(values, ("a", "b", "d", "e")))
    assert result.dropped == ("c",)


def test_missing_party_drops_out_and_mean_is_over_the_rest() -> None:
    values = integers()
    del values["b"]
    result = SecureAggregator(PARTIES).mean(values)
    np.testing.assert_array_equal(result.mean, total(values, ("a", "c", "d", "e")) / 4)
    assert result.dropped == ("b",)


def test_too_few_parties_give_no_sum() -> None:
    values = {party: np.array([1]) for party in ("a", "b", "c")}
    with pytest.raises(ThresholdNotMet) as failure:
        SecureAggregator(PARTIES).sum(values)  # 5 parties, 1 colludes: t = 4
    assert (failure.value.required, failure.value.present) == (4, 3)


def test_failed_sum_carries_a_note_of_who_was_refused() -> None:
    incidents = [Incident(party, "ShareKeys", kind="delay", seconds=10**6) for party in ("a", "b")]
    with pytest.raises(ThresholdNotMet, match="ShareKeys: 3 parties present, 4 required") as failure:
        SecureAggregator(PARTIES, incidents=incidents).sum(integers())
    assert [note.split(":")[:2] for note in failure.value.__notes__] == [
        ["ShareKeys", " party 'a'"],
        ["ShareKeys", " party 'b'"],
    ]


def test_incident_happens_in_the_round_it_is_scheduled_for() -> None:
    aggregator = SecureAggregator(PARTIES, incidents=[Incident("e", "MaskedInput", round=2)])
    dropped = [aggregator.sum(integers()).dropped for _ in range(3)]
    assert dropped == [(), ("e",), ()]


def test_repr_and_docstring_say_that_it_is_a_simulation() -> None:
    assert repr(SecureAggregator(PARTIES)) == (
        "SecureAggregator(5 parties, secagg; simulation: this process sees every input)"
    )
    assert "sees every" in str(SecureAggregator.__doc__)


def test_repr_of_a_result_shows_no_value() -> None:
    values = {party: np.array([987654]) for party in PARTIES}
    result = SecureAggregator(PARTIES).sum(values)
    assert str(5 * 987654) not in repr(result)
    assert "987654" not in repr(result)


def test_own_identities_sign_under_their_roster() -> None:
    identities = [Identity(party, SigningKey.generate(DeterministicEntropy(party))) for party in PARTIES]
    roster = Roster(identity.member() for identity in identities)
    assert SecureAggregator(identities, roster=roster).sum(integers((2,))).contributors == PARTIES
    strangers = [Identity(party, SigningKey.generate(DeterministicEntropy("x" + party))) for party in PARTIES]
    with pytest.raises(UsageError, match="another identity key for 'a'"):
        SecureAggregator(strangers, roster=roster).sum(integers((2,)))


def test_coordinate_beyond_the_range_is_an_error_that_names_party_tensor_and_position() -> None:
    values = {party: {"w": np.array([0.5, 0.5])} for party in PARTIES}
    values["b"]["w"][1] = 1.5
    with pytest.raises(EncodingError, match=r"tensor 'w': party 'b': the value at position 1 is beyond the range, 1"):
        SecureAggregator(PARTIES, clip=1.0).sum(values)
    counts = {party: np.array([[1, 2]]) for party in PARTIES}
    counts["d"][0, 0] = -11
    with pytest.raises(EncodingError, match=r"party 'd': the value at position 0 is beyond the range, 10"):
        SecureAggregator(PARTIES, clip=10).sum(counts)


@pytest.mark.parametrize(("dtype", "low", "high"), [("float64", -2.0, 9.0), ("int8", -9, 9), ("uint8", 0, 9)])
def test_clipping_on_request_is_counted(dtype: str, low: float, high: float) -> None:
    values = {party: np.array([low, high, 1]).astype(dtype) for party in PARTIES}
    result = SecureAggregator(PARTIES, clip=2, on_overflow="clip", rounding="nearest").sum(values)
    np.testing.assert_array_equal(result.sum, [5 * max(low, -2), 10, 5])
    assert result.clipped == dict.fromkeys(PARTIES, 1 + (low < -2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w": np.zeros(3)}, r"tensor 'w': party 'b': shape \(3,\), the layout has \(2,\)"),
        ({"w": np.zeros(2, np.float32)}, "tensor 'w': party 'b': dtype float32, the layout has float64"),
        ({"v": np.zeros(2)}, "tensor 'w': party 'b': missing"),
        ({"w": np.zeros(2), "v": np.zeros(2)}, "tensor 'v': party 'b': extra"),
        ({"w": np.array([0.0, np.nan])}, r"tensor 'w': party 'b': not finite \(NaN or infinity\) at position 1"),
        ({"w": [0.0, 0.0]}, "tensor 'w': party 'b': a numpy array or torch tensor is expected, not list"),
        (np.zeros(2), "party 'b': a dict of arrays expected"),
        ({"w": np.zeros(2, np.complex128)}, "tensor 'w': party 'b': dtype complex128"),
        ({"w": np.zeros(2, np.int64)}, "tensor 'w': party 'b': dtype int64, the layout has float64"),
    ],
)
def test_value_of_another_form_names_party_and_tensor(change: object, message: str) -> None:
    values = {party: {"w": np.zeros(2)} for party in PARTIES} | {"b": change}
    with pytest.raises(EncodingError, match=message):
        SecureAggregator(PARTIES, clip=1.0).sum(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w": np.zeros(3, np.int64)}, r"tensor 'w': party 'b': shape \(3,\), the layout has \(2,\)"),
        ({"w": np.zeros(2)}, "tensor 'w': party 'b': dtype float64, the layout has integer"),
        ({}, "tensor 'w': party 'b': missing"),
        ({"w": np.zeros(2, np.int64), "v": np.zeros(1, np.int64)}, "tensor 'v': party 'b': extra"),
        (np.zeros(2, np.int64), "party 'b': a dict of arrays expected"),
    ],
)
def test_integers_of_another_form_name_party_and_tensor(change: object, message: str) -> None:
    values = {party: {"w": np.zeros(2, np.int64)} for party in PARTIES} | {"b": change}
    with pytest.raises(EncodingError, match=message):
        SecureAggregator(PARTIES).sum(values)


def test_floats_need_a_public_clip() -> None:
    with pytest.raises(UsageError, match="clip: required for floats"):
        SecureAggregator(PARTIES).sum({party: np.zeros(2) for party in PARTIES})


def test_integers_beside_floats_are_refused() -> None:
    values = {party: {"w": np.zeros(2), "n": np.array(3)} for party in PARTIES}
    with pytest.raises(EncodingError, match=r"tensor 'n': party 'a': integers beside floats \('w'\)"):
        SecureAggregator(PARTIES, clip=1.0).sum(values)


@pytest.mark.parametrize("empty", [{}, np.zeros(0), np.zeros((0, 3), np.int64)])
def test_value_without_a_coordinate_is_refused(empty: object) -> None:
    with pytest.raises(EncodingError, match=r"empty|coordinates"):
        SecureAggregator(PARTIES, clip=1.0).sum(dict.fromkeys(PARTIES, empty))


@pytest.mark.parametrize(
    ("parties", "message"),
    [
        ([], "parties: 0; at least 3"),
        (["a"], r"parties: 1 \(a\); at least 3"),
        (["a", "b"], "the sum over two shows each the other's"),
        (["a", "b", "b"], "'b' is listed twice"),
        (["a", "b", "Hospital C"], "party name 'Hospital C'"),
        ("abc", "not one string"),
        ([1, 2, 3], "a name is a str, not int"),
    ],
)
def test_parties_that_cannot_sum_are_refused(parties: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SecureAggregator(parties)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 62}, "could wrap: the range can be up to 1844674407370955161"),
        ({"bits": 1}, "bits: 1; allowed"),
        ({"bits": 63}, "bits: 63; allowed"),
        ({"bits": 8.0}, "bits: 8.0; allowed"),
        ({"clip": 0.0}, "clip: 0.0; allowed"),
        ({"clip": float("inf")}, "clip: inf; allowed"),
        ({"clip": float("nan")}, "clip: nan; allowed"),
        ({"protocol": "plain"}, "protocol: 'plain'; allowed: 'secagg'"),
        ({"threshold": 2}, "threshold: proposed 2, this party requires at least 4"),
        ({"threshold": 6}, "threshold"),
        ({"collusion_bound": 5}, "minimum_contributors"),
        ({"minimum_contributors": 6}, "minimum_contributors"),
        ({"rounding": "up"}, "rounding: 'up'; allowed"),
        ({"on_overflow": "wrap"}, "on_overflow: 'wrap'; allowed"),
        ({"incidents": [Incident("z", "MaskedInput")]}, "incidents: 'z' is no party"),
    ],
)
def test_settings_are_refused_at_creation(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SecureAggregator(PARTIES, **arguments)  # type: ignore[arg-type]


def test_bits_that_just_do_not_wrap_are_taken() -> None:
    bound = 2**60 - 1
    result = SecureAggregator(PARTIES, bits=61).sum({party: np.array([bound]) for party in PARTIES})
    assert result.sum.tolist() == [5 * bound]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 0, "b": 0, "c": 0, "d": 0, "e": 0}, "weights: they sum to zero"),
        ({"a": 1, "b": 1, "c": 0, "d": 0, "e": 0}, "at least 3"),
        ({"a": 1, "b": 1, "c": 1, "d": 1}, "party 'e' has none"),
        ({"a": 1, "b": 1, "c": 1, "d": 1, "e": 1, "f": 1}, "'f' is no party"),
        ({"a": 1, "b": -1, "c": 1, "d": 1, "e": 1}, "party 'b' has -1"),
        ({"a": 1, "b": float("nan"), "c": 1, "d": 1, "e": 1}, "party 'b' has nan"),
        ({"a": 1, "b": True, "c": 1, "d": 1, "e": 1}, "party 'b' has True"),
        ({"a": 1.0, "b": 1e-9, "c": 1, "d": 1, "e": 1}, "party 'b''s is below 2\\^-17"),
        ({"a": 1, "b": 2**29, "c": 1, "d": 1, "e": 1}, "the largest is 536870912"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SecureAggregator(PARTIES, clip=1.0).mean({party: np.zeros(2) for party in PARTIES}, weights)


def test_weights_that_leave_too_few_bits_to_floats_say_how_many() -> None:
    weights = dict.fromkeys(PARTIES, 2**25)
    values = {party: np.full(2, 0.25) for party in PARTIES}
    with pytest.raises(UsageError, match="floats can have up to 29"):
        SecureAggregator(PARTIES, clip=1.0).mean(values, weights)
    result = SecureAggregator(PARTIES, bits=29, clip=1.0).mean(values, weights)
    np.testing.assert_array_equal(result.mean, 0.25)


def test_weighted_integers_that_could_wrap_are_refused() -> None:
    with pytest.raises(UsageError, match="could wrap"):
        SecureAggregator(PARTIES, bits=60).sum(dict.fromkeys(PARTIES, 1), dict.fromkeys(PARTIES, 4))
    assert SecureAggregator(PARTIES, bits=60).sum(dict.fromkeys(PARTIES, 1), dict.fromkeys(PARTIES, 3)).sum == 15


@pytest.mark.parametrize(
    ("values", "message"),
    [({}, "values: empty"), ({"f": np.zeros(1)}, "'f' is no party"), ([1, 2, 3], "a dict of party to array")],
)
def test_mapping_that_cannot_be_summed_is_refused(values: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SecureAggregator(PARTIES, clip=1.0).sum(values)  # type: ignore[arg-type]


def test_sum_beyond_float16_is_an_error_and_its_mean_is_not() -> None:
    values = {party: np.array([60000], np.float16) for party in PARTIES}
    aggregator = SecureAggregator(PARTIES, clip=65504.0, rounding="nearest")
    with pytest.raises(EncodingError, match="beyond the range of float16"):
        aggregator.sum(values)
    assert aggregator.mean(values).mean.tolist() == [60000]


def test_torch_tensors_come_back_as_torch_tensors() -> None:
    import torch

    values = {party: {"w": torch.full((2, 2), 0.5)} for party in PARTIES}
    result = SecureAggregator(PARTIES, clip=1.0, rounding="nearest").sum(values)
    assert torch.equal(result.sum["w"], torch.full((2, 2), 2.5))
