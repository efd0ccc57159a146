"""One message as one bytes object or as a stream of frames: for carrying sessions over anything.

    message = preamble, header frame, any number of chunk frames, trailer frame
    frame   = kind (1 byte: H, C or T), length of the body (4 bytes, little-endian), body

The trailer ends a message; a request's is empty. Rules: FR-1 the preamble opens a message; FR-2 a header comes first,
once; FR-3 then chunks and one trailer, nothing else; FR-4 a body is within its limit, looked at before the body is
read; FR-5 no more chunks than agreed on; FR-6 nothing after the trailer of a whole message; FR-7 a message is whole.
Nothing here says who sent a message: the trailer's signature does, once the session has verified it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.shape import Chunk, MessageLimits
from protocols.wire import HEADER_LIMIT

__all__ = ["CHUNK", "HEADER", "PREAMBLE", "TRAILER", "Frame", "FrameDecoder", "FrameLimits", "Message", "write_frames"]

PREAMBLE = b"SECFL\x01"
HEADER, CHUNK, TRAILER = b"H", b"C", b"T"
_LENGTH_BYTES = 4
_OPENING_BYTES = 1 + _LENGTH_BYTES


@dataclass(frozen=True)
class FrameLimits:
    """Largest bodies, in bytes, and number of chunks, that a receiver takes."""

    header: int = HEADER_LIMIT
    chunk: int = 0
    chunks: int = 0
    trailer: int = 0

    @classmethod
    def of(cls, limits: MessageLimits) -> FrameLimits:
        """Limits as a session states them: `ServerSession.reply_limits`."""
        return cls(limits.header, limits.chunk, limits.chunks, limits.trailer)

    @classmethod
    def of_request(cls) -> FrameLimits:
        """Limits of a request without chunks."""
        return cls()


@dataclass(frozen=True)
class Frame:
    """One part of a message: kind ``HEADER``, ``CHUNK`` or ``TRAILER``, and its body."""

    kind: bytes
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class Message:
    """A whole message."""

    header: bytes = field(repr=False)
    chunks: tuple[bytes, ...] = field(repr=False)
    trailer: bytes = field(repr=False)

    @classmethod
    def from_bytes(cls, raw: bytes, limits: FrameLimits) -> Message:
        """Read a message.

        :raises PeerFault: MALFORMED or TOO_LARGE, see the module's rules.
        """
        decoder = FrameDecoder(limits)
        frames = decoder.feed(raw)
        decoder.finish()
        return cls(frames[0].body, tuple(frame.body for frame in frames[1:-1]), frames[-1].body)


def write_frames(header: bytes, chunks: Iterable[Chunk] = (), trailer: bytes = b"") -> Iterator[bytes]:
    """The frames of a message, one by one, ready to be sent; joined they are the message.

    :raises UsageError: a body of 4 GiB or more.
    """
    yield PREAMBLE + _opening(HEADER, header) + header
    for chunk in chunks:
        yield b"".join((_opening(CHUNK, chunk), chunk))
    yield _opening(TRAILER, trailer) + trailer


def _opening(kind: bytes, body: Chunk) -> bytes:
    size = memoryview(body).nbytes
    if size >= 1 << (8 * _LENGTH_BYTES):
        raise UsageError(f"a frame holds less than 4 GiB, not {size} bytes")
    return kind + size.to_bytes(_LENGTH_BYTES, "little")


class FrameDecoder:
    """Cuts a stream of bytes, in pieces of any size, into the frames of one message.

    It holds at most one frame of the largest kind allowed beside the piece given to it. A fault ends it.
    """

    def __init__(self, limits: FrameLimits) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._preamble_seen = False
        self._header_seen = False
        self._chunks = 0
        self._failed = False
        self.finished = False
        """Whether the trailer has been seen."""
        self.left_over = b""
        """What came after the trailer in the last piece: on a stream, the next message's beginning."""

    def feed(self, piece: Chunk) -> list[Frame]:
        """Take the next piece; give the frames that are now whole.

        :raises PeerFault: MALFORMED or TOO_LARGE; nothing more can be fed.
        """
        if self._failed or self.finished:
            raise UsageError(f"the message {'was refused' if self._failed else 'is whole'}; take a new decoder")
        view = memoryview(piece).cast("B")
        taken, frames = 0, []
        try:
            while taken < len(view):
                wanted = self._wanted() - len(self._buffer)
                self._buffer += view[taken : taken + wanted]
                taken += wanted
                frame = self._frame()
                if frame is None:
                    continue
                frames.append(frame)
                if frame.kind == TRAILER:
                    self.left_over = bytes(view[taken:])
                    break
        except PeerFault:
            self._failed = True
            self._buffer.clear()
            raise
        return frames

    def finish(self) -> None:
        """Say that this was the message and nothing else.

        :raises PeerFault: MALFORMED, the message is cut short or something follows it.
        """
        if not self.finished:
            raise _malformed("the message is cut short", "FR-7")
        if self.left_over:
            raise _malformed("bytes after the trailer", "FR-6")

    def _wanted(self) -> int:
        """Bytes that the buffer should hold before anything more can be said; limits are checked here."""
        if not self._preamble_seen:
            return len(PREAMBLE)
        if len(self._buffer) < _OPENING_BYTES:
            return _OPENING_BYTES
        return _OPENING_BYTES + self._body_bytes()

    def _body_bytes(self) -> int:
        kind = bytes(self._buffer[:1])
        if (kind == HEADER) == self._header_seen:
            raise _malformed("one header, first", "FR-2")
        if kind not in (HEADER, CHUNK, TRAILER):
            raise _malformed("unknown kind of frame", "FR-3")
        if kind == CHUNK and self._chunks >= self._limits.chunks:
            raise _too_large(f"more than {self._limits.chunks} chunks", "FR-5")
        size = int.from_bytes(self._buffer[1:_OPENING_BYTES], "little")
        allowed = {HEADER: self._limits.header, CHUNK: self._limits.chunk, TRAILER: self._limits.trailer}[kind]
        if size > allowed:
            raise _too_large(f"frame {kind.decode()} of {size} bytes, at most {allowed}", "FR-4")
        return size

    def _frame(self) -> Frame | None:
        """Consume the buffer if it is a whole preamble or frame."""
        if not self._preamble_seen:
            if not PREAMBLE.startswith(self._buffer):
                raise _malformed("not a message of this version", "FR-1")
            if len(self._buffer) == len(PREAMBLE):
                self._preamble_seen = True
                self._buffer.clear()
            return None
        if len(self._buffer) < _OPENING_BYTES or len(self._buffer) < _OPENING_BYTES + self._body_bytes():
            return None
        frame = Frame(bytes(self._buffer[:1]), bytes(self._buffer[_OPENING_BYTES:]))
        self._buffer.clear()
        self._header_seen = True
        self._chunks += frame.kind == CHUNK
        self.finished = frame.kind == TRAILER
        return frame


def _malformed(detail: str, rule: str) -> PeerFault:
    return PeerFault(FaultReason.MALFORMED, detail, rule=rule)


def _too_large(detail: str, rule: str) -> PeerFault:
    return PeerFault(FaultReason.TOO_LARGE, detail, rule=rule)
