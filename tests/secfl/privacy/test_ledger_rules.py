"""Each rule of docs/reference/ledger-rules.md broken alone, by a forger who keeps all the others."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ledger_workshop import (
    BUDGET,
    EVENT,
    KEY,
    LINEAGE,
    OTHER_KEY,
    append_forged,
    canonical,
    filled_ledger,
    finish,
    forged_line,
    lines_of,
    new_ledger,
    open_ledger,
    reserve,
    reserve_entry,
    rewrite,
    set_mark,
)

from protocols.errors import LedgerCorrupt, LedgerRolledBack, PrivacyError
from protocols.primitives.signing import SigningKey
from secfl.privacy.accounting import ORDERS, rdp_curve
from secfl.privacy.budget import PrivacyBudget
from secfl.privacy.events import SampledGaussian
from secfl.privacy.ledger import Head, Lineage, verify
from secfl.privacy.ledger_entries import line_hash


def refused(
    path: Path, rule: str, line: int | None = None, error: type[LedgerCorrupt] = LedgerCorrupt, **how: Any
) -> str:
    """Both the reader and the writer refuse the ledger, for this rule, at this line."""
    key: SigningKey = how.pop("key", KEY)
    before = path.read_bytes() if path.exists() else None
    messages = set()
    for attempt in (lambda: verify(path, key.public, **how), lambda: open_ledger(path, key=key, **how)):
        with pytest.raises(LedgerCorrupt) as caught:
            attempt()
        assert type(caught.value) is error
        messages.add(str(caught.value))
    assert (path.read_bytes() if path.exists() else None) == before
    (message,) = messages
    assert f"[{rule}]" in message
    assert str(path) in message
    if line is not None:
        assert f", line {line}:" in message
    return message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return filled_ledger(tmp_path / "ledger")


def mark_of(path: Path) -> Path:
    return path.with_name("ledger.mark")


def altered(line: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    fields = json.loads(line)
    change(fields)
    return canonical(fields) + b"\n"


class TestFile:
    def test_lg01_ledger_missing_while_its_mark_remembers_it(self, path: Path) -> None:
        path.unlink()
        assert "restore the ledger" in refused(path, "LG-1")

    def test_lg01_ledger_and_mark_missing_is_not_a_fresh_budget(self, tmp_path: Path) -> None:
        refused(tmp_path / "ledger", "LG-1")

    def test_lg01_missing_directory(self, tmp_path: Path) -> None:
        with pytest.raises(LedgerCorrupt, match=r"\[LG-1\]"):
            open_ledger(tmp_path / "absent" / "ledger")

    @pytest.mark.parametrize("kept", [1, 10, -1])
    def test_lg02_append_that_never_completed(self, path: Path, kept: int) -> None:
        lines = lines_of(path)
        path.write_bytes(b"".join(lines[:-1]) + lines[-1][:kept])
        set_mark(path, Head(5, line_hash(lines[-2])))
        refused(path, "LG-2", 7)

    def test_lg02_block_of_zero_bytes_within_the_last_line(self, path: Path) -> None:
        lines = lines_of(path)
        path.write_bytes(b"".join(lines[:-1]) + bytes(100) + lines[-1][100:])
        set_mark(path, Head(5, line_hash(lines[-2])))
        refused(path, "LG-2", 7)

    def test_lg02_dropping_an_incomplete_line_leaves_the_rest(self, path: Path) -> None:
        lines = lines_of(path)
        path.write_bytes(b"".join(lines[:-1]) + lines[-1][:50])
        set_mark(path, Head(5, line_hash(lines[-2])))
        with open_ledger(path, drop_torn_tail=True) as ledger:
            assert lines_of(path) == lines[:-1]
            (waiting,) = ledger.unconfirmed()
            ledger.commit(waiting)
        assert verify(path, KEY.public).head.sequence == 6

    def test_lg02_line_that_the_mark_has_seen_is_never_dropped(self, path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-1])
        before = path.read_bytes()
        with pytest.raises(LedgerRolledBack, match=r"\[LG-17\]"):
            open_ledger(path, drop_torn_tail=True)
        assert path.read_bytes() == before

    def test_lg02_complete_but_corrupt_line_is_never_dropped(self, path: Path) -> None:
        lines = lines_of(path)
        rewrite(path, [*lines[:-1], lines[-1].replace(b"commit", b"c0mmit")])
        with pytest.raises(LedgerCorrupt, match=r"\[LG-4\]"):
            open_ledger(path, drop_torn_tail=True)


class TestLines:
    @pytest.mark.parametrize(
        "change",
        [
            lambda line: b" " + line,
            lambda line: line.replace(b":", b": ", 1),
            lambda line: line[:-1] + b"\r\n",
            lambda line: b"\n" + line,
            lambda line: b"[" * 100_000 + b"\n",
            lambda line: b"null\n",
            lambda line: line.replace(b'"sequence"', b'"sequence":3,"sequence"'),
            lambda line: altered(line, lambda f: f.update(extra=1)),
            lambda line: altered(line, lambda f: f["entry"].update(extra=1)),
            lambda line: altered(line, lambda f: f["entry"].pop("release")),
            lambda line: altered(line, lambda f: f.update(sequence="4")),
            lambda line: altered(line, lambda f: f.update(sequence=True)),
            lambda line: altered(line, lambda f: f.update(signature="00")),
            lambda line: altered(line, lambda f: f.update(time="yesterday")),
            lambda line: altered(line, lambda f: f.update(time="2026-01-01T00:00:00.000+01:00")),
            lambda line: altered(line, lambda f: f.update(time="2026-01-01T00:00:00.000")),
            lambda line: altered(line, lambda f: f["entry"].update(note="x" * (1 << 20))),
        ],
    )
    def test_lg03_line_in_another_form(self, path: Path, change: Callable[[bytes], bytes]) -> None:
        lines = lines_of(path)
        lines[4] = change(lines[4])
        path.write_bytes(b"".join(lines))
        message = refused(path, "LG-4" if lines[4] == b"null\n" else "LG-3", 5)
        assert len(message) < 500

    @pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
    def test_lg03_curve_with_a_value_that_is_no_divergence(self, path: Path, value: float) -> None:
        curve = rdp_curve(EVENT).tolist()
        curve[5] = value
        append_forged(path, reserve_entry("r2", curve=curve))
        refused(path, "LG-3", 8)

    @pytest.mark.parametrize(
        "event", [{"noise_multiplier": 0.0}, {"steps": 0}, {"sampling_rate": 2.0}, {"kind": "other"}]
    )
    def test_lg03_event_that_cannot_be(self, path: Path, event: dict[str, Any]) -> None:
        entry = reserve_entry("r2")
        entry["event"].update(event)
        append_forged(path, entry)
        refused(path, "LG-3", 8)

    def test_lg04_unknown_kind_of_entry(self, path: Path) -> None:
        append_forged(path, {"kind": "refund", "release": "r0"})
        assert "unknown kind 'refund'" in refused(path, "LG-4", 8)

    def test_lg05_sequence_number_skipped(self, path: Path) -> None:
        lines = lines_of(path)
        rewrite(path, [*lines, forged_line(reserve_entry("r2"), 8, line_hash(lines[-1]))])
        assert "sequence number 8; expected 7" in refused(path, "LG-5", 8)

    @pytest.mark.parametrize("gone", [1, 3, 5])
    def test_lg05_line_deleted(self, path: Path, gone: int) -> None:
        lines = lines_of(path)
        del lines[gone]
        path.write_bytes(b"".join(lines))
        refused(path, "LG-5", gone + 1)

    def test_lg05_lines_swapped(self, path: Path) -> None:
        lines = lines_of(path)
        lines[3], lines[4] = lines[4], lines[3]
        path.write_bytes(b"".join(lines))
        refused(path, "LG-5", 4)

    def test_lg05_line_duplicated(self, path: Path) -> None:
        lines = lines_of(path)
        path.write_bytes(b"".join([*lines[:4], lines[3], *lines[4:]]))
        refused(path, "LG-5", 5)

    def test_lg06_line_that_follows_another_one(self, path: Path) -> None:
        lines = lines_of(path)
        rewrite(path, [*lines, forged_line(reserve_entry("r2"), 7, line_hash(lines[-2]))])
        refused(path, "LG-6", 8)

    def test_lg06_line_of_another_ledger_of_the_same_silo(self, path: Path, tmp_path: Path) -> None:
        other = tmp_path / "other"
        with new_ledger(other, lineage=Lineage("north", "oncology", "source", 5000)) as ledger:
            finish(ledger, "r0")
            finish(ledger, "r1")
        rewrite(path, [*lines_of(path)[:4], *lines_of(other)[4:]])
        refused(path, "LG-6", 5)

    def test_lg06_first_line_that_claims_to_follow_something(self, path: Path) -> None:
        genesis = json.loads(lines_of(path)[0])["entry"]
        rewrite(path, [forged_line(genesis, 0, "1" * 64)])
        refused(path, "LG-6", 1)

    def test_lg07_every_byte_edited_is_noticed(self, path: Path) -> None:
        raw = path.read_bytes()
        # All bytes of the short lines, every 40th of the curves.
        for position in [*range(0, len(raw), 40), *range(len(raw) - 700, len(raw))]:
            path.write_bytes(raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :])
            with pytest.raises(LedgerCorrupt):
                verify(path, KEY.public)
        path.write_bytes(raw)
        verify(path, KEY.public)

    def test_lg07_cheaper_event_under_the_old_signature(self, path: Path) -> None:
        lines = lines_of(path)
        cheap = SampledGaussian(0.01, 1.0, 1)
        lines[4] = altered(lines[4], lambda f: f.update(entry=reserve_entry("r1", cheap)))
        rewrite(path, lines)
        refused(path, "LG-7", 5)

    def test_lg07_entry_signed_by_another_key(self, path: Path) -> None:
        append_forged(path, reserve_entry("r2"), key=OTHER_KEY)
        refused(path, "LG-7", 8)

    def test_lg07_ledger_of_another_silo(self, path: Path) -> None:
        refused(path, "LG-7", 1, key=OTHER_KEY)


class TestGenesis:
    def test_lg08_empty_ledger(self, path: Path) -> None:
        path.write_bytes(b"")
        refused(path, "LG-8")

    def test_lg08_first_line_is_no_genesis(self, path: Path) -> None:
        path.write_bytes(b"")
        append_forged(path, reserve_entry("r0"))
        refused(path, "LG-8", 1)

    def test_lg08_second_genesis(self, path: Path) -> None:
        append_forged(path, json.loads(lines_of(path)[0])["entry"])
        refused(path, "LG-8", 8)

    @pytest.mark.parametrize(
        "change",
        [
            {"format": 2},
            {"orders_version": 2},
            {"order": 65},
            {"order": 2},
            {"total_records": 10_001},
            {"total_records": 100_000},
        ],
    )
    def test_lg09_genesis_with_terms_that_cannot_be(self, path: Path, change: dict[str, Any]) -> None:
        genesis = {**json.loads(lines_of(path)[0])["entry"], **change}
        path.write_bytes(b"")
        append_forged(path, genesis)
        refused(path, "LG-9", 1)

    def test_lg09_creation_with_a_delta_too_large_for_the_records(self, tmp_path: Path) -> None:
        with pytest.raises(PrivacyError, match=r"\[LG-9\] delta: 1e-05; allowed: at most 5e-06 for 20000 records"):
            new_ledger(tmp_path / "ledger", lineage=Lineage("north", "cardiology", "source", 20_000))
        assert list(tmp_path.iterdir()) == []

    def test_lg09_creation_with_an_order_that_leaves_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(PrivacyError, match=r"\[LG-9\] order: 2 leaves nothing"):
            new_ledger(tmp_path / "ledger", order=2)

    def test_lg10_genesis_that_names_another_key(self, path: Path) -> None:
        genesis = {**json.loads(lines_of(path)[0])["entry"], "public_key": OTHER_KEY.public.hex()}
        path.write_bytes(b"")
        append_forged(path, genesis)
        refused(path, "LG-10", 1)

    @pytest.mark.parametrize("names", [["old", "old"], ["cardiology"]])
    def test_lg16_parent_named_twice_or_itself(self, path: Path, names: list[str]) -> None:
        parent = {"head": {"sequence": 1, "hash": "0" * 64}, "curve": [0.0] * len(ORDERS)}
        genesis = json.loads(lines_of(path)[0])["entry"]
        genesis["parents"] = [{"lineage": name, **parent} for name in names]
        path.write_bytes(b"")
        append_forged(path, genesis)
        refused(path, "LG-16", 1)

    def test_lg16_parent_with_a_curve_over_other_orders(self, path: Path) -> None:
        genesis = json.loads(lines_of(path)[0])["entry"]
        genesis["parents"] = [{"lineage": "old", "head": {"sequence": 1, "hash": "0" * 64}, "curve": [0.0] * 5}]
        path.write_bytes(b"")
        append_forged(path, genesis)
        refused(path, "LG-16", 1)


class TestLife:
    def test_lg11_release_reserved_twice(self, path: Path) -> None:
        append_forged(path, reserve_entry("r0"))
        refused(path, "LG-11", 8)

    def test_lg11_writer_refuses_a_used_release_id(self, path: Path) -> None:
        with (
            open_ledger(path) as ledger,
            pytest.raises(PrivacyError, match=r"\[LG-11\] release 'r0' was reserved before"),
        ):
            reserve(ledger, "r0")

    @pytest.mark.parametrize("index", [0, ORDERS.index(8), len(ORDERS) - 1])
    def test_lg12_curve_that_is_not_of_its_event(self, path: Path, index: int) -> None:
        curve = rdp_curve(EVENT).tolist()
        curve[index] *= 1 - 1e-6
        append_forged(path, reserve_entry("r2", curve=curve))
        refused(path, "LG-12", 8)

    def test_lg12_curve_that_is_too_short(self, path: Path) -> None:
        append_forged(path, reserve_entry("r2", curve=rdp_curve(EVENT).tolist()[:-1]))
        refused(path, "LG-12", 8)

    def test_lg13_signed_overspend(self, path: Path) -> None:
        append_forged(path, *(reserve_entry(f"r{number}") for number in range(2, 11)))
        message = refused(path, "LG-13", 16)
        assert "requested epsilon 3.082" in message

    @pytest.mark.parametrize("kind", ["sending", "commit", "void"])
    @pytest.mark.parametrize("release", ["r0", "absent"])
    def test_lg14_step_of_a_committed_or_unknown_release(self, path: Path, kind: str, release: str) -> None:
        entry = {"kind": kind, "release": release, **({"reason": ""} if kind == "void" else {})}
        append_forged(path, entry)
        refused(path, "LG-14", 8)

    def test_lg14_commit_without_sending(self, path: Path) -> None:
        append_forged(path, reserve_entry("r2"), {"kind": "commit", "release": "r2"})
        assert "is reserved; only a sending one can become committed" in refused(path, "LG-14", 9)

    def test_lg14_void_after_sending(self, path: Path) -> None:
        sent = {"kind": "sending", "release": "r2"}
        append_forged(path, reserve_entry("r2"), sent, {"kind": "void", "release": "r2", "reason": "regret"})
        assert "is sending; only a reserved one can become void" in refused(path, "LG-14", 10)

    def test_lg15_entry_after_the_end_of_the_lineage(self, path: Path) -> None:
        append_forged(path, {"kind": "successor", "lineage": "next"}, reserve_entry("r2"))
        refused(path, "LG-15", 9)

    def test_lg15_end_of_a_lineage_with_a_reserved_release(self, path: Path) -> None:
        append_forged(path, reserve_entry("r2"), {"kind": "successor", "lineage": "next"})
        refused(path, "LG-15", 9)


class TestRollback:
    @pytest.mark.parametrize("kept", [1, 4, 6])
    def test_lg17_older_copy_in_the_place_of_the_ledger(self, path: Path, kept: int) -> None:
        path.write_bytes(b"".join(lines_of(path)[:kept]))
        message = refused(path, "LG-17", error=LedgerRolledBack)
        assert f"ends at line {kept}; the high-water mark has seen line 7" in message

    def test_lg18_older_copy_that_was_continued(self, path: Path) -> None:
        lines = lines_of(path)
        remembered = mark_of(path).read_bytes()
        rewrite(path, lines[:4])
        with open_ledger(path) as ledger:
            for name in ("r5", "r6"):
                finish(ledger, name)
        mark_of(path).write_bytes(remembered)
        message = refused(path, "LG-18", error=LedgerRolledBack)
        assert "line 7 is not the one that the high-water mark has seen" in message

    def test_lg19_mark_missing(self, path: Path) -> None:
        mark_of(path).unlink()
        refused(path, "LG-19")

    @pytest.mark.parametrize(
        "content",
        [b"", b"{}", b"\0" * 90, b'{"sequence":6}\n', b'{"sequence":-1,"hash":"' + b"0" * 64 + b'"}\n', b"x" * 1000],
    )
    def test_lg19_mark_that_is_none(self, path: Path, content: bytes) -> None:
        mark_of(path).write_bytes(content)
        with pytest.raises(LedgerCorrupt, match=r"\[LG-19\] .*ledger\.mark: not a high-water mark"):
            verify(path, KEY.public)
        with pytest.raises(LedgerCorrupt, match=r"\[LG-19\]"):
            open_ledger(path)

    def test_lg19_mark_with_something_behind_it(self, path: Path) -> None:
        mark_of(path).write_bytes(mark_of(path).read_bytes() + b" ")
        with pytest.raises(LedgerCorrupt, match=r"\[LG-19\]"):
            verify(path, KEY.public)

    def test_lg20_mark_further_behind_than_a_crash_leaves_it(self, path: Path) -> None:
        lines = lines_of(path)
        set_mark(path, Head(4, line_hash(lines[4])))
        with pytest.raises(LedgerCorrupt, match=r"\[LG-20\] .*stands at line 5 of 7"):
            open_ledger(path)

    def test_lg20_mark_one_line_behind_is_a_crash_and_is_brought_forward(self, path: Path) -> None:
        lines = lines_of(path)
        set_mark(path, Head(5, line_hash(lines[5])))
        open_ledger(path).close()
        assert json.loads(mark_of(path).read_bytes()) == {"sequence": 6, "hash": line_hash(lines[6])}
        assert lines_of(path) == lines

    def test_lg21_ledger_and_mark_restored_from_an_older_backup(self, path: Path) -> None:
        remembered = verify(path, KEY.public).head
        rewrite(path, lines_of(path)[:4])
        message = refused(path, "LG-21", error=LedgerRolledBack, expected_head=remembered)
        assert "ends at line 4; the expected head has seen line 7" in message

    def test_lg21_backup_that_was_continued(self, path: Path) -> None:
        remembered = verify(path, KEY.public).head
        rewrite(path, lines_of(path)[:4])
        with open_ledger(path) as ledger:
            finish(ledger, "r5")
            finish(ledger, "r6")
        refused(path, "LG-21", error=LedgerRolledBack, expected_head=remembered)


class TestWriter:
    @pytest.mark.parametrize("change", ["append", "truncate", "replace", "remove"])
    def test_lg22_file_changed_under_the_open_ledger(self, path: Path, change: str) -> None:
        with open_ledger(path) as ledger:
            raw = path.read_bytes()
            if change == "append":
                path.write_bytes(raw + b"x")
            elif change == "truncate":
                os.truncate(path, 100)
            else:
                path.unlink()
            if change == "replace":
                path.write_bytes(raw)
            after = path.read_bytes() if path.exists() else None
            with pytest.raises(LedgerCorrupt, match=r"\[LG-22\]"):
                reserve(ledger, "r2")
            assert (path.read_bytes() if path.exists() else None) == after

    def test_lg23_creation_over_a_ledger(self, path: Path) -> None:
        before = path.read_bytes()
        with pytest.raises(PrivacyError, match=r"\[LG-23\] .*: a ledger exists"):
            new_ledger(path)
        assert path.read_bytes() == before

    def test_lg23_creation_where_a_mark_remembers_a_ledger(self, path: Path) -> None:
        path.unlink()
        with pytest.raises(LedgerCorrupt, match=r"\[LG-23\] .*remembers a ledger of 7 lines"):
            new_ledger(path)
        assert not path.exists()

    def test_lg23_creation_that_was_interrupted_can_be_repeated(self, tmp_path: Path) -> None:
        path = tmp_path / "ledger"
        new_ledger(path).close()
        path.unlink()
        new_ledger(path, budget=PrivacyBudget(2.0, 1e-5)).close()
        assert verify(path, KEY.public).budget.epsilon == 2.0

    def test_lg24_ledger_that_is_open_elsewhere(self, path: Path) -> None:
        with open_ledger(path):
            with pytest.raises(PrivacyError, match=r"\[LG-24\] .*ledger\.lock: another process holds the ledger"):
                open_ledger(path, timeout=0.1)
            with pytest.raises(PrivacyError, match=r"\[LG-24\]"):
                new_ledger(path, timeout=0.1)
        open_ledger(path, timeout=0.1).close()

    def test_lg24_refused_ledger_is_not_left_locked(self, path: Path) -> None:
        lines = lines_of(path)
        path.write_bytes(b"".join(lines[:-1]))
        with pytest.raises(LedgerRolledBack):
            open_ledger(path)
        path.write_bytes(b"".join(lines))
        open_ledger(path, timeout=0.1).close()

    def test_files_are_readable_by_their_owner_only(self, path: Path) -> None:
        assert path.stat().st_mode & 0o777 == 0o600
        assert mark_of(path).stat().st_mode & 0o777 == 0o600

    def test_mark_may_stand_elsewhere(self, tmp_path: Path) -> None:
        (tmp_path / "volume").mkdir()
        mark = tmp_path / "volume" / "mark"
        with new_ledger(tmp_path / "ledger", mark_path=mark) as ledger:
            finish(ledger, "r0")
        assert not (tmp_path / "ledger.mark").exists()
        assert verify(tmp_path / "ledger", KEY.public, mark_path=mark).head.sequence == 3


def test_workshop_is_what_the_library_writes(path: Path) -> None:
    """The forger's lines are accepted when they break no rule: else these tests would prove nothing."""
    append_forged(path, reserve_entry("r2"), {"kind": "sending", "release": "r2"}, {"kind": "commit", "release": "r2"})
    assert verify(path, KEY.public).head.sequence == 9
    assert LINEAGE.total_records * BUDGET.delta < 0.1
