"""Bit packing."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.primitives.bitpack import pack, packed_size, unpack
from protocols.primitives.ring import word_dtype

CHUNK_BYTES = 256 * 1024
ODD_WIDTHS = [bits for bits in range(1, 65) if bits not in {8, 16, 32, 64}]


def packed_by_integers(values: list[int], bits: int) -> bytes:
    """The definition: one long integer, little-endian."""
    total = sum(value << (position * bits) for position, value in enumerate(values))
    return total.to_bytes((len(values) * bits + 7) // 8, "little")


def random_words(count: int, bits: int):
    words = np.frombuffer(os.urandom(8 * count), "<u8") >> np.uint64(64 - bits)
    return words.astype(word_dtype(bits))


@settings(deadline=None)
@given(st.integers(1, 64), st.data())
def test_packing_is_the_little_endian_integer_of_all_entries(bits, data):
    largest = 2**bits - 1
    values = data.draw(st.lists(st.sampled_from([0, 1, largest]) | st.integers(0, largest), max_size=150))
    packed = pack(np.array(values, word_dtype(bits)), bits)
    assert packed.tobytes() == packed_by_integers(values, bits)
    assert packed.size == packed_size(len(values), bits)
    words = unpack(packed.tobytes(), len(values), bits)
    assert words.dtype == word_dtype(bits)
    assert words.tolist() == values


@pytest.mark.parametrize("bits", range(1, 65))
def test_all_ones_fill_every_bit_and_no_other(bits):
    words = np.full(131, 2**bits - 1, word_dtype(bits))
    packed = pack(words, bits)
    assert packed.tobytes() == packed_by_integers([2**bits - 1] * 131, bits)
    assert np.array_equal(unpack(packed, 131, bits), words)


@pytest.mark.parametrize("bits", [*ODD_WIDTHS[::5], 31, 33, 57, 58, 63])
@pytest.mark.parametrize("excess", [-1, 0, 1, 13])
def test_vectors_longer_than_the_scratch_space_round_trip(bits, excess):
    count = 2 * CHUNK_BYTES // word_dtype(bits).itemsize + excess
    words = random_words(count, bits)
    packed = pack(words, bits)
    assert np.array_equal(unpack(packed, count, bits), words)
    for start in (0, count // 2 // 8 * 8, (count - 20) // 8 * 8):
        part = packed_by_integers(words[start : start + 16].tolist(), bits)
        assert packed[start * bits // 8 :][: len(part)].tobytes() == part


@given(st.integers(1, 64), st.integers(0, 20), st.integers(0, 100))
def test_chunks_of_a_multiple_of_eight_entries_pack_independently(bits, groups, rest):
    words = random_words(8 * groups + rest, bits)
    parts = pack(words[: 8 * groups], bits).tobytes() + pack(words[8 * groups :], bits).tobytes()
    assert pack(words, bits).tobytes() == parts


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
def test_whole_words_are_packed_and_unpacked_without_a_copy(bits):
    words = random_words(100, bits)
    packed = pack(words, bits)
    assert np.shares_memory(packed, words)
    assert np.shares_memory(unpack(packed, 100, bits), words)
    assert not unpack(packed.tobytes(), 100, bits).flags.writeable


@pytest.mark.parametrize("bits", [8, 12, 16, 20, 32, 64])
def test_strided_words_and_given_outputs_are_served(bits):
    words = random_words(200, bits)[::2]
    out = np.full(packed_size(100, bits), 255, np.uint8)
    assert pack(words, bits, out=out) is out
    assert out.tobytes() == packed_by_integers(words.tolist(), bits)
    assert pack(words, bits).tobytes() == out.tobytes()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda packed: np.frombuffer(packed, np.uint8)])
def test_any_buffer_of_bytes_is_unpacked(kind):
    for bits in (16, 20):
        words = random_words(9, bits)
        assert np.array_equal(unpack(kind(pack(words, bits).tobytes()), 9, bits), words)


@pytest.mark.parametrize("bits", [1, 16, 20, 64])
def test_nothing_packs_into_nothing(bits):
    assert pack(np.zeros(0, word_dtype(bits)), bits).size == 0
    assert unpack(b"", 0, bits).size == 0


@pytest.mark.parametrize("bits", [1, 12, 16, 20, 32, 63])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_buffer_of_another_length_is_a_fault(bits, change):
    with pytest.raises(PeerFault) as caught:
        unpack(bytes(packed_size(10, bits) + change), 10, bits)
    assert caught.value.reason is FaultReason.CHUNK_LENGTH


@pytest.mark.parametrize("bits", ODD_WIDTHS)
def test_each_unused_bit_that_is_set_is_a_fault(bits):
    count = 3 if 3 * bits % 8 else 1
    unused = -count * bits % 8
    for bit in range(8 - unused, 8):
        packed = bytearray(packed_size(count, bits))
        packed[-1] |= 1 << bit
        with pytest.raises(PeerFault) as caught:
            unpack(packed, count, bits)
        assert caught.value.reason is FaultReason.MALFORMED
    packed = bytearray(packed_size(count, bits))
    packed[-1] |= 1 << (7 - unused)
    assert unpack(packed, count, bits).tolist()[-1] == 2 ** (bits - 1)


@pytest.mark.parametrize("bits", ODD_WIDTHS)
@pytest.mark.parametrize("place", [0, 50_000, 99_999])
def test_a_word_that_does_not_fit_is_refused(bits, place):
    words = np.zeros(100_000, word_dtype(bits))
    words[place] = 2**bits - 1
    pack(words, bits)
    words[place] = 2**bits
    with pytest.raises(UsageError, match=f"fit into {bits} bits"):
        pack(words, bits)


@pytest.mark.parametrize(
    "out",
    [
        np.zeros(24, np.uint8),
        np.zeros(26, np.uint8),
        np.zeros(25, np.int8),
        np.zeros((25, 1), np.uint8),
        np.zeros(50, np.uint8)[::2],
    ],
)
def test_outputs_of_another_size_dtype_or_layout_are_refused(out):
    with pytest.raises(UsageError, match="25 bytes"):
        pack(np.zeros(10, np.uint32), 20, out=out)


def test_read_only_outputs_are_refused():
    for bits in (20, 32):
        out = np.frombuffer(bytes(packed_size(10, bits)), np.uint8)
        with pytest.raises(UsageError, match="read-only"):
            pack(np.zeros(10, np.uint32), bits, out=out)


def test_widths_and_counts_out_of_range_are_refused():
    for bits in (0, 65):
        with pytest.raises(UsageError, match="1 to 64"):
            packed_size(1, bits)
        with pytest.raises(UsageError, match="1 to 64"):
            unpack(b"", 0, bits)
    with pytest.raises(UsageError, match="negative"):
        packed_size(-1, 8)
    with pytest.raises(UsageError, match="negative"):
        unpack(b"", -1, 8)
    with pytest.raises(UsageError, match="words of 20 bits"):
        pack(np.zeros(4, np.uint64), 20)
