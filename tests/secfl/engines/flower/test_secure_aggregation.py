"""Three lines in somebody's Flower app: what the strategy gets, and what the server gets to see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import EXAMPLES, FIRST_NODE, PARTIES, arithmetic, connected, initial_arrays, make_homes, unprotected
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.serverapp.strategy import (
    Bulyan,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    QFedAvg,
    Strategy,
)

from protocols.errors import ConfigError, ThresholdNotMet, UsageError
from secfl.engines.flower import SecureAggregation
from secfl.registry import PROTOCOLS

ROUNDS = 2
MEMBERS = {"min_train_nodes": 4, "min_available_nodes": 4}


def arrays_of(record: ArrayRecord | None) -> dict[str, np.ndarray[Any, Any]]:
    assert record is not None
    return {name: array.numpy() for name, array in record.items()}


def assert_same(found: ArrayRecord | None, expected: ArrayRecord | None, tolerance: float) -> None:
    ours, theirs = arrays_of(found), arrays_of(expected)
    assert list(ours) == list(theirs)
    for name, values in theirs.items():
        assert ours[name].dtype == values.dtype
        assert ours[name].shape == values.shape
        np.testing.assert_allclose(ours[name], values, rtol=0, atol=tolerance)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_fedavg_with_the_mod_equals_fedavg_without(tmp_path: Path, protocol: str) -> None:
    roster, public_context = make_homes(tmp_path, protocol)
    parties = tuple(sorted(str(member.id) for member in roster))
    sampled = len(PARTIES) / len(parties)  # ckks has a key holder, whose node trains nothing
    strategy = FedAvg(fraction_train=sampled, **MEMBERS) if sampled == 1 else _AllBut("key-holder", parties, **MEMBERS)
    secure = SecureAggregation(
        strategy, roster=roster, protocol=protocol, min_contributors=3, public_context=public_context
    )
    found = secure.start(connected(tmp_path, parties), initial_arrays(), num_rounds=ROUNDS)
    expected = FedAvg(**MEMBERS).start(unprotected(), initial_arrays(), num_rounds=ROUNDS)
    # A coordinate of one update is off by at most a step of 2^-12; weighted, by that over 689 examples, in each round.
    assert_same(found.arrays, expected.arrays, ROUNDS * 4 * 2**-12 / 689 + 1e-6)
    assert [row.examples for row in secure.rounds] == [sum(EXAMPLES.values())] * ROUNDS
    assert all(row.contributors == PARTIES for row in secure.rounds)


class _AllBut(FedAvg):
    """Trains on all nodes but one."""

    def __init__(self, left_out: str, parties: tuple[str, ...], **options: Any) -> None:
        super().__init__(**options)
        self.left_out = FIRST_NODE + parties.index(left_out)

    def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Any:
        content = RecordDict({"arrays": arrays, "config": config})
        nodes = [node for node in grid.get_node_ids() if node != self.left_out]
        return self._construct_messages(content, nodes, "train")

    def configure_evaluate(self, *_arguments: Any) -> Any:
        return []


@pytest.mark.parametrize("kind", [FedAdam, FedYogi, FedAdagrad, FedAvgM, FedProx])
def test_strategies_that_average_come_to_the_same_model(tmp_path: Path, kind: type[Any]) -> None:
    roster, _ = make_homes(tmp_path, "oneshot")
    secure = SecureAggregation(kind(**MEMBERS), roster=roster, min_contributors=3)
    found = secure.start(connected(tmp_path), initial_arrays(), num_rounds=ROUNDS)
    expected = kind(**MEMBERS).start(unprotected(), initial_arrays(), num_rounds=ROUNDS)
    # Adaptive optimisers divide by the root of squared updates, about 1e-1: the rounding error grows by that.
    assert_same(found.arrays, expected.arrays, 1e-4)


@pytest.mark.parametrize("kind", [Krum, MultiKrum, Bulyan, FedMedian, FedTrimmedAvg, QFedAvg])
def test_strategies_that_look_at_single_updates_are_refused_by_name(kind: type[Any]) -> None:
    strategy: Strategy = kind(**({"client_learning_rate": 0.1} if kind is QFedAvg else {}))
    with pytest.raises(UsageError, match=rf"strategy: {kind.__name__} .*FedAvg, FedProx"):
        SecureAggregation(strategy)


def test_without_weights_the_mean_is_plain(tmp_path: Path) -> None:
    roster, _ = make_homes(tmp_path, "oneshot")
    secure = SecureAggregation(FedAvg(**MEMBERS), roster=roster, min_contributors=3, weights="uniform")
    found = secure.start(connected(tmp_path), initial_arrays(), num_rounds=1)
    expected = arrays_of(initial_arrays())["bias"] + np.mean([0.1, 0.2, 0.3, 0.4]) + np.arange(3) * 0.01
    np.testing.assert_allclose(arrays_of(found.arrays)["bias"], expected, atol=2**-15)
    assert secure.rounds[0].examples == len(PARTIES)


def test_public_weights_need_the_consent_of_every_node(tmp_path: Path) -> None:
    roster, _ = make_homes(tmp_path, "oneshot")
    weights = {"cleveland": 3, "hungarian": 2, "switzerland": 1, "va": 1}

    def secure() -> SecureAggregation:
        return SecureAggregation(FedAvg(**MEMBERS), roster=roster, min_contributors=3, weights=weights, attempts=1)

    with pytest.raises(ThresholdNotMet) as refused:
        secure().start(connected(tmp_path), initial_arrays(), num_rounds=1)
    assert "weights: proposed {'cleveland': 3" in "".join(refused.value.__notes__)
    text = "[weights]\n" + "".join(f"{name} = {weight}\n" for name, weight in weights.items())
    for party in PARTIES:
        (tmp_path / party / "node.toml").write_text(text)
    found = secure().start(connected(tmp_path), initial_arrays(), num_rounds=1)
    mean = np.average([0.1, 0.2, 0.3, 0.4], weights=list(weights.values()))
    np.testing.assert_allclose(arrays_of(found.arrays)["bias"], mean + np.arange(3) * 0.01, atol=2**-12)


def test_a_node_gets_three_messages_a_round_under_oneshot_and_five_under_secagg(tmp_path: Path) -> None:
    counts = {}
    for protocol in ("oneshot", "secagg"):
        roster, _ = make_homes(tmp_path / protocol, protocol)
        grid = connected(tmp_path / protocol)
        secure = SecureAggregation(FedAvg(**MEMBERS), roster=roster, protocol=protocol, min_contributors=3)
        secure.start(grid, initial_arrays(), num_rounds=1)
        counts[protocol] = [kind for node, kind in grid.sent if node == FIRST_NODE].count("train")
    assert counts == {"oneshot": 1 + 3, "secagg": 1 + 5}  # with the roll call, once a run


def test_no_update_metric_or_key_is_on_the_wire(tmp_path: Path) -> None:
    roster, _ = make_homes(tmp_path, "oneshot")
    grid = connected(tmp_path)
    secure = SecureAggregation(FedAvg(**MEMBERS), roster=roster, min_contributors=3)
    result = secure.start(grid, initial_arrays(), num_rounds=1)
    wire = b"".join(grid.wire)
    start = arrays_of(initial_arrays())
    for party in PARTIES:
        trained = arithmetic(party, _training_message())["arrays"]
        assert isinstance(trained, ArrayRecord)
        for name, array in arrays_of(trained).items():
            assert array.tobytes() not in wire
            assert (array - start[name]).tobytes() not in wire
    assert start["weight"].tobytes() in wire  # what is looked for would be found
    assert np.float64(0.8675309).tobytes() not in wire
    assert result.train_metrics_clientapp == {1: {}}


def _training_message() -> Message:
    return Message(RecordDict({"arrays": initial_arrays()}), 1, "train")


def test_a_roster_must_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECFL_ROSTER", raising=False)
    with pytest.raises(ConfigError, match=r"^roster: missing; allowed: .*SECFL_ROSTER"):
        SecureAggregation(FedAvg())


def test_a_model_with_integers_is_refused_by_the_tensors_name(tmp_path: Path) -> None:
    roster, _ = make_homes(tmp_path, "oneshot")
    arrays = initial_arrays()
    arrays["bn.num_batches_tracked"] = Array(np.array(3))
    with pytest.raises(Exception, match=r"bn\.num_batches_tracked"):
        SecureAggregation(FedAvg(**MEMBERS), roster=roster).start(connected(tmp_path), arrays, num_rounds=1)


def test_evaluation_passes_as_it_is(tmp_path: Path) -> None:
    roster, _ = make_homes(tmp_path, "oneshot")
    secure = SecureAggregation(FedAvg(**MEMBERS), roster=roster, min_contributors=3)
    result = secure.start(connected(tmp_path), initial_arrays(), num_rounds=1)
    assert result.evaluate_metrics_clientapp == {1: {"accuracy": 0.5}}
