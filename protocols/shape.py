"""The one shape of every protocol: phases, requests, replies, uploads, sessions.

A round is a sequence of phases. In a phase the server sends each party at most one request and each party answers at
most once. Sessions are pure computation: bytes in, bytes out; entropy, the once-only store and the spool are passed in,
and the engine decides when a phase closes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from protocols.errors import FaultReason, UsageError
from protocols.identity import ClientId
from protocols.session import SessionId, SessionParameters

__all__ = [
    "Aggregate",
    "ArraySource",
    "BasedVector",
    "Chunk",
    "Entropy",
    "Fault",
    "MessageLimits",
    "Need",
    "OnceStore",
    "PartySession",
    "PhaseSummary",
    "Reply",
    "Request",
    "ServerSession",
    "Spool",
    "Upload",
    "VectorSource",
    "Words",
    "base_of",
]

Words = NDArray[np.unsignedinteger[Any]]
"""Words modulo 2^b, in the smallest of uint8, uint16, uint32, uint64 that holds b bits."""
Chunk = bytes | bytearray | memoryview
Entropy = Callable[[int], bytes]
"""``entropy(n)`` gives n fresh unpredictable bytes; ``os.urandom`` outside tests."""


class OnceStore(Protocol):
    """Durable compare-and-set: what was answered, kept outside any saved blob."""

    def record(self, key: bytes, value: bytes) -> bytes:
        """Durably record ``value`` under ``key`` unless a value is there; return the value on record.

        When this returns, the record survives a crash. Records are never overwritten.
        """


class Spool(Protocol):
    """Where a vector in transit waits, chunk by chunk, until it is verified or sent."""

    def append(self, chunk: Chunk) -> None:
        """Add a chunk at the end."""

    def chunks(self) -> Iterator[Chunk]:
        """All chunks from the first; may be called again."""

    def discard(self) -> None:
        """Forget everything."""


class VectorSource(Protocol):
    """A client's vector, read in pieces: words modulo 2^b."""

    @property
    def length(self) -> int:
        """Number of entries."""

    def read(self, start: int, stop: int) -> Words:
        """Entries ``start`` to ``stop``; any unsigned dtype whose values are below 2^b."""


@dataclass(frozen=True)
class ArraySource:
    """A vector that lies in memory.

    :param array: one-dimensional array of an unsigned dtype.
    :raises UsageError: for any other array.
    """

    array: Words = field(repr=False)

    def __post_init__(self) -> None:
        if self.array.ndim != 1 or self.array.dtype.kind != "u":
            raise UsageError(
                f"vector: {self.array.ndim} axes of {self.array.dtype}; expected one axis of unsigned integers"
            )

    @property
    def length(self) -> int:
        """Number of entries."""
        return int(self.array.shape[0])

    def read(self, start: int, stop: int) -> Words:
        """Entries ``start`` to ``stop`` (a view)."""
        return self.array[start:stop]


@dataclass(frozen=True)
class BasedVector:
    """A vector that says from which model it starts; one that does not starts from the session's context.

    :param source: the vector itself.
    :param base: 32-byte hash of the model, one of `Need.bases`.
    """

    source: VectorSource = field(repr=False)
    base: bytes

    @property
    def length(self) -> int:
        """Number of entries."""
        return self.source.length

    def read(self, start: int, stop: int) -> Words:
        """Entries ``start`` to ``stop``."""
        return self.source.read(start, stop)


def base_of(vector: VectorSource, parameters: SessionParameters) -> bytes:
    """Hash of the model from which a vector starts."""
    return vector.base if isinstance(vector, BasedVector) else parameters.context_hash


@dataclass(frozen=True)
class Request:
    """What the server sends to one party in a phase."""

    party: ClientId
    header: bytes = field(repr=False)
    chunks: Iterable[Chunk] = field(default=(), repr=False)


@dataclass(frozen=True)
class Reply:
    """What a party answers: header, chunks of a vector if any, trailer (its signature over all of it)."""

    party: ClientId
    header: bytes = field(repr=False)
    chunks: Iterable[Chunk] = field(repr=False)
    trailer: bytes = field(repr=False)


@dataclass(frozen=True)
class MessageLimits:
    """Largest parts of a message, in bytes, and most chunks: what a receiver needs before it reads the first byte."""

    header: int
    chunk: int = 0
    chunks: int = 0
    trailer: int = 0


@dataclass(frozen=True)
class Need:
    """What a party must have at hand to answer a request."""

    session_id: SessionId
    phase: str
    parameters: SessionParameters = field(repr=False)
    context_hash: bytes
    vector: bool
    """Whether `PartySession.handle` needs the vector for this request."""
    bases: tuple[bytes, ...]
    """Hashes of the models from which the vector may start (see `BasedVector`): the context's alone in a synchronous
    round; in an asynchronous one older models after it."""


@dataclass(frozen=True)
class Fault:
    """A message that must not be, as recorded; the session went on unchanged."""

    party: str
    """Who sent it; who it claims to come from, unless ``proven``."""
    proven: bool
    phase: str
    reason: FaultReason
    detail: str
    rule: str
    evidence: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class PhaseSummary:
    """How a phase ended."""

    phase: str
    answered: tuple[ClientId, ...]
    dropped: tuple[ClientId, ...]
    faults: tuple[Fault, ...]
    next_phase: str | None
    """None once the result is there."""


@dataclass(frozen=True)
class Aggregate:
    """The opened sum.

    :param sum: words modulo 2^b over the contributors' vectors.
    :param contributors: whose vectors are in it.
    :param checks: what was verified on the way, in words for the report.
    """

    session_id: SessionId
    sum: Words = field(repr=False)
    modulus_bits: int
    contributors: tuple[ClientId, ...]
    checks: tuple[str, ...]
    faults: tuple[Fault, ...] = ()
    bases: tuple[bytes, ...] = ()
    """Hash of the model from which each contributor started, in their order; empty where all start from the context."""


class Upload(ABC):
    """One reply on its way in. It counts when committed; broken off, it leaves no trace."""

    @abstractmethod
    def write(self, chunk: Chunk) -> None:
        """Take the next chunk.

        :raises PeerFault: CHUNK_ORDER or CHUNK_LENGTH; the upload is aborted.
        """

    @abstractmethod
    def commit(self, trailer: bytes) -> None:
        """Verify the whole reply and fold it into the session.

        :raises PeerFault: the reply is refused, the session is as it was.
        """

    @abstractmethod
    def abort(self) -> None:
        """Forget the upload."""


class ServerSession(ABC):
    """The server's side of one session."""

    @property
    @abstractmethod
    def parameters(self) -> SessionParameters:
        """What the session agreed on."""

    @property
    @abstractmethod
    def phase(self) -> str | None:
        """Name of the open phase; None once the result is there."""

    @abstractmethod
    def requests(self) -> Iterator[Request]:
        """Requests of the open phase; the same again after a restore."""

    @abstractmethod
    def reply_limits(self) -> MessageLimits:
        """What a reply of the open phase may hold at most; the session itself allows less of some.

        :raises UsageError: the session is over.
        """

    @abstractmethod
    def begin(self, header: bytes) -> Upload:
        """Open the upload of a reply.

        A party has one upload open at a time: a newer one takes the place of the older, which is recorded as a fault;
        so is the oldest of all, when it makes room because too many are under way.
        Nothing is proven about the sender before the trailer; engines authenticate their channels.

        :raises PeerFault: the reply is not one that this phase waits for.
        """

    @abstractmethod
    def ready(self) -> bool:
        """Whether all that is expected in this phase, or the quota, has come in."""

    @abstractmethod
    def close_phase(self) -> PhaseSummary:
        """Close the phase and open the next; uploads still under way are broken off.

        :raises ThresholdNotMet: too few answered; the session is over and nothing was revealed.
        :raises PeerFault: what was answered does not fit together; the session is over and nothing was revealed.
        """

    @abstractmethod
    def result(self, out: Words | None = None) -> Aggregate:
        """The sum, once the last phase is closed.

        :param out: array to hold the sum, of the session's word dtype and length.
        :raises UsageError: before that.
        """

    @abstractmethod
    def save(self) -> bytes:
        """The session between two messages; it holds nothing that its messages did not show."""


class PartySession(ABC):
    """A party's side of one session."""

    @abstractmethod
    def inspect(self, header: bytes) -> Need:
        """Say what a request needs, without changing anything: no need for a vector that `handle` would refuse to use.

        :raises PeerFault: a request that must not be.
        :raises PolicyRefused: parameters below this party's floors.
        """

    @abstractmethod
    def handle(self, header: bytes, chunks: Iterable[Chunk] = (), *, vector: VectorSource | None = None) -> Reply:
        """Answer a request. The answer is in the once-only store before this returns.

        :raises PeerFault: a request that must not be; the session is as it was.
        :raises PolicyRefused: parameters below this party's floors.
        :raises UsageError: a vector that is missing, not wanted, of the wrong length or dtype, with an entry of 2^b or
            more, or from a model that is none of `Need.bases`.
        """

    @abstractmethod
    def save(self, key: bytes) -> bytes:
        """The session between two messages, sealed under the party's own 32-byte storage key."""
