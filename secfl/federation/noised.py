"""Modes B and C in a run: the mechanism from public constants, a silo's side of a sum, and what a sum is divided by."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from protocols.errors import ConfigError, PrivacyError, UsageError
from protocols.primitives.ring import Words
from protocols.session import ClientPolicy
from protocols.shape import Entropy
from secfl.config import Config
from secfl.encoding import TensorLayout
from secfl.encoding.rotation import BLOCKS
from secfl.federation.silo import Inside, Scheme, Vector
from secfl.privacy.events import DistributedGaussian
from secfl.privacy.mechanism import DistributedMechanism, MechanismReport
from secfl.privacy.planning import distributed_noise_multiplier_for
from secfl.training.settings import largest_sample

__all__ = ["NOISE_SOURCE", "Divisor", "Encode", "Floors", "NoisedTraining", "mechanism", "noise_event", "planned_noise"]

NOISE_SOURCE = (
    "shares of discrete Gaussian noise, one from each contributor, sampled exactly from operating-system random words "
    "(Canonne, Kamath, Steinke 2020) and added to whole numbers before encryption; vectors are bounded in whole numbers"
)

WRAP_PROBABILITY = 2.0**-20
"""Of a sum in the bits that a configuration asks for, at some coordinate: it costs accuracy, never privacy."""

Encode = Callable[[Vector, DistributedMechanism, bytes, Entropy], tuple[Words, MechanismReport]]


@dataclass(frozen=True)
class Floors:
    """What a silo's share of noise is made for.

    :param minimum_contributors: T_min, the fewest contributors that this silo takes part with.
    :param colluding: c_max, those among them whose noise it does not count on.
    """

    minimum_contributors: int
    colluding: int

    @classmethod
    def of(cls, policy: ClientPolicy, cohort: int) -> Floors:
        """A silo's own, whatever a server says."""
        return cls(policy.minimum_contributors, policy.required_collusion_bound(cohort))


@dataclass(frozen=True)
class Divisor:
    """What turns a sum into the global model's change: ``factor`` times the sum over the contributors' ``shares``.

    Public constants all: in mode B q times the nominal size and minus the learning rate, in mode C the weights over the
    largest of them, and 1.
    """

    shares: Mapping[str, float]
    factor: float = 1.0

    @classmethod
    def of(cls, config: Config) -> Divisor:
        """As configured."""
        training = config.training
        if training.mode == "distributed-dp-sgd":
            sizes = {silo.name: training.sampling_rate * silo.nominal_size for silo in config.silo}
            return cls(sizes, -training.learning_rate)
        if config.aggregation.weights == "uniform":
            return cls({silo.name: 1.0 for silo in config.silo})
        largest = max(silo.nominal_size for silo in config.silo)
        return cls({silo.name: silo.nominal_size / largest for silo in config.silo})

    def change(self, total: npt.NDArray[np.float64], contributors: Collection[str]) -> npt.NDArray[np.float64]:
        """The change of the global model for the sum over these contributors."""
        return total * (self.factor / math.fsum(self.shares[party] for party in contributors))


@dataclass(frozen=True)
class NoisedTraining:
    """What a silo does when its vector is needed in modes B and C; see `secfl.federation.silo.Contribution`.

    :param encode: trains from a global state and gives words with this silo's share of noise.
    """

    encode: Encode
    event: DistributedGaussian
    layout: TensorLayout
    update_layout: TensorLayout
    bound: tuple[bytes, ...] = ()

    def words(
        self, state: Vector, scheme: Scheme, weight: Callable[[], int], entropy: Entropy, session: bytes
    ) -> tuple[Words, Inside]:
        """Train, clip, encode and add the share of noise."""
        if not isinstance(scheme, DistributedMechanism) or weight() != 1:
            raise UsageError("noise in sums goes with a distributed mechanism and no weight")
        words, report = self.encode(state, scheme, session, entropy)
        return words, Inside(left_out=report.left_out, records=report.records)


def mechanism(config: Config, layout: TensorLayout, noise_multiplier: float, floors: Floors) -> DistributedMechanism:
    """The mechanism under these floors, all else from the configuration.

    :raises PrivacyError: no scale, or a share of noise too small to be accounted.
    """
    training, aggregation = config.training, config.aggregation
    if training.clip_norm is None:
        raise ConfigError("training.clip_norm", "missing")
    records = 1
    if training.mode == "distributed-dp-sgd":
        records = max(largest_sample(silo.nominal_size, training.sampling_rate) for silo in config.silo)
    fewer_bits = "value_bits" in aggregation.model_fields_set
    return DistributedMechanism.choose(
        clip_norm=training.clip_norm,
        noise_multiplier=noise_multiplier,
        dimension=layout.size,
        minimum_contributors=floors.minimum_contributors,
        maximum_contributors=config.cohort_size,
        colluding=floors.colluding,
        maximum_records=records,
        layout_digest=layout.digest,
        rounding="conditional" if aggregation.rounding == "conditional" else "unconditional",
        rotation_block=max(block for block in BLOCKS if block <= max(layout.size, BLOCKS[0]))
        if aggregation.rotation
        else 0,
        modulus_bits=aggregation.value_bits if fewer_bits else None,
        wrap_probability=WRAP_PROBABILITY if fewer_bits else 0.0,
    )


def _rate(config: Config) -> float:
    """Amplification: of records in mode B; who takes part is visible in mode C, which has none."""
    return config.training.sampling_rate if config.training.mode == "distributed-dp-sgd" else 1.0


@lru_cache(maxsize=32)  # a plan, its parties and its report ask for the same search
def planned_noise(config: Config, layout: TensorLayout) -> float:
    """The configured noise multiplier, or the smallest that lets every round of the plan fit at the floors.

    :raises ConfigError: naming the key that leaves no mechanism.
    :raises PrivacyError: a budget that no noise reaches.
    """
    training, privacy = config.training, config.privacy
    floors = Floors(config.minimum_contributors, config.collusion_bound)
    if privacy is None:
        raise ConfigError("privacy", "missing", f"a table, required with mode {training.mode}")
    if training.noise_multiplier is None:
        return distributed_noise_multiplier_for(
            config.training_epsilon,
            privacy.delta,
            lambda multiplier: mechanism(config, layout, multiplier, floors).plan,
            config.budgeted_rounds,
            _rate(config),
        )
    try:
        mechanism(config, layout, training.noise_multiplier, floors)
    except PrivacyError as error:
        raise ConfigError("training.noise_multiplier", f"no mechanism has it: {error}", "a larger one") from None
    return training.noise_multiplier


def noise_event(config: Config, used: DistributedMechanism) -> DistributedGaussian:
    """What one round costs, against the strongest adversary that the mechanism's noise is made for."""
    return used.plan.event(1, sampling_rate=_rate(config))
