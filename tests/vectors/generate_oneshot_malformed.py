"""Write what is refused in the one-shot protocol: ``python tests/vectors/generate_oneshot_malformed.py``.

Each vector is a script over the recorded session (`oneshot_session.json`): go on to a phase, then give c01, or the
server, this message. Headers and trailers stand there in full. Chunks are built from recorded ones:

- of a request to a member: ``groups``, a list of chunks, each a list of contributions; a contribution is the recorded
  one ``of`` a client as it was relayed to the member ``to`` (c01 if left out), with some fields replaced; ``frames``
  are the chunks' numbers, if not 0, 1, ...;
- of a reply: numbers are recorded chunks by their place, strings are chunks in hex.

``opened``: c01 has answered the request of the phase before it gets this one. What is expected is an error, a rule and
a reason.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from protocols import wire
from protocols.errors import PeerFault, PolicyRefused
from protocols.oneshot import messages as m
from protocols.oneshot.agreement import CommitteeParameters
from protocols.session import SessionParameters
from protocols.shape import Chunk, Reply
from protocols.signed import ContentDigest, frame, reply_digest
from protocols.testing.malformed import changed, decoded, signed_reply
from protocols.testing.network import deliver

FOLDER = Path(__file__).parent / "v1"
FILE = FOLDER / "oneshot_malformed.json"
ME = "c01"
ANOTHER = "c02"
MODEL_OF_NOBODY = b"\x77" * 32


def _session_vectors() -> Any:
    spec = importlib.util.spec_from_file_location("generate_oneshot", FOLDER.parent / "generate_oneshot.py")
    if spec is None or spec.loader is None:
        raise ImportError("generate_oneshot.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SESSION = _session_vectors()
RECORDED = json.loads(SESSION.FILE.read_text())["sealed_shares"]
Group = list[dict[str, Any]]


def at(phase: str) -> Any:
    """The parties when this phase is open."""
    cast = SESSION.Cast(RECORDED)
    cast.run(bytes, phase)
    return cast


def request(cast: Any, party: str = ME) -> Any:
    """What the server would send."""
    return next(item for item in cast.server.requests() if item.party == party)


def answer(cast: Any) -> Reply:
    """What c01 would answer."""
    asked = request(cast)
    vector = cast.sources[ME] if cast.server.phase == m.CONTRIBUTION else None
    with SESSION.patch.object(SESSION.client, "seal_share", cast.keeper):
        reply = cast.parties[ME].handle(asked.header, asked.chunks, vector=vector)
    return Reply(reply.party, reply.header, [bytes(chunk) for chunk in reply.chunks], reply.trailer)


# -- chunks of requests ------------------------------------------------------------------------------------------------


@cache
def relayed_to(member: str) -> list[m.RelayedContribution]:
    """The contributions as the recorded session relays them to a member, in order."""
    chunks = [bytes(chunk) for chunk in request(at(m.CHECK), member).chunks]
    return [item for chunk in chunks for item in wire.decode_record(chunk[8:], m.RelayedGroup).contributions]


def built(groups: list[Group]) -> list[bytes]:
    """Payloads of the chunks that a vector describes."""
    payloads = []
    for group in groups:
        items = []
        for entry in group:
            fields = {
                name: bytes.fromhex(value) if isinstance(value, str) else value
                for name, value in entry.items()
                if name not in ("of", "to")
            }
            item = relayed_to(entry.get("to", ME))[SESSION.NAMES.index(entry["of"])]
            items.append(msgspec.structs.replace(item, **fields))
        payloads.append(wire.encode(m.RelayedGroup(tuple(items))))
    return payloads


def framed(payloads: list[bytes], numbers: list[int] | None = None) -> list[Chunk]:
    """Chunks of these payloads."""
    chunks: list[Chunk] = []
    for number, payload in zip(range(len(payloads)) if numbers is None else numbers, payloads, strict=True):
        buffer, room = frame(number, len(payload))
        room[:] = np.frombuffer(payload, np.uint8)
        chunks.append(bytes(buffer))
    return chunks


def with_groups(header: bytes, kind: Any, groups: list[Group], **fields: Any) -> bytes:
    """A header that announces these chunks."""
    payloads = built(groups)
    content = ContentDigest()
    for chunk in framed(payloads):
        content.update(chunk)
    return changed(header, kind, groups=tuple(map(len, payloads)), content=content.digest(), **fields)


def whole(*clients: str) -> Group:
    """Contributions as they are."""
    return [{"of": client} for client in clients]


# -- requests ----------------------------------------------------------------------------------------------------------


def announcement(**fields: Any) -> bytes:
    """An announcement of parameters that differ, under their own session id."""
    chosen: SessionParameters = at(m.CONTRIBUTION).chosen
    added = {key: fields.pop(key) for key in list(fields) if key in CommitteeParameters.__struct_fields__}
    extension = msgspec.structs.replace(CommitteeParameters.of(chosen), **added).to_bytes()
    other = msgspec.structs.replace(chosen, extension=extension, **fields)
    opening = m.opening_fields(other.session_id(), m.ContributionRequest, other.suite)
    return wire.encode(m.ContributionRequest(*opening, other.to_bytes()))


def bad_announcements() -> Iterator[tuple[str, bytes]]:
    """(name, header) of announcements."""
    good = request(at(m.CONTRIBUTION)).header
    yield "trailing byte", good + b"\x00"
    other = msgspec.structs.replace(at(m.CONTRIBUTION).chosen, vector_length=151).to_bytes()
    yield "parameters that differ from the session id", changed(good, m.ContributionRequest, parameters=other)
    yield "committee that is not the pinned one", announcement(committee=("c00", "c01", "evil"))
    yield "threshold of the packed secrets", announcement(threshold=1)
    yield "threshold that silent members stop", announcement(threshold=3, collusion=1)
    yield "lattice record that nobody knows", announcement(lattice=9)
    yield "model of the window listed twice", announcement(bases=(SESSION.model(1), SESSION.model(1)))
    yield "quota below the minimum of contributors", announcement(quota=2)
    yield "cohort without me", announcement(cohort=("c00", "c02", "c03"))


def signed_elsewhere(client: str, base: bytes) -> dict[str, Any]:
    """A client's contribution from another model, signed by itself."""
    item = relayed_to(ME)[SESSION.NAMES.index(client)]
    cast = at(m.CHECK)
    header = changed(item.header, m.ContributionReply, base=base)
    digest = reply_digest(cast.chosen.session_id(), m.CONTRIBUTION, header, item.content)
    return {"of": client, "header": header.hex(), "signature": cast.who[client].signing_key.sign(digest).hex()}


def bad_checks() -> Iterator[tuple[str, bytes, list[Group], list[int] | None]]:
    """(name, header, groups, numbers) of requests to check."""
    header = request(at(m.CHECK)).header
    forged = [{"of": "c00", "signature": bytes(64).hex()}, *whole("c01", "c02")]
    for name, groups in (
        ("contribution twice", [whole("c00", "c00", "c01", "c02")]),
        ("client past the end of the cohort", [[*whole("c00", "c01"), {"of": "c02", "index": 3}]]),
        ("fewer than the minimum", [whole("c00", "c01")]),
        ("contribution that its client did not sign", [forged]),
        ("share of another member", [[{"of": "c00", "to": ANOTHER}, *whole("c01", "c02")]]),
        ("model outside of the window", [[signed_elsewhere("c00", MODEL_OF_NOBODY), *whole("c01", "c02")]]),
    ):
        yield name, with_groups(header, m.CheckRequest, groups), groups, None
    good = [whole("c00", "c01", "c02")]
    yield "more groups than clients", changed(header, m.CheckRequest, groups=(9, 9, 9, 9)), good, None
    yield "chunk with another number", header, good, [1]
    yield "chunk missing", header, [], None
    yield "chunks of another digest", changed(header, m.CheckRequest, content=bytes(32)), good, None


def bad_openings() -> Iterator[tuple[str, bytes, list[Group], list[int] | None]]:
    """(name, header, groups, numbers) of requests to open."""
    header = request(at(m.OPENING)).header
    for name, contributors in (
        ("contributors out of order", (1, 0, 2)),
        ("contributor twice", (0, 0, 1, 2)),
        ("contributor past the end of the cohort", (0, 1, 2, 3)),
        ("fewer contributors than the minimum", (0, 1)),
    ):
        yield name, changed(header, m.OpeningRequest, contributors=contributors), [], None
    again = [whole("c00")]
    yield "contribution of the set relayed again", with_groups(header, m.OpeningRequest, again), again, None


def blame_for_another_set() -> bytes:
    """Blame before anything was opened is out of phase; after it, it must be for the set that was opened."""
    cast = at(m.OPENING)
    fields = m.opening_fields(cast.chosen.session_id(), m.BlameRequest, cast.chosen.suite)
    nothing = decoded(request(cast).header, m.OpeningRequest)
    return wire.encode(m.BlameRequest(*fields, bytes(32), nothing.groups, nothing.content))


def bad_requests() -> Iterator[dict[str, Any]]:
    """All of them, without what they get."""
    for name, header in bad_announcements():
        yield {"name": name, "phase": m.CONTRIBUTION, "header": header.hex(), "groups": []}
    for phase, requests in ((m.CHECK, bad_checks()), (m.OPENING, bad_openings())):
        for name, header, groups, numbers in requests:
            frames = {} if numbers is None else {"frames": numbers}
            yield {"name": name, "phase": phase, "header": header.hex(), "groups": groups, **frames}
    blame = blame_for_another_set().hex()
    yield {"name": "blame before anything was opened", "phase": m.OPENING, "header": blame, "groups": []}
    yield {"name": "blame for another set", "phase": m.OPENING, "header": blame, "groups": [], "opened": True}


# -- replies -----------------------------------------------------------------------------------------------------------


def signed(cast: Any, phase: str, header: bytes, chunks: list[bytes]) -> bytes:
    """c01's signature."""
    return signed_reply(cast.who[ME], cast.chosen.session_id(), phase, header, chunks).trailer


def bad_replies() -> Iterator[dict[str, Any]]:
    """All of them, without what they get."""
    cast = at(m.CONTRIBUTION)
    good = answer(cast)
    chunks = list(good.chunks)
    everything: list[int | str] = list(range(len(chunks)))
    longer = chunks[-1] + b"\x00"

    def reply(name: str, phase: str, header: bytes, parts: list[int | str], sign_as: str = "") -> dict[str, Any]:
        carried = [chunks[part] if isinstance(part, int) else bytes.fromhex(part) for part in parts]
        trailer = signed(cast, sign_as or phase, header, carried)
        return {"name": name, "phase": phase, "header": header.hex(), "chunks": parts, "trailer": trailer.hex()}

    another_root = changed(good.header, m.ContributionReply, shares_root=bytes(32))
    yield reply("root that is not that of the shares", m.CONTRIBUTION, another_root, everything)
    elsewhere = changed(good.header, m.ContributionReply, base=MODEL_OF_NOBODY)
    yield reply("model outside of the window", m.CONTRIBUTION, elsewhere, everything)
    yield reply("signature of another phase", m.CONTRIBUTION, good.header, everything, m.CHECK)
    yield reply("chunk missing", m.CONTRIBUTION, good.header, everything[:-1])
    yield reply("chunk repeated", m.CONTRIBUTION, good.header, [0, *everything])
    yield reply("ciphertext too long", m.CONTRIBUTION, good.header, [*everything[:-1], longer.hex()])
    yield reply("chunk too many", m.CONTRIBUTION, good.header, [*everything, len(chunks) - 1])
    yield reply("stranger", m.CONTRIBUTION, changed(good.header, m.ContributionReply, party="c03"), everything)
    cast, chunks = at(m.CHECK), []
    header = changed(answer(cast).header, m.CheckReply, complaints=(3,))
    yield reply("complaint about nobody", m.CHECK, header, [])
    cast = at(m.OPENING)
    opened = answer(cast).header
    yield reply(
        "share of another set",
        m.OPENING,
        changed(opened, m.OpeningReply, contributors_hash=bytes(32), share=b"\x00"),
        [],
    )
    yield reply("share of the wrong length", m.OPENING, changed(opened, m.OpeningReply, share=b"\x00"), [])


# -- what they get -----------------------------------------------------------------------------------------------------


def refusal_of_request(vector: dict[str, Any]) -> dict[str, str]:
    """What c01 says to a request."""
    cast = at(vector["phase"])
    if vector.get("opened"):
        answer(cast)
    source = cast.sources[ME] if vector["phase"] == m.CONTRIBUTION else None
    chunks = framed(built(vector["groups"]), vector.get("frames"))
    try:
        cast.parties[ME].handle(bytes.fromhex(vector["header"]), chunks, vector=source)
    except (PolicyRefused, PeerFault) as error:
        return _said(error)
    raise ValueError(f"accepted: {vector['name']}")


def refusal_of_reply(vector: dict[str, Any]) -> dict[str, str]:
    """What the server says to a reply in c01's name."""
    cast = at(vector["phase"])
    recorded = list(answer(at(vector["phase"])).chunks)
    chunks = [recorded[part] if isinstance(part, int) else bytes.fromhex(part) for part in vector["chunks"]]
    try:
        deliver(cast.server, Reply(ME, bytes.fromhex(vector["header"]), chunks, bytes.fromhex(vector["trailer"])))
    except PeerFault as error:
        return _said(error)
    raise ValueError(f"accepted: {vector['name']}")


def _said(error: PolicyRefused | PeerFault) -> dict[str, str]:
    reason = error.what if isinstance(error, PolicyRefused) else error.reason.name
    return {"error": type(error).__name__, "rule": error.rule, "reason": reason}


def malformed() -> dict[str, Any]:
    """Messages to be refused, and how."""
    return {
        "protocol": "oneshot",
        "version": 1,
        "requests": [{**vector, **refusal_of_request(vector)} for vector in bad_requests()],
        "replies": [{**vector, **refusal_of_reply(vector)} for vector in bad_replies()],
    }


def files() -> dict[Path, bytes]:
    """Content of the file."""
    return {FILE: (json.dumps(malformed(), indent=1, sort_keys=True) + "\n").encode()}


if __name__ == "__main__":
    for path, content in files().items():
        path.write_bytes(content)
