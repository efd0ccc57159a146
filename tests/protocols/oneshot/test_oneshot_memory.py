"""Memory does not grow with what passes through: contributions lie in spools, requests to members go in chunks."""

from __future__ import annotations

import tempfile
import tracemalloc
from collections.abc import Iterator
from typing import IO

import numpy as np
import pytest
from oneshot_cohort import STORAGE_KEY, OneShotCohort

from protocols.identity import Role
from protocols.oneshot import messages as m
from protocols.session import ClientPolicy
from protocols.shape import Chunk
from protocols.testing.malformed import decoded

POLICY = ClientPolicy(protocols=frozenset({"oneshot"}), collusion_bound=1)


class DiskSpool:
    """Chunks in a file, each after its length."""

    def __init__(self) -> None:
        # Unbuffered: the buffers of open files would be most of what is held.
        self._file: IO[bytes] = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  closed by discard

    def append(self, chunk: Chunk) -> None:
        view = memoryview(chunk)
        self._file.seek(0, 2)
        self._file.write(view.nbytes.to_bytes(8, "little"))
        self._file.write(view)

    def chunks(self) -> Iterator[Chunk]:
        at = 0
        while True:
            self._file.seek(at)
            length = self._file.read(8)
            if not length:
                return
            chunk = self._file.read(int.from_bytes(length, "little"))
            at += 8 + len(chunk)
            yield chunk

    def discard(self) -> None:
        self._file.close()


def cohort_of(size: int, **options) -> OneShotCohort:
    return OneShotCohort(
        size, members=4, collusion_bound=1, policy=POLICY, name="memory", length=8192, spool=DiskSpool, **options
    )


def grown(size: int) -> tuple[int, int]:
    """Bytes that the server holds once all have contributed, and what a member takes to check them all at most."""
    cohort = cohort_of(size)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for party in list(cohort.identities):
        cohort.network._carry("Contribution", cohort.request(party))
        cohort.network.transcript.clear()
        cohort.parties[party].sessions.pop(Role.CLIENT)
        cohort.stores[party]._records.clear()
    cohort.server.close_phase()
    held = tracemalloc.get_traced_memory()[0] - before
    request = next(iter(cohort.server.requests()))
    tracemalloc.reset_peak()
    start = tracemalloc.get_traced_memory()[0]
    cohort.session("c00").handle(request.header, request.chunks)
    needed = tracemalloc.get_traced_memory()[1] - start
    tracemalloc.stop()
    return held, needed


@pytest.mark.slow
def test_neither_server_nor_member_holds_the_contributions() -> None:
    """A contribution is 27 kB of ciphertext and 68 kB of sealed shares: 1,6 kB more a client is what may be held."""
    small, large = grown(200), grown(400)
    assert large[0] - small[0] < 200 * 1_600
    assert large[1] - small[1] < 200 * 1_600
    assert large[1] < 12 * 2**20  # two groups of 1.2 MB: read, framed, copied, decoded


@pytest.mark.slow
@pytest.mark.parametrize("fold_at_once", [False, True])
def test_more_clients_than_a_group_holds_are_summed_exactly(fold_at_once: bool) -> None:
    cohort = cohort_of(2 * m.GROUP + 3, fold_at_once=fold_at_once)
    cohort.advance("Check")
    (request, *_) = cohort.server.requests()
    assert len(decoded(request.header, m.CheckRequest).groups) == 3
    cohort.restore_server()
    cohort.restore_party(Role.COMMITTEE, "c00", cohort.session("c00").save(STORAGE_KEY))
    aggregate = cohort.network.run()
    assert len(aggregate.contributors) == 2 * m.GROUP + 3
    np.testing.assert_array_equal(aggregate.sum, cohort.total(aggregate.contributors))


def test_spools_are_closed_when_the_session_is_over(monkeypatch) -> None:
    made: list[DiskSpool] = []
    cohort = OneShotCohort(spool=DiskSpool)
    cohort.server.new_spool = lambda: made.append(DiskSpool()) or made[-1]
    cohort.network.run()
    assert len(made) >= 8
    assert all(spool._file.closed for spool in made)
