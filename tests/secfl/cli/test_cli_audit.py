"""`secfl audit`: both parts, the file, the exit codes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from small_study import study_text, write_study
from typer.testing import Result

from protocols.errors import ConfigError
from secfl.cli.errors import AUDIT_FAILED
from secfl.privacy.accounting import rdp_epsilon
from secfl.privacy.audit.record import read_audits
from secfl.privacy.discrete_gaussian import DiscreteGaussian
from secfl.privacy.events import SampledGaussian

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")
Command = Callable[..., Result]
SMALL = ("--canaries", 200, "--dimension", 512)


def test_audit_of_a_run_is_written_beside_it(finished_run: tuple[Result, Path], secfl: Command, tmp_path: Path) -> None:
    _, directory = finished_run
    before = {path.name for path in directory.iterdir()}
    ledger = (directory / "ledgers" / "east" / "records.ledger").read_bytes()
    result = secfl("audit", directory, *SMALL)
    assert result.exit_code == 0, result.output
    assert {path.name for path in directory.iterdir()} - before == {"audit.json"}
    assert (directory / "ledgers" / "east" / "records.ledger").read_bytes() == ledger
    conformance, bound = read_audits(directory)
    assert (conformance.kind, conformance.passed) == ("conformance", True)
    assert (bound.kind, bound.passed) == ("lower bound", True)
    assert bound.details["epsilon claimed"] == rdp_epsilon([SampledGaussian(0.5, 2.0, 4)], 1e-5)
    assert bound.details["canaries"] == 200
    assert "A lower bound, not a proof" in result.output
    for part in (conformance, bound):
        assert part.summary in result.output


def test_noise_at_half_scale_fails_both_ways(tmp_path: Path, secfl: Command, monkeypatch) -> None:
    config = write_study(tmp_path / "study", study_text(private=True, rounds=20, training="", epsilon=30.0))
    draw = DiscreteGaussian.sample
    monkeypatch.setattr(DiscreteGaussian, "sample", lambda self, count, entropy: draw(self, count, entropy) // 4)
    result = secfl("audit", config, "--canaries", 400, "--dimension", 512, "--output", tmp_path)
    assert result.exit_code == AUDIT_FAILED
    conformance, bound = read_audits(tmp_path)
    assert not conformance.passed
    assert not bound.passed
    assert "is refuted" in bound.summary
    assert bound.details["assuming a Gaussian mechanism: lower bound on epsilon"] > bound.details["epsilon claimed"]
    assert re.search(r"variance: (the mean of|east at|north at|south at|west at) round [1-4], p = ", result.output)


def test_configuration_without_privacy_has_nothing_to_audit(tmp_path: Path, secfl: Command) -> None:
    result = secfl("audit", write_study(tmp_path, study_text()))
    assert result.exit_code == 3
    assert "training.mode" in result.stderr


def test_output_must_be_there(tmp_path: Path, secfl: Command) -> None:
    result = secfl("audit", write_study(tmp_path, study_text(private=True)), "--output", tmp_path / "none")
    assert result.exit_code == 3
    assert "--output" in result.stderr


def test_file_that_is_no_audit_is_refused(tmp_path: Path) -> None:
    assert read_audits(tmp_path) == ()
    (tmp_path / "audit.json").write_bytes(msgspec.json.encode({"format": 2, "audits": []}))
    with pytest.raises(ConfigError, match=r"audit\.json.*is no audit"):
        read_audits(tmp_path)
