"""Blocks of the page of CKKS messages; see `specification`. The examples are the session of the test vectors."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import msgspec
from specification import DOCS, ROOT, example, field_table, loaded, shortened

from protocols.ckks import messages as m
from protocols.ckks.agreement import CkksParameters
from protocols.ckks.records import RECORDS
from protocols.session import SessionParameters
from protocols.signed import Opening

PAGE = DOCS / "reference" / "ckks-messages.md"

MEANINGS: dict[type[msgspec.Struct], dict[str, str]] = {
    CkksParameters: {
        "key_holder": "Who has the secret key: a party of the roster.",
        "key_version": "First 16 hexadecimal digits of the SHA-256 of the public context.",
        "record": "Id of the CKKS parameters, see below.",
    },
    m.ContributionReply: {"party": "The client."},
    m.SignedContribution: {"index": "The client, by its place in the cohort.", "signature": "The client's trailer."},
    m.DecryptionRequest: {
        "parameters": "The session's parameters, encoded: the key holder sees them here first.",
        "contributions": "In the order of the cohort, strictly increasing.",
    },
    m.DecryptionReply: {
        "party": "The key holder.",
        "contributors_hash": "Of the contributions and the aggregate; see below.",
    },
    Opening: {"parameters": "The session's parameters, encoded; their hash is the session id."},
}


@cache
def recorded() -> dict[str, Any]:
    """The session of the test vectors, every part of every message in full."""
    vectors = loaded(ROOT / "tests" / "vectors" / "generate_ckks.py")
    made: dict[str, Any] = vectors.session(vectors.on_record(), keep=bytes)
    return made


def said(phase: str, party: str, way: str) -> list[bytes]:
    """Parts of a message: header, chunks, and of a reply the trailer."""
    (message,) = (item for item in recorded()["messages"] if (item["phase"], item["party"]) == (phase, party))
    parts: list[bytes] = message[way]
    return parts


def parameters() -> SessionParameters:
    """Of the recorded session."""
    request = msgspec.msgpack.decode(said(m.CONTRIBUTION, "c00", "request")[0], type=m.ContributionRequest)
    return SessionParameters.from_bytes(request.parameters)


def table(kind: type[msgspec.Struct]) -> str:
    """Fields of a message."""
    return field_table(kind, MEANINGS.get(kind, {}))


def header(phase: str, party: str, way: str, kind: type[msgspec.Struct]) -> str:
    """A header of the recorded session."""
    return example(said(phase, party, way)[0], kind)


def extension() -> str:
    """What the protocol adds to the parameters."""
    return example(parameters().extension, CkksParameters)


def chunk(phase: str, party: str, way: str, comment: str) -> str:
    """The first chunk of a message."""
    raw = said(phase, party, way)[1]
    return shortened(raw, f"chunk {int.from_bytes(raw[:8], 'little')}: {len(raw):,} bytes, {comment}")


def records() -> str:
    """The registry of parameters."""
    rows = ["| record | N | moduli, bits | scale | entries a ciphertext | bytes of a block |", "|---" * 6 + "|"]
    rows += [
        f"| {known.id} | {known.degree} | {'/'.join(map(str, known.moduli))} | 2^{known.scale_bits} | {known.slots} | "
        f"{known.block_bytes:,} |"
        for known in RECORDS.values()
    ]
    return "\n".join(rows)


def set_hash() -> str:
    """What the key holder says it decrypted, from what the clients signed."""
    request = msgspec.msgpack.decode(said(m.DECRYPTION, "holder", "request")[0], type=m.DecryptionRequest)
    reply = msgspec.msgpack.decode(said(m.DECRYPTION, "holder", "reply")[0], type=m.DecryptionReply)
    contents = [(item.index, item.content) for item in request.contributions]
    computed = m.contributors_hash(parameters().session_id(), contents, request.aggregate)
    if computed != reply.contributors_hash:
        raise SystemExit("the hash is not the one that the key holder signed")
    lines = [f"contribution {index}  {content.hex()}" for index, content in contents]
    lines += [f"the aggregate   {request.aggregate.hex()}", f"the hash        {computed.hex()}"]
    return "\n".join(["```text", *lines, "```"])


BLOCKS: dict[str, Callable[[], str]] = {
    "records": records,
    "fields of CkksParameters": partial(table, CkksParameters),
    "extension": extension,
    "ContributionRequest": partial(header, m.CONTRIBUTION, "c00", "request", m.ContributionRequest),
    "fields of ContributionReply": partial(table, m.ContributionReply),
    "ContributionReply": partial(header, m.CONTRIBUTION, "c00", "reply", m.ContributionReply),
    "block": partial(chunk, m.CONTRIBUTION, "c00", "reply", "number and block"),
    "fields of DecryptionRequest": partial(table, m.DecryptionRequest),
    "fields of SignedContribution": partial(table, m.SignedContribution),
    "DecryptionRequest": partial(header, m.DECRYPTION, "holder", "request", m.DecryptionRequest),
    "aggregate": partial(chunk, m.DECRYPTION, "holder", "request", "number and block of the sum"),
    "fields of DecryptionReply": partial(table, m.DecryptionReply),
    "DecryptionReply": partial(header, m.DECRYPTION, "holder", "reply", m.DecryptionReply),
    "sum": partial(chunk, m.DECRYPTION, "holder", "reply", "number and 300 words of 16 bits"),
    "hash of a set": set_hash,
}
