"""Mode C in somebody's app: the mod clips and adds noise, the node's own numbers and ledger decide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import PARTIES, arithmetic, connected, initial_arrays, make_homes
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAvg

from protocols.errors import ThresholdNotMet, UsageError
from protocols.identity import Roster
from secfl.engines.flower import ClientLevelNoise, SecureAggregation
from secfl.privacy.ledger_summary import LedgerSummary, verify

MEMBERS = {"min_train_nodes": 4, "min_available_nodes": 4}
NOISE = ClientLevelNoise(clip_norm=0.5, noise_multiplier=1.5)
PRIVACY = """
[privacy]
epsilon = {epsilon}
delta = 1e-5
clip_norm = {clip_norm}
noise_multiplier = {noise_multiplier}
clients = 4
rounds = 2
"""


def private_homes(
    base: Path, *, epsilon: float = 20.0, clip_norm: float = 0.5, noise_multiplier: float = 1.5
) -> Roster:
    roster, _ = make_homes(base, "oneshot")
    text = PRIVACY.format(epsilon=epsilon, clip_norm=clip_norm, noise_multiplier=noise_multiplier)
    for party in PARTIES:
        (base / party / "node.toml").write_text(text)
    return roster


def secure(roster: Roster, noise: ClientLevelNoise | None = NOISE, **options: Any) -> SecureAggregation:
    weights = "uniform" if noise else "examples"
    return SecureAggregation(
        FedAvg(**MEMBERS), roster=roster, min_contributors=3, weights=weights, noise=noise, attempts=1, **options
    )


def ledger(base: Path, roster: Roster, party: str) -> LedgerSummary:
    return verify(base / party / "clients.ledger", roster.member(party).identity_key)


def refusals(failed: ThresholdNotMet) -> str:
    return "\n".join(failed.__notes__)


def test_the_mean_is_that_of_clipped_updates_with_the_noise_of_the_sum(tmp_path: Path) -> None:
    roster = private_homes(tmp_path)
    aggregation = secure(roster)
    result = aggregation.start(connected(tmp_path), initial_arrays(), num_rounds=1)
    start = initial_arrays()
    updates = []
    for party in PARTIES:
        trained = arithmetic(party, Message(RecordDict({"arrays": start}), 1, "train"))["arrays"]
        assert isinstance(trained, ArrayRecord)
        update = np.concatenate([(trained[name].numpy() - start[name].numpy()).ravel() for name in start])
        updates.append(update * min(1.0, 0.5 / np.linalg.norm(update)))
    found = np.concatenate([(result.arrays[name].numpy() - start[name].numpy()).ravel() for name in start])
    residual = found - np.mean(updates, axis=0)
    # Four shares, each made for T_min - c = 3 - 1 = 2 of them: sigma of the mean is z c sqrt(4 / 2) / 4.
    sigma = 1.5 * 0.5 * np.sqrt(2) / 4
    assert 0.4 * sigma < np.std(residual) < 2.2 * sigma  # 15 coordinates: beyond it once in 10^6 runs
    assert aggregation.rounds[0].examples == 4


def test_every_node_charges_its_own_ledger_and_stops_when_its_budget_is_spent(tmp_path: Path) -> None:
    roster = private_homes(tmp_path, epsilon=8.0)
    secure(roster).start(connected(tmp_path), initial_arrays(), num_rounds=1)
    spent = {party: ledger(tmp_path, roster, party).spent.filter_epsilon for party in PARTIES}
    assert all(0 < epsilon <= 8.0 for epsilon in spent.values())
    with pytest.raises(ThresholdNotMet) as failed:
        secure(roster).start(connected(tmp_path), initial_arrays(), num_rounds=20)
    assert "requested epsilon" in refusals(failed.value)
    summary = ledger(tmp_path, roster, "va")
    assert summary.budget.unit == "client"
    assert summary.spent.filter_epsilon <= 8.0
    assert len(summary.releases) > 1


@pytest.mark.parametrize(
    ("noise", "named"),
    [
        (ClientLevelNoise(clip_norm=0.5, noise_multiplier=1.4), "noise multiplier: proposed 1.4"),
        (ClientLevelNoise(clip_norm=0.6, noise_multiplier=1.5), "clip norm: proposed 0.6"),
        (None, "noise: proposed none"),
    ],
)
def test_less_than_a_nodes_own_numbers_is_refused_by_name(
    tmp_path: Path, noise: ClientLevelNoise | None, named: str
) -> None:
    roster = private_homes(tmp_path)
    with pytest.raises(ThresholdNotMet) as failed:
        secure(roster, noise).start(connected(tmp_path), initial_arrays(), num_rounds=1)
    assert refusals(failed.value).count(named) == len(PARTIES)
    assert not (tmp_path / "va" / "clients.ledger").exists()


def test_noise_made_for_fewer_colluders_than_a_node_assumes_is_refused(tmp_path: Path) -> None:
    roster = private_homes(tmp_path)
    aggregation = secure(roster, collusion_bound=0, protocol="secagg")
    with pytest.raises(ThresholdNotMet) as failed:
        aggregation.start(connected(tmp_path), initial_arrays(), num_rounds=1)
    assert "collusion bound" in refusals(failed.value)


def test_a_server_asks_for_no_noise_of_nodes_without_a_budget(tmp_path: Path) -> None:
    roster, _ = make_homes(tmp_path, "oneshot")
    with pytest.raises(ThresholdNotMet) as failed:
        secure(roster).start(connected(tmp_path), initial_arrays(), num_rounds=1)
    assert "noise: proposed some, this party requires none without a budget" in refusals(failed.value)


def test_an_update_that_is_not_finite_is_sent_as_noise_and_noted_at_the_node(tmp_path: Path) -> None:
    roster = private_homes(tmp_path)

    def train(party: str, message: Message) -> RecordDict:
        content = arithmetic(party, message)
        if party == "va":
            arrays = content["arrays"]
            assert isinstance(arrays, ArrayRecord)
            arrays["bias"] = Array(np.full(3, np.nan, np.float32))
        return content

    aggregation = secure(roster)
    aggregation.start(connected(tmp_path, train=train), initial_arrays(), num_rounds=1)
    assert aggregation.rounds[0].contributors == PARTIES
    assert '"left_out": 1' in (tmp_path / "va" / "local.jsonl").read_text()
    assert '"left_out": 0' in (tmp_path / "cleveland" / "local.jsonl").read_text()


def test_noise_goes_with_uniform_weights_alone(tmp_path: Path) -> None:
    roster, _ = make_homes(tmp_path, "oneshot")
    with pytest.raises(UsageError, match="weights: 'examples' with noise; allowed: 'uniform'"):
        SecureAggregation(FedAvg(), roster=roster, noise=NOISE)
