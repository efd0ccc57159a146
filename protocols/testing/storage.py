"""A once-only store in memory, for tests: it survives its sessions but not its process."""

from __future__ import annotations

__all__ = ["MemoryStore"]


class MemoryStore:
    """See `protocols.shape.OnceStore`. Keep the object to test what happens after a restore or a rollback."""

    def __init__(self) -> None:
        self._records: dict[bytes, bytes] = {}

    def record(self, key: bytes, value: bytes) -> bytes:
        """Record unless present; return what is on record."""
        return self._records.setdefault(key, value)
