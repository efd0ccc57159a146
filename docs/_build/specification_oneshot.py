"""Blocks of the page of one-shot messages; see `specification`. The examples are the session of the test vectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import msgspec
from specification import DOCS, ROOT, example, field_table, loaded, shortened

from protocols.identity import Roster
from protocols.oneshot import messages as m
from protocols.oneshot.agreement import Agreement, CommitteeParameters
from protocols.oneshot.packed_shamir import BLINDINGS, ELEMENT_BITS, PRIME
from protocols.oneshot.records import LATTICES
from protocols.oneshot.sealing import seal_bytes
from protocols.session import SessionParameters
from protocols.signed import Opening
from protocols.suites import SUITES

PAGE = DOCS / "reference" / "oneshot-messages.md"

MEANINGS: dict[type[msgspec.Struct], dict[str, str]] = {
    Opening: {"parameters": "The session's parameters, encoded; their hash is the session id."},
    SessionParameters: {
        "version": "Of the wire format.",
        "protocol": '`"oneshot"`.',
        "suite": "One of [the suites](../decisions/0016-suites.md).",
        "nonce": "Random, the server's.",
        "run_id": "The run's name.",
        "round_number": "The round.",
        "attempt": "The attempt at the round; a vector goes into one session of one attempt.",
        "roster_hash": "Of the pinned roster.",
        "cohort": "Clients by name, strictly increasing; messages name them by their place.",
        "threshold": "t of the committee.",
        "collusion_bound": "c, clients in league with the server.",
        "minimum_contributors": "At least c + 2.",
        "modulus_bits": "b: entries are words modulo 2^b.",
        "vector_length": "d.",
        "chunk_length": "Entries of a chunk at most, see below.",
        "encoding": "What turns numbers into words; opaque here.",
        "context_hash": "Of the model that the session is about.",
        "extension": "`CommitteeParameters`, encoded.",
    },
    m.ContributionReply: {"party": "The client.", "shares_root": "Root of the Merkle tree over its sealed shares."},
    m.RelayedContribution: {
        "index": "The client, by its place in the cohort.",
        "signature": "The client's trailer.",
        "sealed_share": "The share that is sealed for this member.",
        "path": "Hashes from the sealed share up to the root that the client signed.",
    },
    m.RelayedGroup: {"contributions": "In the order of arrival at the server."},
    m.CheckRequest: {
        "parameters": "The session's parameters, encoded: a member that is no client sees them here first.",
        "groups": "Bytes of each chunk that follows.",
        "content": "SHA-256 over the frames of these chunks.",
    },
    m.CheckReply: {"party": "The member.", "complaints": "Clients whose shares do not open, in order."},
    m.OpeningRequest: {
        "contributors": "Who is in the sum, strictly increasing.",
        "groups": "Bytes of each chunk that follows.",
        "content": "SHA-256 over the frames of these chunks.",
    },
    m.OpeningReply: {
        "party": "The member.",
        "contributors_hash": "Of the set; see below.",
        "share": "The member's share of the sum of keys and blindings.",
    },
    m.BlameRequest: {
        "contributors_hash": "The set that was opened.",
        "groups": "Bytes of each chunk that follows.",
        "content": "SHA-256 over the frames of these chunks.",
    },
    m.BlameReply: {
        "party": "The member.",
        "contributors_hash": "The set that was opened.",
        "combinations": f"{BLINDINGS} field elements a contributor, in the order of the cohort.",
    },
}


@cache
def recorded() -> dict[str, Any]:
    """The session of the test vectors, every part of every message in full."""
    vectors = loaded(ROOT / "tests" / "vectors" / "generate_oneshot.py")
    sealed = json.loads(vectors.FILE.read_text(encoding="utf-8"))["sealed_shares"]
    made: dict[str, Any] = vectors.session(sealed, keep=bytes)
    return made


@cache
def blamed() -> tuple[list[bytes], list[bytes]]:
    """Parts of a request for blame to c00 and of its answer."""
    vectors = loaded(ROOT / "tests" / "vectors" / "generate_oneshot.py")
    cast = vectors.Cast(json.loads(vectors.FILE.read_text(encoding="utf-8"))["sealed_shares"])
    cast.run(bytes)
    parts: tuple[list[bytes], list[bytes]] = vectors.blame(cast)
    return parts


def blame_header(position: int, kind: type[msgspec.Struct]) -> str:
    """Of the request (0) or the reply (1)."""
    return example(blamed()[position][0], kind)


def said(phase: str, party: str, way: str) -> list[bytes]:
    """Parts of a message: header, chunks, and of a reply the trailer."""
    (message,) = (item for item in recorded()["messages"] if (item["phase"], item["party"]) == (phase, party))
    parts: list[bytes] = message[way]
    return parts


def parameters() -> SessionParameters:
    """Of the recorded session."""
    return SessionParameters.from_bytes(bytes.fromhex(recorded()["parameters"]))


def table(kind: type[msgspec.Struct]) -> str:
    """Fields of a message."""
    return field_table(kind, MEANINGS.get(kind, {}))


def header(phase: str, way: str, kind: type[msgspec.Struct]) -> str:
    """A header of the recorded session, to or from c00."""
    return example(said(phase, "c00", way)[0], kind)


def extension() -> str:
    """What the protocol adds to the parameters."""
    return example(parameters().extension, CommitteeParameters)


def whole_parameters() -> str:
    """The parameters of the session."""
    return example(parameters().to_bytes(), SessionParameters)


def chunk_of_reply(position: int, comment: str) -> str:
    """A chunk of c00's contribution."""
    parts = said(m.CONTRIBUTION, "c00", "reply")
    raw = parts[position]
    number = int.from_bytes(raw[:8], "little")
    return shortened(raw, f"chunk {number}: {len(raw):,} bytes, {comment}")


def trailer() -> str:
    """The signature of c00's contribution."""
    return shortened(said(m.CONTRIBUTION, "c00", "reply")[-1], "64 bytes: Ed25519")


def group() -> str:
    """The first chunk of a request to a member, behind its number."""
    return example(said(m.CHECK, "c00", "request")[1][8:], m.RelayedGroup)


def set_hash() -> str:
    """The hash of the set that the members opened, from what the clients signed."""
    session_id = parameters().session_id()
    opened = msgspec.msgpack.decode(said(m.OPENING, "c00", "reply")[0], type=m.OpeningReply)
    digests = []
    for item in msgspec.msgpack.decode(said(m.CHECK, "c00", "request")[1][8:], type=m.RelayedGroup).contributions:
        digests.append((item.index, m.contribution_digest(session_id, item.header, item.content)))
    computed = m.contributors_hash(session_id, sorted(digests))
    if computed != opened.contributors_hash:
        raise SystemExit("the set's hash is not the one that the members signed")
    lines = [f"contribution {index}  {digest.hex()}" for index, digest in sorted(digests)]
    return "\n".join(["```text", *lines, f"the set         {computed.hex()}", "```"])


def numbers() -> str:
    """What follows from the recorded session's parameters."""
    agreement = Agreement.of(parameters())
    layout, lattice = agreement.slots.layout, LATTICES[1]
    rows = [
        ("degree N of the lattice record", lattice.degree),
        ("entries a coefficient (slots)", layout.slots),
        ("bits of a slot", layout.width),
        ("log2 of Delta", layout.delta_bits),
        ("log2 of the modulus, Q", layout.modulus_bits),
        ("low bits that do not travel, rho", layout.dropped_bits),
        ("bits of a coefficient that travel", layout.sent_bits),
        ("coefficients of a ciphertext", agreement.coefficients),
        ("coefficients of a chunk of it, but the last", agreement.chunk_coefficients),
        ("chunks of a ciphertext", agreement.ciphertext_chunks),
        ("field elements of a share", agreement.share_elements),
        ("bytes of a sealed share", agreement.sealed_share_bytes),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value:,} |" for name, value in rows)])


def constants() -> str:
    """Constants of the protocol."""
    rows = [
        ("field of the shares, p", f"2^{ELEMENT_BITS} - 1 = {PRIME}"),
        ("blinding polynomials of a client", str(BLINDINGS)),
        ("contributions in a chunk of a request, at most", str(m.GROUP)),
    ]
    rows += [
        (
            f"suite {known.id}: sealing, bytes that it adds, bytes of a signature",
            f"{known.sealing.value}, {seal_bytes(known.sealing)}, {known.signature.signature_bytes}",
        )
        for known in SUITES.values()
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def roster() -> str:
    """Names and keys of the recorded session's roster."""
    known = Roster.from_bytes(bytes.fromhex(recorded()["roster"]))
    rows = ["| party | identity key | sealing key |", "|---|---|---|"]
    for member in known:
        key = member.sealing_key
        rows.append(
            f"| {member.id} | `{member.identity_key.hex()[:16]}...` | `{key.hex()[:16]}...`, {len(key)} bytes |"
        )
    return "\n".join(rows)


_TABLES: dict[str, type[msgspec.Struct]] = {
    "SessionParameters": SessionParameters,
    "CommitteeParameters": CommitteeParameters,
    "ContributionReply": m.ContributionReply,
    "RelayedContribution": m.RelayedContribution,
    "CheckRequest": m.CheckRequest,
    "CheckReply": m.CheckReply,
    "OpeningRequest": m.OpeningRequest,
    "OpeningReply": m.OpeningReply,
    "BlameRequest": m.BlameRequest,
    "BlameReply": m.BlameReply,
}
BLOCKS: dict[str, Callable[[], str]] = {
    **{f"fields of {name}": partial(table, kind) for name, kind in _TABLES.items()},
    "constants": constants,
    "roster": roster,
    "whole parameters": whole_parameters,
    "extension": extension,
    "numbers": numbers,
    "ContributionRequest": partial(header, m.CONTRIBUTION, "request", m.ContributionRequest),
    "ContributionReply": partial(header, m.CONTRIBUTION, "reply", m.ContributionReply),
    "sealed share": partial(chunk_of_reply, 1, "number, encapsulated key, ciphertext and tag"),
    "ciphertext": partial(chunk_of_reply, 4, "number, packed coefficients"),
    "trailer": trailer,
    "CheckRequest": partial(header, m.CHECK, "request", m.CheckRequest),
    "group": group,
    "CheckReply": partial(header, m.CHECK, "reply", m.CheckReply),
    "OpeningRequest": partial(header, m.OPENING, "request", m.OpeningRequest),
    "OpeningReply": partial(header, m.OPENING, "reply", m.OpeningReply),
    "hash of a set": set_hash,
    "BlameRequest": partial(blame_header, 0, m.BlameRequest),
    "BlameReply": partial(blame_header, 1, m.BlameReply),
}
