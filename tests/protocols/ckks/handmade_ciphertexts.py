"""SEAL ciphertexts by hand, in its serialisation: what SEAL would not write, and what it would."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from protocols.ckks.blocks import _frame_opening
from protocols.ckks.records import CkksRecord
from protocols.ckks.scheme import Scheme

HEADER = struct.Struct("<HBBBBHQ")
MEMBERS = struct.Struct("<4QBQQQdQ")
VERSION = (4, 3)
LARGEST_RAW_BLOCK = 2**17


def compressed(content: bytes) -> bytes:
    """A SEAL object with this content: one zstd frame of raw blocks."""
    frame = _frame_opening(len(content))
    for start in range(0, len(content), LARGEST_RAW_BLOCK):
        part = content[start : start + LARGEST_RAW_BLOCK]
        last = start + len(part) == len(content)
        frame += (len(part) << 3 | last).to_bytes(3, "little") + part
    return HEADER.pack(0xA15E, 16, *VERSION, 2, 0, 16 + len(frame)) + frame


def content_of(serialised: bytes) -> bytes:
    """The content of a SEAL object whose zstd blocks are raw: those of record 2 do not get shorter."""
    at, content = HEADER.size + 7, b""
    while True:
        header = int.from_bytes(serialised[at : at + 3], "little")
        last, kind, size = header & 1, header >> 1 & 3, header >> 3
        assert kind == 0
        content += serialised[at + 3 : at + 3 + size]
        at += 3 + size
        if last:
            assert at == len(serialised)
            return content


def handmade(
    scheme: Scheme,
    words: np.ndarray,
    *,
    parameters: Any = None,
    form: int = 1,
    size: int = 2,
    degree: int | None = None,
    primes: int | None = None,
    scale: float | None = None,
) -> bytes:
    """A ciphertext of these coefficients: uint64, polynomial by polynomial, prime by prime."""
    used: CkksRecord = scheme.record
    identity = scheme._first_parameters() if parameters is None else parameters
    members = MEMBERS.pack(
        *identity,
        form,
        size,
        used.degree if degree is None else degree,
        len(used.moduli) - 1 if primes is None else primes,
        used.scale if scale is None else scale,
        1,
    )
    array = struct.pack("<Q", words.size) + words.astype("<u8").tobytes()
    return compressed(members + HEADER.pack(0xA15E, 16, *VERSION, 0, 0, 16 + len(array)) + array)
