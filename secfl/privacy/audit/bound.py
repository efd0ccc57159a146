"""The lower bound for a configuration: which mechanism, over how many steps, against which claim."""

from __future__ import annotations

from pathlib import Path

from protocols.errors import ConfigError, PrivacyError
from secfl.config import Config
from secfl.federation.setup import Plan, plan_run
from secfl.privacy.accounting import rdp_epsilon
from secfl.privacy.audit.canaries import Canaries, local_canaries, lower_bound, record_canaries, update_canaries
from secfl.privacy.audit.record import AuditResult
from secfl.privacy.events import AnyPrivacyEvent, SampledGaussian
from secfl.privacy.mechanism import DistributedMechanism
from secfl.training import DpSgdSettings

__all__ = ["claimed_and_refuted"]


def claimed_and_refuted(config: Config, directory: Path, canaries: int) -> AuditResult:
    """Train on canaries as the configuration's plan does, in full, and compare what they show with the claim.

    In mode A the adversary sees every update of a silo, in modes B and C every sum: the server.

    :param directory: of the configuration file.
    :raises ConfigError: a configuration without privacy.
    """
    plan = plan_run(config, directory)
    if config.privacy is None:
        raise ConfigError("training.mode", "none makes no claim that could be refuted", "a private mode")
    event, found = _shared(plan, canaries) if config.training.noise_in_sum else _local(plan, canaries)
    claimed = rdp_epsilon([event], config.privacy.delta)
    return lower_bound(config.training.mode, found, claimed, config.privacy.delta)


def _local(plan: Plan, canaries: int) -> tuple[AnyPrivacyEvent, Canaries]:
    """Mode A, at the silo with the least noise."""
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


def _shared(plan: Plan, canaries: int) -> tuple[AnyPrivacyEvent, Canaries]:
    """Modes B and C, with as few contributors as may be."""
    config, scheme = plan.config, plan.scheme
    if not isinstance(scheme, DistributedMechanism):
        raise PrivacyError(f"mode {config.training.mode} adds no noise to sums")
    records = config.training.mode == "distributed-dp-sgd"
    mechanism = DistributedMechanism.choose(
        clip_norm=scheme.clip_norm,
        noise_multiplier=scheme.noise_multiplier,
        dimension=canaries if records else scheme.minimum_contributors,
        minimum_contributors=scheme.minimum_contributors,
        maximum_contributors=scheme.maximum_contributors,
        colluding=scheme.colluding,
        maximum_records=canaries if records else 1,
        layout_digest=scheme.layout_digest,
        rounding=scheme.rounding,
    )
    if not records:
        return mechanism.plan.event(config.run.rounds, adversary="server"), update_canaries(
            mechanism, config.run.rounds, canaries
        )
    rate = config.training.sampling_rate
    event = mechanism.plan.event(config.run.rounds, sampling_rate=rate, adversary="server")
    return event, record_canaries(mechanism, rate, config.run.rounds)
