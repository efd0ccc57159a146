"""Mode ``none``: SGD without privacy, for comparisons and for records that need none. The report says so in red."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from protocols.errors import ConfigError, EncodingError
from secfl.training.batches import batch_of, length
from secfl.training.checks import buffers, check_buffers_unchanged
from secfl.training.proximal import Proximal
from secfl.training.sampling import shuffled_batches
from secfl.training.settings import PlainSettings
from secfl.training.state import LocalUpdate, State, load_state, parameter_difference
from secfl.training.task import Task

__all__ = ["PlainSgd"]


class PlainSgd:
    """Trains at one silo with shuffled batches and the mean loss. The update is not private.

    :param silo: name for errors.
    """

    mode = "none"
    noise_source = "none: this update is not differentially private"

    def __init__(self, task: Task, settings: PlainSettings, silo: str) -> None:
        self.settings = settings
        self._task = task
        self._silo = silo
        self._template = task.build_model()

    def train(
        self, state: State, records: Dataset[Any], steps: int, entropy: Callable[[int], bytes] = os.urandom
    ) -> LocalUpdate:
        """Take ``steps`` steps from the global ``state``.

        :param entropy: source of the batches' order.
        :raises ConfigError: if the silo has no records, or the model changes a buffer in training.
        :raises EncodingError: naming a tensor that does not fit the model or is not finite, before or after training.
        """
        if steps < 1:
            raise ValueError(f"steps {steps!r} is not >= 1")
        if not length(records):
            raise ConfigError(f"silos.{self._silo}", "no training records", "at least one record")
        update = self._difference(state, records, steps, entropy)
        for name, values in update.items():
            if not np.isfinite(values).all():
                raise EncodingError(name, f"not finite after training at silo {self._silo!r}")
        return LocalUpdate(update, steps)

    def _difference(
        self, state: State, records: Dataset[Any], steps: int, entropy: Callable[[int], bytes]
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Trained minus given, finite or not; no step is taken only where ``steps`` is 0."""
        model = copy.deepcopy(self._template).train()
        load_state(model, state)
        before = buffers(model)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        sgd = torch.optim.SGD(parameters, lr=self.settings.learning_rate, momentum=self.settings.momentum)
        proximal = Proximal(parameters, self.settings.proximal)
        for batch in islice(shuffled_batches(length(records), self.settings.batch_size, entropy), steps):
            sgd.zero_grad()
            inputs, targets = batch_of(records, batch)
            torch.autograd.backward(self._task.record_losses(model(inputs), targets, len(batch)).mean())
            proximal.add()
            sgd.step()
        check_buffers_unchanged(model, before)
        return parameter_difference(model, state)
