"""Lower bounds on epsilon by canaries: one training on made-up records, each of which is in or out by a coin.

Canary j has the gradient C e_j: the longest that the clip leaves, along a coordinate of its own, so that its score (the
sum of what the adversary sees along e_j) is a count of its samples and noise. No record is easier to find. The
mechanism, the sampling and the noise are those of the configuration's mode, over all rounds of the plan.

Two bounds at one confidence, the error shared among all that is tried:

* one run, no assumption (Steinke, Nasr, Jagielski 2023): guesses on the canaries with the highest and lowest scores;
* Clopper-Pearson at a threshold fixed beforehand, if the mechanism is a Gaussian one (mu-GDP), which is assumed.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from protocols.errors import ConfigError
from protocols.primitives.ring import Words, reduce_in_place
from protocols.shape import Entropy
from secfl.privacy.audit.bounds import clopper_pearson_mu, gaussian_epsilon, one_run_epsilon, split_guesses
from secfl.privacy.audit.record import AuditResult
from secfl.privacy.mechanism import DistributedMechanism
from secfl.training import DpSgdSettings, LocalDpSgd, Task
from secfl.training.sampling import poisson_sample

__all__ = ["CANARIES", "CONFIDENCE", "Canaries", "local_canaries", "lower_bound", "record_canaries", "update_canaries"]

CANARIES = 1000
CONFIDENCE = 0.999
"""Of both bounds together: how often a sound claim passes."""
_SHARES = (50, 10, 4, 2, 1)
"""Guesses that are tried: one canary in so many."""

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Canaries:
    """What an adversary has to guess from.

    :param scores: one a canary, higher if it seems to be in.
    :param included: which are.
    :param threshold: fixed before the scores were seen, halfway between what is expected of those in and out.
    """

    scores: Values = field(repr=False)
    included: npt.NDArray[np.bool_] = field(repr=False)
    threshold: float


def lower_bound(mode: str, canaries: Canaries, claimed: float, delta: float) -> AuditResult:
    """Both bounds, against what is claimed.

    :param claimed: epsilon at delta.
    """
    error = (1 - CONFIDENCE) / (len(_SHARES) + 1)
    number = len(canaries.scores)
    one_run, made, right = 0.0, 0, 0
    for share in _SHARES:
        guesses, correct = split_guesses(canaries.scores, canaries.included, number // share)
        found = one_run_epsilon(number, guesses, correct, delta, 1 - error)
        if found >= one_run:
            one_run, made, right = found, guesses, correct
    called_in = canaries.scores > canaries.threshold
    wrong_in, wrong_out = int((canaries.included & ~called_in).sum()), int((~canaries.included & called_in).sum())
    number_in = int(canaries.included.sum())
    mu = clopper_pearson_mu(wrong_in, number_in, wrong_out, number - number_in, 1 - error)
    gaussian = gaussian_epsilon(mu, delta)
    passed = max(one_run, gaussian) <= claimed
    verdict = "is not refuted" if passed else "is refuted"
    return AuditResult(
        kind="lower bound",
        mode=mode,
        passed=passed,
        summary=(
            f"epsilon is at least {one_run:.3f}, and at least {gaussian:.3f} if the mechanism is Gaussian; the claim "
            f"of {claimed:.3f} {verdict}. A lower bound, not a proof"
        ),
        details={
            "epsilon claimed": claimed,
            "delta": delta,
            "confidence": CONFIDENCE,
            "canaries": number,
            "canaries in": number_in,
            "one run: lower bound on epsilon": one_run,
            "one run: guesses": made,
            "one run: right guesses": right,
            "assuming a Gaussian mechanism: lower bound on epsilon": gaussian,
            "assuming a Gaussian mechanism: lower bound on mu": mu,
            "assuming a Gaussian mechanism: in but called out": wrong_in,
            "assuming a Gaussian mechanism: out but called in": wrong_out,
        },
    )


def local_canaries(
    settings: DpSgdSettings, steps: int, number: int = CANARIES, entropy: Entropy = os.urandom
) -> Canaries:
    """Train in mode A on the canaries that are in; the adversary adds up the silo's updates.

    :param settings: q, z, C and how gradients are clipped; the learning rate does not matter.
    """
    included = _coins(number, entropy)
    task = _task(number, settings.clip_norm, included)
    trainer = LocalDpSgd(task, settings)
    state = {"weight": np.zeros((1, number), np.float32)}
    update = trainer.train(state, task.silo_data("canaries", 0).train, steps, entropy).update["weight"][0]
    scores = -update.astype(np.float64) * settings.expected_batch / settings.learning_rate
    return Canaries(scores, included, steps * settings.sampling_rate * settings.clip_norm / 2)


def record_canaries(
    mechanism: DistributedMechanism, sampling_rate: float, rounds: int, entropy: Entropy = os.urandom
) -> Canaries:
    """Train in mode B, the canaries that are in at one silo, the others without records; the adversary adds up sums.

    :param mechanism: of as many coordinates as there are to be canaries.
    """
    number, contributors = mechanism.dimension, mechanism.minimum_contributors
    included = _coins(number, entropy)
    gradients = np.eye(number, dtype=np.float32)[included] * np.float32(mechanism.clip_norm)
    scores = np.zeros(number)
    for _ in range(rounds):
        sample = gradients[poisson_sample(len(gradients), sampling_rate, entropy)]
        scores += _opened(mechanism, [[sample] if len(sample) else [], *[[]] * (contributors - 1)], entropy)
    return Canaries(scores, included, rounds * sampling_rate * mechanism.clip_norm / 2)


def update_canaries(
    mechanism: DistributedMechanism, rounds: int, number: int, entropy: Entropy = os.urandom
) -> Canaries:
    """Sum in mode C: client i sends c e_i or zero in every round; as many cohorts as it takes for so many canaries.

    :param mechanism: of as many coordinates as the fewest contributors.
    """
    clients = mechanism.minimum_contributors
    cohorts = math.ceil(number / clients)
    included = _coins(cohorts * clients, entropy)
    scores = np.zeros((cohorts, clients))
    for cohort, present in enumerate(included.reshape(cohorts, clients)):
        vectors = np.diag(present).astype(np.float32) * np.float32(mechanism.clip_norm)
        for _ in range(rounds):
            seed = entropy(32)
            words = [mechanism.encode(vector, seed, entropy)[0] for vector in vectors]
            scores[cohort] += mechanism.decode(_sum(mechanism, words), clients, seed)
    return Canaries(scores.ravel(), included, rounds * mechanism.clip_norm / 2)


def _opened(mechanism: DistributedMechanism, gradients: list[list[Any]], entropy: Entropy) -> Values:
    """The sum of the silos' noised sums of gradients, as the server sees it."""
    seed, words = entropy(32), []
    for own in gradients:
        total = mechanism.record_sum()
        if own:
            total.add(own)
        words.append(mechanism.encode_sum(total, seed, entropy)[0])
    return mechanism.decode(_sum(mechanism, words), len(gradients), seed)


def _sum(mechanism: DistributedMechanism, words: list[Words]) -> Words:
    total: Words = np.add.reduce(words, dtype=mechanism.word_dtype)
    reduce_in_place(total, mechanism.modulus_bits)
    return total


def _coins(number: int, entropy: Entropy) -> npt.NDArray[np.bool_]:
    return (np.frombuffer(entropy(number), np.uint8) & 1).astype(bool)


def _task(number: int, clip_norm: float, included: npt.NDArray[np.bool_]) -> Task:
    """Linear in the weights: the gradient of canary j is C e_j."""
    import torch
    from torch.utils.data import TensorDataset

    def model() -> torch.nn.Module:
        linear = torch.nn.Linear(number, 1, bias=False)
        torch.nn.init.zeros_(linear.weight)
        return linear

    rows = torch.from_numpy(np.eye(number, dtype=np.float32)[included] * np.float32(clip_norm))
    records = TensorDataset(rows, torch.zeros(len(rows)))
    return Task("canaries", model, lambda _silo, _seed: (records, None), lambda outputs, _targets: outputs[:, 0], _none)


def _none(_outputs: object, _targets: object) -> float:
    raise ConfigError("metric", "an audit has none")
