"""What a round of an audit comes to without noise, and how much noise there should be around it, in each mode."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from protocols.errors import UsageError
from protocols.primitives.ring import centre
from protocols.shape import Entropy
from secfl.config import Config
from secfl.encoding import EncodingScheme
from secfl.federation.setup import Plan
from secfl.federation.silo import Contribution, LocalTraining, Vector
from secfl.privacy.audit.probe import RECORDS, Probe
from secfl.privacy.mechanism import DistributedMechanism
from secfl.training.noise import GridNoise

__all__ = ["Expected", "known_training"]

_STEPS = 2
"""Of local training a round, where a round may have more than one: noise that repeats shows in its variance."""
_SIGMAS = 12.0
"""Standard deviations of an update for which the encoding leaves room."""
_EPSILON = 1e4
"""An audit spends no budget: its records are made up."""
_STOCHASTIC, _NEAREST = 1 / 6, 1 / 12
"""Variance of rounding to a step, on average over where between two steps a value lies."""

Values = npt.NDArray[np.float64]


def known_training(config: Config, noise_multiplier: float, rounds: int) -> Config:
    """The configuration with the probe's sizes, every record in every sample, learning rate 1, and the given noise."""
    scale = max(silo.nominal_size for silo in config.silo)
    sizes = {silo.name: max(RECORDS, round(2 * RECORDS * silo.nominal_size / scale)) for silo in config.silo}
    training = config.training.model_dump(exclude_unset=True) | {
        "steps_per_round": 1 if config.training.mode == "distributed-dp-sgd" else _STEPS,
        "sampling_rate": 1.0,
        "learning_rate": 1.0,
        "momentum": 0.0,
        "proximal": 0.0,
        "max_physical_batch": None,
        "noise_multiplier": noise_multiplier,
    }
    aggregation = config.aggregation.model_dump(exclude_unset=True) | {
        "collusion_bound": config.collusion_bound,
        "minimum_contributors": config.minimum_contributors,
        "threshold": None,
    }
    if not config.training.noise_in_sum:
        reach = _STEPS * (config.training.clip_norm or 0.0)
        noise = math.sqrt(_STEPS) * noise_multiplier * (config.training.clip_norm or 0.0) / min(sizes.values())
        aggregation["value_range"] = _SIGMAS * noise + reach
    changed: dict[str, Any] = {
        "run": config.run.model_dump(exclude_unset=True) | {"name": "audit", "rounds": rounds},
        "silo": [{"name": name, "nominal_size": size} for name, size in sizes.items()],
        "training": training,
        "privacy": {"epsilon": _EPSILON, "delta": 1e-6, "unit": config.privacy.unit if config.privacy else "record"},
        "ledger": {"kind": "per-run", "source": "made up for an audit"},
        "aggregation": aggregation,
    }
    neutral: dict[str, Any] = {"server": {}, "rounds": {}, "evaluation": {"kind": "none"}, "simulation": {}}
    return Config.model_validate(config.model_dump(exclude_unset=True) | changed | neutral)


class Expected:
    """Inputs and standard deviations of what an audit sees.

    :param plan: of :func:`known_training`.
    """

    def __init__(self, plan: Plan, probe: Probe) -> None:
        self._plan = plan
        self._probe = probe

    def mean(self, contributors: tuple[str, ...]) -> tuple[Values, float]:
        """What a round's mean comes to without noise, and the standard deviation of a coordinate's noise."""
        inputs = np.zeros(self._probe.dimension)
        if isinstance(self._plan.scheme, DistributedMechanism):
            for name in contributors:
                inputs += self._summand(name)
            factor = self._plan.divisor.change(np.ones(1), contributors)[0] if self._plan.divisor else 1.0
            return factor * inputs, abs(factor) * self._shared(self._plan.scheme, len(contributors))
        weights = {name: self._plan.weights[name] for name in contributors}
        variance = 0.0
        for name, weight in weights.items():
            own, deviation = self.alone(name)
            inputs += weight * own
            variance += (weight * deviation) ** 2 + self._rounding(self._plan.scheme)
        total = sum(weights.values())
        return inputs / total, math.sqrt(variance) / total

    def alone(self, name: str) -> tuple[Values, float]:
        """The same for what a silo by itself would send."""
        if isinstance(self._plan.scheme, DistributedMechanism):
            return self._summand(name), self._shared(self._plan.scheme, 1)
        steps = self._plan.config.training.steps_per_round
        clip, size = self._plan.config.training.clip_norm or 0.0, self._nominal(name)
        noise = GridNoise(self._plan.noise_multipliers[name], clip, self._probe.dimension).standard_deviation
        return -steps / size * self._probe.clipped_sum(name), math.sqrt(steps) * noise / size

    def opened(self, training: Contribution, name: str, state: Vector, entropy: Entropy) -> Values:
        """What a silo would send, by itself and in clear.

        :raises UsageError: a kind of contribution that no audit knows.
        """
        scheme = self._plan.scheme
        if isinstance(scheme, DistributedMechanism):
            words, _ = training.words(state, scheme, lambda: 1, entropy, os.urandom(32))
            return np.ldexp(centre(words, scheme.modulus_bits).astype(np.float64), -scheme.fraction_bits)
        if not isinstance(training, LocalTraining):
            raise UsageError(f"{name} trains by {type(training).__name__}")
        return training.update(state, entropy).astype(np.float64)

    def _summand(self, name: str) -> Values:
        """In modes B and C, a silo's vector as it enters the sum."""
        if self._plan.config.training.mode == "distributed-dp-sgd":
            return self._probe.clipped_sum(name)
        share = self._plan.divisor.shares[name] if self._plan.divisor else 1.0
        return self._probe.clipped(-share * self._plan.config.training.steps_per_round * self._probe.mean(name))

    @staticmethod
    def _shared(mechanism: DistributedMechanism, contributors: int) -> float:
        """Of the shares of noise in a sum, and of its rounding."""
        rounding = contributors * _STOCHASTIC * math.ldexp(1.0, -2 * mechanism.fraction_bits)
        return math.sqrt(mechanism.standard_deviation(contributors) ** 2 + rounding)

    def _rounding(self, scheme: EncodingScheme) -> float:
        stochastic = self._plan.config.aggregation.rounding == "stochastic"
        return scheme.step**2 * (_STOCHASTIC if stochastic else _NEAREST)

    def _nominal(self, name: str) -> int:
        return next(silo.nominal_size for silo in self._plan.config.silo if silo.name == name)
