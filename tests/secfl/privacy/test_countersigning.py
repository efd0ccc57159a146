"""Countersigned ledger heads: what each side accepts, refuses and remembers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from ledger_workshop import KEY, OTHER_KEY, filled_ledger, finish, new_ledger, open_ledger

from protocols.errors import LedgerCorrupt, LedgerRolledBack, PrivacyError
from protocols.primitives.signing import SigningKey
from secfl.privacy.countersigning import HeadKeeper, HeadWitness
from secfl.privacy.ledger import Head

SERVER_KEY = SigningKey(bytes(range(2, 34)))


def keeper(tmp_path: Path, key: SigningKey = SERVER_KEY) -> HeadKeeper:
    return HeadKeeper(tmp_path / "server", key, {"north": KEY.public, "south": OTHER_KEY.public})


def witness(path: Path, **options: object) -> HeadWitness:
    return HeadWitness(path, "north", "cardiology", **options)


def signed_once(tmp_path: Path) -> tuple[Path, bytes, Head]:
    """A ledger of two rounds whose head the server countersigned and the silo kept."""
    path = filled_ledger(tmp_path / "ledger")
    silo = witness(path)
    with open_ledger(path) as ledger:
        message = keeper(tmp_path).countersign(silo.announce(ledger, KEY))
        silo.learn(message)
        silo.keep()
        return path, message, ledger.head


def test_both_sides_remember_the_head_in_new_processes(tmp_path: Path) -> None:
    path, message, head = signed_once(tmp_path)
    assert keeper(tmp_path).recall("north", "cardiology") == message
    assert witness(path).expected == head
    assert keeper(tmp_path).recall("north", "another") is None
    assert keeper(tmp_path).recall("south", "cardiology") is None


def test_nothing_but_names_a_counter_a_hash_and_signatures_travels(tmp_path: Path) -> None:
    path, message, head = signed_once(tmp_path)
    with open_ledger(path) as ledger:
        announced = json.loads(witness(path).announce(ledger, KEY))
    assert announced.keys() == {"format", "silo", "lineage", "head", "signature"}
    assert announced["head"] == {"sequence": head.sequence, "hash": head.hash}
    assert json.loads(message).keys() == {"format", "silo", "lineage", "head", "key", "signature"}


@pytest.mark.parametrize("kept_too", [False, True], ids=["ledger and mark", "ledger, mark and countersignature"])
def test_ledger_and_mark_put_back_together_are_noticed(tmp_path: Path, kept_too: bool) -> None:
    path = filled_ledger(tmp_path / "ledger")
    silo = witness(path)
    with open_ledger(path) as ledger:
        silo.learn(keeper(tmp_path).countersign(silo.announce(ledger, KEY)))
        silo.keep()
    names = ["ledger", "ledger.mark", *(["ledger.countersigned"] if kept_too else [])]
    for name in names:
        shutil.copy(tmp_path / name, tmp_path / f"backup of {name}")
    with open_ledger(path) as ledger:
        finish(ledger, "r7")
        silo.learn(keeper(tmp_path).countersign(silo.announce(ledger, KEY)))
        silo.keep()
        newest = ledger.head
    for name in names:
        shutil.copy(tmp_path / f"backup of {name}", tmp_path / name)
    open_ledger(path).close()  # by itself it looks sound

    again = witness(path)
    told = keeper(tmp_path).recall("north", "cardiology")
    assert told is not None
    again.learn(told)
    assert again.expected == newest
    with pytest.raises(LedgerRolledBack, match=r"\[LG-21\].*ends at line 7; the expected head has seen line 10"):
        open_ledger(path, expected_head=again.expected)
    with open_ledger(path) as ledger, pytest.raises(LedgerRolledBack, match=r"\[LG-21\]"):
        ledger.require_head(newest)


def test_another_history_of_the_same_length_is_noticed_by_both(tmp_path: Path) -> None:
    _, message, head = signed_once(tmp_path)
    other = filled_ledger(tmp_path / "other")
    with new_ledger(tmp_path / "third") as ledger:
        finish(ledger, "r8")
        finish(ledger, "r9")
        assert ledger.head.sequence == head.sequence
        with pytest.raises(LedgerRolledBack, match=r"line 7 is not the one"):
            ledger.require_head(head)
        with pytest.raises(LedgerRolledBack, match=r"line 7 was countersigned, or is another one"):
            keeper(tmp_path).countersign(witness(other).announce(ledger, KEY))
    assert keeper(tmp_path).recall("north", "cardiology") == message


def test_server_refuses_an_older_head_and_keeps_the_newer(tmp_path: Path) -> None:
    path, message, _ = signed_once(tmp_path)
    with new_ledger(tmp_path / "young") as ledger:
        old = witness(path).announce(ledger, KEY)
    with pytest.raises(LedgerRolledBack, match="silo 'north' announces line 1"):
        keeper(tmp_path).countersign(old)
    assert keeper(tmp_path).recall("north", "cardiology") == message


def test_server_takes_announcements_of_members_under_their_own_keys_alone(tmp_path: Path) -> None:
    path = filled_ledger(tmp_path / "ledger")
    with open_ledger(path) as ledger:
        with pytest.raises(PrivacyError, match="not one of silo 'north'"):
            keeper(tmp_path).countersign(witness(path).announce(ledger, OTHER_KEY))
        with pytest.raises(PrivacyError, match="'west': no member"):
            keeper(tmp_path).countersign(HeadWitness(path, "west", "cardiology").announce(ledger, KEY))
    assert not (tmp_path / "server").exists()


def test_server_that_lies_can_only_have_a_silo_refuse(tmp_path: Path) -> None:
    path, _, head = signed_once(tmp_path)
    liar = keeper(tmp_path / "liar")
    with new_ledger(tmp_path / "made up") as ledger:
        for number in range(5):
            finish(ledger, f"r{number}")
        invented = liar.countersign(witness(path).announce(ledger, KEY))  # it even has the silo's signature
    silo = witness(path)
    silo.learn(invented)
    with pytest.raises(LedgerRolledBack):
        open_ledger(path, expected_head=silo.expected)
    # What the silo kept is untouched until a ledger was found to hold the head, and an older head changes nothing.
    assert witness(path).expected == head
    with new_ledger(tmp_path / "young") as ledger:
        older = keeper(tmp_path / "liar too").countersign(witness(path).announce(ledger, KEY))
    silo = witness(path)
    silo.learn(older)
    assert silo.expected == head


def test_signature_of_another_server_is_refused(tmp_path: Path) -> None:
    path, _, _ = signed_once(tmp_path)
    with open_ledger(path) as ledger:
        foreign = keeper(tmp_path / "elsewhere", OTHER_KEY).countersign(witness(path).announce(ledger, KEY))
    with pytest.raises(PrivacyError, match="not the server's"):
        witness(path).learn(foreign)
    with pytest.raises(PrivacyError, match="not the server's"):
        HeadWitness(tmp_path / "fresh", "north", "cardiology", SERVER_KEY.public).learn(foreign)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda f: f.update(silo="south"), "of silo 'south'"),
        (lambda f: f.update(lineage="other"), "lineage 'other'"),
        (lambda f: f["head"].update(sequence=3), "not one of the server"),
        (lambda f: f["head"].update(hash="0" * 64), "not one of the server"),
        (lambda f: f.update(signature="0" * 128), "not one of the server"),
        (lambda f: f.update(format=2), "malformed"),
        (lambda f: f.update(more=1), "malformed"),
        (lambda f: f.update(silo="n" * 5000), "bytes; allowed"),
    ],
)
def test_message_that_was_changed_is_refused(tmp_path: Path, change, problem: str) -> None:
    path, message, _ = signed_once(tmp_path)
    fields = json.loads(message)
    change(fields)
    with pytest.raises(PrivacyError, match=problem):
        witness(path).learn(json.dumps(fields, separators=(",", ":")).encode() + b"\n")
    with pytest.raises(PrivacyError, match="not the canonical encoding"):
        witness(path).learn(message + b" ")


def test_files_that_were_edited_are_named(tmp_path: Path) -> None:
    path, message, _ = signed_once(tmp_path)
    kept = tmp_path / "ledger.countersigned"
    kept.write_bytes(message.replace(b'"sequence":6', b'"sequence":5'))
    with pytest.raises(PrivacyError, match="not one of the server"):
        witness(path)
    kept.write_bytes(b"{}")
    with pytest.raises(LedgerCorrupt, match=r"ledger\.countersigned"):
        witness(path)
    (file,) = (tmp_path / "server").iterdir()
    file.write_bytes(message.replace(b"cardiology", b"oncology"))
    with pytest.raises(LedgerCorrupt, match="is not of silo 'north'"):
        keeper(tmp_path).recall("north", "cardiology")
