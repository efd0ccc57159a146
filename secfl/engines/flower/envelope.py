"""How a session's messages lie in Flower's: one settings record, and one array record for the chunks of a vector.

What comes out of a Flower message is unverified: types and sizes are checked here, everything else by the session.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from protocols.errors import FaultReason, PeerFault
from protocols.shape import Chunk
from protocols.wire import HEADER_LIMIT

__all__ = ["CHUNKS", "RECORD", "Letter", "has_letter", "own_records", "read_letter", "write_letter"]

RECORD = "secfl"
"""Name of our settings record in a message."""
CHUNKS = "secfl.chunks"
"""Name of the record that holds the chunks of a vector."""
FORMAT = 1
MAXIMUM_CHUNKS = 2**20
_STYPE = "secfl.bytes"
_FIELDS: dict[str, type] = {"kind": str, "header": bytes, "trailer": bytes, "chunks": int, "terms": bytes}


@dataclass(frozen=True)
class Letter:
    """One of our messages.

    :param kind: ``call`` (who are you?), ``request``, ``ledger`` (of a study alone), or ``answer`` to any.
    :param terms: what goes beside the session: with a request for an app's vector what the server proposes
        (`secfl.engines.flower.terms`), with a silo's answer in a study its ledger.
    """

    kind: str
    header: bytes = field(repr=False)
    chunks: Iterable[Chunk] = field(default=(), repr=False)
    trailer: bytes = field(default=b"", repr=False)
    terms: bytes = field(default=b"", repr=False)


def write_letter(letter: Letter, beside: RecordDict | None = None) -> RecordDict:
    """The content of a Flower message: ours, and the records ``beside`` it."""
    arrays = {
        f"{number:08d}": Array("uint8", (len(chunk),), _STYPE, chunk)
        for number, chunk in enumerate(map(bytes, letter.chunks))
    }
    content = RecordDict(dict(beside or {}))
    content[RECORD] = ConfigRecord(
        {
            "format": FORMAT,
            "kind": letter.kind,
            "header": letter.header,
            "trailer": letter.trailer,
            "chunks": len(arrays),
            "terms": letter.terms,
        }
    )
    if arrays:
        content[CHUNKS] = ArrayRecord(arrays, keep_input=False)
    return content


def has_letter(message: Message) -> bool:
    """Whether a message holds one of ours, sound or not."""
    return message.has_content() and RECORD in message.content


def own_records() -> tuple[str, ...]:
    """Names of the records that are ours."""
    return RECORD, CHUNKS


def read_letter(message: Message) -> Letter:
    """What :func:`write_letter` put into a message.

    :raises PeerFault: MALFORMED or TOO_LARGE; nothing is said about who sent it.
    """
    record = message.content.config_records.get(RECORD) if message.has_content() else None
    if record is None:
        raise _malformed("no record of secfl")
    if set(record) != {"format", *_FIELDS} or record["format"] != FORMAT:
        raise _malformed(f"not a record of format {FORMAT}")
    values: dict[str, Any] = {}
    for name, kind in _FIELDS.items():
        values[name] = record[name]
        if type(values[name]) is not kind:
            raise _malformed(f"{name}: not {kind.__name__}")
    if len(values["header"]) > HEADER_LIMIT:
        raise PeerFault(FaultReason.TOO_LARGE, f"header of {len(values['header'])} bytes, at most {HEADER_LIMIT}")
    count = values.pop("chunks")
    if not 0 <= count <= MAXIMUM_CHUNKS:
        raise PeerFault(FaultReason.TOO_LARGE, f"{count} chunks, at most {MAXIMUM_CHUNKS}")
    return Letter(chunks=_chunks(message.content, count), **values)


def _chunks(content: RecordDict, count: int) -> Iterator[Chunk]:
    """The chunks in order; each is given up by the message when it is read."""
    record = content.array_records.get(CHUNKS, ArrayRecord())
    names = [f"{number:08d}" for number in range(count)]
    if sorted(record) != names:
        raise _malformed("the chunks are not those that were announced")
    return (record.pop(name).data for name in names)


def _malformed(detail: str) -> PeerFault:
    return PeerFault(FaultReason.MALFORMED, detail)
