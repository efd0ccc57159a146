"""Ciphertexts as bytes: SEAL's serialisation in blocks of one length, and what is looked at before SEAL parses any.

A block is the length of the serialisation (4 bytes, little-endian), the serialisation, zeros. The serialisation is
SEAL's: a header of 16 bytes, then one zstd frame (RFC 8878). What zstd may allocate and give out is fixed by the
opening of that frame, so it must be the very one of a ciphertext of two polynomials. TenSEAL's own wrapping does not
travel.
"""

from __future__ import annotations

import struct

import numpy as np

from protocols.ckks.records import CkksRecord
from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.shape import Chunk

__all__ = ["from_block", "to_block", "unwrap", "wrap"]

_SEAL_HEADER = struct.Struct("<HBBBBHQ")  # magic, own length, version, version, compression, reserved, whole length
_SEAL_MAGIC = 0xA15E
_SEAL_ZSTD = 2
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_SINGLE_SEGMENT = 0x20
_LENGTH = struct.Struct("<I")


def to_block(serialised: bytes, used: CkksRecord) -> bytes:
    """A ciphertext's serialisation as a block.

    :raises UsageError: it is longer than the record says: another version of SEAL compresses differently.
    """
    if len(serialised) > used.serialised_limit:
        raise UsageError(
            f"this TenSEAL serialises a ciphertext in {len(serialised)} bytes; CKKS record {used.id} has room for "
            f"{used.serialised_limit}"
        )
    return _LENGTH.pack(len(serialised)) + serialised + bytes(used.serialised_limit - len(serialised))


def from_block(block: Chunk, used: CkksRecord) -> bytes:
    """The serialisation in a block, as far as it can be checked without SEAL.

    :raises PeerFault: CHUNK_LENGTH or MALFORMED.
    """
    view = memoryview(block)
    if view.nbytes != used.block_bytes:
        raise PeerFault(FaultReason.CHUNK_LENGTH, f"block of {view.nbytes} bytes, {used.block_bytes} expected")
    (length,) = _LENGTH.unpack(view[: _LENGTH.size])
    if length > used.serialised_limit:
        raise PeerFault(FaultReason.MALFORMED, f"ciphertext of {length} bytes, at most {used.serialised_limit}")
    if np.frombuffer(view[_LENGTH.size + length :], np.uint8).any():
        raise PeerFault(FaultReason.MALFORMED, "padding of a block is not zero")
    serialised = bytes(view[_LENGTH.size : _LENGTH.size + length])
    _check_opening(serialised, used)
    return serialised


def _check_opening(serialised: bytes, used: CkksRecord) -> None:
    """SEAL's header, but for the version (which SEAL judges), and the opening of the zstd frame."""
    frame = _frame_opening(used.ciphertext_bytes)
    if len(serialised) < _SEAL_HEADER.size + len(frame):
        raise PeerFault(FaultReason.MALFORMED, "ciphertext shorter than its header")
    magic, own, _, _, compression, reserved, whole = _SEAL_HEADER.unpack_from(serialised)
    if (magic, own, compression, reserved) != (_SEAL_MAGIC, _SEAL_HEADER.size, _SEAL_ZSTD, 0):
        raise PeerFault(FaultReason.MALFORMED, "not a SEAL object compressed by zstd")
    if whole != len(serialised):
        raise PeerFault(FaultReason.MALFORMED, f"SEAL header names {whole} bytes, there are {len(serialised)}")
    if not serialised.startswith(frame, _SEAL_HEADER.size):
        detail = f"not a ciphertext of two polynomials: its zstd frame does not hold {used.ciphertext_bytes} bytes"
        raise PeerFault(FaultReason.MALFORMED, detail)


def _frame_opening(content: int) -> bytes:
    """A zstd frame's opening for content of a known size in one segment (RFC 8878, section 3.1.1.1)."""
    if content < 65_536 + 256:
        return _ZSTD_MAGIC + bytes([_ZSTD_SINGLE_SEGMENT | 1 << 6]) + (content - 256).to_bytes(2, "little")
    return _ZSTD_MAGIC + bytes([_ZSTD_SINGLE_SEGMENT | 2 << 6]) + content.to_bytes(4, "little")


def wrap(serialised: bytes, used: CkksRecord) -> bytes:
    """The message (protocol buffers, ``CKKSVectorProto``) in which TenSEAL takes one ciphertext."""
    return _opening(len(serialised), used) + serialised + _closing(used)


def unwrap(message: bytes, used: CkksRecord) -> bytes:
    """The one ciphertext in what TenSEAL serialised.

    :raises UsageError: it is not built as `wrap` builds it.
    """
    closing = _closing(used)
    for length_bytes in range(1, 5):
        length = len(message) - len(closing) - len(_opening(0, used)) + 1 - length_bytes
        if length > 0 and len(_varint(length)) == length_bytes:
            opening = _opening(length, used)
            if message.startswith(opening) and message.endswith(closing):
                return message[len(opening) : len(opening) + length]
    raise UsageError("this TenSEAL serialises ciphertexts in another form")


def _opening(length: int, used: CkksRecord) -> bytes:
    slots = _varint(used.slots)
    return b"\x0a" + _varint(len(slots)) + slots + b"\x12" + _varint(length)


def _closing(used: CkksRecord) -> bytes:
    return b"\x19" + struct.pack("<d", used.scale)


def _varint(number: int) -> bytes:
    """Seven bits a byte, lowest first; all but the last byte have their high bit set."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)
