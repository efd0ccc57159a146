"""Conformance: known inputs through the real path of a run, and what is left over is tested.

The configuration's mode, clip, noise, protocol, encoding and floors are kept; records, model and sizes are the probe's,
and every record is in every sample, so that the sum is known. Rounds run as in `secfl run`: train, encode, protect, one
silo drops out of every second round, reveal, decode; halfway all parties are closed and set up again from their files.
Two kinds of residuals: of each round's mean, and of what each silo by itself would send.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from protocols.errors import ConfigError, PrivacyError
from protocols.identity import Role
from secfl.config import Config
from secfl.engines import EmbeddedEngine, Incident
from secfl.federation.run import round_plan
from secfl.federation.setup import Parties, Plan, plan_run, set_up_parties
from secfl.privacy.audit.expected import Expected, known_training
from secfl.privacy.audit.probe import Probe
from secfl.privacy.audit.record import AuditResult
from secfl.privacy.audit.residuals import FALSE_ALARM, Residual, Verdict, judge

__all__ = ["DIMENSION", "ROUNDS", "conformance", "observe"]

DIMENSION = 4096
ROUNDS = 4

Values = npt.NDArray[np.float64]


def conformance(
    config: Config, directory: Path, work: Path, *, dimension: int = DIMENSION, false_alarm: float = FALSE_ALARM
) -> AuditResult:
    """Audit the noise of a configuration's mode.

    :param directory: of the configuration file.
    :param work: an empty directory for the audit's own keys and ledgers.
    :raises ConfigError: a configuration without privacy.
    :raises PrivacyError: a round of the audit failed.
    """
    residuals = observe(config, directory, work, dimension)
    return _result(config.training.mode, judge(residuals, false_alarm), residuals, false_alarm)


def observe(config: Config, directory: Path, work: Path, dimension: int = DIMENSION) -> list[Residual]:
    """Run the rounds of an audit and return what is left of each mean, and of each silo's own contribution."""
    given = plan_run(config, directory)
    if not given.private:
        raise ConfigError("training.mode", "none adds no noise that could be audited", "a private mode")
    probe = Probe(tuple(silo.name for silo in config.silo), dimension, config.training.clip_norm or 0.0)
    plan = plan_run(known_training(config, max(given.noise_multipliers.values()), ROUNDS), directory, probe.task())
    residuals: list[Residual] = []
    for half in (range(1, ROUNDS // 2 + 1), range(ROUNDS // 2 + 1, ROUNDS + 1)):
        with set_up_parties(plan, work) as parties:
            residuals += _Half(plan, parties, Expected(plan, probe)).observe(half)
    return residuals


@dataclass(frozen=True)
class _Half:
    """Rounds between two restarts."""

    plan: Plan
    parties: Parties
    expected: Expected

    def observe(self, rounds: range) -> list[Residual]:
        config = self.plan.config
        engine = EmbeddedEngine(self.parties.answering, incidents=[*self._dropouts(rounds)])
        running = round_plan(self.plan, self.parties, "audit")
        state = self.plan.initial_vector()
        found = []
        for number in rounds:
            cohort = tuple(self.parties.silos)
            outcome = running.run(engine, state, number, 0, cohort)
            if outcome.mean is None:
                raise PrivacyError(f"round {number} of the audit gave no sum: {outcome.failure}")
            found.append(self._of_mean(number, outcome.mean, outcome.contributors))
            found += [self._of_silo(number, silo.name) for silo in config.silo]
        return found

    def _dropouts(self, rounds: range) -> list[Incident]:
        """One silo is lost in every second round, where enough are left, once it may have sent its vector."""
        config = self.plan.config
        least = max(config.minimum_contributors, config.threshold)
        asked = [phase for phase, role in config.protocol.phases.items() if role is Role.CLIENT]
        if config.cohort_size <= least:
            return []
        return [Incident(config.silo[-1].name, asked[-1], number) for number in rounds if number % 2 == 0]

    def _of_mean(self, number: int, mean: Values, contributors: tuple[str, ...]) -> Residual:
        inputs, deviation = self.expected.mean(contributors)
        return Residual(f"the mean of round {number}", (mean - inputs) / deviation, inputs / deviation)

    def _of_silo(self, number: int, name: str) -> Residual:
        """What it would send, from the object that trained, before it is protected."""
        silo = self.parties.silos[name]
        entropy = self.plan.randomness(name, number, 1)
        inputs, deviation = self.expected.alone(name)
        own = self.expected.opened(silo.training, name, self.plan.initial_vector(), entropy)
        return Residual(f"{name} at round {number}", (own - inputs) / deviation, inputs / deviation)


def _result(mode: str, verdict: Verdict, residuals: list[Residual], false_alarm: float) -> AuditResult:
    dimension = len(residuals[0].values)
    if verdict.failed:
        worst = verdict.findings[0]
        summary = (
            f"{verdict.failed} of {verdict.tests} tests failed, the clearest being {worst.test} ({worst.where}): the "
            "noise is not what was promised"
        )
    else:
        summary = f"{verdict.tests} tests of the noise found no fault, which does not show that there is none"
    return AuditResult(
        kind="conformance",
        mode=mode,
        passed=not verdict.failed,
        summary=summary,
        details={
            "tests": verdict.tests,
            "failed": verdict.failed,
            "false alarm rate of the audit": false_alarm,
            "p-value below which a test fails": verdict.threshold,
            "residuals": len(residuals),
            "coordinates of a residual": dimension,
            "rounds": ROUNDS,
            "restarts": 1,
        },
        findings=verdict.findings,
    )
