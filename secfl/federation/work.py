"""A silo's work in a round, from the global model to words: which trainer, under which constants, encoded how."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from protocols.errors import ConfigError
from protocols.primitives.ring import Words
from protocols.session import ClientPolicy
from protocols.shape import Entropy
from secfl.config import Config, SiloSettings
from secfl.federation.model_code import model_code
from secfl.federation.noised import NOISE_SOURCE, Encode, Floors, NoisedTraining, mechanism, noise_event
from secfl.federation.silo import Contribution, LocalTraining, Scheme, Vector
from secfl.privacy.mechanism import DistributedMechanism, MechanismReport
from secfl.training import PlainSettings
from secfl.training.padding import Padding, plan_padding

if TYPE_CHECKING:
    from secfl.federation.setup import Plan

__all__ = ["batch_padding", "contribution", "local_training", "noise_source", "own_scheme"]


def own_scheme(plan: Plan, policy: ClientPolicy) -> Scheme:
    """How a silo encodes: with noise in sums, its share is made for its own floors, whatever the server proposes."""
    if not isinstance(plan.scheme, DistributedMechanism):
        return plan.scheme
    floors = Floors.of(policy, plan.config.cohort_size)
    return mechanism(plan.config, plan.update_layout, plan.scheme.noise_multiplier, floors)


def contribution(plan: Plan, silo: SiloSettings) -> Contribution:
    """A silo's work in a round, from the global state to words.

    :raises ConfigError: the model cannot be trained privately, or `load_data` is at fault.
    """
    if not isinstance(plan.scheme, DistributedMechanism):
        return local_training(plan, silo)
    encode = _gradient_sums(plan, silo) if plan.config.training.mode == "distributed-dp-sgd" else _updates(plan, silo)
    return NoisedTraining(encode, noise_event(plan.config, plan.scheme), plan.layout, plan.update_layout)


def _records(plan: Plan, silo: SiloSettings) -> Any:
    with model_code(f"loading the records of silo {silo.name!r}"):
        return plan.task.silo_data(silo.name, plan.config.run.seed).train


def _gradient_sums(plan: Plan, silo: SiloSettings) -> Encode:
    """Mode B."""
    from secfl.training import DistributedDpSgd, GradientSumSettings

    training, records = plan.config.training, _records(plan, silo)
    if training.clip_norm is None:
        raise ConfigError("training.clip_norm", "missing")
    if len(records) > 2 * silo.nominal_size:
        problem = f"{silo.nominal_size} is less than half of the records that silo {silo.name!r} has"
        raise ConfigError("silo.nominal_size", problem, "a public number near the true one")
    padding = batch_padding(plan.config, silo)
    settings = GradientSumSettings(
        training.sampling_rate,
        silo.nominal_size,
        training.clip_norm,
        grad_sample=training.grad_sample,
        max_physical_batch=training.max_physical_batch,
        padded_batch=padding.batch if padding else None,
    )
    trainer = DistributedDpSgd(plan.task, settings)

    def encode(
        state: Vector, used: DistributedMechanism, session: bytes, entropy: Entropy
    ) -> tuple[Words, MechanismReport]:
        total = used.record_sum(trainer.margin)
        with model_code(f"training at silo {silo.name!r}", quote=False):
            trainer.add_gradients(plan.layout.unflatten(state), records, total, entropy)
        return used.encode_sum(total, session, entropy)

    return encode


def _updates(plan: Plan, silo: SiloSettings) -> Encode:
    """Mode C."""
    from secfl.training import ClientLevel

    records, steps = _records(plan, silo), plan.config.training.steps_per_round
    trainer = ClientLevel(plan.task, _plain_settings(plan, silo), silo.name)
    weight = np.float32(plan.divisor.shares[silo.name] if plan.divisor else 1.0)

    def encode(
        state: Vector, used: DistributedMechanism, session: bytes, entropy: Entropy
    ) -> tuple[Words, MechanismReport]:
        with model_code(f"training at silo {silo.name!r}", quote=False):
            local = trainer.train(plan.layout.unflatten(state), records, steps, entropy)
        words, report = used.encode(weight * plan.update_layout.flatten(local.update), session, entropy)
        return words, replace(report, left_out=int(bool(local.non_finite_records)))

    return encode


def local_training(plan: Plan, silo: SiloSettings) -> LocalTraining:
    """A silo's local training as one function from global state to update.

    :raises ConfigError: the model cannot be trained privately, or `load_data` is at fault.
    """
    records = _records(plan, silo)
    steps = plan.config.training.steps_per_round
    trainer = _trainer(plan, silo)

    def update(state: Vector, entropy: Entropy) -> Vector:
        with model_code(f"training at silo {silo.name!r}", quote=False):
            local = trainer.train(plan.layout.unflatten(state), records, steps, entropy)
        return plan.update_layout.flatten(local.update)

    event = plan.event(silo.name) if plan.private else None
    return LocalTraining(update, event, plan.layout, plan.update_layout)


def _trainer(plan: Plan, silo: SiloSettings) -> Any:
    from secfl.training import DpSgdSettings, LocalDpSgd, PlainSgd

    training = plan.config.training
    if training.clip_norm is None or not plan.private:
        return PlainSgd(plan.task, _plain_settings(plan, silo), silo.name)
    padding = batch_padding(plan.config, silo)
    return LocalDpSgd(
        plan.task,
        DpSgdSettings(
            sampling_rate=training.sampling_rate,
            nominal_size=silo.nominal_size,
            noise_multiplier=plan.noise_multipliers[silo.name],
            clip_norm=training.clip_norm,
            learning_rate=training.learning_rate,
            momentum=training.momentum,
            grad_sample=training.grad_sample,
            max_physical_batch=training.max_physical_batch,
            proximal=training.proximal,
            padded_batch=padding.batch if padding else None,
        ),
    )


def _plain_settings(plan: Plan, silo: SiloSettings) -> PlainSettings:
    training = plan.config.training
    batch = max(1, round(training.sampling_rate * silo.nominal_size))
    return PlainSettings(batch, training.learning_rate, training.momentum, training.proximal)


def batch_padding(config: Config, silo: SiloSettings) -> Padding | None:
    """Rows of a silo's steps, and how likely a sample is larger; None without padding."""
    training, privacy = config.training, config.privacy
    if privacy is None or training.mode == "client-level" or training.pad_batches is False:
        return None
    steps = training.steps_per_round * config.budgeted_rounds
    return plan_padding(silo.nominal_size, training.sampling_rate, privacy.epsilon, privacy.delta, steps=steps)


def noise_source(plan: Plan) -> str:
    """Where training noise comes from, for the report."""
    if not plan.private:
        return "none: no differential privacy"
    if plan.config.training.noise_in_sum:
        return NOISE_SOURCE
    from secfl.training import LocalDpSgd

    return LocalDpSgd.noise_source
