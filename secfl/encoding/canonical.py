"""Strict decoding of the records that all parties hash: one value has one encoding (MessagePack through msgspec)."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from protocols.errors import EncodingError
from secfl.encoding.vectors import UNNAMED

__all__ = ["decode_canonical"]

_Record = TypeVar("_Record", bound=msgspec.Struct)


def decode_canonical(encoded: bytes, record: type[_Record], what: str, maximal_bytes: int) -> _Record:
    """Decode ``encoded`` as ``record``, accepting the bytes that encoding it gives and no others.

    :param what: name of the record for the error.
    :raises EncodingError: too long, malformed, unknown version or field, trailing bytes, not canonical, or a value that
        the record refuses.
    """
    if len(encoded) > maximal_bytes:
        raise EncodingError(UNNAMED, f"{what}: {len(encoded)} bytes, at most {maximal_bytes} are allowed")
    try:
        decoded = msgspec.msgpack.decode(encoded, type=record)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # the second for a string not in UTF-8
        raise EncodingError(UNNAMED, f"{what}: malformed ({error})") from None
    if msgspec.msgpack.encode(decoded) != encoded:  # msgspec takes longer forms of integers, floats and headers too
        raise EncodingError(UNNAMED, f"{what}: not the canonical encoding")
    return decoded
