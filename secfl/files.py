"""Files written whole: a reader sees the old content or the new, never a part."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["sync_directory", "write_new", "write_whole"]


def write_whole(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a file through a temporary one beside it: fsync, rename, fsync of the directory.

    :raises OSError: the disk refused; the old file, if any, is as it was.
    """
    temporary = _write_temporary(path, content, mode)
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_new(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """As `write_whole`, but never in the place of another file, not even of one that appears at the same moment.

    :raises FileExistsError: there is a file; it is as it was.
    :raises OSError: the disk refused; there is no file.
    """
    temporary = _write_temporary(path, content, mode)
    try:
        path.hardlink_to(temporary)
    finally:
        temporary.unlink()
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable.

    :raises OSError: as the system says.
    """
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _write_temporary(path: Path, content: bytes, mode: int) -> Path:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary
