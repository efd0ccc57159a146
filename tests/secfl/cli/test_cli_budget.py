"""`secfl budget`: its numbers are those of the accountants, its JSON is what it prints, and it changes nothing."""

from __future__ import annotations

import json
import math
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, finish, start
from small_study import TIGHT, study_text, write_study

from secfl.config import load_config
from secfl.encoding.layout import TensorEntry, TensorLayout
from secfl.federation.keys import load_key
from secfl.federation.setup import noise_multipliers
from secfl.privacy.accounting import noise_multiplier_for, pld_epsilon, rdp_epsilon
from secfl.privacy.events import SampledGaussian
from secfl.privacy.ledger import Ledger
from secfl.report.plan import BudgetAnswer

PLAN = "--mode distributed-dp-sgd --epsilon 3 --delta 1e-6 --rounds 200 --sampling-rate 0.05"
OPTIONS = f"{PLAN} --silos 20 --records 20000 --dimension 650".split()


def answered(secfl: Any, *arguments: object) -> Any:
    result = secfl("budget", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def shared(secfl: Any) -> Any:
    return answered(secfl, *OPTIONS)


def test_noise_for_an_epsilon_is_that_of_the_accountant_and_holds_for_everybody(shared: Any) -> None:
    noise = shared["plan"]["noise_multiplier"]
    assert noise == pytest.approx(noise_multiplier_for(3.0, 1e-6, 0.05, 200), rel=1e-6)
    assert shared["asked_epsilon"] == 3.0
    claims = {claim["adversary"]: claim for claim in shared["claims"]}
    assert [claim["shares"] for claim in claims.values()] == [18, 18, 17, 12]
    assert claims["server with colluding silos"]["epsilon"] == pytest.approx(3.0, rel=1e-6)
    assert max(claim["epsilon"] for claim in claims.values()) <= 3.0
    weaker = [SampledGaussian(0.05, noise * (18 / 12) ** 0.5, 200)]
    assert claims["server"]["epsilon"] == pytest.approx(rdp_epsilon(weaker, 1e-6), rel=1e-6)


def test_what_colluders_dropouts_and_modes_cost_is_in_the_answer(shared: Any) -> None:
    assert [row["epsilon"] is None for row in shared["colluders"]] == [False] * 7 + [True] * 12
    assert [row["contributors"] for row in shared["dropouts"]] == [20, 19, 18, 17]
    assert [row["epsilon"] for row in shared["dropouts"]][-1] is None
    local, distributed, client = shared["modes"]
    assert local["noise"] / distributed["noise"] == pytest.approx(12**0.5, rel=1e-3)
    assert client["mean_of"] == "update of a round"
    assert shared["groups"][1]["epsilon"] == pytest.approx(6.0, rel=1e-6)
    assert shared["accountants"][-1]["standing"] == "approximation"
    assert [point["rounds"] for point in shared["by_rounds"]] == [25 * step for step in range(1, 13)]
    assert shared["by_rounds"][7]["epsilon"] == pytest.approx(3.0, rel=1e-6)


def test_epsilon_of_a_configuration_s_noise(tmp_path: Path, secfl: Any) -> None:
    config = write_study(tmp_path, study_text(private=True))
    found = answered(secfl, config)
    event = [SampledGaussian(0.5, 2.0, 4)]
    assert found["asked_epsilon"] is None
    assert {claim["epsilon"] for claim in found["claims"]} == {pld_epsilon(event, 1e-5)}
    assert [row["epsilon"] for row in found["accountants"]] == [
        rdp_epsilon(event, 1e-5), rdp_epsilon(event, 1e-5), pld_epsilon(event, 1e-5)
    ]  # fmt: skip
    assert found["colluders"] == []
    # Modes are compared at the filter's epsilon, at which the plan's own noise is the smallest.
    assert found["modes_epsilon"] == rdp_epsilon(event, 1e-5)
    assert found["modes"][0]["noise_multiplier"] == pytest.approx(2.0, rel=1e-7)


def test_a_configuration_without_noise_gets_that_of_its_budget_with_spare_rounds(tmp_path: Path, secfl: Any) -> None:
    text = study_text(private=True).replace("noise_multiplier = 2.0\n", "")
    config = write_study(tmp_path, text.replace("delta = 1e-5", "delta = 1e-5\nspare_rounds = 3"))
    found = answered(secfl, config)
    assert found["asked_epsilon"] == 8.0
    assert found["plan"]["rounds"] == 5
    assert found["plan"]["noise_multiplier"] == noise_multiplier_for(8.0, 1e-5, 0.5, 10)


@pytest.mark.parametrize("mode", ["distributed-dp-sgd", "client-level", "local-dp-sgd"])
def test_the_noise_is_what_a_run_of_the_configuration_would_have(mode: str, tmp_path: Path, secfl: Any) -> None:
    text = (ROOT / "examples" / "digits" / "config.toml").read_text()
    text = text.replace('mode = "distributed-dp-sgd"', f'mode = "{mode}"')
    if mode == "client-level":
        text = text.replace("[privacy]", '[privacy]\nunit = "client"')
    if mode == "local-dp-sgd":
        text = text.replace("[aggregation]", "[aggregation]\nvalue_range = 4.0")
    path = write_study(tmp_path, text)
    config, _ = load_config(path)
    layout = TensorLayout((TensorEntry("update", "float32", (650,)),))
    (run,) = set(noise_multipliers(config, layout).values())
    plan = answered(secfl, path, "--dimension", "650")["plan"]
    assert plan["mode"] == mode
    assert plan["noise_multiplier"] == pytest.approx(run, rel=1e-7)
    assert (plan["minimum_contributors"], plan["colluding"]) == (config.minimum_contributors, config.collusion_bound)


def test_a_sparse_graph_is_charged_to_delta(tmp_path: Path, secfl: Any) -> None:
    silos = tuple(f"silo-{number}" for number in range(120))
    text = study_text(silos, private=True, aggregation='graph = "sparse"')
    text = text.replace('mode = "local-dp-sgd"', 'mode = "distributed-dp-sgd"').replace("value_range = 4.0\n", "")
    config = write_study(tmp_path, text.replace("steps_per_round = 2", "steps_per_round = 1"))
    for claim in answered(secfl, config)["claims"]:
        assert claim["delta"] - 1e-5 == pytest.approx((1 + math.exp(claim["epsilon"])) * 2 * 2.0**-40, rel=1e-6)


def test_options_change_a_configuration_and_another_mode_keeps_its_gradient_steps(tmp_path: Path, secfl: Any) -> None:
    config = write_study(tmp_path, study_text(private=True))
    found = answered(secfl, config, "--mode", "distributed-dp-sgd", "--epsilon", "1", "--silos", "30")
    plan = found["plan"]
    assert (plan["rounds"], plan["steps_per_round"], plan["releases"]) == (4, 1, 4)
    assert (plan["silos"], plan["colluding"], plan["minimum_contributors"]) == (30, 10, 27)
    assert plan["noise_multiplier"] == pytest.approx(noise_multiplier_for(1.0, 1e-5, 0.5, 4), rel=1e-6)


def test_tables_say_what_the_json_says_with_spends_rounded_up(shared: Any, secfl: Any) -> None:
    text = secfl("budget", *OPTIONS).stdout
    assert "mode B distributed-dp-sgd, 200 rounds (200 noised sums)" in text
    assert f"Noise multiplier {shared['plan']['noise_multiplier']:.4f}, the smallest for epsilon 3" in text
    assert "from 18 contributors on, 6 of them in league with the server" in text
    assert "Nothing was charged." in text
    for claim in shared["claims"]:
        shown = re.search(rf"{claim['adversary']} +([0-9.]+) ", text)
        assert shown is not None
        assert 0 <= float(shown[1]) - claim["epsilon"] <= 0.001
    assert "c = 6: 3.000; c = 7 and more: nothing, since secagg hides single vectors" in text
    assert "person" not in text


def test_the_json_is_the_published_record(shared: Any, secfl: Any) -> None:
    import msgspec

    read = msgspec.convert(shared, BudgetAnswer)
    assert read.format == "secfl-budget/1"
    assert json.loads(read.to_json()) == shared


def test_the_figure_is_a_file_of_its_own_with_words_for_it(tmp_path: Path, secfl: Any) -> None:
    target = tmp_path / "plan.svg"
    result = secfl("budget", *OPTIONS, "--figure", target)
    assert result.exit_code == 0, result.output
    assert f"Figure: {target}" in result.stdout.replace("\n", "")
    root = ET.fromstring(target.read_bytes())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("role") == "img"
    labels = {element.get("id"): element.text for element in root if element.get("id")}
    assert root.get("aria-labelledby") == "plan-title plan-description"
    assert "3.000 after the 200 planned rounds" in (labels["plan-description"] or "")
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"rounds", "epsilon at delta 1e-06", "noise on a coordinate", "A local", "B distributed"} <= texts
    assert "http://www.w3.org" in target.read_text()
    assert not re.search(r"var\(|matplotlib\.org|purl\.org", target.read_text())
    before = target.read_bytes()
    assert secfl("budget", *OPTIONS, "--figure", target).exit_code == 0
    assert target.read_bytes() == before


class TestLedgers:
    def test_rounds_left_are_those_of_the_ledgers_which_stay_as_they_are(
        self, lifetime_study: Path, secfl: Any
    ) -> None:
        files = {path: path.read_bytes() for path in lifetime_study.parent.rglob("*") if path.is_file()}
        found = answered(secfl, lifetime_study, "--ledgers", "--noise-multiplier", "20")
        assert {path: path.read_bytes() for path in lifetime_study.parent.rglob("*") if path.is_file()} == files
        assert [row["silo"] for row in found["ledgers"]] == ["east", "north", "south", "west"]
        for row in found["ledgers"]:
            assert row["begun"]
            assert row["budget_epsilon"] == TIGHT
            assert 0 < row["spent_epsilon"] < TIGHT
            home = lifetime_study.parent / "ledgers" / row["silo"]
            with Ledger.open(home / "records.ledger", load_key(home / "identity.key")) as ledger:
                left = {level["noise_multiplier"]: level["rounds_left"] for level in row["levels"]}
                assert left == {noise: ledger.steps_left(0.5, noise) // 2 for noise in left}
                assert ledger.steps_left(0.5, 2.0) < 2  # one round of the study's own noise was all
            assert left[60.0] > left[20.0] > left[15.0] > 0

    def test_before_the_first_run_the_whole_budget_is_left(self, tmp_path: Path, secfl: Any) -> None:
        config = write_study(tmp_path, study_text(private=True, rounds=1, ledger="lifetime", epsilon=TIGHT))
        found = answered(secfl, config, "--ledgers")
        assert {(row["begun"], row["remaining_epsilon"]) for row in found["ledgers"]} == {(False, TIGHT)}
        assert {row["levels"][0]["rounds_left"] for row in found["ledgers"]} == {1}
        assert sorted(path.name for path in tmp_path.iterdir()) == ["config.toml", "model.py"]

    def test_a_damaged_ledger_is_named_and_ends_the_command(self, lifetime_study: Path, secfl: Any) -> None:
        path = lifetime_study.parent / "ledgers" / "south" / "records.ledger"
        path.write_bytes(path.read_bytes().replace(b'"noise_multiplier":2.0', b'"noise_multiplier":9.0'))
        result = secfl("budget", lifetime_study, "--ledgers")
        assert result.exit_code == 6
        assert str(path) in result.stderr
        assert result.stdout == ""

    def test_the_roster_s_keys_tell_a_forger(self, lifetime_study: Path, tmp_path: Path, secfl: Any) -> None:
        (run,) = (lifetime_study.parent / "runs").iterdir()
        assert secfl("budget", lifetime_study, "--ledgers", "--roster", run / "roster.toml").exit_code == 0
        home = lifetime_study.parent / "ledgers"
        for suffix in ("", ".mark"):
            shutil.copy(home / "east" / f"records.ledger{suffix}", home / "west" / f"records.ledger{suffix}")
        result = secfl("budget", lifetime_study, "--ledgers")
        assert result.exit_code == 6
        assert "is of silo 'east', but lies in the directory of 'west'" in result.stderr


def test_it_needs_neither_torch_nor_opacus_nor_matplotlib_and_says_so_of_dp_accounting() -> None:
    code = "import sys\nfor name in ('torch', 'opacus', 'matplotlib', 'dp_accounting'): sys.modules[name] = None\n"
    code += "from secfl.cli import main; main()"
    status, output, problems = finish(start("budget", *OPTIONS, code=code))
    assert (status, problems) == (0, "")
    assert "not available: the PLD accountant needs an optional dependency" in output
    status, output, problems = finish(start("budget", *OPTIONS, "--figure", "absent.svg", code=code))
    assert status == 4
    assert "secfl[report]" in problems
    assert not Path("absent.svg").exists()
