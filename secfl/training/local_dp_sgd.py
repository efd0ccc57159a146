"""Mode A, ``local-dp-sgd``: each silo runs DP-SGD by itself, so the claim does not rest on secure aggregation.

Unit of privacy: add or remove one record of one silo. Mechanism of a step: Poisson sample at the public rate q, each
record's gradient clipped to C, Gaussian noise of standard deviation z C on the sum (Abadi et al. 2016). The update is
post-processing of the noisy steps. Accounting is the ledger's: no accountant lives here.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from secfl.training.batches import batch_of, length
from secfl.training.checks import buffers, check_behaviour, check_buffers_unchanged, check_model
from secfl.training.dp_step import DpStep
from secfl.training.noise import NOISE_SOURCE
from secfl.training.padding import sample_parts
from secfl.training.sampling import poisson_sample
from secfl.training.settings import DpSgdSettings
from secfl.training.state import LocalUpdate, State, load_state, parameter_difference
from secfl.training.task import Task

__all__ = ["LocalDpSgd"]

Sample = npt.NDArray[np.int64]


class LocalDpSgd:
    """Trains at one silo under record-level differential privacy.

    :param task: the model file.
    :param settings: public constants.
    :raises ConfigError: if the model cannot be trained privately (:func:`secfl.training.checks.check_model`).
    """

    mode = "local-dp-sgd"
    noise_source = NOISE_SOURCE

    def __init__(self, task: Task, settings: DpSgdSettings) -> None:
        self.settings = settings
        self._task = task
        self._template = task.build_model()
        self._behaviour_checked = False
        check_model(self._template)

    def train(
        self, state: State, records: Dataset[Any], steps: int, entropy: Callable[[int], bytes] = os.urandom
    ) -> LocalUpdate:
        """Take ``steps`` steps from the global ``state``; the ledger has reserved ``settings.event(steps)`` before.

        A silo without records takes part with noise alone. Contributions that are not finite count as zero, and an
        update that is not finite becomes zero: whether a silo takes part must not depend on its records.

        :param state: all tensors of the model (:func:`secfl.training.state.model_state`).
        :param steps: >= 1.
        :param entropy: source of sampling and noise: ``os.urandom``, or a deterministic one in tests.
        :raises EncodingError: naming a tensor of ``state`` that does not fit the model or is not finite.
        :raises ConfigError: if the model's behaviour rules private training out.
        """
        if steps < 1:
            raise ValueError(f"steps {steps!r} is not >= 1")
        model = copy.deepcopy(self._template).train()
        load_state(model, state)
        if length(records) and not self._behaviour_checked:
            check_behaviour(model, self._task, self.settings, records)
            self._behaviour_checked = True
        before = buffers(model)
        step = DpStep(model, self._task, self.settings, entropy)
        left_out = empty = 0
        for _ in range(steps):
            sample = poisson_sample(length(records), self.settings.sampling_rate, entropy)
            empty += len(sample) == 0
            left_out += self._step(step, records, sample, entropy)
        check_buffers_unchanged(model, before)
        update = parameter_difference(model, state)
        if not all(np.isfinite(values).all() for values in update.values()):
            update = {name: np.zeros_like(values) for name, values in update.items()}
        return LocalUpdate(update, steps, left_out, empty)

    def _step(self, step: DpStep, records: Dataset[Any], sample: Sample, entropy: Callable[[int], bytes]) -> int:
        """Take one step on ``sample``, in parts that fit into memory; return the contributions left out."""
        left_out = 0
        step.begin()
        for rows, counted in sample_parts(sample, length(records), self.settings, entropy):
            left_out += step.add(*batch_of(records, rows), len(rows), counted)
        step.finish()
        return left_out
