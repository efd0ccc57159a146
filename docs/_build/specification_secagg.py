"""Blocks of the page of SecAgg messages; see `specification`. The examples are the sessions of the test vectors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import msgspec
from specification import DOCS, ROOT, example, field_table, shortened

from protocols.identity import Roster
from protocols.primitives.labels import derive_key
from protocols.primitives.prg import MaskStream
from protocols.primitives.sealing import SealingKeyPair, agree
from protocols.primitives.shamir import LIMBS, MAXIMAL_HOLDERS, PRIME, SHARE_BYTES
from protocols.secagg import messages as m
from protocols.secagg.agreement import quorum
from protocols.secagg.graph import GraphParameters, HararyGraphParameters
from protocols.secagg.masking import pairwise_mask_key, seed_commitment, self_mask_key
from protocols.secagg.server import SEALED_BYTES
from protocols.session import SessionParameters

PAGE = DOCS / "reference" / "secagg-messages.md"
VECTORS = ROOT / "tests" / "vectors" / "v1"
ME = "c02"

MEANINGS: dict[type[msgspec.Struct], dict[str, str]] = {
    GraphParameters: {"kind": '`"complete"`.', "degree": "n - 1."},
    HararyGraphParameters: {
        "kind": '`"harary"`.',
        "degree": "k, neighbours of a client.",
        "adversary_rate": "g: fraction of the cohort that colludes.",
        "dropout_rate": "r: fraction of the cohort that may be missing among the contributors.",
        "claim": "The server that degree and threshold are chosen for.",
    },
    m.AdvertiseKeysReply: {
        "party": "The client.",
        "masking_key": "X25519 public key, fresh.",
        "sealing_key": "X25519 public key, fresh.",
    },
    m.Advertisement: {
        "index": "The client, by its place in the cohort.",
        "masking_key": "As in its reply.",
        "sealing_key": "As in its reply.",
        "signature": "The trailer of its reply.",
    },
    m.ShareKeysRequest: {
        "root": "T0.",
        "advertisements": "Of the client's neighbours and its own, strictly increasing by index.",
        "path": "Hashes that lead from them to T0; none on the complete graph.",
    },
    m.SealedShares: {
        "index": "In a reply the holder, in a request the sender.",
        "ciphertext": f"Two shares, sealed: {SEALED_BYTES} bytes.",
    },
    m.ShareKeysReply: {
        "party": "The client.",
        "seed_commitment": "To the seed of its self mask.",
        "shares": "For each other holder, in their order.",
    },
    m.MaskedInputRequest: {"shares": "What was sealed for this client, in the order of the senders."},
    m.MaskedInputReply: {"party": "The client; its masked vector follows in chunks."},
    m.ConsistencyCheckRequest: {"contributors": "Whose masked vectors came in, strictly increasing."},
    m.ConsistencyCheckReply: {"party": "The client.", "contributors_hash": "Of T0 and the contributors."},
    m.SignedSet: {"index": "The client.", "signature": "The trailer of its reply."},
    m.UnmaskRequest: {
        "contributors": "The set.",
        "signatures": "A quorum's signatures over it, strictly increasing by index.",
    },
    m.UnmaskReply: {
        "party": "The client.",
        "shares": f"For each client whose shares it holds, in their order: {SHARE_BYTES} bytes, the share of the seed's "
        "if that client contributed, else that of the masking key.",
    },
}


@cache
def recorded(name: str = "secagg_session") -> dict[str, Any]:
    """A recorded session."""
    made: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
    return made


def said(phase: str, direction: str, party: str = ME) -> list[bytes]:
    """Parts of a message: header, chunks, and of a reply the trailer."""
    return [
        bytes.fromhex(item["bytes"])
        for item in recorded()["messages"]
        if (item["phase"], item["direction"], item["party"]) == (phase, direction, party)
    ]


def parameters(name: str = "secagg_session") -> SessionParameters:
    """Of a recorded session."""
    return SessionParameters.from_bytes(bytes.fromhex(recorded(name)["parameters"]))


def table(kind: type[msgspec.Struct]) -> str:
    """Fields of a message or record."""
    return field_table(kind, MEANINGS.get(kind, {}))


def header(phase: str, direction: str, kind: type[msgspec.Struct]) -> str:
    """A header of the recorded session, to or from c02."""
    return example(said(phase, direction)[0], kind)


def extension(name: str, kind: type[msgspec.Struct]) -> str:
    """What the protocol adds to the parameters."""
    return example(parameters(name).extension, kind)


def sparse_header() -> str:
    """What c42 is shown of a hundred clients on the sparse graph."""
    return example(bytes.fromhex(recorded("secagg_sparse")["c42"]["ShareKeys"]["down"][0]), m.ShareKeysRequest)


def chunk() -> str:
    """The first chunk of a masked vector."""
    raw = said(m.MASKED_INPUT, "up")[1]
    agreed = parameters()
    entries = agreed.chunk_entries(0)
    return shortened(raw, f"chunk 0: {len(raw):,} bytes, number, {entries} entries of {agreed.modulus_bits} bits")


def trailer() -> str:
    """The signature under a masked vector."""
    return shortened(said(m.MASKED_INPUT, "up")[-1], "64 bytes: Ed25519")


def constants() -> str:
    """Constants of the protocol."""
    rows = [
        ("field of the shares", f"{PRIME}"),
        ("limbs of a secret of 32 bytes", str(LIMBS)),
        ("bytes of a share", str(SHARE_BYTES)),
        ("bytes of a sealed pair of shares", str(SEALED_BYTES)),
        ("holders of a client's shares, at most", f"{MAXIMAL_HOLDERS:,}"),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def roster() -> str:
    """Names and keys of the recorded session's roster."""
    rows = ["| party | identity key |", "|---|---|"]
    for member in Roster.from_bytes(bytes.fromhex(recorded()["roster"])):
        rows.append(f"| {member.id} | `{member.identity_key.hex()[:16]}...` |")
    return "\n".join(rows)


def root() -> bytes:
    """T0 of the recorded session, worked out from what the clients advertised."""
    request = msgspec.msgpack.decode(said(m.SHARE_KEYS, "down")[0], type=m.ShareKeysRequest)
    return bytes(request.root)


def hashes() -> str:
    """T0 from its leaves, and the hash that the contributors sign."""
    request = msgspec.msgpack.decode(said(m.SHARE_KEYS, "down")[0], type=m.ShareKeysRequest)
    leaves = list(m.advertisement_leaves(range(len(parameters().cohort)), request.advertisements).values())
    tree = [hashlib.sha256(b"\x00" + leaf).digest() for leaf in leaves]
    lines = [f"leaf {index}    {value.hex()}" for index, value in enumerate(tree)]
    while len(tree) > 1:
        tree = [hashlib.sha256(b"\x01" + tree[at] + tree[at + 1]).digest() for at in range(0, len(tree), 2)]
    session_id = parameters().session_id()
    if m.advertisements_root(session_id, tree[0]) != request.root:
        raise SystemExit("T0 is not that of the leaves")
    signed = msgspec.msgpack.decode(said(m.CONSISTENCY_CHECK, "up")[0], type=m.ConsistencyCheckReply)
    contributors = tuple(parameters().index(party) for party in recorded()["contributors"])
    if m.contributors_hash(request.root, contributors) != signed.contributors_hash:
        raise SystemExit("the contributors' hash is not the one that was signed")
    lines += [
        f"tree      {tree[0].hex()}",
        f"T0        {request.root.hex()}",
        f"set       {signed.contributors_hash.hex()}  {list(contributors)}",
    ]
    return "\n".join(["```text", *lines, "```"])


def keys() -> str:
    """Keys of c02, from the secrets that the vectors hold."""
    known = {
        party: {name: bytes.fromhex(text) for name, text in own.items()} for party, own in recorded()["secrets"].items()
    }
    me, index = known[ME], parameters().index(ME)
    public = SealingKeyPair(known["c00"]["masking_private"]).public
    shared = agree(SealingKeyPair(me["masking_private"]), public)
    self_key, pair_key = self_mask_key(me["self_mask_seed"], root(), index), pairwise_mask_key(shared, root(), 0, index)
    commitment = seed_commitment(me["self_mask_seed"], parameters().session_id(), index)
    reply = msgspec.msgpack.decode(said(m.SHARE_KEYS, "up")[0], type=m.ShareKeysReply)
    if reply.seed_commitment != commitment:
        raise SystemExit("the commitment is not the one that was sent")
    words = MaskStream(pair_key, parameters().modulus_bits).words(0, 8).tolist()
    rows = [
        ("seed of the self mask", me["self_mask_seed"].hex()),
        ("its commitment", commitment.hex()),
        ("key of the self mask", self_key.hex()),
        ("X25519 with c00", shared.hex()),
        ("key of their mask", pair_key.hex()),
        ("first words of it", " ".join(map(str, words))),
    ]
    if derive_key(shared, label="secagg/pairwise-mask", context=(root(), 0, index)) != pair_key:
        raise SystemExit("the key is not derived as the page says")
    return "\n".join(["```text", *(f"{name:<24}{value}" for name, value in rows), "```"])


def numbers() -> str:
    """What follows from the recorded sessions' parameters."""
    complete, sparse = parameters(), parameters("secagg_sparse")
    rows = [
        ("clients, n", len(complete.cohort), len(sparse.cohort)),
        ("threshold, t", complete.threshold, sparse.threshold),
        ("collusion bound, c", complete.collusion_bound, sparse.collusion_bound),
        ("minimum of contributors", complete.minimum_contributors, sparse.minimum_contributors),
        ("signatures that certify a set", quorum(complete), quorum(sparse)),
        ("chunks of a vector", complete.chunk_count(), sparse.chunk_count()),
    ]
    return "\n".join(
        [
            "| | complete | sparse |",
            "|---|---|---|",
            *(f"| {name} | {one:,} | {other:,} |" for name, one, other in rows),
        ]
    )


_TABLES: tuple[type[msgspec.Struct], ...] = (
    GraphParameters,
    HararyGraphParameters,
    m.AdvertiseKeysReply,
    m.Advertisement,
    m.ShareKeysRequest,
    m.SealedShares,
    m.ShareKeysReply,
    m.MaskedInputRequest,
    m.MaskedInputReply,
    m.ConsistencyCheckRequest,
    m.ConsistencyCheckReply,
    m.SignedSet,
    m.UnmaskRequest,
    m.UnmaskReply,
)
BLOCKS: dict[str, Callable[[], str]] = {
    **{f"fields of {kind.__name__}": partial(table, kind) for kind in _TABLES},
    "constants": constants,
    "roster": roster,
    "numbers": numbers,
    "complete graph": partial(extension, "secagg_session", GraphParameters),
    "sparse graph": partial(extension, "secagg_sparse", HararyGraphParameters),
    "AdvertiseKeysRequest": partial(header, m.ADVERTISE_KEYS, "down", m.AdvertiseKeysRequest),
    "AdvertiseKeysReply": partial(header, m.ADVERTISE_KEYS, "up", m.AdvertiseKeysReply),
    "ShareKeysRequest": partial(header, m.SHARE_KEYS, "down", m.ShareKeysRequest),
    "ShareKeysRequest, sparse": sparse_header,
    "ShareKeysReply": partial(header, m.SHARE_KEYS, "up", m.ShareKeysReply),
    "MaskedInputRequest": partial(header, m.MASKED_INPUT, "down", m.MaskedInputRequest),
    "MaskedInputReply": partial(header, m.MASKED_INPUT, "up", m.MaskedInputReply),
    "ConsistencyCheckRequest": partial(header, m.CONSISTENCY_CHECK, "down", m.ConsistencyCheckRequest),
    "ConsistencyCheckReply": partial(header, m.CONSISTENCY_CHECK, "up", m.ConsistencyCheckReply),
    "UnmaskRequest": partial(header, m.UNMASK, "down", m.UnmaskRequest),
    "UnmaskReply": partial(header, m.UNMASK, "up", m.UnmaskReply),
    "chunk": chunk,
    "trailer": trailer,
    "hashes": hashes,
    "keys": keys,
}
