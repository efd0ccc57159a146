"""Public constants of local training, and what a training run means for the accountant."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from protocols.errors import ConfigError
from secfl.privacy.events import SampledGaussian

__all__ = ["RARE_SAMPLE", "DpSgdSettings", "GradientSumSettings", "PlainSettings", "largest_sample"]

RARE_SAMPLE = 2.0**-64
"""Probability that a sample exceeds `largest_sample`, at most."""
_RARE = -math.log(RARE_SAMPLE)


def _require(holds: bool, key: str, value: object, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"training.{key}", f"{value!r} cannot be used", allowed)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _check_sgd(learning_rate: float, momentum: float, proximal: float) -> None:
    _require(_is_number(learning_rate) and learning_rate > 0, "learning_rate", learning_rate, "a number > 0")
    _require(_is_number(momentum) and 0 <= momentum < 1, "momentum", momentum, "0 <= momentum < 1")
    _require(_is_number(proximal) and proximal >= 0, "proximal", proximal, "a number >= 0")


@dataclass(frozen=True)
class DpSgdSettings:
    """Constants of local DP-SGD. All are public: none may be derived from private records, nor changed because of them.

    :param sampling_rate: q, probability with which each record enters a step's sample, 0 < q <= 1.
    :param nominal_size: the silo's public number of records; the divisor of a step is ``sampling_rate * nominal_size``,
        whatever the data set's true length.
    :param noise_multiplier: z, standard deviation of the noise on the gradient sum over ``clip_norm``, > 0.
    :param clip_norm: largest Euclidean norm of one record's gradient, > 0.
    :param learning_rate: of the local SGD, > 0.
    :param momentum: of the local SGD, 0 <= momentum < 1; starts at zero in every call.
    :param grad_sample: ``"hooks"`` materialises per-example gradients; ``"ghost"`` computes their norms alone and runs
        a second backward pass, for layers too large for the former (Li et al. 2022, Bu et al. 2022).
    :param max_physical_batch: records in memory at a time; a larger sample is summed in parts. ``None``: no bound.
    :param proximal: weight mu of FedProx's pull towards the global model, >= 0.
    :param padded_batch: rows of every step, whatever its sample (:mod:`secfl.training.padding`). ``None``: as many as
        were sampled, which the time of a step tells.
    :raises ConfigError: naming the key.
    """

    sampling_rate: float
    nominal_size: int
    noise_multiplier: float
    clip_norm: float
    learning_rate: float
    momentum: float = 0.0
    grad_sample: Literal["hooks", "ghost"] = "hooks"
    max_physical_batch: int | None = None
    proximal: float = 0.0
    padded_batch: int | None = None

    def __post_init__(self) -> None:
        rate, size = self.sampling_rate, self.nominal_size
        _require(_is_number(rate) and 0 < rate <= 1, "sampling_rate", rate, "0 < sampling_rate <= 1")
        _require(_is_count(size), "nominal_size", size, "an integer >= 1")
        for key in ("noise_multiplier", "clip_norm"):
            value = getattr(self, key)
            _require(_is_number(value) and value > 0, key, value, "a number > 0")
        _check_sgd(self.learning_rate, self.momentum, self.proximal)
        _require(self.grad_sample in ("hooks", "ghost"), "grad_sample", self.grad_sample, '"hooks" or "ghost"')
        for key in ("max_physical_batch", "padded_batch"):
            bound = getattr(self, key)
            _require(bound is None or _is_count(bound), key, bound, "an integer >= 1, or none")

    @property
    def expected_batch(self) -> float:
        """Expected size of a sample at the nominal size: the public divisor of every step."""
        return self.sampling_rate * self.nominal_size

    def event(self, steps: int) -> SampledGaussian:
        """Return what ``steps`` steps under these settings mean for the accountant, the empty samples among them.

        :raises PrivacyError: a value outside what the accountant takes.
        """
        return SampledGaussian(self.sampling_rate, self.noise_multiplier, steps)


def largest_sample(nominal_size: int, sampling_rate: float) -> int:
    """Records that a Poisson sample of twice the nominal number of records exceeds with probability below 2^-64.

    Chernoff's bound: P[X >= (1 + s) mu] <= exp(-mu ((1 + s) ln(1 + s) - s)), mu = 2 q N. The factor 2 is for silos that
    hold more than they declared.
    """
    expected = 2 * nominal_size * sampling_rate
    low, high = math.ceil(expected), 2 * nominal_size
    while low < high:
        middle = (low + high) // 2
        ratio = (middle + 1) / expected
        rare = ratio > 1 and expected * (ratio * math.log(ratio) - ratio + 1) >= _RARE
        low, high = (low, middle) if rare else (middle + 1, high)
    return high


@dataclass(frozen=True)
class GradientSumSettings:
    """Constants of a clipped gradient sum, which distributed DP-SGD takes one of per step. All are public.

    :param sampling_rate: q, probability with which each record enters a step's sample, 0 < q <= 1.
    :param nominal_size: the silo's public number of records.
    :param clip_norm: largest Euclidean norm of one record's gradient, > 0.
    :param grad_sample: see `DpSgdSettings`.
    :param max_physical_batch: see `DpSgdSettings`.
    :param padded_batch: see `DpSgdSettings`.
    :raises ConfigError: naming the key.
    """

    sampling_rate: float
    nominal_size: int
    clip_norm: float
    grad_sample: Literal["hooks", "ghost"] = "hooks"
    max_physical_batch: int | None = None
    padded_batch: int | None = None

    def __post_init__(self) -> None:
        self.stepwise()

    @property
    def largest_sample(self) -> int:
        """Most records that a step's sum may hold: public."""
        return largest_sample(self.nominal_size, self.sampling_rate)

    @property
    def margin(self) -> float:
        """Part of the clip kept free for what floating point changes in other records' gradients.

        In which batch and at which place a record is computed changes the last bits of its gradient. If by no more than
        16 units in the last place of float32, relative to the clip, one record more moves B others by 16 B 2^-24.
        """
        return 16 * self.largest_sample * 2.0**-24

    def stepwise(self, clip_norm: float | None = None) -> DpSgdSettings:
        """The same constants for :class:`secfl.training.dp_step.DpStep`, of which no step is taken."""
        return DpSgdSettings(
            self.sampling_rate,
            self.nominal_size,
            noise_multiplier=1.0,
            clip_norm=self.clip_norm if clip_norm is None else clip_norm,
            learning_rate=1.0,
            grad_sample=self.grad_sample,
            max_physical_batch=self.max_physical_batch,
            padded_batch=self.padded_batch,
        )


@dataclass(frozen=True)
class PlainSettings:
    """Constants of training without privacy.

    :param batch_size: records of a step, >= 1; a silo with fewer uses all of them.
    :param learning_rate: of the local SGD, > 0.
    :param momentum: of the local SGD, 0 <= momentum < 1; starts at zero in every call.
    :param proximal: weight mu of FedProx's pull towards the global model, >= 0.
    :raises ConfigError: naming the key.
    """

    batch_size: int
    learning_rate: float
    momentum: float = 0.0
    proximal: float = 0.0

    def __post_init__(self) -> None:
        _require(_is_count(self.batch_size), "batch_size", self.batch_size, "an integer >= 1")
        _check_sgd(self.learning_rate, self.momentum, self.proximal)
