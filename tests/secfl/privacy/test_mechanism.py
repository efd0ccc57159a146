"""The distributed mechanism: exact bounds on what one vector or one record can change, and sums that come back."""

from __future__ import annotations

import math
from fractions import Fraction

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import EncodingError, PrivacyError, UsageError
from protocols.primitives.ring import centre, reduce_in_place
from protocols.testing.randomness import DeterministicEntropy
from secfl.encoding.subset import choose_coordinates
from secfl.privacy.discrete_gaussian import DiscreteGaussian
from secfl.privacy.fixed_point import FixedPoint, RecordSum, dithered, square_norm
from secfl.privacy.mechanism import DistributedMechanism, delta_of_sampler

SEED = bytes(32)


def mechanism(**changes: object) -> DistributedMechanism:
    constants: dict[str, object] = {
        "clip_norm": 1.0,
        "noise_multiplier": 1.0,
        "dimension": 650,
        "minimum_contributors": 5,
        "colluding": 1,
        "maximum_contributors": 8,
        "layout_digest": bytes(32),
    }
    return DistributedMechanism.choose(**(constants | changes))  # type: ignore[arg-type]


def vectors(count: int, dimension: int, seed: int = 1, length: float = 3.0) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((count, dimension))
    return (length * drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


@given(st.lists(st.integers(-(2**53), 2**53), min_size=1, max_size=40))
def test_the_square_norm_of_whole_numbers_is_exact(values: list[int]) -> None:
    expected = sum(value * value for value in values)
    assert square_norm(np.array(values, np.float64)) == expected
    assert square_norm(np.array(values, np.int64)) == expected


@given(
    clip=st.floats(2.0**-20, 2.0**20, width=32),
    bits=st.integers(20, 30),
    scale=st.floats(-30, 30),
    dimension=st.sampled_from([1, 2, 7, 650, 8193]),
    spread=st.sampled_from(["even", "peaked", "normal"]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=120, deadline=None)
def test_no_vector_is_longer_than_the_clip_in_exact_arithmetic(
    clip: float, bits: int, scale: float, dimension: int, spread: str, seed: int
) -> None:
    choice = np.random.default_rng(seed)
    vector = np.ones(dimension) if spread == "even" else choice.standard_normal(dimension)
    if spread == "peaked":
        vector[1:] *= 1e-9
    vector = (vector * 2.0**scale).astype(np.float32)
    point = FixedPoint(clip, bits - math.frexp(clip)[1], dimension)
    whole = point.clipped(vector)
    assert sum(int(x) ** 2 for x in whole) <= (Fraction(clip) * Fraction(2) ** point.bits) ** 2
    both = RecordSum(point, 4)
    both.add([vector[None, :]])
    assert sum(int(x) ** 2 for x in both.total) <= (Fraction(clip) * Fraction(2) ** point.bits) ** 2
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    kept = whole * 2.0**-point.bits
    expected = vector * min(1.0, clip / norm)
    assert np.abs(kept - expected).max() <= clip * 1e-6 + math.sqrt(dimension) * 2.0**-point.bits


@given(seed=st.integers(0, 2**32 - 1), records=st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_a_record_more_or_less_moves_the_sum_by_no_more_than_the_sensitivity(seed: int, records: int) -> None:
    """The same dither for both sums; the record's gradient is as long and as awkward as it can be."""
    choice = np.random.default_rng(seed)
    it = mechanism(maximum_records=64, fraction_bits=8)
    gradients = vectors(records, 650, seed)
    odd = vectors(1, 650, seed + 1, length=float(choice.choice([0.5, 1.0, 1.0000001, 1e30])))
    with_it, without = it.record_sum(), it.record_sum()
    for total in (with_it, without):
        total.add([gradients[:, :600].reshape(records, 20, 30), gradients[:, 600:]])
    with_it.add([odd[:, :600].reshape(1, 20, 30), odd[:, 600:]])
    one, other = (
        dithered(total.total, it._fine_bits, DeterministicEntropy(f"dither {seed}")) for total in (with_it, without)
    )
    assert square_norm(one - other) <= it.plan.l2_sensitivity**2


def noiseless(it: DistributedMechanism, vector: np.ndarray, name: str) -> np.ndarray:
    """What a party sends, without its noise: the same bytes decide the dither and then the noise."""
    words, _ = it.encode(vector, SEED, DeterministicEntropy(name))
    entropy, draws = DeterministicEntropy(name), 1
    while True:
        sampler = DeterministicEntropy(name)
        sampler(32 * draws)
        signed = centre(words, it.modulus_bits) - DiscreteGaussian(it.plan.share_sigma).sample(it.dimension, sampler)
        steps = dithered(it._fixed_point().clipped(vector), it._fine_bits, entropy)
        if np.array_equal(signed, steps):
            return steps
        draws += 1


def test_conditional_rounding_sends_no_vector_longer_than_its_tighter_bound() -> None:
    """Coordinates of half a step are the longest after rounding: there the bound bites, and rounding is repeated."""
    it = mechanism(rounding="conditional", fraction_bits=3, dimension=64, noise_multiplier=2.0)
    vector = np.full(64, 0.0625, np.float32)  # half a step each; C = 8 steps, Delta_2 = sqrt(64 + 16 + 12) = 9.6
    assert it.plan.l2_sensitivity == pytest.approx(math.sqrt(64 + 16 + 12), rel=1e-9)
    for index in range(50):
        assert square_norm(noiseless(it, vector, f"party {index}")) <= 92
    far = np.full(64, 0.4375 / 3.5, np.float32)  # just within the clip: 8 coordinates' worth
    assert square_norm(noiseless(it, far, "far")) <= 92


def test_the_noise_of_a_word_is_the_sampler_s_and_nothing_else() -> None:
    """With the same bytes: words minus the dithered vector are the sampler's draws."""
    it = mechanism()
    vector = vectors(1, 650)[0]
    words, report = it.encode(vector, SEED, DeterministicEntropy("party"))
    entropy = DeterministicEntropy("party")
    whole = it._fixed_point().clipped(vector)
    steps = dithered(whole, it._fine_bits, entropy)
    noise = DiscreteGaussian(it.plan.share_sigma).sample(650, entropy)
    np.testing.assert_array_equal(centre(words, it.modulus_bits), steps + noise)
    assert (report.left_out, report.records) == (0, 1)


@pytest.mark.parametrize("rounding", ["unconditional", "conditional"])
def test_a_sum_comes_back_within_its_noise(rounding: str) -> None:
    it = mechanism(rounding=rounding, noise_multiplier=0.01)
    updates = vectors(6, 650)
    total = np.zeros(650, np.uint32)
    for index, update in enumerate(updates):
        total += it.encode(update, SEED, DeterministicEntropy(f"party {index}"))[0]
    reduce_in_place(total, it.modulus_bits)
    error = it.decode(total, 6, SEED) - updates.sum(axis=0) / 3
    deviation = it.standard_deviation(6)
    assert deviation == pytest.approx(0.01 * it.plan.inflation * math.sqrt(6 / 4), rel=1e-9)
    assert np.abs(error).max() < 6 * deviation
    assert np.std(error) == pytest.approx(deviation, rel=0.15)


def test_records_come_back_as_the_sum_of_their_clipped_gradients() -> None:
    it = mechanism(maximum_records=40, noise_multiplier=0.01)
    total, expected = np.zeros(650, np.uint32), np.zeros(650)
    for party in range(5):
        gradients = vectors(7 * party, 650, party) if party else np.zeros((0, 650), np.float32)
        records = it.record_sum()
        records.add([gradients])
        total += it.encode_sum(records, SEED, DeterministicEntropy(f"party {party}"))[0]
        expected += gradients.sum(axis=0) / 3
    reduce_in_place(total, it.modulus_bits)
    assert np.abs(it.decode(total, 5, SEED) - expected).max() < 6 * it.standard_deviation(5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_counts_as_zero_and_the_noise_is_sent(bad: float) -> None:
    vector = vectors(1, 650)[0]
    vector[17] = bad
    one = mechanism()
    words, report = one.encode(vector, SEED, DeterministicEntropy("x"))
    zero, _ = one.encode(np.zeros(650, np.float32), SEED, DeterministicEntropy("x"))
    np.testing.assert_array_equal(words, zero)
    assert report.left_out == 1
    assert np.count_nonzero(words) > 600
    many = mechanism(maximum_records=8)
    with_it, without = many.record_sum(), many.record_sum()
    with_it.add([np.stack([vector, vectors(1, 650, 2)[0]])])
    without.add([vectors(1, 650, 2)])
    np.testing.assert_array_equal(with_it.total, without.total)
    assert many.encode_sum(with_it, SEED, DeterministicEntropy("x"))[1].left_out == 1


def test_an_empty_sum_is_noise_alone() -> None:
    it = mechanism(maximum_records=8)
    words, report = it.encode_sum(it.record_sum(), SEED, DeterministicEntropy("x"))
    assert np.std(centre(words, it.modulus_bits)) == pytest.approx(it.plan.share_sigma, rel=0.1)
    assert report.records == 0


def test_default_scales_fit_32_bits_with_all_their_noise() -> None:
    it = mechanism()
    assert it.modulus_bits == 32
    assert it.maximum_contributors * it.largest_entry < 2**31 <= 2 * it.maximum_contributors * it.largest_entry
    assert it.plan.inflation < 1.0001
    assert it.plan.share_sigma > 2**20


def test_a_large_model_with_many_records_takes_more_than_32_bits() -> None:
    it = mechanism(dimension=10**7, maximum_records=4096, maximum_contributors=100, noise_multiplier=0.5)
    assert 32 < it.modulus_bits <= 64
    assert 1 < it.plan.inflation <= 1.001


def test_the_record_that_a_session_carries_comes_back() -> None:
    it = mechanism(maximum_records=8)
    assert DistributedMechanism.from_bytes(it.to_bytes()) == it
    with pytest.raises(EncodingError):
        DistributedMechanism.from_bytes(it.to_bytes()[:-1])
    assert mechanism(maximum_records=9).to_bytes() != it.to_bytes()


def test_a_modulus_that_the_sum_could_wrap_is_refused() -> None:
    fields = {name: getattr(mechanism(), name) for name in DistributedMechanism.__struct_fields__}
    with pytest.raises(PrivacyError, match=r"modulus_bits: 31: .*never with 32"):
        DistributedMechanism(**(fields | {"modulus_bits": 31}))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"noise_multiplier": math.nan}, "noise_multiplier"),
        ({"colluding": 5}, "colluding"),
        ({"minimum_contributors": 9}, "colluding"),
        ({"fraction_bits": -3, "noise_multiplier": 0.01}, "fraction_bits"),
        ({"fraction_bits": 55}, "modulus_bits|fraction_bits"),
        ({"maximum_records": 2, "rounding": "conditional"}, "rounding"),
        ({"layout_digest": b""}, "layout_digest"),
    ],
)
def test_constants_under_which_no_bound_holds_are_refused_by_name(changes: dict[str, object], named: str) -> None:
    with pytest.raises(PrivacyError, match=named):
        mechanism(**changes)


def test_a_wrong_number_of_contributors_or_a_sum_out_of_reach_is_refused() -> None:
    it = mechanism(fraction_bits=10)
    total = np.full(650, 2 ** (it.modulus_bits - 1) - 1, f"<u{2 if it.modulus_bits <= 16 else 4}")
    with pytest.raises(EncodingError, match="out of its contributors' reach"):
        it.decode(total, 5, SEED)
    for contributors in (4, 9):
        with pytest.raises(UsageError, match="contributors"):
            it.decode(np.zeros_like(total), contributors, SEED)


def test_a_step_with_more_records_than_the_public_maximum_is_refused() -> None:
    records = mechanism(maximum_records=8).record_sum()
    records.add([vectors(8, 650)])
    with pytest.raises(PrivacyError, match="more than 8 records"):
        records.add([vectors(1, 650)])


def test_each_way_takes_what_it_is_for() -> None:
    one, many = mechanism(), mechanism(maximum_records=8)
    with pytest.raises(UsageError, match="encode_sum"):
        many.encode(vectors(1, 650)[0], SEED, DeterministicEntropy("x"))
    with pytest.raises(UsageError, match="another mechanism"):
        one.encode_sum(many.record_sum(), SEED, DeterministicEntropy("x"))
    with pytest.raises(EncodingError, match="float32 of shape"):
        one.encode(np.zeros(650), SEED, DeterministicEntropy("x"))  # type: ignore[arg-type]


def test_the_sampler_s_share_of_delta_is_negligible_and_of_the_stated_form() -> None:
    eta = mechanism().total_variation
    assert 1e-31 < eta < 2e-31  # the cut at 12 sigma; the sampler itself is below 2^-100
    assert delta_of_sampler(eta, 20, 650, 1000, 1.0) == pytest.approx((1 + math.e) * 20 * 650 * 1000 * eta)


@pytest.mark.parametrize("options", [{"rotation_block": 256}, {"kept": 100}, {"kept": 100, "rotation_block": 64}])
@pytest.mark.parametrize("records", [1, 40])
def test_rotated_and_chosen_coordinates_come_back(options: dict[str, int], records: int) -> None:
    it = mechanism(noise_multiplier=0.01, maximum_records=records, **options)
    assert it.plan.dimension == it.word_count(650) == {256: 768, 0: 100, 64: 128}[options.get("rotation_block", 0)]
    updates = vectors(6, 650, length=0.5)
    total = np.zeros(it.word_count(), np.uint32)
    for index, update in enumerate(updates):
        entropy = DeterministicEntropy(f"party {index}")
        if records == 1:
            total += it.encode(update, b"session", entropy)[0]
        else:
            gradients = it.record_sum()
            gradients.add([update[None, :]])
            total += it.encode_sum(gradients, b"session", entropy)[0]
    reduce_in_place(total, it.modulus_bits)
    decoded, expected = it.decode(total, 6, b"session"), updates.sum(axis=0)
    if it.kept:
        sent = choose_coordinates(650, 100, b"session")
        assert np.count_nonzero(decoded) == 100
        decoded, expected = decoded[sent], expected[sent]
    assert np.abs(decoded - expected).max() < 6 * it.standard_deviation(6)
    assert np.std(decoded - expected) == pytest.approx(it.standard_deviation(6), rel=0.25)


@given(seed=st.integers(0, 2**32 - 1), block=st.sampled_from([16, 256, 1024]), records=st.booleans())
@settings(max_examples=30, deadline=None)
def test_rotated_sums_with_and_without_one_vector_stay_within_the_sensitivity(
    seed: int, block: int, records: bool
) -> None:
    """Same signs, same dither, exact arithmetic; the vector is as long as the clip allows."""
    it = mechanism(maximum_records=16 if records else 1, rotation_block=block, fraction_bits=5, noise_multiplier=4.0)
    point, transform = it._fixed_point(), it.transform
    odd = point.clipped(vectors(1, 650, seed)[0])
    rest = sum(point.clipped(x) for x in vectors(15, 650, seed + 1)) if records else np.zeros(650)
    one, other = (
        dithered(
            transform.rotate_whole(whole, b"signs"),
            it._fine_bits + transform.side_bits,
            DeterministicEntropy(f"dither {seed}"),
        )
        for whole in (rest + odd, rest)
    )
    assert 0 < square_norm(one - other) <= it.plan.l2_sensitivity**2


def compressed(**changes: object) -> DistributedMechanism:
    return mechanism(
        **{
            "dimension": 10_000,
            "modulus_bits": 16,
            "rotation_block": 1024,
            "rounding": "conditional",
            "minimum_contributors": 50,
            "colluding": 0,
            "maximum_contributors": 60,
            "wrap_probability": 1e-6,
            **changes,
        }
    )


def test_sixteen_bits_suffice_with_a_rotation() -> None:
    it = compressed()
    assert it.modulus_bits == 16
    assert 0 < it.wrap_bound <= 1e-6
    assert it._sizes.bits > 16  # without a wrap being possible they would not
    assert it.plan.inflation < 1.05
    assert it.describe()["bytes_per_parameter"] == pytest.approx(2 * 10_240 / 10_000)
    finer = msgspec.structs.asdict(it) | {"fraction_bits": it.fraction_bits + 1}
    with pytest.raises(PrivacyError, match=r"modulus_bits: 16: .* may wrap"):
        DistributedMechanism(**finer)


def test_a_compressed_sum_comes_back_within_its_noise() -> None:
    it = compressed()
    updates = vectors(50, 10_000, length=1.0) + vectors(1, 10_000, 9, length=0.5)[0]
    updates /= np.linalg.norm(updates, axis=1, keepdims=True)
    total = np.zeros(it.word_count(), np.uint16)
    for index, update in enumerate(updates):
        total += it.encode(update, b"session", DeterministicEntropy(f"party {index}"))[0]
    error = it.decode(total, 50, b"session") - updates.sum(axis=0)
    rounding = math.ldexp(math.sqrt(50 / 4), -it.fraction_bits)  # of the dither, at most
    assert it.standard_deviation(50) * 0.95 < np.std(error) < math.hypot(it.standard_deviation(50), rounding) * 1.05


def test_sums_wrap_no_more_often_than_stated() -> None:
    """At one coordinate, all parties alike: the worst that signs and noise leave; the bound is for any coordinate."""
    it = compressed(wrap_probability=0.5, dimension=1024, maximum_contributors=50)
    vector = np.zeros(1024, np.float32)
    vector[3] = 1.0
    wrapped, sums, largest = 0, 40, 0
    for index in range(sums):
        entropy, half = DeterministicEntropy(f"sum {index}"), 2 ** (it.modulus_bits - 1)
        exact = np.zeros(it.word_count(), np.int64)
        for _ in range(50):
            words = it.encode(vector, b"%d" % index, entropy)[0]
            exact += centre(words, it.modulus_bits)
        largest = max(largest, int(np.abs(exact).max()))
        wrapped += largest >= half
    assert it.wrap_bound > 0.05
    assert wrapped / sums <= it.wrap_bound
    assert largest > half / 2  # the bound is not met by leaving bits unused


def test_a_wrap_is_a_residue_of_the_same_sum() -> None:
    """What is opened is a function of the integer sum: b bits of it. So a wrap tells nothing more."""
    wide, narrow = compressed(modulus_bits=32, wrap_probability=0.0, fraction_bits=8), compressed(fraction_bits=8)
    vector = vectors(1, 10_000)[0]
    one = wide.encode(vector, b"session", DeterministicEntropy("x"))[0]
    other = narrow.encode(vector, b"session", DeterministicEntropy("x"))[0]
    np.testing.assert_array_equal(one & 0xFFFF, other)
