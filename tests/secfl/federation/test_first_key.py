"""Two processes that make a silo's first key at the same moment end up with one key."""

from __future__ import annotations

import os
from pathlib import Path

from secfl.federation.keys import load_key, load_or_create_key


def test_the_key_that_came_first_is_everybodys(tmp_path: Path) -> None:
    path = tmp_path / "north" / "identity.key"
    others: list[bytes] = []

    def beaten(count: int) -> bytes:
        """The other process writes its key after this one has looked and before it writes."""
        if not others:
            others.append(b"")
            others[0] = load_or_create_key(path).public
        return os.urandom(count)

    assert load_or_create_key(path, beaten).public == others[0] == load_key(path).public
    assert [item.name for item in path.parent.iterdir()] == ["identity.key"]
