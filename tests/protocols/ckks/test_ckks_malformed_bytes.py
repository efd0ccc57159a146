"""Bytes that are no ciphertext: refused in this process, in bounded memory; what SEAL does read is well formed."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ckks_cohort import ckks_key
from handmade_ciphertexts import HEADER, content_of
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.ckks.blocks import from_block, to_block
from protocols.ckks.scheme import Scheme
from protocols.errors import MissingExtra, PeerFault

ROOT = Path(__file__).parents[3]


def outcome(scheme: Scheme, block: bytes) -> str:
    """Whether a block is read; anything but a ciphertext or a `PeerFault` fails the test."""
    try:
        ciphertext = scheme.parse(from_block(block, scheme.record))
    except PeerFault as fault:
        return fault.reason.name
    (content,) = ciphertext.ciphertext()
    assert (content.size(), content.scale, content.is_transparent()) == (2, scheme.record.scale, False)
    return "read"


def genuine(number: int) -> tuple[Scheme, bytes]:
    scheme = ckks_key(record=number).scheme
    return scheme, scheme.encrypt(np.full(scheme.record.slots, 5))


@pytest.mark.parametrize("number", [1, 2])
def test_every_bit_of_the_beginning_flipped_is_refused_or_harmless(number: int) -> None:
    """Headers of SEAL and zstd, parameters, sizes, scale: 200 bytes, bit by bit."""
    scheme, serialised = genuine(number)
    seen = Counter()
    for bit in range(200 * 8):
        flipped = bytearray(serialised)
        flipped[bit // 8] ^= 1 << (bit % 8)
        seen[outcome(scheme, to_block(bytes(flipped), scheme.record))] += 1
    # Of the headers all but the version's: 2 + 1 + 3 + 8 bytes, and zstd's magic, descriptor and size.
    assert seen["MALFORMED"] == 8 * (14 + 4 + 1 + (4 if number == 1 else 2))
    assert seen["BAD_CIPHERTEXT"] > 50
    assert seen["read"] < 1400


@pytest.mark.parametrize("number", [1, 2])
def test_random_bits_flipped_anywhere_are_refused_or_harmless(number: int) -> None:
    scheme, serialised = genuine(number)
    chance, seen = random.Random(number), Counter()
    for _ in range(300):
        flipped = bytearray(serialised)
        for _ in range(chance.choice((1, 2, 50))):
            flipped[chance.randrange(24, len(flipped))] ^= 1 << chance.randrange(8)
        seen[outcome(scheme, to_block(bytes(flipped), scheme.record))] += 1
    assert seen["BAD_CIPHERTEXT"] > 20
    assert seen["MALFORMED"] < 5


@pytest.mark.parametrize("number", [1, 2])
def test_truncated_ciphertexts_are_refused(number: int) -> None:
    """With the header as it was, and with one that names the shorter length."""
    scheme, serialised = genuine(number)
    chance = random.Random(number)
    lengths = [*range(60), *(chance.randrange(60, len(serialised)) for _ in range(150)), len(serialised) - 1]
    for length in lengths:
        short = serialised[:length]
        assert outcome(scheme, to_block(short, scheme.record)) == "MALFORMED"
        if length >= HEADER.size:
            fields = HEADER.unpack_from(serialised)
            renamed = HEADER.pack(*fields[:6], length) + short[HEADER.size :]
            assert outcome(scheme, to_block(renamed, scheme.record)) in ("MALFORMED", "BAD_CIPHERTEXT")


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_anything_after_a_right_opening_is_refused(body: bytes) -> None:
    scheme, serialised = genuine(2)
    opening = serialised[HEADER.size : HEADER.size + 7]
    fields = HEADER.unpack_from(serialised)
    whole = HEADER.pack(*fields[:6], HEADER.size + 7 + len(body)) + opening + body
    assert outcome(scheme, to_block(whole, scheme.record)) == "BAD_CIPHERTEXT"


@given(st.binary(max_size=600))
@settings(max_examples=200, deadline=None)
def test_any_bytes_at_all_are_refused(body: bytes) -> None:
    scheme = ckks_key(record=2).scheme
    assert outcome(scheme, to_block(body, scheme.record)) == "MALFORMED"


def test_frame_that_repeats_one_byte_without_end_takes_no_memory() -> None:
    """A bomb: blocks of 128 kB in four bytes each, under an opening that names the right length."""
    scheme, serialised = genuine(2)
    fields = HEADER.unpack_from(serialised)
    block = (2**17 << 3 | 2).to_bytes(3, "little") + b"\0"
    frame = serialised[HEADER.size : HEADER.size + 7] + block * 16_000
    bomb = HEADER.pack(*fields[:6], HEADER.size + len(frame)) + frame
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(20):
        assert outcome(scheme, to_block(bomb, scheme.record)) == "BAD_CIPHERTEXT"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kB


def test_bytes_after_the_frame_change_nothing() -> None:
    """SEAL stops reading where the ciphertext ends; the signature covers what it does not read."""
    scheme, serialised = genuine(2)
    fields = HEADER.unpack_from(serialised)
    longer = HEADER.pack(*fields[:6], len(serialised) + 9) + serialised[HEADER.size :] + b"surplus.."
    slots = scheme.decrypt(scheme.parse(from_block(to_block(longer, scheme.record), scheme.record)))
    assert (np.rint(slots) == 5).all()
    assert len(content_of(serialised)) == scheme.record.ciphertext_bytes


WITHOUT = """
import sys
sys.modules["tenseal"] = None
from protocols import ckks
from protocols.errors import MissingExtra
assert ckks.PROTOCOL == "ckks"
try:
    ckks.CkksKey.generate()
except MissingExtra as error:
    print(error.extra, error, sep="|")
"""


def test_without_tenseal_the_package_loads_and_its_use_names_the_extra() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == 'he|the CKKS protocol needs an optional dependency: pip install "secfl[he]"\n'


def test_missing_extra_is_raised_by_clients_and_servers_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    from ckks_cohort import CkksCohort

    from protocols.ckks.scheme import public_scheme

    cohort = CkksCohort()
    header = cohort.request("c00").header
    public_scheme.cache_clear()
    monkeypatch.setitem(sys.modules, "tenseal", None)
    with pytest.raises(MissingExtra):
        cohort.parties["c00"].inspect(header)
    with pytest.raises(MissingExtra):
        CkksCohort(nonce=bytes(32))


def test_importing_the_package_does_not_import_tenseal() -> None:
    code = "import sys, protocols.ckks; print('tenseal' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
