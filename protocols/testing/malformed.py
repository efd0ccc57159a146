"""Builders of messages that must not be: decode a real one, change it, encode it, sign it as an attacker could."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from protocols import wire
from protocols.identity import Identity
from protocols.primitives.signing import SignatureScheme
from protocols.session import SessionId
from protocols.shape import Chunk, Reply
from protocols.signed import ContentDigest, reply_digest

__all__ = ["changed", "decoded", "raw_fields", "signed_reply"]

M = TypeVar("M", bound=wire.Message)


def decoded(header: bytes, kind: type[M]) -> M:
    """A message of this type."""
    return wire.decode(header, kind)


def changed(header: bytes, kind: type[M], **fields: Any) -> bytes:
    """The same message with other values in some fields, canonical; the values are not checked."""
    return wire.encode(msgspec.structs.replace(decoded(header, kind), **fields))


def raw_fields(header: bytes) -> list[Any]:
    """The fields as plain objects, to be changed at will and encoded by `msgspec.msgpack.encode`."""
    fields: list[Any] = msgspec.msgpack.decode(header)
    return fields


def signed_reply(
    identity: Identity,
    session_id: SessionId,
    phase: str,
    header: bytes,
    chunks: Iterable[Chunk],
    scheme: SignatureScheme = SignatureScheme.ED25519,
) -> Reply:
    """A reply that is signed well, whatever it says."""
    kept = [bytes(chunk) for chunk in chunks]
    content = ContentDigest()
    for chunk in kept:
        content.update(chunk)
    digest = reply_digest(session_id, phase, header, content.digest())
    return Reply(identity.id, header, kept, identity.sign(digest, scheme))
