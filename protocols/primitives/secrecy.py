"""What every object that holds a secret has in common: it neither shows itself nor lets itself be copied."""

from __future__ import annotations

from typing import NoReturn, SupportsIndex

from protocols.errors import UsageError

__all__ = ["HoldsSecret"]


class HoldsSecret:
    """Base of the classes that hold key material.

    ``repr`` shows the class name alone; pickling and copying raise :class:`UsageError`, so that no key ends up in a
    message, a saved file or another process by accident.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __reduce_ex__(self, _protocol: SupportsIndex) -> NoReturn:
        raise UsageError(f"{type(self).__name__} holds a secret: it can be neither copied nor serialised")
