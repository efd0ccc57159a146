"""One strict, bounded, versioned codec for every message.

A message is a MessagePack array: format version, protocol, suite, message type, session id, then the fields of its
type. msgspec checks exact types and bounds while it decodes; on top of it this module caps the input before decoding,
re-encodes and compares (msgspec accepts non-canonical integers and headers), and turns every failure into a
`PeerFault`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, TypeVar

import msgspec

from protocols.errors import FaultReason, PeerFault

__all__ = [
    "CHUNK_INDEX_BYTES",
    "DIGEST_BYTES",
    "HEADER_LIMIT",
    "WIRE_VERSION",
    "Digest",
    "Index",
    "Key",
    "Message",
    "Signature",
    "SuiteSignature",
    "decode",
    "decode_record",
    "decode_saved",
    "encode",
    "opening_fields",
    "peek_kind",
    "peek_session_id",
]

WIRE_VERSION = 1
DIGEST_BYTES = 32
HEADER_LIMIT = 64 * 2**20
"""Largest header, in bytes, that is looked at: 10^6 parties at 64 bytes each."""
CHUNK_INDEX_BYTES = 8
"""A chunk opens with its number, little-endian; in eight bytes, so that 64-bit words behind it are aligned."""

Digest = Annotated[bytes, msgspec.Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]
Key = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
SuiteSignature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=4096)]
"""A signature whose length is the suite's; `Roster.verify` knows it."""
Index = Annotated[int, msgspec.Meta(ge=0, lt=2**24)]
"""Position of a party in the ordered cohort."""


class Message(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Base of all messages: the five fields that open each of them."""

    PROTOCOL: ClassVar[str] = ""
    KIND: ClassVar[str] = ""

    version: Annotated[int, msgspec.Meta(ge=WIRE_VERSION, le=WIRE_VERSION)]
    protocol: Annotated[str, msgspec.Meta(min_length=1, max_length=16)]
    suite: Annotated[int, msgspec.Meta(ge=1, le=255)]
    kind: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
    session_id: Digest


class _Opening(msgspec.Struct, array_like=True, frozen=True):
    """The five opening fields alone; further fields are not looked at."""

    version: int
    protocol: str
    suite: int
    kind: str
    session_id: Digest


def opening_fields(session_id: bytes, kind: type[Message], suite: int) -> tuple[int, str, int, str, bytes]:
    """The five fields that open a message of this type."""
    return (WIRE_VERSION, kind.PROTOCOL, suite, kind.KIND, session_id)


T = TypeVar("T", bound=Message)
S = TypeVar("S", bound=msgspec.Struct)

_ENCODER = msgspec.msgpack.Encoder()


def encode(message: msgspec.Struct) -> bytes:
    """Encode a message or record; the same value always gives the same bytes."""
    return _ENCODER.encode(message)


def decode_record(raw: bytes, kind: type[S], *, limit: int = HEADER_LIMIT) -> S:
    """Decode a canonical record of exactly this type.

    :raises PeerFault: TOO_LARGE past ``limit`` bytes; MALFORMED for anything that `encode` would not have written.
    """
    if len(raw) > limit:
        raise PeerFault(FaultReason.TOO_LARGE, f"{len(raw)} bytes, at most {limit}")
    try:
        value = msgspec.msgpack.decode(raw, type=kind, strict=True)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        # The decoder's own text names paths and types, never values.
        raise PeerFault(FaultReason.MALFORMED, f"{kind.__name__}: {error}") from None
    if encode(value) != raw:
        raise PeerFault(FaultReason.MALFORMED, f"{kind.__name__}: not in canonical form")
    return value


def decode_saved(raw: bytes, kind: type[S]) -> S:
    """Decode what this package saved itself; `kind` may be a union of structs.

    :raises PeerFault: MALFORMED, another version of this package saved it.
    """
    try:
        return msgspec.msgpack.decode(raw, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise PeerFault(FaultReason.MALFORMED, "not a session that this version saved") from None


def decode(raw: bytes, kind: type[T], *, limit: int = HEADER_LIMIT) -> T:
    """Decode a message of exactly this type.

    :raises PeerFault: as `decode_record`; MALFORMED as well for another protocol's or type's opening fields.
    """
    value = decode_record(raw, kind, limit=limit)
    if value.protocol != kind.PROTOCOL or value.kind != kind.KIND:
        raise PeerFault(FaultReason.MALFORMED, f"opening fields are not those of {kind.PROTOCOL}/{kind.KIND}")
    return value


def _peek(raw: bytes) -> _Opening:
    if len(raw) > HEADER_LIMIT:
        raise PeerFault(FaultReason.TOO_LARGE, f"{len(raw)} bytes, at most {HEADER_LIMIT}")
    try:
        opening = msgspec.msgpack.decode(raw, type=_Opening, strict=True)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise PeerFault(FaultReason.MALFORMED, f"opening fields: {error}") from None
    if opening.version != WIRE_VERSION:
        raise PeerFault(FaultReason.MALFORMED, f"wire version {opening.version}, known: {WIRE_VERSION}")
    return opening


def peek_session_id(raw: bytes) -> bytes:
    """Session id of a message of any protocol; engines dispatch by it. The rest is not validated."""
    return _peek(raw).session_id


def peek_kind(raw: bytes) -> tuple[str, str]:
    """Protocol and message type of a message. The rest is not validated."""
    opening = _peek(raw)
    return opening.protocol, opening.kind
