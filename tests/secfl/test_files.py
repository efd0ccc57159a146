"""Files are written whole, and a new file never takes the place of another."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from secfl.files import write_new, write_whole

OLD, NEW = b"old content", b"new"


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)

    def refuse(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if failing == "fsync" else (Path, "replace")), refuse)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, NEW)
    assert path.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [path]


def test_content_and_mode_are_there_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bytes, int]] = []
    replace = Path.replace

    def spy(self: Path, target: Path) -> Path:
        seen.append((self.read_bytes(), stat.S_IMODE(self.stat().st_mode)))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", spy)
    write_whole(tmp_path / "key", NEW, mode=0o600)
    assert seen == [(NEW, 0o600)]
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_file_and_directory_reach_the_disk_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def spy(descriptor: int) -> None:
        synced.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        assert (tmp_path / "file").exists() == (synced[-1] == "directory")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    write_whole(tmp_path / "file", NEW)
    assert synced == ["file", "directory"]


def test_a_new_file_never_replaces_one(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    write_new(path, OLD, mode=0o600)
    with pytest.raises(FileExistsError):
        write_new(path, NEW)
    assert path.read_bytes() == OLD
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
