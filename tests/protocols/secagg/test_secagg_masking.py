"""Masks on a vector and off a sum: the same bits wherever the pieces are worked on."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import UsageError
from protocols.primitives.bitpack import unpack
from protocols.primitives.prg import MaskStream
from protocols.primitives.ring import word_dtype
from protocols.secagg import masking
from protocols.secagg.masking import Mask, masked_chunks, remove_masks
from protocols.session import SessionParameters
from protocols.shape import ArraySource, Words
from protocols.signed import unframe
from protocols.workers import SERIAL, SerialWorkers

KEYS = [bytes([number]) * 32 for number in range(9)]


class Threads:
    """A pool of real threads."""

    pool = ThreadPoolExecutor(4)

    def __init__(self, count: int) -> None:
        self.count = count

    def map(self, function: Callable[[Any], Any], pieces: Sequence[Any]) -> Iterator[Any]:
        return self.pool.map(function, pieces)


class AnyOrder(Threads):
    """Pieces in an order that nobody chose."""

    def map(self, function: Callable[[Any], Any], pieces: Sequence[Any]) -> Iterator[Any]:
        order = random.Random(1).sample(range(len(pieces)), len(pieces))
        outcomes = {position: function(pieces[position]) for position in order}
        return iter([outcomes[position] for position in range(len(pieces))])


class Elsewhere(Threads):
    """Pieces travel: what comes back is another array, and the one that was sent is as it was."""

    def map(self, function: Callable[[Any], Any], pieces: Sequence[Any]) -> Iterator[Any]:
        return iter([function(copy.deepcopy(piece)) for piece in pieces])


class Forgetful(Threads):
    """The last piece is never worked on."""

    def map(self, function: Callable[[Any], Any], pieces: Sequence[Any]) -> Iterator[Any]:
        return map(function, pieces[:-1])


def parameters(length: int, bits: int, chunk_length: int) -> SessionParameters:
    return SessionParameters(
        protocol="secagg",
        nonce=bytes(32),
        run_id="masking",
        round_number=0,
        roster_hash=bytes(32),
        cohort=("a", "b", "c"),
        threshold=2,
        collusion_bound=0,
        minimum_contributors=2,
        modulus_bits=bits,
        vector_length=length,
        chunk_length=chunk_length,
        context_hash=bytes(32),
    )


def words(length: int, bits: int) -> Words:
    return MaskStream(bytes(range(32)), bits).words(0, length) & word_dtype(bits).type((1 << bits) - 1)


def plain_sum(start: Words, masks: Sequence[Mask], bits: int) -> list[int]:
    """What the masks make of a vector, in Python's integers."""
    total = [int(value) for value in start]
    for mask in masks:
        for position, value in enumerate(MaskStream(mask.key, bits).words(0, len(total)).tolist()):
            total[position] += mask.sign * value
    return [value % 2**bits for value in total]


small_pieces = patch.multiple(masking, SMALLEST_PIECE=64, LARGEST_PIECE=512, PACKED_AT_ONCE=128)
workers = st.builds(lambda kind, count: kind(count), st.sampled_from([Threads, AnyOrder, Elsewhere]), st.integers(1, 7))
masks_of = st.lists(st.builds(Mask, st.sampled_from(KEYS), st.sampled_from([1, -1])), max_size=6)


@settings(max_examples=80, deadline=None)
@given(st.integers(8, 64), st.integers(1, 2500), st.integers(1, 20), masks_of, st.integers(1, 7), st.booleans())
def test_masked_vectors_are_the_same_bytes_for_any_workers_and_fit_the_plain_sum(
    bits: int, length: int, chunk: int, masks: list[Mask], count: int, shuffled: bool
) -> None:
    session, vector = parameters(length, bits, 64 * chunk), ArraySource(words(length, bits))
    with small_pieces:
        serial = [bytes(part) for part in masked_chunks(session, vector, masks)]
        parallel = (AnyOrder if shuffled else Threads)(count)
        assert [bytes(part) for part in masked_chunks(session, vector, masks, parallel)] == serial
    opened: list[int] = []
    for index, part in enumerate(serial):
        entries = session.chunk_entries(index)
        opened += unpack(unframe(part, index, (entries * bits + 7) // 8), entries, bits).tolist()
    assert opened == plain_sum(vector.array, masks, bits)


@settings(max_examples=80, deadline=None)
@given(st.integers(8, 64), st.integers(1, 2500), masks_of, workers, st.integers(1, 4))
def test_sums_are_unmasked_to_the_same_bits_for_any_workers(
    bits: int, length: int, masks: list[Mask], parallel: Threads, at_once: int
) -> None:
    start = words(length, bits)
    serial, other = start.copy(), start.copy()
    with small_pieces, patch.object(masking, "MASKS_AT_ONCE", at_once):
        remove_masks(serial, masks, bits)
        remove_masks(other, iter(masks), bits, parallel)
    assert serial.tobytes() == other.tobytes()
    assert serial.tolist() == plain_sum(start, [Mask(mask.key, -mask.sign) for mask in masks], bits)


@pytest.mark.parametrize("bits", [13, 32])
def test_pieces_of_real_size_on_threads_equal_serial(bits: int) -> None:
    length = 2 * 2**20 + 2**18 + 100
    session, vector = parameters(length, bits, 2**20), ArraySource(words(length, bits))
    masks = [Mask(key, 1 if key[0] % 2 else -1) for key in KEYS[:3]]
    serial = [bytes(part) for part in masked_chunks(session, vector, masks)]
    assert [bytes(part) for part in masked_chunks(session, vector, masks, Threads(3))] == serial
    total = words(length, bits)
    remove_masks(total, masks, bits, Threads(3))
    remove_masks(total, [Mask(mask.key, -mask.sign) for mask in masks], bits)
    assert np.array_equal(total, vector.array)


@given(st.integers(1, 2**40), st.integers(1, 300))
@settings(max_examples=200)
def test_cuts_tile_the_vector_at_whole_bytes_of_any_width(entries: int, count: int) -> None:
    with patch.multiple(masking, LARGEST_PIECE=2**33):
        cuts = masking._cuts(entries, count)
    assert (cuts[0][0], cuts[-1][1]) == (0, entries)
    assert all(before[1] == after[0] for before, after in pairwise(cuts))
    assert all(low < high and low % 64 == 0 for low, high in cuts)
    assert len(cuts) <= max(2 * count, entries // 2**33 + 1)
    if count == 1:
        assert len(cuts) == 1


def test_two_workers_get_enough_pieces_to_even_out_and_not_more() -> None:
    assert [len(masking._cuts(entries, 2)) for entries in (100_000, 2**18, 10**6, 2**20, 10**7)] == [1, 2, 4, 4, 4]
    assert len(masking._cuts(10**8, 2)) == 24


@pytest.mark.parametrize("bits", [13, 32])
def test_a_piece_that_did_not_come_back_is_noticed_before_anything_leaves(bits: int) -> None:
    vector = ArraySource(words(1000, bits))
    with small_pieces:
        with pytest.raises(UsageError, match="7 of 8 pieces"):
            next(masked_chunks(parameters(1000, bits, 1024), vector, [Mask(KEYS[0], 1)], Forgetful(4)))
        with pytest.raises(UsageError, match="7 of 8 pieces"):
            remove_masks(words(1000, bits), [Mask(KEYS[0], 1)], bits, Forgetful(4))


def test_streams_of_a_client_do_not_travel() -> None:
    with small_pieces, pytest.raises(UsageError, match="holds a secret"):
        next(masked_chunks(parameters(1000, 32, 1024), ArraySource(words(1000, 32)), [Mask(KEYS[0], 1)], Elsewhere(2)))


def test_a_mask_does_not_show_its_key() -> None:
    assert repr(Mask(KEYS[3], -1)) == "Mask(sign=-1)"


def test_serial_workers_are_one_and_keep_the_order() -> None:
    assert (SERIAL.count, list(SERIAL.map(str, [3, 1, 2]))) == (1, ["3", "1", "2"])
    assert isinstance(SERIAL, SerialWorkers)
