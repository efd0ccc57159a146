"""What all parties of a session must agree on, and what a party insists on before it agrees."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, NewType, NotRequired, TypedDict

import msgspec

from protocols import wire
from protocols.errors import FaultReason, PeerFault, PolicyRefused, UsageError
from protocols.identity import ClientId, Roster
from protocols.primitives.labels import tagged_hash
from protocols.suites import SUITES

__all__ = [
    "ClientPolicy",
    "CommonParameters",
    "SessionId",
    "SessionParameters",
    "default_collusion_bound",
    "majority_threshold",
    "rate_bound",
]

SessionId = NewType("SessionId", bytes)
"""SHA-256 over everything that all parties must agree on."""

MINIMUM_MODULUS_BITS = 8
MAXIMUM_MODULUS_BITS = 64
DEFAULT_CHUNK_LENGTH = 2**20
DEFAULT_ADVERSARY_RATE = 1 / 3
RATE_SLACK = 1e-14
"""Keeps the rounding of a rate times a number of clients from going the insecure way."""
MAXIMUM_CHUNKS = 2**32


def default_collusion_bound(cohort: int) -> int:
    """Clients assumed to collude with the server unless the caller says otherwise: a third, rounded down."""
    return cohort // 3


def rate_bound(rate: float, clients: int) -> int:
    """Largest number of clients that a rate, such as of colluding ones, stands for."""
    return math.floor((rate + RATE_SLACK) * clients)


def majority_threshold(cohort: int, collusion_bound: int) -> int:
    """Smallest t with 2 t > n + c.

    Two sets of t out of n clients then share more than c members, so at least one honest client is in both: the server
    cannot open two contributor sets (Bonawitz et al. 2017, section 6, with c in the place of its malicious bound).
    """
    return (cohort + collusion_bound) // 2 + 1


class CommonParameters(TypedDict):
    """What a session of any protocol is given by its caller; see `SessionParameters`."""

    nonce: bytes
    """32 random bytes of the server's."""
    run_id: str
    round_number: int
    attempt: NotRequired[int]
    modulus_bits: int
    vector_length: int
    chunk_length: NotRequired[int]
    context_hash: bytes
    """Of the model that the round trains from, or whatever the callers' pipelines must agree on."""
    encoding: NotRequired[bytes]


class SessionParameters(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything all parties must agree on; its hash is the session id.

    The cohort is ordered by id; a party's index in it is how messages name the party. ``extension`` holds what only one
    protocol knows (a graph, a committee), in that protocol's own canonical encoding; ``encoding`` what turns numbers to
    words, opaque here.
    """

    version: Annotated[int, msgspec.Meta(ge=wire.WIRE_VERSION, le=wire.WIRE_VERSION)] = wire.WIRE_VERSION
    protocol: Annotated[str, msgspec.Meta(min_length=1, max_length=16)]
    suite: Annotated[int, msgspec.Meta(ge=1, le=255)] = 1
    nonce: wire.Digest
    run_id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    round_number: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
    attempt: Annotated[int, msgspec.Meta(ge=0, lt=2**16)] = 0
    roster_hash: wire.Digest
    cohort: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=2**24)]
    threshold: Annotated[int, msgspec.Meta(ge=1, lt=2**24)]
    collusion_bound: Annotated[int, msgspec.Meta(ge=0, lt=2**24)]
    minimum_contributors: Annotated[int, msgspec.Meta(ge=1, lt=2**24)]
    modulus_bits: Annotated[int, msgspec.Meta(ge=1, le=MAXIMUM_MODULUS_BITS)]
    vector_length: Annotated[int, msgspec.Meta(ge=1, lt=2**40)]
    chunk_length: Annotated[int, msgspec.Meta(ge=64, le=2**24, multiple_of=64)] = DEFAULT_CHUNK_LENGTH
    encoding: Annotated[bytes, msgspec.Meta(max_length=2**20)] = b""
    context_hash: wire.Digest
    extension: Annotated[bytes, msgspec.Meta(max_length=2**28)] = b""

    def to_bytes(self) -> bytes:
        """Canonical encoding."""
        return wire.encode(self)

    @classmethod
    def from_bytes(cls, raw: bytes) -> SessionParameters:
        """Read `to_bytes`.

        :raises PeerFault: MALFORMED, NOT_ORDERED for a cohort that is not strictly increasing (rule PT-1), or TOO_LARGE
            for more chunks than can be numbered (rule PT-2).
        """
        parameters = wire.decode_record(raw, cls)
        if any(a >= b for a, b in pairwise(parameters.cohort)):
            raise PeerFault(FaultReason.NOT_ORDERED, "cohort is not strictly increasing", rule="PT-1")
        if parameters.chunk_count() > MAXIMUM_CHUNKS:
            detail = f"{parameters.chunk_count()} chunks, at most {MAXIMUM_CHUNKS}"
            raise PeerFault(FaultReason.TOO_LARGE, detail, rule="PT-2")
        return parameters

    def session_id(self) -> SessionId:
        """SHA-256 of the canonical encoding under its own label."""
        return SessionId(tagged_hash("session", self.to_bytes()))

    def index(self, party: str) -> int:
        """Position of a client in the cohort.

        :raises PeerFault: UNKNOWN_PARTY.
        """
        index = bisect_left(self.cohort, party)
        if index == len(self.cohort) or self.cohort[index] != party:
            raise PeerFault(FaultReason.UNKNOWN_PARTY, f"{party!r} is not in the cohort")
        return index

    def client(self, index: int) -> ClientId:
        """Id of the client at a position of the cohort.

        :raises PeerFault: UNKNOWN_PARTY past its end.
        """
        if not 0 <= index < len(self.cohort):
            raise PeerFault(FaultReason.UNKNOWN_PARTY, f"index {index} in a cohort of {len(self.cohort)}")
        return ClientId(self.cohort[index])

    def clients(self) -> tuple[ClientId, ...]:
        """The cohort as ids."""
        return tuple(ClientId(party) for party in self.cohort)

    def chunk_count(self) -> int:
        """Chunks in which a vector travels; all but the last hold `chunk_length` entries."""
        return -(-self.vector_length // self.chunk_length)

    def chunk_entries(self, index: int) -> int:
        """Number of entries in a chunk."""
        return min(self.chunk_length, self.vector_length - index * self.chunk_length)

    def validate(self) -> None:
        """Check what holds for every protocol, before a session is announced.

        :raises UsageError: naming the parameter and what is allowed.
        """
        try:
            SessionParameters.from_bytes(self.to_bytes())
        except (PeerFault, TypeError, OverflowError) as error:
            # The codec names a field by its position.
            named = re.sub(r"\$\[(\d+)\]", lambda found: self.__struct_fields__[int(found[1])], str(error))
            raise UsageError(f"parameters: {named}") from None
        size = len(self.cohort)
        if size < 2:
            raise UsageError(f"cohort: {size} client; a sum over fewer than 2 hides nothing")
        if not MINIMUM_MODULUS_BITS <= self.modulus_bits <= MAXIMUM_MODULUS_BITS:
            raise UsageError(
                f"modulus_bits: {self.modulus_bits}; allowed: {MINIMUM_MODULUS_BITS} to {MAXIMUM_MODULUS_BITS}"
            )
        if not self.collusion_bound + 2 <= self.minimum_contributors <= size:
            raise UsageError(
                f"minimum_contributors: {self.minimum_contributors}; allowed: collusion bound + 2 = "
                f"{self.collusion_bound + 2} to the cohort's {size}"
            )


@dataclass(frozen=True)
class ClientPolicy:
    """A party's own floors. Whatever the server proposes below them is refused.

    :param protocols: names of the protocols that this party takes part in.
    :param suites: cryptographic suites that it accepts.
    :param minimum_cohort: smallest cohort.
    :param minimum_contributors: smallest number of contributors to an opened sum.
    :param collusion_bound: clients that this party assumes to collude; None for what ``adversary_rate`` stands for.
    :param adversary_rate: fraction of the cohort that this party assumes to collude; a graph with few neighbours a
        client must be good for it.
    :param claims: servers against which such a graph must protect: ``"semi-malicious"``, ``"fully active"``.
    :param committee_collusion: members of a committee that this party assumes to collude; None for as many as clients,
        all of whom may sit on it.
    :param value_range: largest absolute value of an entry of its vector, in integer units; the modulus must hold
        the signed sum over the whole cohort. 0 leaves the modulus to the caller (an encoding that may wrap).
    :param maximum_vector_length: longest vector, a bound on memory.
    """

    protocols: frozenset[str] = field(default_factory=lambda: frozenset({"secagg"}))
    suites: frozenset[int] = field(default_factory=lambda: frozenset({1}))
    minimum_cohort: int = 3
    minimum_contributors: int = 3
    collusion_bound: int | None = None
    adversary_rate: float = DEFAULT_ADVERSARY_RATE
    claims: frozenset[str] = field(default_factory=lambda: frozenset({"semi-malicious", "fully active"}))
    committee_collusion: int | None = None
    value_range: int = 0
    maximum_vector_length: int = 2**32

    def check(self, parameters: SessionParameters, roster: Roster) -> None:
        """Refuse parameters below the floors that are common to all protocols (rules SP-1 to SP-10).

        :raises PolicyRefused: naming the parameter, what was proposed and what is required.
        """
        size = len(parameters.cohort)
        collusion = self.required_collusion_bound(size)
        post_quantum = parameters.suite in SUITES and SUITES[parameters.suite].signature.post_quantum
        refuse = PolicyRefused
        if parameters.protocol not in self.protocols:
            raise refuse("protocol", parameters.protocol, f"one of {sorted(self.protocols)}", rule="SP-1")
        if parameters.suite not in self.suites:
            raise refuse("suite", parameters.suite, f"one of {sorted(self.suites)}", rule="SP-2")
        if parameters.roster_hash != roster.digest():
            raise refuse("roster hash", parameters.roster_hash.hex()[:16], roster.digest().hex()[:16], rule="SP-3")
        for party in parameters.cohort:
            if not roster.in_good_standing(party):
                raise refuse("cohort", party, "clients of the pinned roster in good standing", rule="SP-4")
            if post_quantum and not roster.member(party).post_quantum_key:
                raise refuse("cohort", party, f"ML-DSA keys in the roster (suite {parameters.suite})", rule="SP-10")
        if size < self.minimum_cohort:
            raise refuse("cohort size", size, f"at least {self.minimum_cohort}", rule="SP-5")
        if parameters.collusion_bound < collusion:
            raise refuse("collusion bound", parameters.collusion_bound, f"at least {collusion}", rule="SP-6")
        floor = max(self.minimum_contributors, parameters.collusion_bound + 2)
        if not floor <= parameters.minimum_contributors <= size:
            raise refuse("minimum contributors", parameters.minimum_contributors, f"{floor} to {size}", rule="SP-7")
        needed = max(MINIMUM_MODULUS_BITS, (2 * size * self.value_range).bit_length())
        if parameters.modulus_bits < needed:
            raise refuse("modulus bits", parameters.modulus_bits, f"at least {needed}", rule="SP-8")
        if parameters.vector_length > self.maximum_vector_length:
            raise refuse(
                "vector length", parameters.vector_length, f"at most {self.maximum_vector_length}", rule="SP-9"
            )

    def required_collusion_bound(self, cohort: int) -> int:
        """Clients that this party assumes to collude, in a cohort of this size."""
        return rate_bound(self.adversary_rate, cohort) if self.collusion_bound is None else self.collusion_bound
