"""A protocol without secrecy, which proves that the shape of sessions fits more than SecAgg.

Clients contribute in the clear; then a committee of other parties countersigns the set. For tests only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, TypeAlias

import msgspec
import numpy as np

from protocols import wire
from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.identity import ClientId, Identity, Role, Roster
from protocols.party import Answer, Idle, PartyShell, SecretState, Transition, needed
from protocols.primitives.bitpack import unpack
from protocols.primitives.labels import tagged_hash
from protocols.primitives.ring import reduce_in_place, word_dtype
from protocols.secagg.masking import masked_chunks
from protocols.server import Phase, ServerShell, Verified
from protocols.session import ClientPolicy, SessionId, SessionParameters
from protocols.shape import Aggregate, Entropy, OnceStore, Request, Spool, VectorSource
from protocols.signed import MemorySpool, Opening, ReplyMessage

__all__ = ["PROTOCOL", "Committee", "party", "server"]

PROTOCOL = "plain"
CONTRIBUTE = "Contribute"
COUNTERSIGN = "Countersign"


class Committee(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What this protocol adds to the session's parameters."""

    members: tuple[str, ...]


class ContributeRequest(Opening, frozen=True):
    """To each client."""

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "ContributeRequest"


class ContributeReply(ReplyMessage, frozen=True):
    """The vector follows in chunks."""

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "ContributeReply"


class CountersignRequest(Opening, frozen=True):
    """To each committee member, which sees the parameters here for the first time."""

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "CountersignRequest"

    contributors: tuple[str, ...]


class CountersignReply(ReplyMessage, frozen=True):
    """A signature over the contributors."""

    PROTOCOL: ClassVar[str] = PROTOCOL
    KIND: ClassVar[str] = "CountersignReply"

    contributors_hash: wire.Digest


def _fields(session_id: SessionId, kind: type[wire.Message]) -> tuple[int, str, int, str, bytes]:
    return wire.opening_fields(session_id, kind, 1)


class Done(SecretState, frozen=True):
    """Answered."""


States: TypeAlias = Idle | Done


class PlainParty(PartyShell[States]):
    """A client or committee member."""

    PROTOCOL: ClassVar[str] = PROTOCOL
    STATES: ClassVar[Any] = States

    def _check_parameters(self, parameters: SessionParameters) -> None:
        self.policy.check(parameters, self.roster)

    def contribute(self, _state: Idle, _request: ContributeRequest, vector: VectorSource | None) -> Answer[States]:
        """The vector, as it is."""
        reply = ContributeReply(*_fields(self.session_id, ContributeReply), self.identity.id)
        return Answer(Done(), reply, masked_chunks(self.parameters, needed(vector), ()))

    def countersign(self, _state: Idle, request: CountersignRequest, _vector: VectorSource | None) -> Answer[States]:
        """A signature over the contributors."""
        digest = tagged_hash("plain/contributors", *request.contributors)
        return Answer(Done(), CountersignReply(*_fields(self.session_id, CountersignReply), self.identity.id, digest))

    TRANSITIONS: ClassVar[tuple[Transition[Any], ...]] = (
        Transition(CONTRIBUTE, ContributeRequest, Idle, contribute, vector=True),
        Transition(COUNTERSIGN, CountersignRequest, Idle, countersign),
    )


class Contribute(Phase):
    """Sum the vectors."""

    name: ClassVar[str] = CONTRIBUTE
    reply: ClassVar[type[ReplyMessage]] = ContributeReply
    vector: ClassVar[bool] = True

    accumulator: bytearray

    def requests(self, shell: ServerShell) -> Iterator[Request]:
        """The parameters."""
        header = wire.encode(
            ContributeRequest(*_fields(shell.session_id, ContributeRequest), shell.parameters.to_bytes())
        )
        return (Request(client, header) for client in self.expected)

    def accept(self, shell: ServerShell, reply: Verified) -> None:
        """Add a vector."""
        bits = shell.parameters.modulus_bits
        parts = [
            unpack(chunk, shell.parameters.chunk_entries(index), bits)
            for index, chunk in enumerate(reply.spool.chunks())
        ]
        total = np.frombuffer(self.accumulator, word_dtype(bits))
        np.add(total, np.concatenate(parts), out=total)

    def close(self, shell: ServerShell) -> Phase:
        """On to the committee."""
        present = self.require(shell.parameters.minimum_contributors)
        committee = wire.decode_record(shell.parameters.extension, Committee).members
        return Countersign(
            expected=tuple(ClientId(member) for member in committee), contributors=present, accumulator=self.accumulator
        )


class Countersign(Phase):
    """Have the committee sign."""

    name: ClassVar[str] = COUNTERSIGN
    reply: ClassVar[type[ReplyMessage]] = CountersignReply

    contributors: tuple[ClientId, ...]
    accumulator: bytearray

    def requests(self, shell: ServerShell) -> Iterator[Request]:
        """The contributors."""
        fields = _fields(shell.session_id, CountersignRequest)
        header = wire.encode(CountersignRequest(*fields, shell.parameters.to_bytes(), self.contributors))
        return (Request(member, header) for member in self.expected)

    def accept(self, _shell: ServerShell, reply: Verified) -> None:
        """Check what was signed."""
        if reply.message.contributors_hash != tagged_hash("plain/contributors", *self.contributors):
            raise PeerFault(FaultReason.NOT_A_SUBSET, "another set was signed", phase=self.name)

    def close(self, shell: ServerShell) -> Aggregate:
        """The sum."""
        self.require(shell.parameters.threshold)
        bits = shell.parameters.modulus_bits
        total = np.frombuffer(self.accumulator, word_dtype(bits))
        reduce_in_place(total, bits)
        return Aggregate(shell.session_id, total, bits, self.contributors, (), shell.faults)


PHASES = Contribute | Countersign


def server(chosen: SessionParameters, roster: Roster, *, spool: Callable[[], Spool] = MemorySpool) -> ServerShell:
    """The server's side."""
    accumulator = bytearray(word_dtype(chosen.modulus_bits).itemsize * chosen.vector_length)
    return ServerShell(chosen, roster, Contribute(expected=chosen.clients(), accumulator=accumulator), spool=spool)


def party(
    role: Role,
    identity: Identity,
    roster: Roster,
    policy: ClientPolicy,
    *,
    entropy: Entropy,
    store: OnceStore,
) -> PlainParty:
    """A party's side.

    :raises UsageError: a role that this protocol does not have.
    """
    if role is Role.KEY_HOLDER:
        raise UsageError(f"{PROTOCOL} has no role {role.value!r}")
    return PlainParty(identity, roster, policy, entropy=entropy, store=store)
