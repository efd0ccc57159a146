"""Write the test vectors of SecAgg: ``python tests/vectors/generate_secagg.py`` (compared byte for byte by a test)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from protocols.errors import PeerFault, PolicyRefused
from protocols.primitives.sealing import SealingKeyPair
from protocols.secagg import messages as m
from protocols.secagg.graph import graph_of
from protocols.session import ClientPolicy
from protocols.shape import Reply
from protocols.testing.cohort import Cohort
from protocols.testing.malformed import changed, decoded, signed_reply
from protocols.testing.network import Drop, deliver

FOLDER = Path(__file__).parent / "v1"
PHASES = ("AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmask")
ME = "c02"


def fresh() -> Cohort:
    """Four clients, vectors of 70 entries of 12 bits in two chunks; the threshold is 3."""
    return Cohort(4, name="vectors v1", bits=12, length=70)


def session() -> dict[str, Any]:
    """A whole session in which c01 shares its secrets and is then lost."""
    cohort = fresh()
    drawn: dict[str, list[str]] = {party: [] for party in cohort.identities}
    for party, client in cohort.parties.items():

        def entropy(count: int, party: str = party) -> bytes:
            fresh_bytes = cohort.entropies[party](count)
            drawn[party].append(fresh_bytes.hex())
            return fresh_bytes

        client.entropy = entropy
    network = cohort.dropping([Drop("c01", "MaskedInput")])
    secrets: dict[str, dict[str, str]] = {}
    while cohort.server.phase is not None:
        if cohort.server.phase == "MaskedInput":
            for party, client in cohort.parties.items():
                state = client._state
                secrets[party] = {
                    "masking_private": state.keys.masking_private.hex(),
                    "sealing_private": state.keys.sealing_private.hex(),
                    "self_mask_seed": state.self_mask_seed.hex(),
                }
        network.run_phase()
    aggregate = cohort.server.result()
    return {
        "protocol": "secagg",
        "version": 1,
        "parameters": cohort.parameters.to_bytes().hex(),
        "session_id": cohort.server.session_id.hex(),
        "roster": cohort.roster.to_bytes().hex(),
        "identity_keys": {p: i.signing_key.private_bytes().hex() for p, i in cohort.identities.items()},
        "entropy": drawn,
        "secrets": secrets,
        "vectors": {party: vector.tolist() for party, vector in cohort.vectors.items()},
        "messages": [
            {"direction": direction, "phase": phase, "party": party, "bytes": raw.hex()}
            for direction, phase, party, raw in network.transcript
        ],
        "contributors": list(aggregate.contributors),
        "sum": aggregate.sum.tolist(),
    }


def sparse_session() -> dict[str, Any]:
    """A whole session on the Harary graph: a hundred clients of 16 neighbours. c04, a neighbour of c42, never comes;
    c07 is lost after it shared its secrets.

    SHA-256 of what each client is sent and of all that it answers in a phase; what c42 sees and says in full.
    """
    options: dict[str, Any] = {"graph": "harary", "adversary_rate": 0.05, "policy": ClientPolicy(adversary_rate=0.05)}
    cohort = Cohort(100, name="sparse vectors v1", bits=12, length=3, **options)
    network = cohort.dropping([Drop("c04", "AdvertiseKeys"), Drop("c07", "MaskedInput")])
    cohort.advance("ShareKeys")
    root = cohort.server._phase.keys.root
    near = graph_of(cohort.parameters, root).neighbours(42)
    aggregate = network.run()
    said: dict[tuple[str, str], dict[str, list[bytes]]] = {}
    for direction, phase, party, raw in network.transcript:
        said.setdefault((phase, party), {"down": [], "up": []})[direction].append(raw)
    return {
        "protocol": "secagg",
        "version": 1,
        "parameters": cohort.parameters.to_bytes().hex(),
        "session_id": cohort.server.session_id.hex(),
        "advertisements_root": root.hex(),
        "neighbours_of_c42": list(near),
        "messages": [
            " ".join((phase, party, *(hashlib.sha256(b"".join(parts[way])).hexdigest() for way in ("down", "up"))))
            for (phase, party), parts in said.items()
        ],
        "c42": {
            phase: {way: [raw.hex() for raw in parts[way]] for way in ("down", "up")}
            for (phase, party), parts in said.items()
            if party == "c42"
        },
        "dropped": sorted(set(cohort.parameters.cohort) - set(aggregate.contributors)),
        "sum": aggregate.sum.tolist(),
    }


def bad_requests() -> Iterator[tuple[str, str, bytes]]:
    """(name, phase, request to c02) that c02 must refuse in that phase of the session above."""

    def at(phase: str) -> tuple[Cohort, bytes]:
        cohort = fresh()
        cohort.advance(phase)
        return cohort, cohort.request(ME).header

    _, header = at("AdvertiseKeys")
    yield "trailing byte", "AdvertiseKeys", header + b"\x00"
    yield (
        "parameters that differ from the session id",
        "AdvertiseKeys",
        changed(
            header,
            m.AdvertiseKeysRequest,
            parameters=msgspec.structs.replace(fresh().parameters, vector_length=71).to_bytes(),
        ),
    )
    weak = msgspec.structs.replace(fresh().parameters, threshold=1)
    fields = m.opening_fields(weak.session_id(), m.AdvertiseKeysRequest)
    yield "threshold 1", "AdvertiseKeys", m.wire.encode(m.AdvertiseKeysRequest(*fields, weak.to_bytes()))
    small = msgspec.structs.replace(fresh().parameters, modulus_bits=1)
    fields = m.opening_fields(small.session_id(), m.AdvertiseKeysRequest)
    yield "modulus 2", "AdvertiseKeys", m.wire.encode(m.AdvertiseKeysRequest(*fields, small.to_bytes()))
    _, header = at("ShareKeys")
    items = decoded(header, m.ShareKeysRequest).advertisements
    yield "advertisement twice", "ShareKeys", changed(header, m.ShareKeysRequest, advertisements=(items[0], *items))
    yield (
        "own advertisement missing",
        "ShareKeys",
        changed(header, m.ShareKeysRequest, advertisements=(*items[:2], items[3])),
    )
    forged = msgspec.structs.replace(items[0], masking_key=SealingKeyPair(b"\x55" * 32).public)
    yield (
        "advertisement not signed",
        "ShareKeys",
        changed(header, m.ShareKeysRequest, advertisements=(forged, *items[1:])),
    )
    yield "another root", "ShareKeys", changed(header, m.ShareKeysRequest, root=bytes(32))
    cohort, header = at("MaskedInput")
    shares = decoded(header, m.MaskedInputRequest).shares
    theirs = decoded(cohort.request("c03").header, m.MaskedInputRequest).shares
    yield (
        "share for somebody else",
        "MaskedInput",
        changed(header, m.MaskedInputRequest, shares=(theirs[0], *shares[1:])),
    )
    yield "too few senders", "MaskedInput", changed(header, m.MaskedInputRequest, shares=shares[:1])
    _, header = at("ConsistencyCheck")
    yield "own vector left out", "ConsistencyCheck", changed(header, m.ConsistencyCheckRequest, contributors=(0, 1, 3))
    yield (
        "contributors in another order",
        "ConsistencyCheck",
        changed(header, m.ConsistencyCheckRequest, contributors=(1, 0, 2, 3)),
    )
    _, header = at("Unmask")
    signatures = decoded(header, m.UnmaskRequest).signatures
    yield "too few signatures", "Unmask", changed(header, m.UnmaskRequest, signatures=signatures[:2])
    yield "signature twice", "Unmask", changed(header, m.UnmaskRequest, signatures=(signatures[0], *signatures))
    yield "another set than was signed", "Unmask", changed(header, m.UnmaskRequest, contributors=(0, 1, 2))


def bad_replies() -> Iterator[tuple[str, str, Reply]]:
    """(name, phase, reply of c02) that the server must refuse in that phase."""

    def at(phase: str) -> tuple[Cohort, Reply]:
        cohort = fresh()
        cohort.advance(phase)
        return cohort, cohort.answer(ME)

    def signed(cohort: Cohort, phase: str, header: bytes, chunks: Any = ()) -> Reply:
        return signed_reply(cohort.identities[ME], cohort.server.session_id, phase, header, chunks)

    cohort, reply = at("AdvertiseKeys")
    header = changed(reply.header, m.AdvertiseKeysReply, masking_key=bytes(32))
    yield "key of low order", "AdvertiseKeys", signed(cohort, "AdvertiseKeys", header)
    cohort, reply = at("ShareKeys")
    shares = decoded(reply.header, m.ShareKeysReply).shares
    yield (
        "share for one holder missing",
        "ShareKeys",
        signed(cohort, "ShareKeys", changed(reply.header, m.ShareKeysReply, shares=shares[1:])),
    )
    yield "signature of another phase", "ShareKeys", signed(cohort, "Unmask", reply.header)
    cohort, reply = at("MaskedInput")
    chunks = list(reply.chunks)
    yield "chunk repeated", "MaskedInput", signed(cohort, "MaskedInput", reply.header, [chunks[0], chunks[0]])
    yield "chunk missing", "MaskedInput", signed(cohort, "MaskedInput", reply.header, chunks[:1])
    yield "chunk too long", "MaskedInput", signed(cohort, "MaskedInput", reply.header, [chunks[0] + b"\x00", chunks[1]])
    cohort, reply = at("ConsistencyCheck")
    header = changed(reply.header, m.ConsistencyCheckReply, contributors_hash=bytes(32))
    yield "another set signed", "ConsistencyCheck", signed(cohort, "ConsistencyCheck", header)
    cohort, reply = at("Unmask")
    given = decoded(reply.header, m.UnmaskReply).shares
    yield (
        "one share too few",
        "Unmask",
        signed(cohort, "Unmask", changed(reply.header, m.UnmaskReply, shares=given[1:])),
    )


def refusal(phase: str, header: bytes | None, reply: Reply | None) -> dict[str, str]:
    """What the party, or the server, says to it."""
    cohort = fresh()
    cohort.advance(phase)
    try:
        if reply is not None:
            deliver(cohort.server, reply)
        else:
            vector = cohort.sources()[ME] if phase == "MaskedInput" else None
            cohort.parties[ME].handle(header or b"", vector=vector)
    except PolicyRefused as refused:
        return {"error": "PolicyRefused", "rule": refused.rule, "reason": refused.what}
    except PeerFault as fault:
        return {"error": type(fault).__name__, "rule": fault.rule, "reason": fault.reason.name}
    raise ValueError(f"accepted in {phase}")


def malformed() -> dict[str, Any]:
    """Messages to be refused, and how."""
    requests = [
        {"name": name, "phase": phase, "to": ME, "header": header.hex(), **refusal(phase, header, None)}
        for name, phase, header in bad_requests()
    ]
    replies = [
        {
            "name": name,
            "phase": phase,
            "from": ME,
            "header": reply.header.hex(),
            "chunks": [bytes(chunk).hex() for chunk in reply.chunks],
            "trailer": reply.trailer.hex(),
            **refusal(phase, None, reply),
        }
        for name, phase, reply in bad_replies()
    ]
    return {"protocol": "secagg", "version": 1, "requests": requests, "replies": replies}


def files() -> dict[Path, bytes]:
    """Content of each file of vectors."""
    made = {
        FOLDER / "secagg_session.json": session(),
        FOLDER / "secagg_sparse.json": sparse_session(),
        FOLDER / "secagg_malformed.json": malformed(),
    }
    return {path: (json.dumps(content, indent=1, sort_keys=True) + "\n").encode() for path, content in made.items()}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for path, content in files().items():
        path.write_bytes(content)
