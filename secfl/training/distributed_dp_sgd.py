"""Mode B, ``distributed-dp-sgd``: one secure sum of clipped per-example gradients per step, with noise from all silos.

Unit of privacy: add or remove one record of one silo. In a step each silo draws a secret Poisson sample at the public
rate q and sums its records' gradients, each clipped to C; the mechanism (:mod:`secfl.privacy.mechanism`) brings the sum
to whole numbers and adds a share of discrete Gaussian noise (Kairouz, Liu, Steinke 2021). The server divides the sum
over silos by a public constant and takes the step: DP-SGD (Abadi et al. 2016) on the records of all silos together,
without a party that sees anybody's gradients. Several local steps under the aggregate's noise have no valid analysis,
so a round is exactly one step.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import nn
from torch.utils.data import Dataset

from protocols.errors import ConfigError
from secfl.training.batches import batch_of, length
from secfl.training.checks import buffers, check_behaviour, check_buffers_unchanged, check_model
from secfl.training.dp_step import DpStep
from secfl.training.padding import sample_parts
from secfl.training.record_gradients import RecordGradients
from secfl.training.sampling import poisson_sample
from secfl.training.settings import GradientSumSettings
from secfl.training.state import State, load_state
from secfl.training.task import Task

__all__ = ["DistributedDpSgd", "GradientSum", "ghost_slack"]

Arrays = Sequence[npt.NDArray[np.float32]]
Parts = Iterator[tuple[npt.NDArray[np.int64], int]]

_SINGLE = 2.0**-24
_MOST_SLACK = 0.1


class GradientSum(Protocol):
    """Where a step's gradients go; `secfl.privacy.fixed_point.RecordSum` is one."""

    def add(self, gradients: Arrays, counted: int) -> None:
        """Clip each record's gradient to C and add it; one that is not finite counts as zero.

        :param gradients: per trainable parameter, float32 of shape (rows, ...).
        :param counted: the first so many rows are records, the others fillers that do not count.
        """

    def add_clipped(self, total: Sequence[npt.NDArray[Any]], records: int) -> None:
        """Add a sum of gradients that are clipped already.

        :param total: per trainable parameter, of the parameter's shape.
        :param records: in the sum.
        """


def ghost_slack(settings: GradientSumSettings, shapes: Sequence[Sequence[int]]) -> float:
    """Bound on what float32 adds, relative to C, to the distance of two sums that differ by one record.

    Ghost clipping sums inside matrix products. With unit roundoff u, at most B records of norm C, b of them in a
    physical batch: a sum is off by B b u C at most (Higham 2002, section 3.1), in each of the two neighbours; the norm
    of a linear layer's gradient, a product of two norms, by the sum of its two sides times u. Layers that are applied
    more than once to a record (sequences, images) have norms whose terms may cancel: that is not in the bound. The
    margin of `GradientSumSettings` is added.
    """
    records = settings.largest_sample
    physical = min(records, settings.max_physical_batch or records)
    rounding = 2 * records * physical + max(sum(shape) for shape in shapes) + 8
    return rounding * _SINGLE + settings.margin


class DistributedDpSgd:
    """A silo's side of a step: the clipped gradient sum of a fresh sample.

    :param task: the model file.
    :param settings: public constants.
    :raises ConfigError: the model cannot be trained privately (:func:`secfl.training.checks.check_model`), or rounding
        could add too much to sums of ghost clipping.
    """

    mode = "distributed-dp-sgd"

    def __init__(self, task: Task, settings: GradientSumSettings) -> None:
        self.settings = settings
        self._task = task
        self._template = task.build_model()
        self._behaviour_checked = False
        check_model(self._template)
        shapes = [parameter.shape for parameter in self._template.parameters() if parameter.requires_grad]
        slack = ghost_slack(settings, shapes) if settings.grad_sample == "ghost" else settings.margin
        if slack > _MOST_SLACK:
            problem = f"rounding could add {slack:.0%} of the clip norm to float32 sums of so many records"
            raise ConfigError("training.max_physical_batch", problem, 'fewer records, or grad_sample "hooks"')
        self.margin = slack
        """Part of the clip to be kept free of gradients: see `RecordSum`."""

    def add_gradients(
        self, state: State, records: Dataset[Any], into: GradientSum, entropy: Callable[[int], bytes] = os.urandom
    ) -> int:
        """Draw a sample and add its records' gradients at the global ``state`` to a sum.

        An empty sample adds nothing and makes no forward pass; the noise is still to be sent: whether a silo takes part
        must not depend on its records.

        :param state: all tensors of the model (:func:`secfl.training.state.model_state`).
        :param into: clips with this trainer's ``margin``.
        :param entropy: source of the sample: ``os.urandom``, or a deterministic one in tests.
        :returns: records sampled. Private.
        :raises EncodingError: naming a tensor of ``state`` that does not fit the model or is not finite.
        :raises ConfigError: if the model's behaviour rules private training out.
        """
        model = copy.deepcopy(self._template).train()
        load_state(model, state)
        if length(records) and not self._behaviour_checked:
            check_behaviour(model, self._task, self.settings.stepwise(), records)
            self._behaviour_checked = True
        sample = poisson_sample(length(records), self.settings.sampling_rate, entropy)
        # What is beyond has probability 2^-64 where the silo holds up to twice its nominal number of records.
        sample = sample[: self.settings.largest_sample]
        before = buffers(model)
        add = self._add_ghost if self.settings.grad_sample == "ghost" else self._add_hooks
        add(model, records, sample_parts(sample, length(records), self.settings, entropy), into)
        check_buffers_unchanged(model, before)
        return len(sample)

    def _add_hooks(self, model: nn.Module, records: Dataset[Any], parts: Parts, into: GradientSum) -> None:
        gradients = RecordGradients(model, self._task)
        for rows, counted in parts:
            into.add(gradients.of(*batch_of(records, rows), rows=len(rows), counted=counted), counted)

    def _add_ghost(self, model: nn.Module, records: Dataset[Any], parts: Parts, into: GradientSum) -> None:
        step = DpStep(
            model, self._task, self.settings.stepwise(self.settings.clip_norm * (1 - self.margin)), os.urandom
        )
        for rows, counted in parts:
            step.begin()
            step.add(*batch_of(records, rows), len(rows), counted)
            into.add_clipped([tensor.detach().numpy() for tensor in step.clipped_sum()], counted)
