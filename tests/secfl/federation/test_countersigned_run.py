"""Countersigned heads in runs: whole directories put back, and what is trained then."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from small_study import SILOS, study_text, write_study

from protocols.errors import LedgerRolledBack, PrivacyError
from secfl.config import load_config
from secfl.federation.session import simulate
from secfl.training import LocalDpSgd

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A lifetime study after one run, and a backup of one silo's directory from before a second run."""
    path = write_study(tmp_path / "study", study_text(private=True, ledger="lifetime", epsilon=30.0))
    run(path)
    shutil.copytree(path.parent / "ledgers" / "east", tmp_path / "backup")
    run(path)
    return path


def run(path: Path) -> None:
    config, text = load_config(path)
    assert simulate(config, text, path.parent, output=path.parent / "runs").result.status == "completed"


def refused(path: Path, monkeypatch, error: type[Exception], match: str) -> None:
    """A further run is refused before anybody trains, and no ledger changes."""
    ledgers = {silo: (path.parent / "ledgers" / silo / "records.ledger") for silo in SILOS}
    before = {silo: file.read_bytes() for silo, file in ledgers.items() if file.exists()}
    monkeypatch.setattr(LocalDpSgd, "train", lambda *_arguments: pytest.fail("a silo trained"))
    with pytest.raises(error, match=match):
        run(path)
    assert {silo: file.read_bytes() for silo, file in ledgers.items() if file.exists()} == before


def test_every_round_is_countersigned_and_later_runs_go_on(study: Path) -> None:
    heads = list((study.parent / "ledgers" / "_server" / "heads").iterdir())
    assert len(heads) == len(SILOS)
    for silo in SILOS:
        kept = (study.parent / "ledgers" / silo / "records.ledger.countersigned").read_text()
        lines = (study.parent / "ledgers" / silo / "records.ledger").read_bytes().count(b"\n")
        assert f'"sequence":{lines - 1},' in kept
        assert kept in [file.read_text() for file in heads]
    run(study)


def test_directory_of_a_silo_put_back_to_an_older_copy_is_refused(study: Path, tmp_path: Path, monkeypatch) -> None:
    shutil.rmtree(study.parent / "ledgers" / "east")
    shutil.copytree(tmp_path / "backup", study.parent / "ledgers" / "east")
    refused(study, monkeypatch, LedgerRolledBack, r"\[LG-21\].*east.*the expected head has seen line 13")


def test_directory_of_a_silo_without_its_ledger_and_mark_is_refused(study: Path, monkeypatch) -> None:
    for file in (study.parent / "ledgers" / "east").glob("records.ledger*"):
        file.unlink()
    refused(study, monkeypatch, LedgerRolledBack, r"\[LG-21\].*east.*no such ledger")


def test_ledger_put_back_by_a_silo_is_refused_without_the_server_too(study: Path, tmp_path: Path, monkeypatch) -> None:
    shutil.rmtree(study.parent / "ledgers" / "_server")
    for name in ("records.ledger", "records.ledger.mark"):
        shutil.copy(tmp_path / "backup" / name, study.parent / "ledgers" / "east" / name)
    refused(study, monkeypatch, LedgerRolledBack, r"\[LG-21\].*east")


def test_another_server_is_not_believed(study: Path, tmp_path: Path, monkeypatch) -> None:
    other = write_study(tmp_path / "other", study_text(private=True, ledger="lifetime", epsilon=30.0))
    run(other)
    foreign = other.parent / "ledgers" / "_server"
    shutil.rmtree(study.parent / "ledgers" / "_server")
    shutil.copytree(foreign, study.parent / "ledgers" / "_server")
    refused(study, monkeypatch, PrivacyError, "not the server's")


def test_runs_without_privacy_have_nothing_to_countersign(tmp_path: Path) -> None:
    path = write_study(tmp_path / "study", study_text())
    run(path)
    assert not list(path.parent.rglob("_server"))
