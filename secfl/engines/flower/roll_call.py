"""Which node speaks for which party: Flower knows nodes by numbers of its own, sessions know parties by their keys.

The server calls; a node answers with its name, signed by its identity key over the run, the node's number and a nonce.
A node that lies takes no party's place: the signature must be that of the roster's key.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from protocols.errors import ClientFault, FaultReason, PeerFault
from protocols.identity import Identity, Roster
from protocols.primitives.labels import tagged_hash
from protocols.primitives.signing import verify
from secfl.engines.flower.envelope import Letter

__all__ = ["answer_call", "call", "verified_party"]

NONCE_BYTES = 32


class _Answer(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    party: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    roster_hash: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


def call(nonce: bytes, credentials: bytes = b"") -> Letter:
    """The server's call.

    :param credentials: what a node compares before it answers.
    """
    return Letter("call", nonce, terms=credentials)


def answer_call(letter: Letter, identity: Identity, roster: Roster, run_id: int, node_id: int) -> Letter:
    """A node's answer.

    :raises PeerFault: MALFORMED, a call without a nonce.
    """
    if len(letter.header) != NONCE_BYTES:
        raise PeerFault(FaultReason.MALFORMED, f"a call with a nonce of {len(letter.header)} bytes")
    answer = _Answer(str(identity.id), roster.digest())
    signature = identity.signing_key.sign(_statement(answer, letter.header, run_id, node_id))
    return Letter("answer", msgspec.msgpack.encode(answer), trailer=signature)


def verified_party(letter: Letter, nonce: bytes, roster: Roster, run_id: int, node_id: int) -> str:
    """The party that a node speaks for.

    :raises ClientFault: UNKNOWN_PARTY, REVOKED_PARTY, BAD_SIGNATURE, or CONTEXT_MISMATCH for another roster.
    :raises PeerFault: MALFORMED.
    """
    try:
        answer = msgspec.msgpack.decode(letter.header, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise PeerFault(FaultReason.MALFORMED, f"node {node_id}: no answer to a call") from None
    culprit = f"node {node_id}"
    if answer.party not in roster:
        raise ClientFault(culprit, FaultReason.UNKNOWN_PARTY, f"it calls itself {answer.party!r}")
    member = roster.member(answer.party)
    if member.revoked:
        raise ClientFault(culprit, FaultReason.REVOKED_PARTY, f"it calls itself {answer.party!r}")
    try:
        verify(member.identity_key, _statement(answer, nonce, run_id, node_id), letter.trailer)
    except PeerFault as fault:
        raise ClientFault(culprit, fault.reason, f"it calls itself {answer.party!r}") from None
    if answer.roster_hash != roster.digest():
        detail = f"{answer.party!r} has pinned roster {answer.roster_hash.hex()[:16]}, not {roster.digest().hex()[:16]}"
        raise ClientFault(culprit, FaultReason.CONTEXT_MISMATCH, detail)
    return answer.party


def _statement(answer: _Answer, nonce: bytes, run_id: int, node_id: int) -> bytes:
    return tagged_hash("flower/roll-call", answer.party, answer.roster_hash, nonce, run_id, node_id)
