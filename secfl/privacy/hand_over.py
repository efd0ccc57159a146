"""A ledger ends in a successor, which inherits all spend: under a new key, or for a new version of the records."""

from __future__ import annotations

from pathlib import Path

from protocols.errors import PrivacyError
from protocols.primitives.signing import SigningKey
from secfl.privacy.ledger import Ledger, Lineage, verify

__all__ = ["hand_over"]


def hand_over(ledger: Path, old_key: SigningKey, key: SigningKey, successor: str, *, source: str = "") -> Path:
    """End a ledger and begin the one of its successor beside it, under the same budget and order.

    Interrupted between the two, it goes on when called again.

    :param old_key: the key that signed the ledger.
    :param key: the silo's key from now on; the same, if only the lineage changes.
    :param successor: name of the new lineage, which names its file.
    :param source: in words; as before, if empty.
    :returns: path of the new ledger.
    :raises PrivacyError: the ledger has another successor, a release is under way, or the new file exists.
    :raises LedgerCorrupt: the ledger breaks a rule.
    """
    if not successor or Path(successor).name != successor:
        raise PrivacyError(f"successor: {successor!r}; allowed: a name that can be that of a file")
    path = ledger.with_name(f"{successor}{ledger.suffix}")
    if path.exists():
        raise PrivacyError(f"[LG-23] {path}: a ledger exists")
    summary = verify(ledger, old_key.public)
    if summary.successor is None:
        with Ledger.open(ledger, old_key) as old:
            summary = old.hand_over(successor)
    elif summary.successor != successor:
        raise PrivacyError(f"[LG-15] the lineage has ended; its successor is {summary.successor!r}")
    lineage = Lineage(
        silo=summary.silo,
        name=successor,
        source=source or summary.source,
        total_records=summary.total_records,
        parents=(summary,),
    )
    Ledger.create(path, key, lineage, summary.budget, order=summary.order).close()
    return path
