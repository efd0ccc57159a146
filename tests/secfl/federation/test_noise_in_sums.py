"""Modes B and C end to end: every protocol opens the same noised integers, and what silos do depends on no record."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from every_protocol import NAMES, run_under
from small_study import SILOS, noised_text, open_study, write_study

from protocols.errors import ConfigError
from secfl.config import load_config
from secfl.engines import Incident
from secfl.federation.randomness import seeded
from secfl.federation.setup import plan_run
from secfl.federation.work import contribution, own_scheme
from secfl.privacy.events import DistributedGaussian
from secfl.privacy.mechanism import DistributedMechanism
from secfl.registry import PROTOCOLS

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")

MODES = ("distributed-dp-sgd", "client-level")


def contribution_of(protocol: str) -> str:
    return "MaskedInput" if protocol == "secagg" else "Contribution"


@pytest.mark.parametrize("mode", MODES)
def test_every_protocol_opens_the_same_noised_words_and_they_are_the_plain_sum(tmp_path: Path, mode: str) -> None:
    write_study(tmp_path, text := noised_text(mode))
    runs = [run_under(name, text, tmp_path, tmp_path / name, randomness=seeded(3)) for name in NAMES]
    for run in runs:
        assert (run.result.status, run.result.reason) == ("completed", "")
        assert len(run.sums()) == 2
        for opened, plain in zip(run.sums(), run.plain_sums(), strict=True):
            np.testing.assert_array_equal(opened.astype(np.uint64), plain)
        assert run.result.state.tobytes() == runs[0].result.state.tobytes()
    assert not np.array_equal(*runs[0].sums())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("protocol", NAMES)
def test_a_silo_lost_before_it_contributes_leaves_a_sum_at_the_floor(tmp_path: Path, protocol: str, mode: str) -> None:
    write_study(tmp_path, text := noised_text(mode, rounds=1))
    run = run_under(protocol, text, tmp_path, tmp_path / "home", Incident("north", contribution_of(protocol)))
    assert run.result.rounds[-1].contributors == ("east", "south", "west")
    assert run.plan.scheme.minimum_contributors == 3
    # Whoever was not in the sum was not charged.
    assert run.result.rounds[-1].epsilon["north"] == 0.0
    assert run.result.rounds[-1].epsilon["east"] > 0.0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("protocol", "phase"),
    [(name, phase) for name in ("secagg", "oneshot") for phase in PROTOCOLS[name].phases],
)
def test_one_silo_lost_in_any_phase_leaves_a_round_that_completes(
    tmp_path: Path, protocol: str, phase: str, mode: str
) -> None:
    write_study(tmp_path, text := noised_text(mode, rounds=1))
    run = run_under(protocol, text, tmp_path, tmp_path / "home", Incident("west", phase))
    assert run.result.status == "completed"
    assert set(SILOS[:3]) <= set(run.result.rounds[-1].contributors)


@pytest.mark.parametrize("mode", MODES)
def test_fewer_contributors_than_the_floor_open_nothing(tmp_path: Path, mode: str) -> None:
    write_study(tmp_path, text := noised_text(mode, rounds=1, aggregation="attempts = 1"))
    lost = [Incident(silo, "MaskedInput") for silo in ("north", "west")]
    run = run_under("secagg", text, tmp_path, tmp_path / "home", *lost)
    assert run.result.status == "halted"
    assert run.opened == []


@pytest.mark.parametrize("mode", MODES)
def test_empty_one_sided_and_broken_records_contribute_messages_of_the_same_size(tmp_path: Path, mode: str) -> None:
    silos = ("east", "hollow", "uniform", "broken")
    with open_study(tmp_path, noised_text(mode, silos, rounds=1)) as study:
        engine = study.engine()
        row = study.run(engine).rounds[-1]
        assert row.contributors == tuple(sorted(silos))
        notes = {}
        for silo in silos:
            lines = (tmp_path / "ledgers" / silo / "local.jsonl").read_text().splitlines()
            notes[silo] = json.loads(lines[-1])
        assert len({note["coordinates"] for note in notes.values()}) == 1
        assert notes["broken"]["left_out"] == (1 if mode == "client-level" else notes["broken"]["records"])
        assert notes["east"]["left_out"] == 0
        if mode == "distributed-dp-sgd":
            assert notes["hollow"]["records"] == 0
            assert notes["broken"]["records"] > 5
        assert all(study.states(silo) == {"1/0": "committed"} for silo in silos)


@pytest.mark.parametrize("mode", MODES)
def test_a_silo_with_higher_floors_than_the_session_refuses_it(tmp_path: Path, mode: str) -> None:
    with open_study(tmp_path, noised_text(mode, rounds=1)) as study:
        silo = study.parties.silos["east"]
        policy = replace(silo._policy, minimum_contributors=4)
        silo._policy, silo._scheme = policy, own_scheme(study.plan, policy)
        row = study.run(study.engine()).rounds[-1]
        refusals = [fault.text for phase in row.phases for fault in phase.faults if fault.party == "east"]
        assert refusals == ["[SP-7] minimum contributors: proposed 3, this party requires 4 to 4"]
        assert study.states("east") == {}


@pytest.mark.parametrize("mode", MODES)
def test_a_silo_whose_noise_is_made_for_more_colluders_refuses_other_noise(tmp_path: Path, mode: str) -> None:
    """Its protocol floors are met; its share would be larger than the one that the server proposes."""
    with open_study(tmp_path, noised_text(mode, rounds=1)) as study:
        silo = study.parties.silos["east"]
        silo._scheme = own_scheme(study.plan, replace(silo._policy, collusion_bound=2))
        assert isinstance(silo._scheme, DistributedMechanism)
        assert isinstance(study.plan.scheme, DistributedMechanism)
        assert silo._scheme.plan.share_sigma > 1.4 * study.plan.scheme.plan.share_sigma
        row = study.run(study.engine()).rounds[-1]
        refusals = [fault.text for phase in row.phases for fault in phase.faults if fault.party == "east"]
        assert len(refusals) == 1
        assert refusals[0].startswith("encoding: ")
        assert study.states("east") == {}
        assert row.contributors == ("north", "south", "west")


@pytest.mark.parametrize("mode", MODES)
def test_the_ledger_is_charged_for_the_strongest_adversary_at_the_floor(tmp_path: Path, mode: str) -> None:
    with open_study(tmp_path, noised_text(mode, rounds=2)) as study:
        study.run(study.engine())
        events = {release.reservation.event for release in study.parties.ledgers["east"].releases()}
        (event,) = events
        assert isinstance(event, DistributedGaussian)
        # Three contributors at the fewest, one of them in league with the server.
        assert (event.shares, event.known_shares, event.steps, event.dimension) == (2, 1, 1, 4)
        assert event.sampling_rate == (0.5 if mode == "distributed-dp-sgd" else 1.0)
        assert event.noise_multiplier == pytest.approx(2.0)


@pytest.mark.parametrize("mode", MODES)
def test_noise_that_is_left_to_the_library_uses_the_budget_up_and_not_more(tmp_path: Path, mode: str) -> None:
    text = noised_text(mode, rounds=3).replace("noise_multiplier = 2.0\n", "")
    with open_study(tmp_path, text) as study:
        result = study.run(study.engine())
        assert result.status == "completed"
        assert all(7.99 < spent <= 8.0 for spent in result.rounds[-1].epsilon.values())


@pytest.mark.parametrize("mode", MODES)
def test_a_spent_budget_halts_the_run_with_the_reason(tmp_path: Path, mode: str) -> None:
    noise = "1.0" if mode == "distributed-dp-sgd" else "1.7"
    text = noised_text(mode, rounds=3, epsilon=4.5).replace("noise_multiplier = 2.0", f"noise_multiplier = {noise}")
    with open_study(tmp_path, text) as study:
        result = study.run(study.engine())
        assert result.status == "halted"
        assert "the privacy budget of east, north, south, west is spent" in result.reason
        assert max(result.rounds[-1].epsilon.values()) <= 4.5


def test_the_step_of_mode_b_is_the_mean_gradient_by_the_public_divisor(tmp_path: Path) -> None:
    """With next to no noise the step is minus the rate times the gradient sum over q times the nominal sizes."""
    text = noised_text("distributed-dp-sgd", rounds=1, epsilon=1e9).replace(
        "sampling_rate = 0.5", "sampling_rate = 1.0"
    )
    text = text.replace("noise_multiplier = 2.0", "noise_multiplier = 0.001").replace(
        "clip_norm = 1.0", "clip_norm = 9.0"
    )
    with open_study(tmp_path, text) as study:
        result = study.run(study.engine())
        total = np.zeros(4)
        for silo in SILOS:
            inputs, targets = (tensor.double() for tensor in study.plan.task.silo_data(silo, 0).train.tensors)
            difference = 0.5 - targets  # the model starts at zero
            total += np.append((difference[:, None] * inputs).sum(0), difference.sum())
        np.testing.assert_allclose(result.state, -0.5 * total / (4 * 40), atol=1e-3)


def test_more_than_twice_the_declared_records_are_refused_before_anything_is_released(tmp_path: Path) -> None:
    text = noised_text("distributed-dp-sgd").replace("nominal_size = 40", "nominal_size = 19", 1)
    config, _ = load_config(write_study(tmp_path, text))
    plan = plan_run(config, tmp_path)
    with pytest.raises(ConfigError, match="19 is less than half of the records that silo 'east' has"):
        contribution(plan, config.silo[0])


@pytest.mark.parametrize(("mode", "rounding"), [("distributed-dp-sgd", "stochastic"), ("client-level", "conditional")])
def test_words_of_few_bits_are_rotated_and_open_the_plain_sum(tmp_path: Path, mode: str, rounding: str) -> None:
    few = f'value_bits = 16\nrotation = true\nrounding = "{rounding}"'
    write_study(tmp_path, text := noised_text(mode, aggregation=few))
    run = run_under("secagg", text, tmp_path, tmp_path / "home", randomness=seeded(3))
    assert run.result.status == "completed"
    scheme = run.plan.scheme
    assert isinstance(scheme, DistributedMechanism)
    assert (scheme.modulus_bits, scheme.rotation_block, scheme.wrap_probability) == (16, 16, 2.0**-20)
    for opened, plain in zip(run.sums(), run.plain_sums(), strict=True):
        assert opened.size == 16  # four parameters, padded to a block
        assert int(opened.max()) < 2**16
        np.testing.assert_array_equal(opened.astype(np.uint64), plain)
    event = next(run.parties.ledgers["east"].releases()).reservation.event
    assert event.dimension == 16
