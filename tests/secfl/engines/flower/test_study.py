"""`secfl run --engine flower` without its processes: the same apps over the loopback grid."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp
from loopback import RUN, LoopbackGrid
from safetensors.numpy import load_file
from small_study import SILOS, noised_text, study_text, write_study

from protocols.errors import ConfigError
from protocols.identity import Roster
from secfl.config import load_config
from secfl.engines.flower.run_server import PUBLIC_CONTEXT, RUN_DIRECTORY, serve_study
from secfl.engines.flower.study import STUDY, answer_study, check_engine
from secfl.federation.identities import load_or_create_identity
from secfl.federation.roster_file import write_roster
from secfl.federation.session import begin_run, simulate
from secfl.federation.verification import verify_report
from secfl.registry import PROTOCOLS
from secfl.report.model import RunReport

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing", "ignore:Optimal order")


class Deployed:
    """A study on a grid: each party has its folder, all read one configuration file."""

    def __init__(self, base: Path, text: str) -> None:
        self.path = write_study(base / "study", text)
        config, text = load_config(self.path)
        cast = config.cast
        self.homes = {name: base / "homes" / name for name in (*cast.clients, *cast.offices)}
        identities = [
            load_or_create_identity(home / "identity.key", name, cast.roles(name), os.urandom)
            for name, home in self.homes.items()
        ]
        self.roster = Roster(identity.member() for identity in identities)
        self.directory = begin_run(config, text, self.path.parent, base / "runs")
        for folder in (*self.homes.values(), self.directory):
            write_roster(folder / "roster.toml", self.roster)
        public = config.protocol.public_context(identities)
        if public:
            (self.directory / PUBLIC_CONTEXT).write_bytes(public)

    @classmethod
    def again(cls, before: Deployed, base: Path) -> Deployed:
        """Another run of the same silos."""
        deployed = cls.__new__(cls)
        deployed.path, deployed.homes, deployed.roster = before.path, before.homes, before.roster
        config, text = load_config(before.path)
        deployed.directory = begin_run(config, text, before.path.parent, base / "runs")
        write_roster(deployed.directory / "roster.toml", before.roster)
        return deployed

    def grid(self, studies: dict[str, Path] | None = None, **hooks: Any) -> LoopbackGrid:
        """Nodes in the order opposite to the configuration's, in which they answer."""
        grid = LoopbackGrid(**hooks)
        app = ClientApp()
        app.train()(answer_study)
        for number, (name, home) in enumerate(reversed(self.homes.items())):
            study = (studies or {}).get(name, self.path)
            grid.apps[3000 + number] = (app, {"secfl-home": str(home), STUDY: str(study)})
        return grid

    def run(self, grid: LoopbackGrid) -> RunReport:
        serve_study(grid, Context(RUN, 1, {}, RecordDict(), {RUN_DIRECTORY: str(self.directory)}))
        return RunReport.from_json((self.directory / "report.json").read_bytes())

    def model(self) -> dict[str, bytes]:
        return {name: v.tobytes() for name, v in load_file(self.directory / "model.safetensors").items()}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_same_seeds_give_the_same_model_as_the_embedded_engine_bit_for_bit(tmp_path: Path, protocol: str) -> None:
    text = study_text(run="reproducible = true", aggregation=f'protocol = "{protocol}"')
    deployed = Deployed(tmp_path, text)
    report = deployed.run(deployed.grid())
    config, text = load_config(deployed.path)
    embedded = simulate(config, text, deployed.path.parent, output=tmp_path / "embedded")
    theirs = load_file(embedded.directory / "model.safetensors")
    assert deployed.model() == {name: values.tobytes() for name, values in theirs.items()}
    assert any(np.any(values) for values in theirs.values())
    assert (report.engine, report.simulation, report.status) == ("flower", False, "completed")
    assert [row.contributors for row in report.rounds] == [SILOS] * 2
    assert report.evaluation.value == embedded.report.evaluation.value


PRIVATE = {
    "local-dp-sgd": study_text(private=True, aggregation='protocol = "oneshot"'),
    "distributed-dp-sgd": noised_text("distributed-dp-sgd", aggregation='protocol = "oneshot"'),
    "client-level": noised_text("client-level", aggregation='protocol = "oneshot"', epsilon=20.0),
}


@pytest.mark.parametrize("mode", PRIVATE)
def test_in_every_privacy_mode_the_report_has_every_silos_ledger_signed(tmp_path: Path, mode: str) -> None:
    deployed = Deployed(tmp_path, PRIVATE[mode])
    report = deployed.run(deployed.grid())
    config, text = load_config(deployed.path)
    embedded = simulate(config, text, deployed.path.parent, output=tmp_path / "embedded").report
    assert (report.status, report.status_reason) == ("completed", "")
    assert [claim.sentence for claim in report.claims] == [claim.sentence for claim in embedded.claims]
    assert [silo.spent_epsilon for silo in report.silos] == [silo.spent_epsilon for silo in embedded.silos]
    assert all(silo.spent_epsilon for silo in report.silos)
    assert all(len(silo.head_signature) == 128 for silo in report.silos)
    assert [len(silo.releases) for silo in report.silos] == [len(silo.releases) for silo in embedded.silos]
    assert [sorted(row.epsilon) for row in report.rounds] == [sorted(SILOS)] * 2
    found = verify_report(deployed.directory / "report.json")
    assert found.ledger_lines > 4 * 3


def test_a_report_of_lifetime_ledgers_verifies_against_the_servers_copies(tmp_path: Path) -> None:
    deployed = Deployed(tmp_path, study_text(private=True, ledger="lifetime", aggregation='protocol = "oneshot"'))
    deployed.run(deployed.grid())
    found = verify_report(deployed.directory / "report.json", ledgers=deployed.directory / "copies")
    assert found.ledger_lines > 4 * 3


def test_a_silo_with_another_configuration_takes_no_part(tmp_path: Path) -> None:
    deployed = Deployed(tmp_path, study_text(rounds=1, aggregation='protocol = "oneshot"'))
    other = write_study(tmp_path / "other", study_text(rounds=3, aggregation='protocol = "oneshot"'))
    report = deployed.run(deployed.grid({"west": other}))
    assert report.rounds[0].contributors == SILOS[:3]
    (fault,) = [fault for phase in report.rounds[0].phases[:1] for fault in phase.faults]
    assert fault.party == "west"


def test_a_spent_budget_ends_the_run_by_name(tmp_path: Path) -> None:
    text = study_text(private=True, epsilon=2.2, ledger="lifetime", aggregation='protocol = "oneshot"')
    deployed = Deployed(tmp_path, text)
    report = deployed.run(deployed.grid())
    assert report.status == "halted"
    assert report.status_reason.startswith("round 2: the privacy budget of east, north, south, west is spent")


def test_a_run_that_was_interrupted_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    text = study_text(run="reproducible = true", rounds=3, aggregation='protocol = "oneshot"')
    whole = Deployed(tmp_path / "whole", text)
    whole.run(whole.grid())
    cut = Deployed(tmp_path / "cut", text)
    seen = 0

    class Killed(BaseException):
        pass

    def kill(_node: int, message: Any) -> Any:
        nonlocal seen
        seen += "secfl.context" in message.content
        if seen > 4 + 1:  # in the middle of the second round
            raise Killed
        return message

    with pytest.raises(Killed):
        cut.run(cut.grid(on_request=kill))
    report = cut.run(cut.grid())
    assert [(row.number, row.completed) for row in report.rounds] == [(1, True), (2, True), (3, True)]
    assert report.rounds[1].attempt == 1  # the interrupted attempt is never taken up again
    assert report.rounds[0].session != ""


def test_what_only_the_embedded_engine_does_is_refused_by_its_key(tmp_path: Path) -> None:
    incident = '[[simulation.incidents]]\nparty = "west"\nphase = "MaskedInput"'
    config, _ = load_config(write_study(tmp_path, study_text(rest=incident)))
    with pytest.raises(ConfigError, match=r"^simulation\.incidents: given, but only the embedded engine"):
        check_engine(config)


def test_without_nodes_the_run_ends_in_an_error(tmp_path: Path) -> None:
    deployed = Deployed(tmp_path, study_text(rounds=1, aggregation='protocol = "oneshot"'))
    grid = deployed.grid()
    grid.apps.clear()
    report = deployed.run(grid)
    assert report.status == "halted"
    assert "no node that speaks for it is connected" in report.status_reason


def test_a_silo_whose_ledger_and_mark_were_put_back_together_refuses_to_train(tmp_path: Path) -> None:
    text = study_text(private=True, ledger="lifetime", rounds=1, aggregation='protocol = "oneshot"')
    deployed = Deployed(tmp_path, text)
    deployed.run(deployed.grid())
    kept = {path: path.read_bytes() for path in deployed.homes["west"].glob("records.ledger*")}
    assert {path.suffix for path in kept} >= {".ledger", ".mark"}
    again = Deployed.again(deployed, tmp_path)
    again.run(again.grid())
    for path, content in kept.items():
        path.write_bytes(content)
    for path in deployed.homes["west"].glob("records.ledger*"):
        if path not in kept or path.suffix == ".countersigned":
            path.unlink()
    third = Deployed.again(deployed, tmp_path)
    report = third.run(third.grid())
    assert report.rounds[0].contributors == SILOS[:3]
    (fault,) = [fault for phase in report.rounds[0].phases for fault in phase.faults if fault.phase == "Contribution"]
    assert "LedgerRolledBack" in fault.text
