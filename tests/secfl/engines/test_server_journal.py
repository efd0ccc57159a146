"""The server's journal: what it said is durable stays, what was half done is gone, what is damaged is named."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocols.errors import ProtocolError, UsageError
from protocols.session import SessionId
from secfl.engines import ServerJournal
from secfl.engines import journal as module
from secfl.engines.journal import Event

ONE, TWO = SessionId(b"1" * 32), SessionId(b"2" * 32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "server" / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[ServerJournal]:
    opened = ServerJournal(path)
    opened.begin(ONE, "secagg", b"snapshot")
    yield opened
    opened.close()


def reply(journal: ServerJournal, session: SessionId, header: bytes, *chunks: bytes) -> Event:
    upload = journal.new_upload()
    for number, chunk in enumerate(chunks):
        journal.append(upload, number, chunk)
    journal.accept(session, upload, header, len(chunks), b"trailer")
    return Event("", upload, header, len(chunks), b"trailer")


def contents(journal: ServerJournal, session: SessionId) -> list[object]:
    found: list[object] = [journal.snapshot(session)]
    for event in journal.events(session):
        found += [event, [journal.chunk(event.upload, number) for number in range(event.chunks)]]
    return found


def uploads(path: Path) -> set[int]:
    """Whose chunks lie in the file, read by another program."""
    with sqlite3.connect(path) as connection:
        found = {upload for (upload,) in connection.execute("SELECT upload FROM chunk")}
    connection.close()
    return found


def test_what_happened_is_read_in_order_also_after_reopening(journal: ServerJournal, path: Path) -> None:
    journal.begin(TWO, "oneshot", b"other")
    first = reply(journal, ONE, b"first", b"chunk 0", b"", b"chunk 2")
    theirs = reply(journal, TWO, b"theirs", b"x")
    journal.close_phase(ONE, "Phase")
    second = reply(journal, ONE, b"second")
    expected = [b"snapshot", first, [b"chunk 0", b"", b"chunk 2"], Event("Phase"), [], second, []]
    assert contents(journal, ONE) == expected
    journal.close()
    again = ServerJournal(path)
    assert again.sessions() == {ONE: "secagg", TWO: "oneshot"}
    assert contents(again, ONE) == expected
    assert contents(again, TWO) == [b"other", theirs, [b"x"]]
    assert again.new_upload() > second.upload
    again.close()


def test_the_file_is_its_owners_alone_and_so_is_its_log(journal: ServerJournal, path: Path) -> None:
    found = {item.name: item.stat().st_mode & 0o777 for item in path.parent.iterdir()}
    assert {name for name, mode in found.items() if mode == 0o600} == {path.name, f"{path.name}-wal"}
    assert found.keys() == {path.name, f"{path.name}-wal", f"{path.name}.lock"}


def test_every_transaction_is_synchronised(journal: ServerJournal) -> None:
    assert journal._run("PRAGMA synchronous").fetchone() == (2,)
    assert journal._run("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize("pieces", [0, 1, 2, 3])
def test_snapshot_of_any_size_comes_back_from_its_pieces(
    journal: ServerJournal, monkeypatch: pytest.MonkeyPatch, pieces: int
) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", 100)
    snapshot = os.urandom(100 * pieces)
    journal.compact(ONE, snapshot)
    assert journal.snapshot(ONE) == snapshot
    assert journal._rows("SELECT count(*) FROM piece WHERE session = ?", ONE) == [(pieces,)]


def test_snapshot_takes_the_place_of_what_came_before_it_and_of_nothing_else(journal: ServerJournal) -> None:
    journal.begin(TWO, "secagg", b"other")
    theirs = reply(journal, TWO, b"theirs", b"x")
    gone = reply(journal, ONE, b"mine", b"y")
    under_way = journal.new_upload()
    journal.append(under_way, 0, b"still coming")
    journal.compact(ONE, b"newer")
    assert contents(journal, ONE) == [b"newer"]
    assert contents(journal, TWO) == [b"other", theirs, [b"x"]]
    assert journal.chunk(under_way, 0) == b"still coming"
    with pytest.raises(UsageError, match=rf"chunk 0 of upload {gone.upload} is missing"):
        journal.chunk(gone.upload, 0)


def test_forgotten_session_leaves_nothing(journal: ServerJournal, path: Path) -> None:
    reply(journal, ONE, b"mine", b"y")
    journal.forget(ONE)
    journal.forget(ONE)
    assert journal.sessions() == {}
    with pytest.raises(UsageError, match="no session 31313131"):
        journal.snapshot(ONE)
    with pytest.raises(UsageError, match="no session 31313131"):
        list(journal.events(ONE))
    journal.begin(ONE, "secagg", b"again")
    assert list(journal.events(ONE)) == []
    journal.close()
    assert uploads(path) == set()


def test_session_that_is_in_the_journal_does_not_begin_again(journal: ServerJournal) -> None:
    with pytest.raises(UsageError, match="is in the journal; restore it"):
        journal.begin(ONE, "secagg", b"another")
    assert journal.snapshot(ONE) == b"snapshot"


def test_snapshot_of_a_session_that_is_not_there_is_not_taken(journal: ServerJournal) -> None:
    with pytest.raises(UsageError, match="no session 32323232"):
        journal.compact(TWO, b"?")
    assert journal._rows("SELECT count(*) FROM piece WHERE session = ?", TWO) == [(0,)]


def test_chunks_of_a_reply_that_was_not_accepted_are_gone_when_the_journal_is_opened_anew(
    journal: ServerJournal, path: Path
) -> None:
    kept = reply(journal, ONE, b"mine", b"y")
    lost = journal.new_upload()
    journal.append(lost, 0, b"half a vector")
    journal.close()
    assert uploads(path) == {kept.upload, lost}
    ServerJournal(path).close()
    assert uploads(path) == {kept.upload}


def test_dropped_chunks_are_gone_at_once(journal: ServerJournal) -> None:
    upload = journal.new_upload()
    journal.append(upload, 0, b"half a vector")
    journal.drop(upload)
    with pytest.raises(UsageError, match="is missing"):
        journal.chunk(upload, 0)


def test_power_cut_leaves_a_beginning_of_what_happened_and_all_of_what_was_said_to_be_durable(
    journal: ServerJournal, path: Path, tmp_path: Path
) -> None:
    log = path.with_name(f"{path.name}-wal")
    durable: list[tuple[int, list[object]]] = [(log.stat().st_size, contents(journal, ONE))]

    def note() -> None:
        durable.append((log.stat().st_size, contents(journal, ONE)))

    for number in range(3):
        reply(journal, ONE, b"%d" % number, os.urandom(3000), os.urandom(10))
        note()
    journal.close_phase(ONE, "Phase")
    note()
    journal.compact(ONE, os.urandom(9000))
    note()
    end = log.stat().st_size
    assert end > durable[0][0]
    states = [state for _, state in durable]
    for cut in [*range(0, end, 1031), *(size for size, _ in durable)]:
        there = tmp_path / "after the cut"
        shutil.rmtree(there, ignore_errors=True)
        there.mkdir()
        shutil.copy(path, there / path.name)
        (there / log.name).write_bytes(log.read_bytes()[:cut])
        again = ServerJournal(there / path.name)
        whole = [index for index, (size, _) in enumerate(durable) if size <= cut]
        if whole:
            assert contents(again, ONE) == states[whole[-1]], cut
        else:
            assert again.sessions() in ({}, {ONE: "secagg"})
        again.close()


class TestDisk:
    def test_full_disk_leaves_nothing_half_written_and_the_journal_goes_on(self, journal: ServerJournal) -> None:
        first = reply(journal, ONE, b"first", b"x")
        before = contents(journal, ONE)
        pages = journal._run("PRAGMA page_count").fetchone()[0]
        journal._run(f"PRAGMA max_page_count = {pages}")
        upload = journal.new_upload()
        with pytest.raises(ProtocolError, match="the disk refused: database or disk is full"):
            journal.append(upload, 0, bytes(100_000))
        with pytest.raises(ProtocolError, match="full"):
            journal.compact(ONE, bytes(100_000))
        with pytest.raises(ProtocolError, match="full"):
            journal.begin(TWO, "secagg", bytes(100_000))
        assert contents(journal, ONE) == before
        assert journal.sessions() == {ONE: "secagg"}
        journal._run("PRAGMA max_page_count = 1000000")
        second = reply(journal, ONE, b"second", bytes(100_000))
        assert contents(journal, ONE) == [b"snapshot", first, [b"x"], second, [bytes(100_000)]]

    def test_file_size_limit_of_the_system_is_a_named_error_after_which_the_journal_is_opened_anew(
        self, journal: ServerJournal, path: Path
    ) -> None:
        journal.close()
        child = os.fork()
        if child == 0:
            try:
                again = ServerJournal(path)
                resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
                with pytest.raises(ProtocolError, match=r"journal.sqlite: the disk refused"):
                    again.append(again.new_upload(), 0, bytes(1_000_000))
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                with pytest.raises(ProtocolError, match=r"the disk failed: .*; open the journal anew"):
                    again.snapshot(ONE)
                again.drop(1)  # without effect: it goes when the journal is opened anew
                again.close()
                again = ServerJournal(path)
                assert contents(again, ONE) == [b"snapshot"]
                reply(again, ONE, b"mine", b"x")
                os._exit(0)
            finally:
                os._exit(70)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    def test_an_error_in_the_middle_takes_everything_back(self, journal: ServerJournal) -> None:
        def interrupted() -> None:
            with journal._transaction() as run:
                run("DELETE FROM session")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            interrupted()
        assert journal.sessions() == {ONE: "secagg"}


class TestDamage:
    def test_file_that_is_no_database_is_refused_and_left_alone(self, path: Path) -> None:
        path.parent.mkdir()
        path.write_bytes(b"something else entirely" * 100)
        for _ in range(2):  # the lock was given back
            with pytest.raises(UsageError, match="damaged, or not a journal: file is not a database"):
                ServerJournal(path)
        assert path.read_bytes() == b"something else entirely" * 100

    def test_database_of_another_program_is_refused(self, path: Path) -> None:
        path.parent.mkdir()
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE theirs (x)")
        connection.commit()
        connection.close()
        with pytest.raises(UsageError, match="is not a server's journal"):
            ServerJournal(path)

    def test_format_of_a_later_version_is_refused(self, journal: ServerJournal, path: Path) -> None:
        journal._run("PRAGMA user_version = 2")
        journal.close()
        with pytest.raises(UsageError, match="format 2; this version of secfl reads 1"):
            ServerJournal(path)

    def test_changed_snapshot_is_refused(self, journal: ServerJournal) -> None:
        journal._run("UPDATE piece SET body = ? WHERE session = ?", b"snapshoT", ONE)
        with pytest.raises(UsageError, match="damaged: the snapshot does not have its digest"):
            journal.snapshot(ONE)

    @pytest.mark.parametrize("number", [0, 1])
    def test_missing_event_is_noticed(self, journal: ServerJournal, number: int) -> None:
        for name in (b"first", b"second"):
            reply(journal, ONE, name)
        journal._run(f"DELETE FROM event WHERE number = {number}")
        with pytest.raises(UsageError, match=f"damaged: the {number} events are not those"):
            list(journal.events(ONE))

    def test_damaged_pages_are_named(self, journal: ServerJournal, path: Path) -> None:
        for number in range(20):
            reply(journal, ONE, b"%d" % number, os.urandom(5000))
        journal.close()
        content = bytearray(path.read_bytes())
        content[4096:] = bytes(len(content) - 4096)
        path.write_bytes(content)
        with pytest.raises(UsageError, match="damaged, or not a journal"):
            ServerJournal(path)


class TestOneHolder:
    def test_second_holder_is_refused_in_this_process_and_in_another(self, journal: ServerJournal, path: Path) -> None:
        with pytest.raises(UsageError, match="another process holds this journal"):
            ServerJournal(path)
        code = "import sys; from secfl.engines import ServerJournal; ServerJournal(sys.argv[1])"
        other = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
        assert other.returncode == 1
        assert "another process holds this journal" in other.stderr
        journal.close()
        subprocess.run([sys.executable, "-c", code, str(path)], check=True)

    def test_another_program_cannot_write_meanwhile(self, journal: ServerJournal, path: Path) -> None:
        code = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('DELETE FROM session')"
        other = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
        assert "database is locked" in other.stderr
        assert journal.sessions() == {ONE: "secagg"}

    def test_forked_child_cannot_write_and_does_not_take_the_log_away(
        self, journal: ServerJournal, path: Path, tmp_path: Path
    ) -> None:
        child = os.fork()
        if child == 0:
            try:
                journal.forget(ONE)
            except UsageError as error:
                journal.close()
                os._exit(10 if "opened by another process" in str(error) else 11)
            os._exit(12)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 10
        with pytest.raises(UsageError, match="another process holds"):  # the child's end did not release it
            ServerJournal(path)
        mine = reply(journal, ONE, b"mine")
        shutil.copytree(path.parent, tmp_path / "killed now")
        again = ServerJournal(tmp_path / "killed now" / path.name)
        assert contents(again, ONE) == [b"snapshot", mine, []]
        again.close()

    def test_closed_journal_does_nothing(self, journal: ServerJournal) -> None:
        journal.close()
        journal.close()
        with pytest.raises(UsageError, match="the journal is closed"):
            journal.sessions()
