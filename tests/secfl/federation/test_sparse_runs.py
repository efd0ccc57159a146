"""Runs on a sparse graph: the same sums, other claims; threads that expand masks: the same sums."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_task import tiny_config, tiny_task

from protocols.errors import ConfigError
from protocols.session import ClientPolicy
from protocols.testing.cohort import Cohort
from secfl.aggregation import SecureAggregator
from secfl.config import Config
from secfl.engines.workers import ThreadWorkers
from secfl.federation.session import simulate
from secfl.registry import PROTOCOLS, SparseSecAgg

HUNDRED = "\n".join(f'[[silo]]\nname = "s{number:03}"\nnominal_size = 40\n' for number in range(100))
SPARSE = '[aggregation]\nvalue_range = 8.0\ngraph = "sparse"\ncollusion_bound = 5\n'
ONE_ROUND = '[run]\nname = "tiny"\nrounds = 1\nseed = 7\nreproducible = true\n'


def config(directory: Path, silos: int = 100, **sections: str) -> Config:
    listed = "\n".join(f'[[silo]]\nname = "s{number:03}"\nnominal_size = 40\n' for number in range(silos))
    return tiny_config(directory, private=False, **({"silos": listed, "run": ONE_ROUND} | sections))[0]


def run(directory: Path, aggregation: str):
    directory.mkdir()
    lost = "\n".join(
        f'[[simulation.incidents]]\nparty = "s{number:03}"\nphase = "MaskedInput"\n' for number in (7, 50, 99)
    )
    made = tiny_config(directory, private=False, silos=HUNDRED, run=ONE_ROUND, aggregation=aggregation, simulation=lost)
    return simulate(*made, directory=directory, task=tiny_task(), output=directory / "runs")


@pytest.mark.slow
def test_run_on_a_sparse_graph_gives_the_model_of_the_complete_one_and_reports_its_own_claims(tmp_path: Path) -> None:
    sparse = run(tmp_path / "sparse", SPARSE)
    complete = run(tmp_path / "complete", SPARSE.replace('"sparse"', '"complete"'))
    assert len(sparse.report.rounds[0].contributors) == 97
    assert sparse.result.state.tobytes() == complete.result.state.tobytes()
    found = sparse.report.protocol_parameters
    assert found["graph"] == "k-regular on a random ring (SecAgg+)"
    assert (found["neighbours of a silo"], found["threshold"], found["minimum contributors"]) == (16, 11, 95)
    assert (found["adversary rate"], found["dropout rate"], found["security bits"]) == (0.05, 0.05, 40)
    assert found["server withstood"] == "semi-malicious"
    assert complete.report.protocol_parameters["graph"] == "complete"
    assert "masked by 16 neighbours" in sparse.report.protocol_promises[0]
    assert "neither chosen the ring" in sparse.report.protocol_promises[0]


def test_more_than_200_silos_in_a_round_get_the_sparse_graph_unless_told_otherwise(tmp_path: Path) -> None:
    plain = "[aggregation]\nvalue_range = 8.0\n"
    assert config(tmp_path, 200, aggregation=plain).protocol is PROTOCOLS["secagg"]
    assert config(tmp_path, 201, aggregation=f'{plain}graph = "complete"\n').protocol is PROTOCOLS["secagg"]
    chosen = config(tmp_path, 201, aggregation=plain)
    assert isinstance(chosen.protocol, SparseSecAgg)
    assert (chosen.collusion_bound, chosen.minimum_contributors) == (67, 191)
    degree, least = chosen.protocol.smallest(201, 67)
    assert (chosen.threshold, degree) == (least, chosen.protocol.smallest(201, 67)[0])
    small = config(tmp_path, 201, aggregation=plain, server="[server]\ncohort_size = 50\n")
    assert small.protocol is PROTOCOLS["secagg"]


MISTAKES = [
    ('graph = "sparse"\n', 99, "aggregation.graph", "sparse with 99 silos", '"complete", or 100 silos or more'),
    ("dropout_rate = 0.1\n", 100, "aggregation.dropout_rate", "no effect on a complete graph", 'graph "sparse"'),
    ('withstands = "fully active"\n', 100, "aggregation.withstands", "no effect on a complete", 'graph "sparse"'),
    ('protocol = "oneshot"\ngraph = "sparse"\n', 100, "aggregation.graph", "no effect with protocol oneshot", "secagg"),
    ('graph = "sparse"\ndropout_rate = 0.4\n', 100, "aggregation.graph", "which no degree satisfies", '"complete"'),
    (
        'graph = "sparse"\ncollusion_bound = 5\nminimum_contributors = 94\n',
        100,
        "aggregation.minimum_contributors",
        "94 with 100 silos",
        "95 to 100",
    ),
    ('graph = "sparse"\ncollusion_bound = 5\nthreshold = 10\n', 100, "aggregation.threshold", "10 with 100", "11 to"),
]


@pytest.mark.parametrize(("added", "silos", "key", "problem", "allowed"), MISTAKES)
def test_graph_that_a_run_cannot_have_is_named(
    tmp_path: Path, added: str, silos: int, key: str, problem: str, allowed: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, silos, aggregation=f"[aggregation]\nvalue_range = 8.0\n{added}")
    assert caught.value.key == key
    assert problem in str(caught.value)
    assert allowed in caught.value.allowed


def test_party_with_the_default_floors_takes_part_where_a_third_is_no_whole_number() -> None:
    """202 clients, a third of them 67: the rate 67 / 202 stands for as many as a third does."""
    cohort = Cohort(202, graph="harary", collusion_bound=67, length=3)
    header = cohort.request("c00").header
    session = cohort.fresh_party("c00")
    session.policy = ClientPolicy()
    assert session.inspect(header).phase == "AdvertiseKeys"


def test_threads_of_a_sum_do_not_change_it_and_share_its_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    shared: list[int] = []
    genuine = ThreadWorkers.map

    def counting(self, function, pieces):
        listed = list(pieces)
        shared.append(len(listed))
        return genuine(self, function, listed)

    monkeypatch.setattr(ThreadWorkers, "map", counting)
    values = {
        name: np.arange(300_000, dtype=np.int64) * factor % 1000
        for name, factor in (("north", 3), ("south", 5), ("west", 7))
    }
    sums = {threads: SecureAggregator(list(values), threads=threads).sum(values).sum for threads in (1, 2, 3)}
    for total in sums.values():
        np.testing.assert_array_equal(total, sum(values.values()))
    # Three clients and the server, each with pieces for two and for three threads; none for one.
    assert len(shared) >= 2 * (3 + 1)
    assert max(shared) > 1


def test_threads_of_a_run_do_not_change_its_model(tmp_path: Path) -> None:
    states = []
    for threads in (1, 2):
        directory = tmp_path / str(threads)
        directory.mkdir()
        made = tiny_config(
            directory, private=False, aggregation=f"[aggregation]\nvalue_range = 8.0\nthreads = {threads}\n"
        )
        finished = simulate(*made, directory=directory, task=tiny_task(), output=directory / "runs")
        states.append(finished.result.state.tobytes())
    assert states[0] == states[1]
