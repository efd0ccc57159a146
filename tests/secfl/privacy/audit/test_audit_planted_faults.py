"""Four faults, planted one at a time into the real code, and what the audit says of them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from small_study import study_text, write_study

from secfl.config import parse_config
from secfl.federation.noised import NoisedTraining
from secfl.federation.silo import LocalTraining
from secfl.privacy.audit.conformance import conformance
from secfl.privacy.audit.record import AuditResult
from secfl.privacy.discrete_gaussian import DiscreteGaussian
from secfl.privacy.fixed_point import FixedPoint

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")

DIMENSION = 1024


MODES = pytest.mark.parametrize("mode", ["local-dp-sgd", "distributed-dp-sgd", "client-level"])


def text_of(mode: str, **options: Any) -> str:
    text = study_text(private=True, **options)
    if mode != "local-dp-sgd":
        text = text.replace("value_range = 4.0\n", "").replace("local-dp-sgd", mode)
    if mode == "distributed-dp-sgd":
        return text.replace("steps_per_round = 2", "steps_per_round = 1")
    return text.replace("delta = 1e-5", 'delta = 1e-5\nunit = "client"') if mode == "client-level" else text


def audit(tmp_path: Path, mode: str = "local-dp-sgd", dimension: int = DIMENSION, **options: str) -> AuditResult:
    text = text_of(mode, **options)
    path = write_study(tmp_path / "study", text)
    work = tmp_path / "work"
    work.mkdir()
    return conformance(parse_config(text), path.parent, work, dimension=dimension)


def failed(result: AuditResult) -> set[str]:
    assert not result.passed
    assert f"{result.details['failed']} of {result.details['tests']} tests failed" in result.summary
    return {finding.test for finding in result.findings}


@MODES
def test_sound_noise_passes(tmp_path: Path, mode: str) -> None:
    result = audit(tmp_path, mode)
    assert (result.passed, result.findings, result.kind, result.mode) == (True, (), "conformance", mode)
    assert result.details["residuals"] == 20  # 4 rounds of a mean and 4 silos
    assert result.details["tests"] == 20 * 4 + 190
    assert "does not show that there is none" in result.summary


@MODES
def test_missing_share_of_one_silo_is_found(tmp_path: Path, monkeypatch, mode: str) -> None:
    kind = LocalTraining if mode == "local-dp-sgd" else NoisedTraining
    words, draw = kind.words, DiscreteGaussian.sample
    faulty: list[object] = []

    def without_noise(self, *arguments):
        faulty.append(self)
        if self is not faulty[0]:
            return words(self, *arguments)
        with monkeypatch.context() as patched:
            patched.setattr(DiscreteGaussian, "sample", lambda s, count, entropy: 0 * draw(s, count, entropy))
            return words(self, *arguments)

    monkeypatch.setattr(kind, "words", without_noise)
    # The mean lacks a quarter of its noise: certain to be seen in so many coordinates (17 deviations), not in fewer.
    result = audit(tmp_path, mode, dimension=8 * DIMENSION if mode == "local-dp-sgd" else DIMENSION)
    assert "variance" in failed(result)
    places = {finding.where for finding in result.findings if finding.test == "variance"}
    means = {"the mean of round 1"} if mode == "local-dp-sgd" else set()
    alone = set() if mode == "local-dp-sgd" else {"east at round 1", "east at round 2"}
    assert means | alone <= places
    assert not any(place.startswith(("north", "south", "west")) for place in places)


@MODES
def test_noise_at_half_scale_is_found(tmp_path: Path, monkeypatch, mode: str) -> None:
    draw = DiscreteGaussian.sample
    monkeypatch.setattr(DiscreteGaussian, "sample", lambda self, count, entropy: draw(self, count, entropy) // 2)
    result = audit(tmp_path, mode)
    assert "variance" in failed(result)
    assert result.details["failed"] >= 20  # at every silo, in every mean


@MODES
def test_reused_seed_is_found_between_rounds_silos_and_restarts(tmp_path: Path, monkeypatch, mode: str) -> None:
    draw = DiscreteGaussian.sample
    monkeypatch.setattr(
        DiscreteGaussian, "sample", lambda self, count, _entropy: draw(self, count, random.Random(7).randbytes)
    )
    result = audit(tmp_path, mode)
    assert failed(result) >= {"independence"}
    assert result.details["failed"] >= 190  # every pair of residuals


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


def test_skipped_clip_in_ghost_gradients_is_found(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(
        GradSampleModuleFastGradientClipping,
        "get_clipping_coef",
        lambda self: torch.ones_like(self.get_norm_sample()),
    )
    assert "trace of the input" in failed(audit(tmp_path, training='grad_sample = "ghost"'))


@MODES
def test_skipped_clip_in_whole_numbers_is_found(tmp_path: Path, monkeypatch, mode: str) -> None:
    # A hundred clips instead of one, past the mechanism's own check of its bound, which would stop it.
    monkeypatch.setattr(FixedPoint, "_room", property(lambda self: 100 * self.clip_norm))
    monkeypatch.setattr(FixedPoint, "square_bound", 2.0**300)
    assert "trace of the input" in failed(audit(tmp_path, mode))
