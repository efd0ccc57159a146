"""A server session that outlives its process: every reply that counts, and every phase that closes, is journaled.

A reply is in the journal when `Upload.commit` returns, a phase's end before the phase closes. So no party hears of
anything that a restored server would not know: it asks the same questions again, about the same set.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Self

from protocols.errors import PeerFault, ProtocolError, UsageError
from protocols.identity import ClientId, Roster
from protocols.organisation import ProtocolPackage
from protocols.server import ServerShell
from protocols.session import SessionId, SessionParameters
from protocols.shape import Aggregate, Chunk, MessageLimits, PhaseSummary, Request, ServerSession, Spool, Upload, Words
from protocols.wire import CHUNK_INDEX_BYTES
from secfl.engines.journal import Event, ServerJournal
from secfl.engines.spool import FileSpool

__all__ = ["DurableServer"]

REPLAY_BYTES = 4 * 2**30
"""Chunks that pile up in the journal before a snapshot takes their place in the middle of a phase."""


class DurableServer(ServerSession):
    """A server session of any protocol, in a journal; make it with `adopt` or `restore`.

    When the journal fails in a commit or at the end of a phase, this object is over, with the error that says why; what
    the journal holds is whole and can be restored. Refused replies (`protocols.shape.Fault`) are kept from the end of
    their phase on: those of a phase that a kill interrupts are lost.

    :param replay_bytes: chunks of accepted replies, in bytes, before a snapshot takes their place.
    """

    def __init__(self, journal: ServerJournal, session: ServerShell, *, replay_bytes: int = REPLAY_BYTES) -> None:
        self._journal = journal
        self._session = session
        self._replay_bytes = replay_bytes
        self._spool: StoredSpool | None = None
        self._beginning: Event | None = None
        self._held: set[int] = set()
        self._bytes = 0
        self._failed = False
        session.new_spool = self._new_spool

    @classmethod
    def adopt(cls, journal: ServerJournal, session: ServerSession, *, replay_bytes: int = REPLAY_BYTES) -> Self:
        """Put a session that begins into the journal, where it is when this returns; use it through this object alone.

        :raises UsageError: a session that is not a `protocols.server.ServerShell`, or that the journal knows.
        :raises ProtocolError: the disk refused.
        """
        if not isinstance(session, ServerShell):
            raise UsageError(f"{type(session).__name__}: not a session that a journal can give back")
        journal.begin(session.session_id, session.parameters.protocol, session.save())
        return cls(journal, session, replay_bytes=replay_bytes)

    @classmethod
    def restore(
        cls,
        journal: ServerJournal,
        protocol: ProtocolPackage,
        session_id: SessionId,
        roster: Roster,
        *,
        replay_bytes: int = REPLAY_BYTES,
        **options: Any,
    ) -> Self:
        """Go on with a session after its process died; one that was over gives its result again.

        :param options: further arguments of the protocol's `restore_server`.
        :raises UsageError: no such session, another protocol or roster, or a damaged journal.
        :raises ThresholdNotMet: the session had ended so; likewise `PeerFault`.
        """
        known = journal.sessions().get(session_id)
        if known not in (None, protocol.PROTOCOL):
            raise UsageError(f"{journal.path}: session {session_id.hex()[:16]} is one of {known}")
        snapshot = journal.snapshot(session_id)
        options = {"spool": partial(FileSpool, journal.path.parent)} | options
        try:
            session: ServerShell = protocol.restore_server(snapshot, roster, **options)
        except PeerFault as fault:
            raise journal.damaged(session_id, fault.detail) from None
        durable = cls(journal, session, replay_bytes=replay_bytes)
        for event in journal.events(session_id):
            durable._replay(event)
        return durable

    # -- the interface -------------------------------------------------------------------------------------------------

    @property
    def session_id(self) -> SessionId:
        """Hash of the parameters."""
        return self._session.session_id

    @property
    def parameters(self) -> SessionParameters:
        """See `ServerSession.parameters`."""
        return self._session.parameters

    @property
    def phase(self) -> str | None:
        """See `ServerSession.phase`."""
        return None if self._failed else self._session.phase

    @property
    def answered(self) -> tuple[ClientId, ...]:
        """Who has answered in the open phase: after a restore, nobody needs to ask them again."""
        return self._session.answered

    def requests(self) -> Iterator[Request]:
        """See `ServerSession.requests`."""
        self._require_usable()
        return self._session.requests()

    def reply_limits(self) -> MessageLimits:
        """See `ServerSession.reply_limits`."""
        self._require_usable()
        return self._session.reply_limits()

    def begin(self, header: bytes) -> Upload:
        """See `ServerSession.begin`."""
        self._require_usable()
        upload, spool = self._begin(Event("", header=header))
        return _DurableUpload(self, upload, header, spool)

    def ready(self) -> bool:
        """See `ServerSession.ready`."""
        self._require_usable()
        return self._session.ready()

    def close_phase(self) -> PhaseSummary:
        """See `ServerSession.close_phase`; once this has begun, a restored session closes the phase as well.

        :raises ProtocolError: the journal failed.
        """
        self._require_usable()
        if self._session.phase is not None:
            with self._ends_on_failure():
                self._journal.close_phase(self.session_id, self._session.phase)
        summary = self._session.close_phase()
        if summary.next_phase is not None:
            self._compact()
        return summary

    def result(self, out: Words | None = None) -> Aggregate:
        """See `ServerSession.result`."""
        self._require_usable()
        return self._session.result(out)

    def save(self) -> bytes:
        """See `ServerSession.save`."""
        self._require_usable()
        return self._session.save()

    def forget(self) -> None:
        """Erase the session from the journal: its result is in other hands, or nobody will take it up again."""
        self._journal.forget(self.session_id)

    def __repr__(self) -> str:
        return f"DurableServer({self._session!r})"

    # -- the machinery -------------------------------------------------------------------------------------------------

    def accept(self, upload: Upload, header: bytes, spool: StoredSpool, trailer: bytes) -> None:
        """Have the session take a whole reply, and the journal keep it."""
        self._require_usable()
        self._take(upload, spool, trailer)
        with self._ends_on_failure():
            self._journal.accept(self.session_id, spool.upload, header, spool.count, trailer)
        spool.accepted = True
        self._bytes += spool.bytes
        if self._bytes > self._replay_bytes:
            self._compact()

    def _begin(self, event: Event) -> tuple[Upload, StoredSpool]:
        """Open an upload; its spool is the one that the session asks for on the way."""
        self._beginning = event
        try:
            upload = self._session.begin(event.header)
        finally:
            self._beginning, spool, self._spool = None, self._spool, None
        if spool is None:
            raise UsageError("the session took a reply without asking for a spool")
        return upload, spool

    def _take(self, upload: Upload, spool: StoredSpool, trailer: bytes) -> None:
        """Commit; what the session discards from now on, the journal still needs."""
        self._held.add(spool.upload)
        spool.held_in = self._held
        try:
            upload.commit(trailer)
        except BaseException:
            self._held.discard(spool.upload)
            spool.held_in = None
            spool.discard()
            raise

    def _compact(self) -> None:
        """A snapshot in the place of all events, unless the session still holds chunks of theirs."""
        if not self._held:
            with self._ends_on_failure():
                self._journal.compact(self.session_id, self._session.save())
            self._bytes = 0

    def _new_spool(self) -> Spool:
        """The factory that the session has: a reply's chunks go to the journal as they come in.

        What the session derives from replies need not last: it is derived again when they are replayed.
        """
        if self._beginning is None:
            return FileSpool(self._journal.path.parent)
        self._spool = StoredSpool(self._journal, self._beginning.upload)
        return self._spool

    def _replay(self, event: Event) -> None:
        if event.phase:
            if event.phase != self._session.phase:
                raise self._journal.damaged(self.session_id, f"{event.phase} closes in phase {self._session.phase}")
            self._session.close_phase()
            return
        try:
            upload, spool = self._begin(event)
            for number in range(event.chunks):
                index = number.to_bytes(CHUNK_INDEX_BYTES, "little")
                upload.write(index + self._journal.chunk(event.upload, number))
            self._take(upload, spool, event.trailer)
        except PeerFault as fault:
            raise self._journal.damaged(self.session_id, f"a reply that was accepted is refused: {fault}") from None
        self._bytes += spool.bytes

    def _require_usable(self) -> None:
        if self._failed:
            raise ProtocolError("the journal failed; the session can be restored from it")

    @contextmanager
    def _ends_on_failure(self) -> Iterator[None]:
        """Nothing may follow what the journal does not hold."""
        try:
            yield
        except BaseException:
            self._failed = True
            raise


class StoredSpool:
    """A spool whose chunks lie in the journal; see `protocols.shape.Spool`.

    :param replayed: number of the upload whose chunks are there already; 0 for a new one.
    """

    def __init__(self, journal: ServerJournal, replayed: int) -> None:
        self._journal = journal
        self.accepted = replayed != 0
        """Whether the chunks belong to a reply in the journal, which alone decides how long they stay."""
        self.held_in: set[int] | None = None
        """Spools of replies that count and that their session may still read: this one leaves when it is discarded."""
        self.upload = replayed or journal.new_upload()
        self.count = 0
        self.bytes = 0

    def append(self, chunk: Chunk) -> None:
        """Add a chunk at the end."""
        if not self.accepted:
            self._journal.append(self.upload, self.count, chunk)
        self.count += 1
        self.bytes += memoryview(chunk).nbytes

    def chunks(self) -> Iterator[Chunk]:
        """All chunks from the first."""
        return (self._journal.chunk(self.upload, number) for number in range(self.count))

    def discard(self) -> None:
        """Forget everything; once the reply counts, only that the session needs it."""
        if self.held_in is not None:
            self.held_in.discard(self.upload)
        elif not self.accepted and self.count:
            self._journal.drop(self.upload)
            self.count = 0


class _DurableUpload(Upload):
    """An upload that the journal knows of before it counts."""

    def __init__(self, server: DurableServer, upload: Upload, header: bytes, spool: StoredSpool) -> None:
        self._server = server
        self._upload = upload
        self._header = header
        self._spool = spool

    def write(self, chunk: Chunk) -> None:
        """See `Upload.write`."""
        self._upload.write(chunk)

    def commit(self, trailer: bytes) -> None:
        """See `Upload.commit`.

        :raises ProtocolError: the journal failed; the session is over until it is restored.
        """
        self._server.accept(self._upload, self._header, self._spool, trailer)

    def abort(self) -> None:
        """See `Upload.abort`."""
        self._upload.abort()
