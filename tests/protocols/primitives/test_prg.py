"""Mask streams."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, ECB
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import UsageError
from protocols.primitives.prg import MaskStream, apply_masks
from protocols.primitives.ring import word_dtype

CHUNK_BYTES = 256 * 1024

# NIST SP 800-38A, F.5.5 CTR-AES256.Encrypt.
NIST_KEY = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
NIST_COUNTER = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
NIST_PLAINTEXT = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
NIST_CIPHERTEXT = bytes.fromhex(
    "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
    "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
)


def keystream(key: bytes, length: int) -> bytes:
    """Independent of counter mode: AES of the block numbers, in electronic code book mode."""
    blocks = b"".join(block.to_bytes(16, "big") for block in range(-(-length // 16)))
    return Cipher(AES(key), ECB()).encryptor().update(blocks)[:length]


def test_words_at_the_counter_of_nist_sp_800_38a_are_its_output_blocks():
    first_block = int.from_bytes(NIST_COUNTER, "big")
    words = MaskStream(NIST_KEY, 32).words(first_block * 4, 16)
    mask = bytes(a ^ b for a, b in zip(NIST_PLAINTEXT, NIST_CIPHERTEXT, strict=True))
    assert words.tobytes() == mask
    assert words[0] == int.from_bytes(mask[:4], "little")


@pytest.mark.parametrize("bits", [1, 8, 9, 16, 17, 32, 33, 64])
def test_the_stream_is_the_encrypted_counter_as_little_endian_words(bits):
    key = os.urandom(32)
    words = MaskStream(key, bits).words(0, 1000)
    assert words.dtype == word_dtype(bits)
    assert words.astype(words.dtype.newbyteorder("<")).tobytes() == keystream(key, 1000 * words.itemsize)


@settings(max_examples=60)
@given(st.sampled_from([8, 16, 32, 64]), st.lists(st.tuples(st.integers(0, 70_000), st.integers(0, 40)), min_size=1))
def test_any_order_of_reads_sees_the_same_stream(bits, reads):
    key = bytes(range(32))
    whole = np.frombuffer(keystream(key, 70_040 * bits // 8), word_dtype(bits))
    stream = MaskStream(key, bits)
    for start, count in reads:
        assert stream.words(start, count).tobytes() == whole[start : start + count].tobytes()


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("excess", [-1, 0, 1, 5])
def test_vectors_longer_than_a_chunk_continue_the_stream(bits, start, excess):
    key = os.urandom(32)
    count = 2 * CHUNK_BYTES * 8 // bits + excess
    expected = np.frombuffer(keystream(key, (start + count) * bits // 8), word_dtype(bits))[start:]
    stream = MaskStream(key, bits)
    assert stream.words(start, count).tobytes() == expected.tobytes()
    assert stream.words(start + 1, 10).tobytes() == expected[1:11].tobytes()


@given(st.integers(1, 64), st.integers(0, 2**40), st.binary(min_size=32, max_size=32))
def test_adding_and_subtracting_a_mask_cancel_and_wrap(bits, start, key):
    values = np.frombuffer(os.urandom(50 * word_dtype(bits).itemsize), word_dtype(bits))
    accumulator = values.copy()
    stream = MaskStream(key, bits)
    stream.add_into(accumulator, start)
    assert np.array_equal(accumulator, values + stream.words(start, 50))
    stream.add_into(accumulator, start, subtract=True)
    assert np.array_equal(accumulator, values)


@pytest.mark.parametrize("count", [0, 1, 7, 40_000])
def test_many_masks_at_once_equal_the_masks_one_by_one(count):
    keys = [os.urandom(32) for _ in range(5)]
    signs = [1, -1, -1, 1, -1]
    accumulator = np.full(count, 7, np.uint32)
    apply_masks(accumulator, [(MaskStream(key, 32), sign) for key, sign in zip(keys, signs, strict=True)], 11)
    expected = 7 + sum(
        sign * MaskStream(key, 32).words(11, count).astype(np.int64) for key, sign in zip(keys, signs, strict=True)
    )
    assert np.array_equal(accumulator, (expected % 2**32).astype(np.uint32))


@given(st.sampled_from([np.uint8, np.uint16, np.uint32, np.uint64]), st.sampled_from([9, 32, 64]), st.booleans())
def test_a_source_is_where_the_sum_starts_whatever_was_there_before(dtype, bits, masked):
    source = np.frombuffer(os.urandom(70_000), np.uint8).astype(dtype)
    accumulator = np.full(70_000, 77, word_dtype(bits))
    stream = MaskStream(bytes(32), bits)
    apply_masks(accumulator, [(stream, -1)] if masked else [], 5, source=source)
    expected = source.astype(accumulator.dtype) - (stream.words(5, 70_000) if masked else 0)
    assert np.array_equal(accumulator, expected)


@pytest.mark.parametrize("source", [np.zeros(3, np.uint32), np.zeros(4, np.int32), np.zeros((4, 1), np.uint32)])
def test_a_source_of_another_kind_leaves_the_accumulator_alone(source):
    accumulator = np.full(4, 7, np.uint32)
    with pytest.raises(UsageError, match="source is 4 unsigned words"):
        apply_masks(accumulator, [(MaskStream(bytes(32), 32), 1)], 0, source=source)
    assert accumulator.tolist() == [7] * 4


def test_one_stream_listed_twice_is_applied_twice():
    stream = MaskStream(bytes(32), 16)
    accumulator = np.zeros(100_000, np.uint16)
    apply_masks(accumulator, [(stream, 1), (stream, 1), (stream, -1)], 0)
    assert np.array_equal(accumulator, stream.words(0, 100_000))


def test_strided_accumulators_are_masked_in_place():
    backing = np.zeros(200, np.uint64)
    MaskStream(bytes(32), 64).add_into(backing[::2], 0)
    assert np.array_equal(backing[::2], MaskStream(bytes(32), 64).words(0, 100))
    assert not backing[1::2].any()


def test_threads_with_streams_of_their_own_do_not_disturb_each_other():
    key, count = os.urandom(32), 300_000
    accumulator = np.zeros(count, np.uint32)

    def mask(low: int) -> None:
        apply_masks(accumulator[low : low + 50_000], [(MaskStream(key, 32), 1)] * 3, low)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(mask, range(0, count, 50_000)))
    assert np.array_equal(accumulator, MaskStream(key, 32).words(0, count) * np.uint32(3))


@pytest.mark.parametrize(
    ("accumulator", "masks", "start", "match"),
    [
        (np.zeros(4, np.uint32), [(MaskStream(bytes(32), 32), 0)], 0, "sign"),
        (np.zeros(4, np.uint32), [(MaskStream(bytes(32), 32), 2)], 0, "sign"),
        (np.zeros(4, np.uint32), [], -1, "negative"),
        (np.zeros(4, np.int32), [(MaskStream(bytes(32), 32), 1)], 0, "words of 32 bits"),
        (np.zeros((4, 1), np.uint32), [(MaskStream(bytes(32), 32), 1)], 0, "words of 32 bits"),
        (np.zeros(4, np.uint32), [(MaskStream(bytes(32), 32), 1), (MaskStream(bytes(32), 16), 1)], 0, "16 bits"),
        (np.frombuffer(bytes(16), np.uint32), [(MaskStream(bytes(32), 32), 1)], 0, "read-only"),
    ],
)
def test_arguments_out_of_range_leave_the_accumulator_alone(accumulator, masks, start, match):
    with pytest.raises(UsageError, match=match):
        apply_masks(accumulator, masks, start)
    assert not accumulator.any()


def test_keys_widths_and_counts_out_of_range_are_refused():
    for length in (0, 16, 31, 33):
        with pytest.raises(UsageError, match="32 bytes"):
            MaskStream(bytes(length), 32)
    for bits in (0, 65):
        with pytest.raises(UsageError, match="1 to 64"):
            MaskStream(bytes(32), bits)
    with pytest.raises(UsageError, match="negative"):
        MaskStream(bytes(32), 32).words(0, -1)
    with pytest.raises(UsageError, match="negative"):
        MaskStream(bytes(32), 32).words(-1, 1)


def test_the_published_vector_holds_for_the_cipher_itself():
    assert Cipher(AES(NIST_KEY), CTR(NIST_COUNTER)).encryptor().update(NIST_PLAINTEXT) == NIST_CIPHERTEXT


def test_no_keystream_stays_in_the_scratch_buffer():
    from protocols.primitives import prg

    MaskStream(os.urandom(32), 32).words(0, 50_000)
    assert not prg._scratch.keystream.any()


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
def test_array_is_filled_with_the_words_of_the_stream(bits):
    key = os.urandom(32)
    filled = np.full(CHUNK_BYTES * 2 // word_dtype(bits).itemsize + 3, 7, word_dtype(bits))
    MaskStream(key, bits).fill(filled, 5)
    assert (filled == MaskStream(key, bits).words(5, filled.size)).all()


@pytest.mark.parametrize(
    ("out", "start", "match"),
    [
        (np.zeros(8, np.uint64), -1, "negative"),
        (np.zeros(8, np.uint32), 0, "words of 64 bits"),
        (np.zeros((2, 4), np.uint64), 0, "words of 64 bits"),
        (np.zeros(16, np.uint64)[::2], 0, "contiguous"),
        (np.frombuffer(bytes(64), np.uint64), 0, "read-only"),
    ],
)
def test_array_that_cannot_be_filled_is_refused(out, start, match):
    with pytest.raises(UsageError, match=match):
        MaskStream(bytes(32), 64).fill(out, start)
    assert not out.any()
