"""The lower bound for a configuration: which mechanism, over how many steps, against which claim."""

from __future__ import annotations

from pathlib import Path

from protocols.errors import ConfigError
from secfl.config import Config
from secfl.federation.setup import Plan, plan_run
from secfl.privacy.accounting import rdp_epsilon
from secfl.privacy.audit.canaries import Canaries, local_canaries, lower_bound
from secfl.privacy.audit.record import AuditResult
from secfl.privacy.events import AnyPrivacyEvent, SampledGaussian
from secfl.training import DpSgdSettings

__all__ = ["claimed_and_refuted"]


def claimed_and_refuted(config: Config, directory: Path, canaries: int) -> AuditResult:
    """Train on canaries as the configuration's plan does, in full, and compare what they show with the claim.

    :param directory: of the configuration file.
    :raises ConfigError: a configuration without privacy.
    """
    plan = plan_run(config, directory)
    if config.privacy is None:
        raise ConfigError("training.mode", "none makes no claim that could be refuted", "a private mode")
    event, found = _local(plan, canaries)
    claimed = rdp_epsilon([event], config.privacy.delta)
    return lower_bound(config.training.mode, found, claimed, config.privacy.delta)


def _local(plan: Plan, canaries: int) -> tuple[AnyPrivacyEvent, Canaries]:
    """Mode A: the adversary sees every update of a silo, the one with the least noise."""
    training, steps = plan.config.training, plan.config.training.steps_per_round * plan.config.run.rounds
    noise = min(plan.noise_multipliers.values())
    settings = DpSgdSettings(
        training.sampling_rate,
        canaries,
        noise,
        training.clip_norm or 0.0,
        training.learning_rate,
        grad_sample=training.grad_sample,
        max_physical_batch=training.max_physical_batch,
    )
    return SampledGaussian(training.sampling_rate, noise, steps), local_canaries(settings, steps, canaries)
