"""One reply on its way into a server session: spooled, hashed, counted; folded in only when its trailer verifies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from protocols.errors import FaultReason, PeerFault, UsageError
from protocols.identity import ClientId
from protocols.primitives.bitpack import packed_size, unpack
from protocols.shape import Chunk, Upload
from protocols.signed import ContentDigest, unframe

if TYPE_CHECKING:
    from protocols.server import Phase, Received, ServerShell

__all__ = ["SpooledUpload"]


class SpooledUpload(Upload):
    """An upload that waits in a spool until its trailer verifies."""

    def __init__(self, shell: ServerShell, phase: Phase, received: Received) -> None:
        self._shell = shell
        self._received = received
        self._party = ClientId(received.message.party)
        self._phase = phase
        self._content = ContentDigest()
        self._next = 0
        self._open = True
        self._ended: PeerFault | None = None

    def write(self, chunk: Chunk) -> None:
        """See `Upload.write`."""
        self._require_open()
        with self._guarded():
            count = self._phase.chunk_count(self._shell)
            if self._next >= count:
                raise PeerFault(FaultReason.CHUNK_LENGTH, "more chunks than agreed on", rule="SV-6")
            entries, bits = self._phase.chunk_layout(self._shell, self._next)
            try:
                payload = unframe(chunk, self._next, packed_size(entries, bits))
                if self._next == count - 1:
                    # Only the last chunk has padding that may be wrong: look before anything is added.
                    unpack(payload, entries, bits)
            except PeerFault as fault:
                raise PeerFault(fault.reason, fault.detail, rule="SV-7") from None
            self._content.update(chunk)
            self._received.spool.append(bytes(payload))
            self._next += 1

    def commit(self, trailer: bytes) -> None:
        """See `Upload.commit`."""
        self._require_open()
        content = self._content.digest()
        with self._guarded(content, trailer):
            expected = self._phase.chunk_count(self._shell)
            if self._next != expected:
                raise PeerFault(FaultReason.CHUNK_LENGTH, f"{self._next} chunks of {expected}", rule="SV-8")
            self._shell.take(self._received, self._phase, content, trailer)
        self._end(discard=not self._phase.keeps_replies())

    def abort(self) -> None:
        """See `Upload.abort`."""
        if self._open:
            self._end(discard=True)

    def _end(self, *, discard: bool) -> None:
        self._open = False
        self._shell.forget(self._party)
        if discard:
            self._received.spool.discard()

    def supersede(self) -> None:
        """Make room for a newer upload of the same party; the next call to this one says so."""
        self._break_off(FaultReason.DUPLICATE_PARTY, f"a newer upload of {self._party!r} took its place", "SV-9")

    def make_room(self, most: int) -> None:
        """Make room, as the oldest, for another party's upload; the next call to this one says so."""
        detail = f"the upload of {self._party!r} is the oldest of more than {most}"
        self._break_off(FaultReason.TOO_LARGE, detail, "SV-10")

    def _break_off(self, reason: FaultReason, detail: str, rule: str) -> None:
        self.abort()
        self._ended = PeerFault(reason, detail, rule=rule, phase=self._phase.name)
        self._shell.record(self._ended, self._party, self._received.header)

    def _require_open(self) -> None:
        if self._ended is not None:
            raise self._ended
        if not self._open and not self._shell.holds(self._phase):
            raise PeerFault(FaultReason.WRONG_PHASE, "the phase was closed", rule="SV-1", phase=self._phase.name)
        if not self._open:
            raise UsageError("the upload is over")

    @contextmanager
    def _guarded(self, *evidence: bytes) -> Iterator[None]:
        """End the upload on its first fault and keep the evidence."""
        try:
            yield
        except PeerFault as fault:
            self.abort()
            fault.phase = fault.phase or self._phase.name
            self._shell.record(fault, self._party, self._received.header, *evidence)
            raise
        except BaseException:
            self.abort()
            raise
