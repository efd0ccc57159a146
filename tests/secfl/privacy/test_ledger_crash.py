"""Crashes, full disks and two processes: the budget is neither spent twice nor free. Real files, processes, signals."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ledger_workshop import EVENT, KEY, filled_ledger, finish, lines_of, new_ledger, open_ledger, reserve

from protocols.errors import BudgetExceeded, LedgerCorrupt, PrivacyError
from secfl.privacy import ledger_file
from secfl.privacy.accounting import rdp_curve
from secfl.privacy.events import SampledGaussian
from secfl.privacy.ledger import LedgerSummary, ReleaseState, verify

CHARGED = (ReleaseState.SENDING, ReleaseState.COMMITTED)
# The system calls of one append: line written, durable; mark written, durable, in place, directory durable.
CALLS_OF_AN_APPEND = ["write", "fsync", "write", "fsync", "replace", "fsync"]


class Interceptor:
    """Counts the calls by which a ledger reaches the disk, and does something instead of the chosen one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, instead: Callable[[str, Any, Any], Any]) -> None:
        self.calls: list[str] = []
        self._at = at
        self._instead = instead
        for name in ("write", "fsync", "ftruncate"):
            monkeypatch.setattr(ledger_file.os, name, self._wrapped(name, getattr(os, name)))
        monkeypatch.setattr(Path, "replace", self._wrapped("replace", Path.replace))

    def _wrapped(self, name: str, original: Any) -> Any:
        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            if len(self.calls) - 1 == self._at:
                return self._instead(name, original, arguments)
            return original(*arguments)

        return call


def in_child(work: Callable[[], None]) -> int:
    """Run in a forked process; its exit status, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(70)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def send(wire: Path, name: str) -> None:
    """The one thing that cannot be taken back."""
    with wire.open("a") as stream:
        stream.write(f"{name}\n")


def sent(wire: Path) -> list[str]:
    return wire.read_text().split() if wire.exists() else []


def rounds(ledger_path: Path, wire: Path, names: list[str]) -> None:
    with open_ledger(ledger_path) as ledger:
        for name in names:
            reservation = reserve(ledger, name)
            ledger.sending(reservation)
            send(wire, name)
            ledger.commit(reservation)


def require_charged_exactly(summary: LedgerSummary, wire: Path) -> None:
    """What was sent is charged once; what is charged beyond that was on the point of being sent."""
    charged = [release.reservation.release_id for release in summary.releases if release.state in CHARGED]
    assert len(charged) == len(set(charged))
    assert set(sent(wire)) <= set(charged)
    assert len(set(charged) - set(sent(wire))) <= 1
    np.testing.assert_allclose(summary.spent_curve, len(charged) * rdp_curve(EVENT), rtol=1e-13)


def cut_power(instead_of: str, original: Any, arguments: Any) -> None:
    """Half of what was being written reaches the disk, then the process is gone."""
    if instead_of == "write":
        original(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
    os.kill(os.getpid(), signal.SIGKILL)


def kill(_instead_of: str, _original: Any, _arguments: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_after(_instead_of: str, original: Any, arguments: Any) -> None:
    original(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)


class TestKilled:
    def test_append_makes_the_calls_that_these_tests_cut(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with new_ledger(tmp_path / "ledger") as ledger:
            seen = Interceptor(monkeypatch, -1, kill)
            reserve(ledger, "r0")
        assert seen.calls == CALLS_OF_AN_APPEND

    @pytest.mark.parametrize("how", [kill, kill_after, cut_power])
    @pytest.mark.parametrize("call", range(2 * 3 * len(CALLS_OF_AN_APPEND)))
    def test_killed_at_every_call_of_two_rounds(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int, how: Any
    ) -> None:
        path, wire = tmp_path / "ledger", tmp_path / "wire"
        new_ledger(path).close()

        def work() -> None:
            Interceptor(monkeypatch, call, how)
            rounds(path, wire, ["r0", "r1"])

        assert in_child(work) == -signal.SIGKILL
        torn = not path.read_bytes().endswith(b"\n")
        assert torn == (how is cut_power and call % 6 == 0)
        if torn:
            with pytest.raises(LedgerCorrupt, match=r"\[LG-2\]"):
                open_ledger(path)
        with open_ledger(path, drop_torn_tail=torn) as ledger:
            require_charged_exactly(ledger.summary(), wire)
            assert all(release.state is not ReleaseState.RESERVED for release in ledger.releases())
        rounds(path, wire, ["r8", "r9"])
        require_charged_exactly(verify(path, KEY.public), wire)
        assert {"r8", "r9"} <= set(sent(wire))

    @pytest.mark.parametrize("call", range(5))
    @pytest.mark.parametrize("how", [kill, kill_after, cut_power])
    def test_killed_during_creation(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int, how: Any) -> None:
        path = tmp_path / "ledger"

        def work() -> None:
            Interceptor(monkeypatch, call, how)
            new_ledger(path)

        assert in_child(work) == -signal.SIGKILL
        assert not path.exists()
        with pytest.raises(LedgerCorrupt, match=r"\[LG-1\]"):
            open_ledger(path)
        new_ledger(path).close()
        assert verify(path, KEY.public).head.sequence == 0

    @pytest.mark.parametrize("call", range(6))
    def test_killed_while_voiding_what_was_interrupted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
    ) -> None:
        path = tmp_path / "ledger"
        with new_ledger(path) as ledger:
            reserve(ledger, "r0")

        def work() -> None:
            Interceptor(monkeypatch, call, kill)
            open_ledger(path)

        assert in_child(work) == -signal.SIGKILL
        with open_ledger(path) as ledger:
            assert [release.state for release in ledger.releases()] == [ReleaseState.VOID]
            assert ledger.head.sequence == 2

    @pytest.mark.slow
    def test_killed_a_hundred_times_at_random_moments(self, tmp_path: Path) -> None:
        path, wire = tmp_path / "ledger", tmp_path / "wire"
        cheap = SampledGaussian(0.01, 30.0, 1)
        new_ledger(path).close()

        def work(first: int) -> None:
            with open_ledger(path) as ledger:
                for number in range(first, first + 10_000):
                    reservation = reserve(ledger, f"r{number}", cheap)
                    ledger.sending(reservation)
                    send(wire, f"r{number}")
                    ledger.commit(reservation)

        killed = 0
        for life in range(100):
            child = os.fork()
            if child == 0:
                try:
                    work(life * 10_000)
                finally:
                    os._exit(70)
            time.sleep(random.uniform(0.05, 0.4))
            os.kill(child, signal.SIGKILL)
            killed += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
            charged = [r.reservation.release_id for r in verify(path, KEY.public).releases if r.state in CHARGED]
            assert set(sent(wire)) <= set(charged)
            assert len(charged) <= len(sent(wire)) + life + 1
        assert killed == 100
        assert len(sent(wire)) > 100


def full_disk(instead_of: str, original: Any, arguments: Any) -> None:
    if instead_of == "write":
        original(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class TestDisk:
    @pytest.mark.parametrize("step", ["reserve", "sending", "commit", "void"])
    @pytest.mark.parametrize("call", range(len(CALLS_OF_AN_APPEND)))
    def test_disk_that_fails_at_any_call_of_any_step(self, tmp_path: Path, step: str, call: int) -> None:
        path = tmp_path / "ledger"
        with new_ledger(path) as ledger:
            reservation = reserve(ledger, "r0")
            if step == "commit":
                ledger.sending(reservation)
            before, head = path.read_bytes(), ledger.head
            with pytest.MonkeyPatch.context() as monkeypatch:
                Interceptor(monkeypatch, call, full_disk)
                with pytest.raises(PrivacyError, match=r"\[LG-25\] .*No space left on device") as caught:
                    reserve(ledger, "r1") if step == "reserve" else getattr(ledger, step)(reservation)
            assert isinstance(caught.value.__cause__, OSError)
            assert ledger.head == head
            if call == 0:
                # Taken back: as if it had never been tried, and the next attempt works.
                assert type(caught.value) is PrivacyError
                assert path.read_bytes() == before
                reserve(ledger, "r1") if step == "reserve" else getattr(ledger, step)(reservation)
                return
            with pytest.raises(LedgerCorrupt, match=r"\[LG-25\] .*open the ledger anew"):
                reserve(ledger, "r2")
        expected = {"reserve": ReleaseState.VOID, "sending": ReleaseState.SENDING, "commit": ReleaseState.COMMITTED}
        with open_ledger(path) as ledger:
            states = [release.state for release in ledger.releases()]
            assert states[0] is expected.get(step, ReleaseState.VOID)
            # Nothing was sent in `reserve` and `void`, so nothing is spent; in the others it may have been, so it is.
            np.testing.assert_allclose(
                ledger.summary().spent_curve, (step in ("sending", "commit")) * rdp_curve(EVENT), rtol=1e-14
            )
            reserve(ledger, "r3")

    def test_line_that_cannot_be_taken_back_closes_the_ledger_until_it_is_opened_anew(self, tmp_path: Path) -> None:
        path = tmp_path / "ledger"
        with new_ledger(path) as ledger:
            finish(ledger, "r0")
            with pytest.MonkeyPatch.context() as monkeypatch:
                Interceptor(monkeypatch, 0, full_disk)
                monkeypatch.setattr(ledger_file.os, "ftruncate", lambda *_: full_disk("ftruncate", None, None))
                with pytest.raises(LedgerCorrupt, match=r"\[LG-25\] .*incomplete line could not be taken back"):
                    reserve(ledger, "r1")
            with pytest.raises(LedgerCorrupt, match=r"\[LG-25\]"):
                reserve(ledger, "r1")
        with pytest.raises(LedgerCorrupt, match=r"\[LG-2\]"):
            open_ledger(path)
        with open_ledger(path, drop_torn_tail=True) as ledger:
            assert [release.state for release in ledger.releases()] == [ReleaseState.COMMITTED]

    def test_file_size_limit_of_the_system_leaves_a_real_partial_write_that_is_taken_back(self, tmp_path: Path) -> None:
        path = filled_ledger(tmp_path / "ledger")
        before = path.read_bytes()

        def work() -> None:
            with open_ledger(path) as ledger:
                resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 1000, resource.RLIM_INFINITY))
                with pytest.raises(PrivacyError, match=r"\[LG-25\] .*File too large.*nothing was recorded"):
                    reserve(ledger, "r2")
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                assert path.read_bytes() == before
                finish(ledger, "r3")

        assert in_child(work) == 0
        assert verify(path, KEY.public).head.sequence == 9

    def test_full_disk_on_opening_refuses_and_leaves_no_lock(self, tmp_path: Path) -> None:
        path = tmp_path / "ledger"
        with new_ledger(path) as ledger:
            reserve(ledger, "r0")
        before = path.read_bytes()
        with pytest.MonkeyPatch.context() as monkeypatch:
            Interceptor(monkeypatch, 0, full_disk)
            with pytest.raises(PrivacyError, match=r"\[LG-25\]"):
                open_ledger(path)
        assert path.read_bytes() == before
        open_ledger(path, timeout=0.1).close()


def spend_all(path: Path, name: str, results: Any) -> None:
    """Open, release once, close; until the budget is gone."""
    count = 0
    while True:
        with open_ledger(path, timeout=60) as ledger:
            try:
                reservation = ledger.reserve(f"{name}{count}", EVENT, run=name, round=count, attempt=0)
            except BudgetExceeded:
                break
            ledger.sending(reservation)
            ledger.commit(reservation)
        count += 1
    results.put(count)


class TestTwoProcesses:
    def test_two_processes_together_spend_the_budget_once(self, tmp_path: Path) -> None:
        path = tmp_path / "ledger"
        new_ledger(path).close()
        context = multiprocessing.get_context("fork")
        results = context.Queue()
        workers = [context.Process(target=spend_all, args=(path, name, results)) for name in ("a", "b")]
        for worker in workers:
            worker.start()
        counts = [results.get(timeout=60) for _ in workers]
        for worker in workers:
            worker.join(60)
            assert worker.exitcode == 0
        assert sum(counts) == 10
        assert sum(release.state is ReleaseState.COMMITTED for release in verify(path, KEY.public).releases) == 10

    def test_second_process_is_refused_while_the_first_trains(self, tmp_path: Path) -> None:
        path = filled_ledger(tmp_path / "ledger")

        def work() -> None:
            with pytest.raises(PrivacyError, match=r"\[LG-24\] .*ledger\.lock"):
                open_ledger(path, timeout=0.1)

        with open_ledger(path) as ledger:
            reservation = reserve(ledger, "r2")
            assert in_child(work) == 0
            # The refused process has not voided what the first one is training on.
            ledger.sending(reservation)

    def test_lock_of_a_killed_process_is_gone(self, tmp_path: Path) -> None:
        path = filled_ledger(tmp_path / "ledger")

        def work() -> None:
            open_ledger(path)
            os.kill(os.getpid(), signal.SIGKILL)

        assert in_child(work) == -signal.SIGKILL
        open_ledger(path, timeout=0.1).close()

    def test_forked_process_cannot_use_its_parents_ledger(self, tmp_path: Path) -> None:
        path = filled_ledger(tmp_path / "ledger")
        with open_ledger(path) as ledger:

            def work() -> None:
                with pytest.raises(PrivacyError, match=r"\[LG-24\] the ledger was opened by another process"):
                    reserve(ledger, "r2")

            assert in_child(work) == 0
            finish(ledger, "r2")
        assert len(lines_of(path)) == 10

    def test_threads_share_one_budget(self, tmp_path: Path) -> None:
        from concurrent.futures import ThreadPoolExecutor

        with new_ledger(tmp_path / "ledger") as ledger:

            def one(number: int) -> bool:
                try:
                    reserve(ledger, f"r{number}")
                except BudgetExceeded:
                    return False
                return True

            with ThreadPoolExecutor(8) as pool:
                assert sum(pool.map(one, range(40))) == 10
        assert verify(tmp_path / "ledger", KEY.public).head.sequence == 10
