"""The spool on disk, and what a server that uses it holds in memory."""

from __future__ import annotations

import errno
import os
import stat
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.shape import Reply, Request
from protocols.testing.cohort import Cohort
from secfl.engines.spool import FileSpool
from secfl.engines.workers import local_workers


@given(st.lists(st.binary(max_size=300), max_size=8))
def test_chunks_come_back_as_they_went_in_as_often_as_asked(chunks: list[bytes]) -> None:
    spool = FileSpool()
    for chunk in chunks:
        spool.append(memoryview(bytearray(chunk)))
    assert list(spool.chunks()) == chunks
    together = zip(spool.chunks(), spool.chunks(), strict=True)  # readers do not disturb each other
    assert [first for first, second in together if first == second] == chunks
    spool.discard()
    assert list(spool.chunks()) == []
    spool.append(b"again")
    assert list(spool.chunks()) == [b"again"]


def test_arrays_are_taken_as_their_bytes() -> None:
    spool = FileSpool()
    spool.append(np.arange(5, dtype="<u4").data)
    assert list(spool.chunks()) == [np.arange(5, dtype="<u4").tobytes()]


def test_the_file_has_no_name_is_its_owners_alone_and_goes_when_discarded(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path)
    assert spool._descriptor < 0  # a reply without chunks makes no file
    spool.append(b"x" * 100)
    status = os.fstat(spool._descriptor)
    assert (status.st_nlink, stat.S_IMODE(status.st_mode), status.st_size) == (0, 0o600, 100)
    assert status.st_dev == tmp_path.stat().st_dev
    assert not os.get_inheritable(spool._descriptor)
    assert list(tmp_path.iterdir()) == []
    descriptor = spool._descriptor
    spool.discard()
    spool.discard()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_forgotten_spool_closes_its_file() -> None:
    spool = FileSpool()
    spool.append(b"x")
    descriptor = spool._descriptor
    del spool
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_writes_and_reads_in_parts_are_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    write, read = os.pwrite, os.pread
    monkeypatch.setattr(os, "pwrite", lambda file, content, at: write(file, content[:7], at))
    monkeypatch.setattr(os, "pread", lambda file, size, at: read(file, min(size, 5), at))
    spool = FileSpool()
    spool.append(bytes(range(100)))
    spool.append(bytes(range(50)))
    assert list(spool.chunks()) == [bytes(range(100)), bytes(range(50))]


def test_a_full_disk_and_a_cut_file_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    spool = FileSpool()
    spool.append(b"first")
    os.ftruncate(spool._descriptor, 3)
    with pytest.raises(OSError, match="3 of 5 bytes"):
        list(spool.chunks())

    def full(*_arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        spool.append(b"second")
    assert spool._sizes == [5]


def held(directory: Path, size: int, threads: int) -> tuple[int, int]:
    """Bytes of a server's accumulator, and most bytes that it held between the shares and the result."""
    cohort = Cohort(size, length=10**6, chunk_length=2**16, bits=32, spool=partial(FileSpool, directory))
    server, accumulator, most = cohort.server, 0, 0
    server.workers = local_workers(threads)
    cohort.advance("ShareKeys")
    tracemalloc.start()
    while server.phase is not None:
        replies = [replied(cohort, request) for request in server.requests()]
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        for reply in replies:
            upload = server.begin(reply.header)
            for chunk in reply.chunks:
                upload.write(chunk)
            upload.commit(reply.trailer)
        server.close_phase()
        _, peak = tracemalloc.get_traced_memory()
        most = max(most, accumulator + peak - before)
        accumulator = 4 * 10**6  # from here on it is there before the phase begins
    tracemalloc.stop()
    assert np.array_equal(server.result().sum, cohort.total(cohort.parties))
    return accumulator, most


def replied(cohort: Cohort, request: Request) -> Reply:
    session = cohort.parties[request.party]
    vector = cohort.sources()[request.party] if session.inspect(request.header).vector else None
    return session.handle(request.header, vector=vector)  # the chunks stay on disk


@pytest.mark.parametrize("threads", [1, 2])
def test_a_server_holds_one_accumulator_and_a_few_chunks_however_many_clients(tmp_path: Path, threads: int) -> None:
    accumulator, few = held(tmp_path, 4, threads)
    _, many = held(tmp_path, 12, threads)
    chunk = 4 * 2**16
    assert accumulator <= few < accumulator + 6 * chunk
    assert abs(many - few) < chunk
