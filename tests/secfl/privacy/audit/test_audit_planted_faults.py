"""Four faults, planted one at a time into the real code, and what the audit says of them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from secfl.config import parse_config
from secfl.privacy.audit.conformance import conformance
from secfl.privacy.audit.record import AuditResult
from secfl.privacy.discrete_gaussian import DiscreteGaussian
from secfl.training.dp_step import DpStep, _Optimizer
from secfl.training.local_dp_sgd import LocalDpSgd
from tests.secfl.small_study import study_text, write_study

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")

DIMENSION = 1024


def audit(tmp_path: Path, **options: str) -> AuditResult:
    text = study_text(private=True, **options)
    path = write_study(tmp_path / "study", text)
    work = tmp_path / "work"
    work.mkdir()
    return conformance(parse_config(text), path.parent, work, dimension=DIMENSION)


def failed(result: AuditResult) -> set[str]:
    assert not result.passed
    assert f"{result.details['failed']} of {result.details['tests']} tests failed" in result.summary
    return {finding.test for finding in result.findings}


@pytest.mark.parametrize("method", ["hooks", "ghost"])
def test_sound_noise_passes(tmp_path: Path, method: str) -> None:
    result = audit(tmp_path, training=f'grad_sample = "{method}"')
    assert (result.passed, result.findings, result.kind, result.mode) == (True, (), "conformance", "local-dp-sgd")
    assert result.details["residuals"] == 20  # 4 rounds of a mean and 4 silos
    assert result.details["tests"] == 20 * 4 + 190
    assert "does not show that there is none" in result.summary


def test_missing_share_of_one_silo_is_found(tmp_path: Path, monkeypatch) -> None:
    make, draw = LocalDpSgd.__init__, DiscreteGaussian.sample
    faulty: list[LocalDpSgd] = []

    def first_is_faulty(self, *arguments) -> None:
        make(self, *arguments)
        if not faulty:
            faulty.append(self)

    train = LocalDpSgd.train

    def without_noise(self, *arguments):
        if self is not faulty[0]:
            return train(self, *arguments)
        with monkeypatch.context() as patched:
            patched.setattr(DiscreteGaussian, "sample", lambda s, count, entropy: 0 * draw(s, count, entropy))
            return train(self, *arguments)

    monkeypatch.setattr(LocalDpSgd, "__init__", first_is_faulty)
    monkeypatch.setattr(LocalDpSgd, "train", without_noise)
    result = audit(tmp_path)
    assert "variance" in failed(result)
    places = {finding.where for finding in result.findings if finding.test == "variance"}
    # The silo itself, before the restart, and the means that its share is missing from.
    assert {"east at round 1", "east at round 2", "the mean of round 1", "the mean of round 2"} <= places
    assert not any(place.startswith(("north", "south", "west")) for place in places)


def test_noise_at_half_scale_is_found(tmp_path: Path, monkeypatch) -> None:
    draw = DiscreteGaussian.sample
    monkeypatch.setattr(DiscreteGaussian, "sample", lambda self, count, entropy: draw(self, count, entropy) // 2)
    assert "variance" in failed(audit(tmp_path))


def test_reused_seed_is_found_between_rounds_clients_and_restarts(tmp_path: Path, monkeypatch) -> None:
    draw = DiscreteGaussian.sample
    monkeypatch.setattr(
        DiscreteGaussian, "sample", lambda self, count, _entropy: draw(self, count, random.Random(7).randbytes)
    )
    result = audit(tmp_path)
    assert {"independence", "variance"} <= failed(result)
    pairs = {finding.where for finding in result.findings if finding.test == "independence"}
    assert len(pairs) > 40 or result.details["failed"] > 100


def test_seed_reused_after_a_restart_alone_is_found(tmp_path: Path, monkeypatch) -> None:
    from secfl.privacy.audit import conformance as module

    set_up = module.set_up_parties
    draw = DiscreteGaussian.sample
    streams: list[random.Random] = []

    def restarted(*arguments):
        streams[:] = [random.Random(11)]  # a generator whose state comes back with the process
        return set_up(*arguments)

    monkeypatch.setattr(module, "set_up_parties", restarted)
    monkeypatch.setattr(
        DiscreteGaussian, "sample", lambda self, count, _entropy: draw(self, count, streams[0].randbytes)
    )
    result = audit(tmp_path)
    assert failed(result) == {"independence"}
    assert "east at round 1 and east at round 3" in {finding.where for finding in result.findings}


@pytest.mark.parametrize("method", ["hooks", "ghost"])
def test_skipped_clip_is_found(tmp_path: Path, monkeypatch, method: str) -> None:
    def unclipped(self) -> None:
        self.max_grad_norm = 1e12
        type(self).__mro__[2].clip_and_accumulate(self)

    if method == "hooks":
        monkeypatch.setattr(_Optimizer, "clip_and_accumulate", unclipped, raising=False)
    else:
        begin = DpStep.begin

        def no_clip(self) -> None:
            begin(self)
            self._module.max_grad_norm = 1e12

        monkeypatch.setattr(DpStep, "begin", no_clip)
    result = audit(tmp_path, training=f'grad_sample = "{method}"')
    assert "trace of the input" in failed(result)
