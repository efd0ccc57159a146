"""A party's sessions on disk: sealed, whole, its own alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from protocols import secagg
from protocols.errors import UsageError
from protocols.secagg.client import SecAggClient
from protocols.testing.cohort import Cohort
from protocols.testing.storage import MemoryStore
from secfl.engines import SealedSessions
from secfl.engines.sealed_sessions import BOOT_ID, machine_start

KEY = bytes(range(32))
ME = "c02"


@pytest.fixture
def cohort() -> Cohort:
    cohort = Cohort()
    cohort.advance("MaskedInput")
    return cohort


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "me" / "sessions"


def restore(cohort: Cohort, party: str = ME):
    def restored(blob: bytes, key: bytes) -> SecAggClient:
        options = {"entropy": os.urandom, "store": MemoryStore()}
        return secagg.restore_party(blob, key, cohort.identities[party], cohort.roster, cohort.policy, **options)

    return restored


def test_saved_session_comes_back_as_it_was(cohort: Cohort, directory: Path) -> None:
    session = cohort.parties[ME]
    SealedSessions(directory, KEY).save(session.session_id, session)
    found = SealedSessions(directory, KEY).load(restore(cohort))
    assert list(found) == [session.session_id]
    assert found[session.session_id]._state == session._state


def test_files_are_their_owners_alone_and_hold_no_secret_in_the_clear(cohort: Cohort, directory: Path) -> None:
    session = cohort.parties[ME]
    SealedSessions(directory, KEY).save(session.session_id, session)
    (path,) = directory.iterdir()
    assert (path.stat().st_mode & 0o777, directory.stat().st_mode & 0o777) == (0o600, 0o700)
    content = path.read_bytes()
    keys = session._state.keys
    assert all(secret not in content for secret in (keys.masking_private, keys.sealing_private, KEY))


def test_the_session_saved_last_comes_last(cohort: Cohort, directory: Path) -> None:
    files = SealedSessions(directory, KEY)
    names = [bytes([number]) * 32 for number in (3, 1, 2)]
    for at, name in enumerate(names):
        files.save(name, cohort.parties[ME])
        (path,) = directory.glob(f"{name.hex()}.*.session")
        os.utime(path, ns=(at, at))
    assert list(files.load(restore(cohort))) == names
    files.forget_others(names[1:])
    assert list(files.load(restore(cohort))) == names[1:]


@pytest.mark.parametrize("length", [0, 31, 33])
def test_key_of_another_length_is_refused(directory: Path, length: int) -> None:
    with pytest.raises(UsageError, match=f"storage key: {length} bytes; allowed: 32"):
        SealedSessions(directory, bytes(length))


def test_file_of_another_key_or_party_and_a_damaged_one_are_named(cohort: Cohort, directory: Path) -> None:
    session = cohort.parties[ME]
    SealedSessions(directory, KEY).save(session.session_id, session)
    (path,) = directory.iterdir()
    for key, party in ((bytes(32), ME), (KEY, "c01")):
        with pytest.raises(UsageError, match=rf"{path.name}: not a session of this party under this key"):
            SealedSessions(directory, key).load(restore(cohort, party))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UsageError, match="not a session of this party"):
        SealedSessions(directory, KEY).load(restore(cohort))


def test_file_under_a_name_that_is_none_is_refused(cohort: Cohort, directory: Path) -> None:
    files = SealedSessions(directory, KEY)
    (directory / "mine.session").write_bytes(b"")
    with pytest.raises(UsageError, match="its name is not that of a session"):
        files.load(restore(cohort))


def test_leftovers_of_a_killed_process_are_removed_and_other_files_are_not(cohort: Cohort, directory: Path) -> None:
    session = cohort.parties[ME]
    SealedSessions(directory, KEY).save(session.session_id, session)
    leftover = directory / f".{session.session_id.hex()}.session.abc123.new"
    other = directory / "notes.new"
    for path in (leftover, other):
        path.write_bytes(b"half")
    again = SealedSessions(directory, KEY)
    assert (leftover.exists(), other.exists()) == (False, True)
    assert list(again.load(restore(cohort))) == [session.session_id]
    assert KEY.hex() not in repr(again)


def test_sessions_of_an_earlier_start_of_the_machine_are_not_continued(cohort: Cohort, directory: Path) -> None:
    """A disk that is put back starts anew: what its sessions had masked with is erased, not used a second time."""
    session = cohort.parties[ME]
    before = SealedSessions(directory, KEY, start=b"first")
    before.save(session.session_id, session)
    (path,) = directory.iterdir()
    content = path.read_bytes()
    assert list(SealedSessions(directory, KEY, start=b"first").load(restore(cohort))) == [session.session_id]
    assert SealedSessions(directory, KEY, start=b"second").load(restore(cohort)) == {}
    assert not path.exists()
    # Under the name of the new start it does not open either.
    after = SealedSessions(directory, KEY, start=b"second")
    after.save(session.session_id, session)
    (renamed,) = directory.iterdir()
    renamed.write_bytes(content)
    with pytest.raises(UsageError, match="not a session of this party under this key"):
        after.load(restore(cohort))


def test_two_starts_have_two_names() -> None:
    assert machine_start() == machine_start()
    assert (len(machine_start()) == 36) == BOOT_ID.exists()
