"""FedProx: the pull towards the global model, with and without privacy, against the recursion worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from protocols.errors import ConfigError
from secfl.training import DpSgdSettings, LocalDpSgd, PlainSettings, PlainSgd, model_state

RECORDS = TensorDataset(torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.zeros(2))
# The loss is the output, so the gradient is always (2, 2). From w = w_global: w1 = -g, w2 = w1 - g - w1/2 = -1.5 g,
# w3 = w2 - g - w2/2 = -1.75 g at learning rate 1 and mu = 1/2. Without the pull it would be -3 g.
EXPECTED = np.array([[-3.5, -3.5]])


def linear() -> nn.Module:
    model = nn.Linear(2, 1, bias=False)
    nn.init.constant_(model.weight, 5.0)
    return model


def test_plain_training_is_pulled_towards_the_global_model(make_task) -> None:
    task = make_task(linear)
    trainer = PlainSgd(task, PlainSettings(2, 1.0, proximal=0.5), "north")
    update = trainer.train(model_state(task.build_model()), RECORDS, 3)
    np.testing.assert_allclose(update.update["weight"], EXPECTED, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize("grad_sample", ["hooks", "ghost"])
def test_private_training_is_pulled_after_clipping_and_noise(make_task, grad_sample) -> None:
    task = make_task(linear)
    settings = DpSgdSettings(
        sampling_rate=1.0,
        nominal_size=2,
        noise_multiplier=1e-7,
        clip_norm=10.0,
        learning_rate=1.0,
        grad_sample=grad_sample,
        proximal=0.5,
    )
    update = LocalDpSgd(task, settings).train(model_state(task.build_model()), RECORDS, 3)
    # The pull is neither clipped nor divided by the batch: at w2 it is about 2.1, and the result is the same.
    np.testing.assert_allclose(update.update["weight"], EXPECTED, atol=1e-4)


@pytest.mark.parametrize("weight", [-0.1, float("nan"), "1"])
def test_a_weight_that_is_no_number_from_zero_on_is_refused(weight) -> None:
    with pytest.raises(ConfigError, match=r"training\.proximal"):
        PlainSettings(2, 1.0, proximal=weight)
