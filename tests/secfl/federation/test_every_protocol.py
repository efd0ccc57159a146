"""One word in the configuration: under each protocol the same seeds open the same integers, those of the plain sum."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
from every_protocol import NAMES, Recorded, run_under
from small_study import SILOS, study_text, write_study

from protocols.identity import Role
from secfl.config import load_config
from secfl.engines import Incident
from secfl.registry import PROTOCOLS

EXAMPLES = Path(__file__).parents[3] / "examples"

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing", "ignore:Optimal order")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def contribution_of(protocol: str) -> str:
    """The phase in which vectors travel."""
    return "MaskedInput" if protocol == "secagg" else "Contribution"


def check_sums(runs: dict[str, Recorded], rounds: int) -> None:
    """Word for word: the sums of all protocols, in every round, and the plain sum of the encoded vectors."""
    for name, run in runs.items():
        assert (run.result.status, run.result.reason) == ("completed", ""), name
        assert len(run.sums()) == rounds
        for opened, plain in zip(run.sums(), run.plain_sums(), strict=True):
            assert opened.any()
            np.testing.assert_array_equal(opened.astype(np.uint64), plain)
    first, *others = runs.values()
    for other in others:
        for mine, theirs in zip(first.sums(), other.sums(), strict=True):
            assert mine.dtype == theirs.dtype
            np.testing.assert_array_equal(mine, theirs)
        assert other.result.state.tobytes() == first.result.state.tobytes()
    sums = first.sums()
    assert all(not np.array_equal(before, after) for before, after in pairwise(sums))


def reproducible(folder: str, configuration: str, rounds: int) -> str:
    """An example's configuration without privacy, a few rounds long, its randomness from its seed."""
    config, _ = load_config(EXAMPLES / folder / configuration)
    values = config.model_dump(exclude_none=True)
    values.pop("privacy", None)
    values["run"] |= {"rounds": rounds, "reproducible": True}
    values["aggregation"].pop("protocol")
    training = values["training"]
    kept = {key: training[key] for key in ("sampling_rate", "learning_rate", "steps_per_round", "momentum")}
    values["training"] = {**kept, "mode": "none"}
    values["server"] = {key: values["server"][key] for key in ("optimiser", "learning_rate", "momentum")}
    return tomli_w.dumps(values)


def test_heart_opens_the_same_integers_under_every_protocol(tmp_path: Path) -> None:
    text = reproducible("heart", "config.toml", rounds=3)
    runs = {name: run_under(name, text, EXAMPLES / "heart", tmp_path / name) for name in NAMES}
    check_sums(runs, rounds=3)
    weights = runs["secagg"].plan.weights
    assert weights == {"cleveland": 227, "hungarian": 220, "switzerland": 92, "va": 150}


def test_loans_open_the_same_integers_under_every_protocol(tmp_path: Path) -> None:
    text = reproducible("loans", "config_plain.toml", rounds=2)
    runs = {name: run_under(name, text, EXAMPLES / "loans", tmp_path / name) for name in NAMES}
    check_sums(runs, rounds=2)
    assert all(len(run.opened[0][2].contributors) == 12 for run in runs.values())


@pytest.mark.parametrize("protocol", NAMES)
def test_heart_runs_privately_under_every_protocol_and_is_charged_the_same(tmp_path: Path, protocol: str) -> None:
    text = (EXAMPLES / "heart" / "config.toml").read_text().replace("rounds = 10", "rounds = 2")
    run = run_under(protocol, text, EXAMPLES / "heart", tmp_path)
    assert run.result.status == "completed"
    assert [row.contributors for row in run.result.rounds] == [tuple(run.parties.silos)] * 2
    spent = run.result.rounds[-1].epsilon
    assert len(spent) == 4
    event = run.plan.event("va")
    assert (event.steps, event.sampling_rate) == (2, 0.5)
    assert all(2.9 < epsilon <= 3.0 for epsilon in spent.values())


@pytest.mark.parametrize("protocol", NAMES)
def test_whoever_is_lost_before_contributing_is_left_out_of_the_same_sum(tmp_path: Path, protocol: str) -> None:
    write_study(tmp_path, text := study_text(run="reproducible = true"))
    incident = Incident("north", contribution_of(protocol), round=1)
    run = run_under(protocol, text, tmp_path, tmp_path / "home", incident)
    assert [aggregate.contributors for _, _, aggregate in run.opened] == [("east", "south", "west"), SILOS]
    check_sums({protocol: run}, rounds=2)


@pytest.mark.parametrize("protocol", NAMES)
def test_whoever_is_lost_after_contributing_is_in_the_same_sum(tmp_path: Path, protocol: str) -> None:
    write_study(tmp_path, text := study_text(run="reproducible = true"))
    after = list(PROTOCOLS[protocol].phases)
    after = after[after.index(contribution_of(protocol)) + 1 :]
    asked = [phase for phase in after if PROTOCOLS[protocol].phases[phase] is not Role.KEY_HOLDER]
    incidents = [Incident("north", phase, round=1) for phase in asked[:1]]
    run = run_under(protocol, text, tmp_path, tmp_path / "home", *incidents)
    assert [aggregate.contributors for _, _, aggregate in run.opened] == [SILOS, SILOS]
    check_sums({protocol: run}, rounds=2)


def test_a_named_committee_opens_and_its_missing_member_does_not_matter(tmp_path: Path) -> None:
    committee = 'committee = ["east", "north", "west"]\ncollusion_bound = 0'
    write_study(tmp_path, text := study_text(run="reproducible = true", aggregation=committee))
    run = run_under("oneshot", text, tmp_path, tmp_path / "home", Incident("north", "Opening"))
    assert run.parties.roster.member("south").sealing_key == b""
    for row in run.result.rounds:
        opening = next(phase for phase in row.phases if phase.phase == "Opening")
        assert (opening.answered, opening.dropped) == (("east", "west"), ("north",))
        assert row.contributors == SILOS
    check_sums({"oneshot": run}, rounds=2)


def test_a_committee_below_its_threshold_opens_nothing_and_the_round_is_tried_again(tmp_path: Path) -> None:
    write_study(tmp_path, text := study_text(rounds=1))
    incidents = [Incident(silo, "Opening", attempt=0) for silo in ("north", "west")]
    run = run_under("oneshot", text, tmp_path, tmp_path / "home", *incidents)
    assert [row.failure for row in run.result.rounds] == ["Opening: 2 parties present, 3 required", ""]
    assert len(run.opened) == 1


def test_silos_that_are_not_asked_in_a_round_still_open_it(tmp_path: Path) -> None:
    """Three of four silos train; all four are on the committee."""
    text = study_text(run="reproducible = true", rest="[server]\ncohort_size = 3\n")
    write_study(tmp_path, text)
    run = run_under("oneshot", text, tmp_path, tmp_path / "home")
    for row in run.result.rounds:
        phases = {phase.phase: phase.answered for phase in row.phases}
        assert len(phases["Contribution"]) == len(row.contributors) == 3
        assert phases["Opening"] == SILOS
    check_sums({"oneshot": run}, rounds=2)


def test_without_its_key_holder_a_run_under_ckks_halts_with_the_reason(tmp_path: Path) -> None:
    write_study(tmp_path, text := study_text(rounds=1, aggregation="attempts = 1"))
    run = run_under("ckks", text, tmp_path, tmp_path / "home", Incident("key-holder", "Decryption"))
    assert run.result.status == "halted"
    assert "Decryption: 0 parties present, 1 required" in run.result.reason
    assert run.opened == []


def test_the_key_holder_is_a_party_of_its_own_without_ledger_or_records(tmp_path: Path) -> None:
    write_study(tmp_path, text := study_text(private=True, rounds=1))
    run = run_under("ckks", text, tmp_path, tmp_path / "home")
    assert list(run.parties.offices) == ["key-holder"]
    assert set(run.parties.ledgers) == set(run.parties.silos) == set(SILOS)
    files = sorted(path.name for path in (tmp_path / "home" / "ledgers" / "key-holder").iterdir())
    assert files == ["answers.log", "answers.log.lock", "identity.key", "identity.key.ckks"]
    key = tmp_path / "home" / "ledgers" / "key-holder" / "identity.key.ckks"
    assert key.stat().st_mode & 0o777 == 0o600
    assert all(row.contributors == SILOS for row in run.result.rounds)


@pytest.mark.parametrize("protocol", NAMES)
def test_roles_of_a_run_are_those_of_its_roster(tmp_path: Path, protocol: str) -> None:
    write_study(tmp_path, text := study_text(rounds=1))
    run = run_under(protocol, text, tmp_path, tmp_path / "home")
    cast, entry = run.plan.config.cast, PROTOCOLS[protocol]
    for name, party in run.parties.answering.items():
        identity = party.identity  # type: ignore[attr-defined]
        assert entry.roles(identity, run.parties.roster, SILOS) == cast.roles(name)
