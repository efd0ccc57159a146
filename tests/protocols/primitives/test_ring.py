"""Words modulo 2^b."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import UsageError
from protocols.primitives.ring import centre, check_words, reduce_in_place, word_dtype


def test_a_word_is_the_smallest_of_8_16_32_and_64_bits_that_holds_it():
    widths = [word_dtype(bits).itemsize * 8 for bits in range(1, 65)]
    assert widths == [8] * 8 + [16] * 8 + [32] * 16 + [64] * 32
    assert word_dtype(32) == np.uint32


@pytest.mark.parametrize("bits", [0, 65, -8])
def test_other_widths_are_refused(bits):
    with pytest.raises(UsageError, match="1 to 64"):
        word_dtype(bits)


@pytest.mark.parametrize("words", [np.zeros(3, np.uint64), np.zeros(3, np.int32), np.zeros((3, 1), np.uint32)])
@pytest.mark.parametrize("function", [check_words, reduce_in_place, centre])
def test_arrays_of_another_dtype_or_shape_are_refused(function, words):
    with pytest.raises(UsageError, match="words of 20 bits"):
        function(words, 20)


@given(st.integers(1, 64), st.data())
def test_reduced_and_centred_words_are_congruent_and_in_range(bits, data):
    width = 8 * word_dtype(bits).itemsize
    values = data.draw(st.lists(st.integers(0, 2**width - 1), max_size=20))
    words = np.array(values, word_dtype(bits))
    centred = centre(words, bits)
    assert words.tolist() == values
    reduce_in_place(words, bits)
    assert words.tolist() == [value % 2**bits for value in values]
    assert centred.dtype == np.int64
    for value, signed in zip(values, centred.tolist(), strict=True):
        assert (signed - value) % 2**bits == 0
        assert -(2 ** (bits - 1)) <= signed < 2 ** (bits - 1)
