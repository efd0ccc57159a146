"""Reading a ledger: every line verified, the chain followed, the life of each release replayed. Pure: bytes in."""

from __future__ import annotations

from collections.abc import Sequence

from protocols.errors import BudgetExceeded, LedgerCorrupt, LedgerRolledBack, PrivacyError
from secfl.privacy.ledger_entries import NO_PREVIOUS, Genesis, Head, decode_line, line_hash
from secfl.privacy.ledger_state import LedgerState

__all__ = ["Replay", "require_line"]


class Replay:
    """A ledger as far as it has been verified.

    :param name: how messages call the ledger.
    :param public_key: the silo's Ed25519 identity key, 32 bytes.
    """

    def __init__(self, name: str, public_key: bytes) -> None:
        self.name = name
        self.size = 0
        self._public_key = public_key
        self._hashes: list[str] = []
        self._state: LedgerState | None = None

    @property
    def state(self) -> LedgerState:
        """The state after the last verified line.

        :raises LedgerCorrupt: not even the first line has been verified.
        """
        if self._state is None:
            raise LedgerCorrupt(f"[LG-8] {self.name}: no first line")
        return self._state

    @property
    def head(self) -> Head:
        """The last verified line."""
        if not self._hashes:
            raise LedgerCorrupt(f"[LG-8] {self.name}: no first line")
        return Head(len(self._hashes) - 1, self._hashes[-1])

    @property
    def hashes(self) -> Sequence[str]:
        """Of the verified lines, in order."""
        return self._hashes

    def read(self, raw: bytes, *, drop_torn_tail: bool = False) -> None:
        """Verify all lines, in order; on a fault everything before it stays readable.

        :param drop_torn_tail: stop before an append that never completed, instead of refusing the ledger.
        :raises LedgerCorrupt: names the line and the rule.
        """
        *lines, tail = raw.split(b"\n")
        # After a power cut a block of the last append may be missing (no newline) or empty (zero bytes).
        torn = bool(tail)
        if lines and not torn and b"\0" in lines[-1]:
            torn = True
            lines.pop()
        for line in lines:
            self.add(line + b"\n")
        if torn and not drop_torn_tail:
            raise LedgerCorrupt(
                f"[LG-2] {self._where()}: incomplete last line, an append that never completed. Nothing was trained or "
                "sent on it; `drop_torn_tail` removes it if the high-water mark confirms that no more is missing"
            )
        if self._state is None:
            raise LedgerCorrupt(f"[LG-8] {self.name}: no first line")

    def add(self, raw: bytes) -> None:
        """Verify one more line, newline included.

        :raises LedgerCorrupt: names the line and the rule.
        """
        where = self._where()
        line = decode_line(raw, self._public_key, where)
        if line.sequence != len(self._hashes):
            raise LedgerCorrupt(f"[LG-5] {where}: sequence number {line.sequence}; expected {len(self._hashes)}")
        if line.previous != (self._hashes[-1] if self._hashes else NO_PREVIOUS):
            raise LedgerCorrupt(f"[LG-6] {where}: does not follow the line before it (hash chain)")
        try:
            if self._state is not None:
                self._state.apply(line.entry, line.time)
            elif isinstance(line.entry, Genesis):
                self._state = self._begin(line.entry)
            else:
                raise PrivacyError("[LG-8] the first line is not a genesis")
        except BudgetExceeded as error:
            raise LedgerCorrupt(f"[LG-13] {where}: {error}") from error
        except PrivacyError as error:
            raise LedgerCorrupt(f"{where}: {error}") from error
        self._hashes.append(line_hash(raw))
        self.size += len(raw)

    def require_mark(self, mark: Head | None, *, writer: bool) -> None:
        """Compare with the high-water mark (LG-17 to LG-20).

        :param writer: the lock is held, so that the mark can be at most one line behind.
        :raises LedgerRolledBack: the ledger is older than the mark, or another one from that line on.
        :raises LedgerCorrupt: no mark, or one that is further behind than a crash can leave it.
        """
        if mark is None:
            raise LedgerCorrupt(f"[LG-19] {self.name}: its high-water mark is missing")
        require_line(self._hashes, mark, "LG-17", "LG-18", self.name, "the high-water mark")
        if writer and self.head.sequence > mark.sequence + 1:
            raise LedgerCorrupt(
                f"[LG-20] {self.name}: the high-water mark stands at line {mark.sequence + 1} of "
                f"{self.head.sequence + 1}; a crash leaves it one behind at most"
            )

    def require_head(self, expected: Head) -> None:
        """Compare with a head that others remember (LG-21).

        :raises LedgerRolledBack: the ledger is older than that, or another one from that line on.
        """
        require_line(self._hashes, expected, "LG-21", "LG-21", self.name, "the expected head")

    def _begin(self, genesis: Genesis) -> LedgerState:
        if genesis.public_key != self._public_key.hex():
            raise PrivacyError("[LG-10] the genesis names another public key than the one that signed it")
        return LedgerState(genesis)

    def _where(self) -> str:
        return f"{self.name}, line {len(self._hashes) + 1}"


def require_line(hashes: Sequence[str], head: Head, shorter: str, other: str, name: str, witness: str) -> None:
    """Refuse a ledger that does not hold a line that somebody has seen.

    :param hashes: of the ledger's lines.
    :param shorter: rule that a ledger breaks that ends before the line; ``other``: that has another line there.
    :param name: of the ledger; ``witness``: who has seen the line.
    :raises LedgerRolledBack: naming the rule.
    """
    if head.sequence >= len(hashes):
        raise LedgerRolledBack(
            f"[{shorter}] {name}: ends at line {len(hashes)}; {witness} has seen line {head.sequence + 1}"
        )
    if hashes[head.sequence] != head.hash:
        raise LedgerRolledBack(f"[{other}] {name}: line {head.sequence + 1} is not the one that {witness} has seen")
