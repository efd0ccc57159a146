"""Threads share pieces of work, and what comes out does not depend on them."""

from __future__ import annotations

import os
import threading
import time

import pytest

from protocols.errors import UsageError
from protocols.workers import SERIAL
from secfl.engines import workers as module
from secfl.engines.workers import ThreadWorkers, local_workers

PATIENCE = 20.0


def test_outcomes_come_in_the_order_of_the_pieces():
    workers = ThreadWorkers(3)
    assert workers.count == 3
    for number in (0, 1, 2, 50):
        assert list(workers.map(lambda piece: piece * piece, iter(range(number)))) == [i * i for i in range(number)]


def test_pieces_are_worked_on_at_the_same_time_by_the_caller_and_the_threads():
    together = threading.Barrier(3)

    def meet(_piece: int) -> int:
        together.wait(PATIENCE)
        return threading.get_ident()

    assert len(set(ThreadWorkers(3).map(meet, range(3)))) == 3


def test_the_caller_does_all_the_work_when_no_thread_is_free():
    workers, busy, release = ThreadWorkers(2), threading.Barrier(3), threading.Event()

    def block(_piece: int) -> None:
        busy.wait(PATIENCE)
        release.wait(PATIENCE)

    blocked = threading.Thread(target=lambda: list(workers.map(block, range(2))))
    blocked.start()
    try:
        busy.wait(PATIENCE)  # the only thread has a piece of another caller's
        own = threading.get_ident()
        assert list(workers.map(lambda _: threading.get_ident(), range(5))) == [own] * 5
        assert blocked.is_alive()
    finally:
        release.set()
        blocked.join(PATIENCE)


@pytest.mark.parametrize("bad", [0, 2, 4])
def test_an_exception_is_raised_when_nothing_is_worked_on_any_more(bad: int):
    working: list[int] = []

    def work(piece: int) -> int:
        working.append(piece)
        try:
            if piece == bad:
                raise UsageError(f"piece {piece}")
            time.sleep(0.02)
            return piece
        finally:
            working.remove(piece)

    workers = ThreadWorkers(3)
    with pytest.raises(UsageError, match=f"piece {bad}"):
        list(workers.map(work, range(5)))
    assert working == []
    assert list(workers.map(str, range(3))) == ["0", "1", "2"]  # the threads are still there


def test_one_pool_serves_all_callers_and_one_core_needs_none(monkeypatch):
    local_workers.cache_clear()
    assert local_workers(1) is SERIAL
    assert local_workers(3) is local_workers(3)
    assert local_workers(3).count == 3
    assert local_workers(0).count == len(os.sched_getaffinity(0))
    local_workers.cache_clear()
    monkeypatch.setattr(module, "_cores", lambda: 1)
    assert local_workers(0) is SERIAL
    local_workers.cache_clear()


def test_cores_are_counted_where_a_process_has_no_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert module._cores() == 12
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert module._cores() == 1


def test_numbers_out_of_range_are_refused():
    with pytest.raises(UsageError, match="threads: -1; allowed: 0"):
        local_workers(-1)
    with pytest.raises(UsageError, match="threads: 1; allowed: 2"):
        ThreadWorkers(1)
    assert repr(ThreadWorkers(2)) == "ThreadWorkers(2)"
