"""The once-only store: what was recorded stays, whatever happens to process, disk and file."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocols.errors import UsageError
from secfl.engines import FileStore
from secfl.engines import mark as mark_module
from secfl.engines import storage as module

KEYS = [bytes([number]) * 32 for number in range(8)]
VALUES = [bytes([number]) * 32 for number in range(100, 108)]


class FailingDisk:
    """The operating system, but for one call."""

    def __init__(self, name: str, replacement: Callable[..., object]) -> None:
        self._name = name
        self._replacement = replacement

    def __getattr__(self, name: str) -> object:
        return self._replacement if name == self._name else getattr(os, name)


def full(*_arguments: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def half_written(descriptor: int, content: bytes) -> int:
    return os.write(descriptor, content[: len(content) // 2])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "silo" / "answers.log"


@pytest.fixture
def store(path: Path) -> Iterator[FileStore]:
    with_two = FileStore(path)
    for key, value in zip(KEYS[:2], VALUES[:2], strict=True):
        with_two.record(key, value)
    yield with_two
    with_two.close()


def reopened(path: Path) -> dict[bytes, bytes]:
    """What is on record now, by asking with values that nobody recorded."""
    store = FileStore(path)
    try:
        return {key: store.record(key, b"?" * 32) for key in KEYS[:3]}
    finally:
        store.close()


def test_the_first_value_stays_on_record_also_after_reopening(store: FileStore, path: Path) -> None:
    assert store.record(KEYS[0], VALUES[5]) == VALUES[0]
    store.close()
    again = FileStore(path)
    assert again.record(KEYS[0], VALUES[5]) == VALUES[0]
    assert again.record(KEYS[1], VALUES[5]) == VALUES[1]
    again.close()
    assert path.stat().st_mode & 0o077 == 0


def test_the_name_of_a_new_store_is_on_disk_before_its_first_record(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[Path, int]] = []
    monkeypatch.setattr(module, "sync_directory", lambda directory: synced.append((directory, path.stat().st_size)))
    store = FileStore(path)
    assert synced == [(path.parent, 0)]
    store.close()


@pytest.mark.parametrize("kept", [1, 64, 65, 129])
def test_a_torn_last_line_is_no_record_and_the_next_one_is_read(store: FileStore, path: Path, kept: int) -> None:
    store.close()
    whole = path.read_bytes()
    path.write_bytes(whole + f"{KEYS[2].hex()} {VALUES[2].hex()}\n".encode()[:kept])
    again = FileStore(path)
    assert path.read_bytes() == whole
    assert again.record(KEYS[2], VALUES[3]) == VALUES[3]
    again.close()
    assert reopened(path) == {KEYS[0]: VALUES[0], KEYS[1]: VALUES[1], KEYS[2]: VALUES[3]}


def test_a_last_line_of_zero_bytes_is_a_torn_one(store: FileStore, path: Path) -> None:
    store.close()
    path.write_bytes(path.read_bytes() + bytes(130))
    assert reopened(path)[KEYS[2]] == b"?" * 32


@pytest.mark.parametrize("failure", [full, half_written])
def test_a_full_disk_leaves_no_record_and_the_store_goes_on(
    store: FileStore, path: Path, monkeypatch: pytest.MonkeyPatch, failure: Callable[..., object]
) -> None:
    before = path.read_bytes()
    monkeypatch.setattr(module, "os", FailingDisk("write", failure))
    with pytest.raises(OSError, match=r"No space left|65 of 130 bytes written"):
        store.record(KEYS[2], VALUES[2])
    assert path.read_bytes() == before
    monkeypatch.undo()
    assert store.record(KEYS[2], VALUES[3]) == VALUES[3]
    store.close()
    assert reopened(path)[KEYS[2]] == VALUES[3]


@pytest.mark.parametrize("call", ["fsync", "ftruncate"])
def test_after_a_failure_that_cannot_be_undone_nothing_is_recorded(
    store: FileStore, path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    disk = FailingDisk(call, full)
    if call == "ftruncate":
        disk.write = half_written  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "os", disk)
    with pytest.raises(OSError, match="No space left"):
        store.record(KEYS[2], VALUES[2])
    monkeypatch.undo()
    for key in (KEYS[0], KEYS[2], KEYS[3]):
        with pytest.raises(UsageError, match="open the store anew"):
            store.record(key, VALUES[3])
    store.close()
    # Written but perhaps not durable: once read back it counts, so that no second value can be recorded.
    assert reopened(path)[KEYS[2]] == (VALUES[2] if call == "fsync" else b"?" * 32)


def test_the_store_put_back_to_an_older_copy_while_open_is_noticed(store: FileStore, path: Path) -> None:
    path.write_bytes(path.read_bytes()[:130])
    with pytest.raises(UsageError, match="changed while it was open"):
        store.record(KEYS[1], VALUES[5])


def test_another_file_in_its_place_is_noticed(store: FileStore, path: Path) -> None:
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)
    with pytest.raises(UsageError, match="changed while it was open"):
        store.record(KEYS[2], VALUES[2])
    path.unlink()
    with pytest.raises(UsageError, match="removed while it was open"):
        store.record(KEYS[2], VALUES[2])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"x" * 129 + b"\n", "line 3 is not a record"),
        (f"{KEYS[2].hex()} {VALUES[2].hex().upper()}\n".replace("6", "A").encode(), "line 3 is not a record"),
        (f"{KEYS[2].hex()}\n{VALUES[2].hex()}\n".encode(), "line 3 is not a record"),
        (f"{KEYS[0].hex()} {VALUES[5].hex()}\n".encode(), "line 3 repeats a key"),
    ],
)
def test_an_edited_line_is_refused_by_its_number(store: FileStore, path: Path, line: bytes, problem: str) -> None:
    store.close()
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(UsageError, match=problem):
        FileStore(path)
    with pytest.raises(UsageError, match=problem):  # and the lock was given back
        FileStore(path)


def test_a_second_holder_is_refused_in_this_process_and_in_another(store: FileStore, path: Path) -> None:
    with pytest.raises(UsageError, match="another process holds this store"):
        FileStore(path)
    code = "import sys; from secfl.engines.storage import FileStore; FileStore(sys.argv[1])"
    other = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert other.returncode == 1
    assert "another process holds this store" in other.stderr
    store.close()
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


def test_a_forked_child_cannot_record(store: FileStore, path: Path) -> None:
    child = os.fork()
    if child == 0:
        try:
            store.record(KEYS[2], VALUES[2])
        except UsageError as error:
            store.close()
            os._exit(10 if "opened by another process" in str(error) else 11)
        os._exit(12)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 10
    with pytest.raises(UsageError, match="another process holds"):  # the child's end did not release it
        FileStore(path)


def test_a_closed_store_records_nothing(store: FileStore) -> None:
    store.close()
    store.close()
    with pytest.raises(UsageError, match="closed"):
        store.record(KEYS[2], VALUES[2])


@pytest.mark.parametrize(("key", "value"), [(b"short", VALUES[0]), (KEYS[2], VALUES[0] + b"!")])
def test_keys_and_values_of_another_length_are_refused(store: FileStore, key: bytes, value: bytes) -> None:
    with pytest.raises(UsageError, match="allowed: 32 each"):
        store.record(key, value)


# -- a mark where a restore does not reach -----------------------------------------------------------------------------


def filled(path: Path, mark: Path, number: int) -> None:
    store = FileStore(path, mark=mark)
    for count in range(number):
        store.record(bytes([count]) * 32, bytes(32))
    store.close()


def test_store_that_is_older_than_its_mark_is_refused(tmp_path: Path) -> None:
    path, mark = tmp_path / "disk" / "answers.log", tmp_path / "elsewhere" / "answers.mark"
    filled(path, mark, 2)
    older = path.read_bytes()
    filled(path, mark, 3)
    newer = path.read_bytes()
    for content in (older, b"", older[:-1]):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"rolled back: .* bytes, its mark has seen 390"):
            FileStore(path, mark=mark)
    path.write_bytes(newer)
    store = FileStore(path, mark=mark)
    assert store.record(bytes([2]) * 32, b"\x01" * 32) == bytes(32)
    store.close()


def test_another_store_of_the_same_length_and_a_missing_mark_are_refused(tmp_path: Path) -> None:
    path, mark = tmp_path / "answers.log", tmp_path / "answers.mark"
    filled(path, mark, 2)
    content = path.read_bytes()
    path.write_bytes(content[130:] + content[:130])
    with pytest.raises(UsageError, match="its beginning is not what its mark"):
        FileStore(path, mark=mark)
    path.write_bytes(content)
    remembered = mark.read_bytes()
    mark.unlink()
    with pytest.raises(UsageError, match=r"it has records, and its mark .* is missing"):
        FileStore(path, mark=mark)
    for damaged in (b"", b"260", b"x y\n", remembered + b" "):
        mark.write_bytes(damaged)
        with pytest.raises(UsageError, match="not the mark of a once-only store"):
            FileStore(path, mark=mark)


def test_mark_that_a_crash_left_behind_is_no_rollback(tmp_path: Path) -> None:
    path, mark = tmp_path / "answers.log", tmp_path / "answers.mark"
    filled(path, mark, 2)
    behind = mark.read_bytes()
    filled(path, mark, 3)
    mark.write_bytes(behind)
    filled(path, mark, 4)
    assert mark.read_bytes().startswith(b"520 ")


def test_record_whose_mark_cannot_be_written_is_not_acted_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, mark = tmp_path / "answers.log", tmp_path / "answers.mark"
    store = FileStore(path, mark=mark)

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(mark_module, "write_whole", full)
    with pytest.raises(OSError, match="no space"):
        store.record(bytes(32), bytes(32))
    monkeypatch.undo()
    with pytest.raises(UsageError, match="its mark could not be written; open the store anew"):
        store.record(b"\x01" * 32, bytes(32))
    store.close()
