"""Server optimisers: from the mean update of a round to the next global model.

The mean update takes the place of a negative gradient (Reddi et al. 2021, "Adaptive Federated Optimization",
algorithm 2). Whatever they do is post-processing of the opened sum and costs no privacy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from protocols.errors import UsageError

__all__ = ["Adam", "ServerOptimiser", "Sgd", "Yogi"]

Vector = npt.NDArray[np.float64]


class ServerOptimiser(ABC):
    """Turns mean updates into steps; its moments travel in checkpoints."""

    MOMENTS: ClassVar[tuple[str, ...]]

    moments: dict[str, Vector]

    @abstractmethod
    def step(self, mean: Vector) -> Vector:
        """What is added to the trainable parameters.

        :param mean: mean update over the contributors, float64 ``[d]``.
        :returns: float64 ``[d]``.
        """

    def restore(self, moments: dict[str, Vector]) -> None:
        """Continue from a checkpoint's moments.

        :raises UsageError: they are another optimiser's.
        """
        if moments and set(moments) != set(self.MOMENTS):
            raise UsageError(f"moments {sorted(moments)} of a checkpoint; this optimiser has {sorted(self.MOMENTS)}")
        self.moments = {name: np.array(values, dtype=np.float64) for name, values in moments.items()}

    def _moment(self, name: str, mean: Vector) -> Vector:
        return self.moments.setdefault(name, np.zeros_like(mean))


@dataclass
class Sgd(ServerOptimiser):
    """Federated averaging (McMahan et al. 2017), with momentum if wanted (FedAvgM, Hsu et al. 2019).

    :param learning_rate: 1 and no momentum adds the plain mean.
    """

    MOMENTS: ClassVar[tuple[str, ...]] = ("velocity",)

    learning_rate: float = 1.0
    momentum: float = 0.0
    moments: dict[str, Vector] = field(default_factory=dict, repr=False)

    def step(self, mean: Vector) -> Vector:
        """See `ServerOptimiser.step`."""
        if self.momentum == 0.0:
            return self.learning_rate * mean
        velocity = self._moment("velocity", mean)
        velocity *= self.momentum
        velocity += mean
        return self.learning_rate * velocity


@dataclass
class Adam(ServerOptimiser):
    """FedAdam (Reddi et al. 2021): m = b1 m + (1 - b1) mean; v = b2 v + (1 - b2) mean^2; step = lr m / (sqrt(v) + tau).

    :param tau: degree of adaptivity; the paper's 10^-3. There is no bias correction, as in the paper.
    """

    MOMENTS: ClassVar[tuple[str, ...]] = ("first", "second")

    learning_rate: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3
    moments: dict[str, Vector] = field(default_factory=dict, repr=False)

    def step(self, mean: Vector) -> Vector:
        """See `ServerOptimiser.step`."""
        first, second = self._moment("first", mean), self._moment("second", mean)
        first *= self.beta1
        first += (1 - self.beta1) * mean
        self._accumulate(second, mean * mean)
        return self.learning_rate * first / (np.sqrt(second) + self.tau)

    def _accumulate(self, second: Vector, squared: Vector) -> None:
        second *= self.beta2
        second += (1 - self.beta2) * squared


@dataclass
class Yogi(Adam):
    """FedYogi (Reddi et al. 2021): as FedAdam, with v = v - (1 - b2) mean^2 sign(v - mean^2)."""

    def _accumulate(self, second: Vector, squared: Vector) -> None:
        second -= (1 - self.beta2) * squared * np.sign(second - squared)
