"""Ledger heads countersigned by the server, so that a silo that was put back to an older ledger notices.

After a round the silo announces the head of its ledger (number and hash of the last line) under its identity key; the
server remembers it and signs it; the silo keeps that signature beside its ledger. When a silo begins, the server sends
it the newest head that it signed, and a ledger that does not reach that head, or has another line there, is refused
(LG-21): nothing is trained. This finds what the mark cannot: ledger and mark put back, or deleted, together.

What travels is a counter and a hash of lines that hold public constants under a signature: it tells nothing of records.
What a server can do by lying is to have a silo refuse: a head that the ledger does not hold ends in a refusal, an old
head or none is weaker than the mark. It can never make a silo spend more.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from protocols.errors import LedgerCorrupt, LedgerRolledBack, PeerFault, PrivacyError
from protocols.primitives.labels import encode_parts
from protocols.primitives.signing import SigningKey, verify
from secfl.files import write_whole
from secfl.privacy.ledger import Head, Ledger

__all__ = ["Countersigned", "HeadKeeper", "HeadWitness"]

_ANNOUNCED = "secfl/v1/ledger-head/announced"
_COUNTERSIGNED = "secfl/v1/ledger-head/countersigned"
_MAXIMAL_BYTES = 4096

_Message = TypeVar("_Message", "_Announced", "Countersigned")
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Key = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Signature = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{128}$")]


class _Announced(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a silo says of its ledger."""

    format: Literal[1]
    silo: Name
    lineage: Name
    head: Head
    signature: Signature


class Countersigned(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the server says that a silo's ledger has reached.

    :param key: the server's Ed25519 public key.
    """

    format: Literal[1]
    silo: Name
    lineage: Name
    head: Head
    key: Key
    signature: Signature


class HeadKeeper:
    """The server's memory of ledger heads: a file for each silo and lineage.

    :param directory: of these files; made if missing. Not a place that is restored together with the silos' ledgers.
    :param key: the server's.
    :param members: identity key of each silo, by name.
    """

    def __init__(self, directory: Path, key: SigningKey, members: dict[str, bytes]) -> None:
        self._directory = directory
        self._key = key
        self._members = members

    def recall(self, silo: str, lineage: str) -> bytes | None:
        """The newest head of a silo's ledger that was countersigned, as a message to it; None for none.

        :raises LedgerCorrupt: the file is not one that this server wrote.
        """
        kept = _read(self._path(silo, lineage))
        if kept is None:
            return None
        if (kept.silo, kept.lineage, kept.key) != (silo, lineage, self._key.public.hex()):
            raise LedgerCorrupt(f"{self._path(silo, lineage)}: is not of silo {silo!r}, {lineage!r} and this server")
        return _encode(kept)

    def countersign(self, message: bytes) -> bytes:
        """Remember and sign what a silo announces.

        :raises PrivacyError: no member, or a signature that is not its own.
        :raises LedgerRolledBack: a head that is older than the one on record, or another line in its place.
        """
        announced = _decode(message, _Announced)
        if announced.silo not in self._members:
            raise PrivacyError(f"ledger head of {announced.silo!r}: no member of the roster")
        _verify(self._members[announced.silo], _ANNOUNCED, announced, f"silo {announced.silo!r}")
        before = self.recall(announced.silo, announced.lineage)
        if before is not None:
            kept = _decode(before, Countersigned).head
            if announced.head.sequence < kept.sequence or (
                announced.head.sequence == kept.sequence and announced.head != kept
            ):
                raise LedgerRolledBack(
                    f"[LG-21] silo {announced.silo!r} announces line {announced.head.sequence + 1} of lineage "
                    f"{announced.lineage!r}; line {kept.sequence + 1} was countersigned, or is another one"
                )
        public = self._key.public.hex()
        statement = _statement(_COUNTERSIGNED, announced.silo, announced.lineage, announced.head)
        signed = Countersigned(
            1, announced.silo, announced.lineage, announced.head, public, self._key.sign(statement).hex()
        )
        encoded = _encode(signed)
        self._directory.mkdir(parents=True, exist_ok=True)
        write_whole(self._path(announced.silo, announced.lineage), encoded)  # on record before anybody hears of it
        return encoded

    def _path(self, silo: str, lineage: str) -> Path:
        return self._directory / f"{hashlib.sha256(encode_parts('head', silo, lineage)).hexdigest()[:32]}.json"


class HeadWitness:
    """A silo's side: the newest countersigned head, kept beside its ledger.

    :param path: of the ledger; the signature goes to ``LEDGER.countersigned``.
    :param silo: name.
    :param lineage: name.
    :param server_key: the server's public key; None: the one that signed first is held to from then on.
    """

    def __init__(self, path: Path, silo: str, lineage: str, server_key: bytes | None = None) -> None:
        self._path = path.with_name(f"{path.name}.countersigned")
        self._silo = silo
        self._lineage = lineage
        kept = _read(self._path)
        self._kept = None if kept is None else self._checked(kept, None)
        self._server_key = server_key or (bytes.fromhex(self._kept.key) if self._kept else None)

    @property
    def expected(self) -> Head | None:
        """What the ledger must reach."""
        return None if self._kept is None else self._kept.head

    def learn(self, message: bytes) -> None:
        """Take a countersigned head from the server; an older one than is kept changes nothing.

        :raises PrivacyError: it is of another silo, lineage or server, or its signature does not verify.
        """
        told = self._checked(_decode(message, Countersigned), self._server_key)
        if self._kept is None or told.head.sequence > self._kept.head.sequence:
            self._kept = told
            self._server_key = bytes.fromhex(told.key)

    def keep(self) -> None:
        """Write the newest one beside the ledger, once the ledger has been found to hold it."""
        if self._kept is not None:
            write_whole(self._path, _encode(self._kept))

    def announce(self, ledger: Ledger, key: SigningKey) -> bytes:
        """The head of a ledger as a message to the server.

        :param key: the silo's identity key.
        """
        statement = _statement(_ANNOUNCED, self._silo, self._lineage, ledger.head)
        return _encode(_Announced(1, self._silo, self._lineage, ledger.head, key.sign(statement).hex()))

    def _checked(self, told: Countersigned, server_key: bytes | None) -> Countersigned:
        if (told.silo, told.lineage) != (self._silo, self._lineage):
            raise PrivacyError(
                f"countersigned head: of silo {told.silo!r}, lineage {told.lineage!r}; allowed: {self._silo!r}, "
                f"{self._lineage!r}"
            )
        key = bytes.fromhex(told.key)
        if server_key is not None and key != server_key:
            raise PrivacyError(
                f"countersigned head: by key {told.key[:16]}..., not the server's ({server_key.hex()[:16]}...)"
            )
        _verify(key, _COUNTERSIGNED, told, "the server")
        return told


def _statement(label: str, silo: str, lineage: str, head: Head) -> bytes:
    return encode_parts(label, silo, lineage, head.sequence, head.hash)


def _verify(key: bytes, label: str, message: _Announced | Countersigned, signer: str) -> None:
    try:
        verify(key, _statement(label, message.silo, message.lineage, message.head), bytes.fromhex(message.signature))
    except PeerFault:
        raise PrivacyError(f"ledger head: the signature is not one of {signer}") from None


def _encode(message: _Announced | Countersigned) -> bytes:
    return msgspec.json.encode(message) + b"\n"


def _decode(raw: bytes, kind: type[_Message]) -> _Message:
    if len(raw) > _MAXIMAL_BYTES:
        raise PrivacyError(f"ledger head: {len(raw)} bytes; allowed: {_MAXIMAL_BYTES}")
    try:
        message = msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PrivacyError(f"ledger head: malformed ({error})") from None
    if _encode(message) != raw:
        raise PrivacyError("ledger head: not the canonical encoding")
    return message


def _read(path: Path) -> Countersigned | None:
    try:
        with path.open("rb") as stream:
            raw = stream.read(_MAXIMAL_BYTES + 1)
    except FileNotFoundError:
        return None
    try:
        return _decode(raw, Countersigned)
    except PrivacyError as error:
        raise LedgerCorrupt(f"{path}: {error}") from None
