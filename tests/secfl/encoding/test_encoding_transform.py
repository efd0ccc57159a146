"""Rotation and subset: orthogonal, exact on whole numbers, reversible, public and the same for all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, stats

from protocols.errors import EncodingError, UsageError
from secfl.encoding.rotation import BLOCKS, Rotation
from secfl.encoding.subset import choose_coordinates
from secfl.encoding.transform import Transform

shapes = st.tuples(st.integers(1, 40_000), st.sampled_from(BLOCKS), st.binary(min_size=1, max_size=32))


def drawn(dimension: int, seed: bytes) -> np.ndarray:
    return np.random.default_rng(list(seed)).standard_t(3, dimension)


@given(shapes)
@settings(max_examples=40, deadline=None)
def test_a_rotation_keeps_norms_and_comes_back(shape: tuple[int, int, bytes]) -> None:
    dimension, block, seed = shape
    rotation, vector = Rotation(dimension, block), drawn(dimension, seed)
    rotated = rotation.forward(vector, seed)
    assert rotated.shape == (rotation.length,)
    assert 0 <= rotation.length - dimension < block
    assert np.linalg.norm(rotated) == pytest.approx(np.linalg.norm(vector), rel=1e-12)
    np.testing.assert_allclose(rotation.inverse(rotated, seed), vector, atol=1e-12 * np.linalg.norm(vector))


@given(shapes)
@settings(max_examples=25, deadline=None)
def test_on_whole_numbers_the_rotation_is_exact(shape: tuple[int, int, bytes]) -> None:
    """Norms multiply by m, to the last unit: sums of squares in Python's integers."""
    dimension, block, seed = shape
    rotation = Rotation(dimension, block)
    whole = np.rint(drawn(dimension, seed) * 2.0**20)
    rotated = rotation.whole(whole, seed)
    np.testing.assert_array_equal(rotated, np.rint(rotated))
    assert sum(int(x) ** 2 for x in rotated) == block * sum(int(x) ** 2 for x in whole)
    assert 4**rotation.side_bits == block


@pytest.mark.parametrize("block", [16, 64, 1024])
def test_a_block_is_sylvester_s_matrix_times_the_signs(block: int) -> None:
    rotation, matrix = Rotation(3 * block - 5, block), linalg.hadamard(block).astype(float)
    columns = np.array([rotation.whole(unit, b"seed") for unit in np.eye(rotation.dimension)])
    signs = columns[:, ::block].max(axis=1) + columns[:, ::block].min(axis=1)  # the first row of a block is all ones
    assert set(signs) == {-1.0, 1.0}
    assert abs(signs.sum()) < 5 * np.sqrt(signs.size)
    for start in (0, block, 2 * block):
        part = columns[start : start + block, start : start + block]
        np.testing.assert_array_equal(part, signs[start : start + block, None] * matrix[: part.shape[0]])
        assert not columns[start : start + block, :start].any()


def test_rotating_spreads_one_coordinate_over_its_block() -> None:
    vector = np.zeros(4096)
    vector[17] = 64.0
    assert set(np.abs(Rotation(4096, 4096).forward(vector, b"seed"))) == {1.0}


def test_the_signs_are_those_of_the_seed() -> None:
    rotation, vector = Rotation(5000, 256), np.random.default_rng(1).standard_normal(5000)
    one, other = rotation.forward(vector, b"one"), rotation.forward(vector, b"other")
    np.testing.assert_array_equal(one, rotation.forward(vector, b"one"))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.1
    with pytest.raises(UsageError, match="seed"):
        rotation.forward(vector, b"")


def test_float32_and_float64_rotate_alike() -> None:
    rotation, vector = Rotation(5000, 256), drawn(5000, b"v").astype(np.float32)
    np.testing.assert_array_equal(rotation.forward(vector, b"s"), rotation.forward(vector.astype(np.float64), b"s"))


@pytest.mark.parametrize(("dimension", "block"), [(10, 0), (10, 32), (10, 16384), (0, 16)])
def test_other_blocks_are_refused(dimension: int, block: int) -> None:
    with pytest.raises(EncodingError, match="rotation"):
        Rotation(dimension, block)


def test_a_vector_of_another_length_is_refused() -> None:
    rotation = Rotation(20, 16)
    with pytest.raises(EncodingError, match="shape"):
        rotation.forward(np.zeros(21), b"s")
    with pytest.raises(EncodingError, match="shape"):
        rotation.inverse(np.zeros(20), b"s")


@given(st.integers(1, 3000), st.data())
@settings(max_examples=50, deadline=None)
def test_a_subset_has_its_size_and_no_coordinate_twice(dimension: int, data: st.DataObject) -> None:
    kept, seed = data.draw(st.integers(1, dimension)), data.draw(st.binary(min_size=1))
    chosen = choose_coordinates(dimension, kept, seed)
    assert chosen.shape == (kept,)
    assert (np.diff(chosen) > 0).all()
    assert 0 <= chosen[0] <= chosen[-1] < dimension
    np.testing.assert_array_equal(chosen, choose_coordinates(dimension, kept, seed))


def test_every_coordinate_is_chosen_equally_often() -> None:
    counts = np.zeros(50)
    for index in range(2000):
        counts[choose_coordinates(50, 10, b"%d" % index)] += 1
    # Without replacement counts vary less than independent ones by (50 - 10) / 49.
    statistic = float(((counts - 400) ** 2 / (400 * 0.8)).sum() * 49 / 50)
    assert 1e-4 < stats.chi2.sf(statistic, 49) < 1 - 1e-4


@pytest.mark.parametrize("kept", [0, 11])
def test_a_subset_of_another_size_is_refused(kept: int) -> None:
    with pytest.raises(EncodingError, match="kept"):
        choose_coordinates(10, kept, b"s")


@given(st.integers(1, 2000), st.sampled_from([0, 16, 256]), st.booleans(), st.binary(min_size=1))
@settings(max_examples=40, deadline=None)
def test_what_is_sent_comes_back_and_the_rest_is_zero(dimension: int, block: int, some: bool, seed: bytes) -> None:
    kept = (dimension + 2) // 3 if some else 0
    transform, vector = Transform(dimension, kept, block), drawn(dimension, seed)
    values = transform.forward(vector, seed)
    assert values.shape == (transform.length,)
    expected = vector.copy()
    if kept:
        expected[np.setdiff1d(np.arange(dimension), choose_coordinates(dimension, kept, seed))] = 0.0
    scale = np.abs(vector).max()
    np.testing.assert_allclose(transform.inverse(np.asarray(values), seed), expected, rtol=0, atol=1e-11 * scale)


@pytest.mark.parametrize(("kept", "block"), [(11, 0), (-1, 0), (0, 5)])
def test_transforms_that_cannot_be_are_refused(kept: int, block: int) -> None:
    with pytest.raises(EncodingError):
        Transform(10, kept, block)
