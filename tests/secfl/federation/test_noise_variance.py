"""The noise in an opened sum has the planned variance, with everybody there and at the fewest contributors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from every_protocol import NAMES, Recorded, run_under
from scipy.stats import chi2
from small_study import noised_text, write_study

from secfl.engines import Incident
from secfl.privacy.mechanism import DistributedMechanism

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Full backward hook is firing")]

WIDTH = 30_000
FALSE_ALARM = 1e-9
MODEL = f"""
import torch
from torch import nn
from torch.utils.data import TensorDataset


def build_model():
    return nn.Linear({WIDTH}, 1, bias=False)


def load_data(silo, split_seed):
    train, test = torch.zeros(40, {WIDTH}), torch.zeros(1, {WIDTH})
    return TensorDataset(train, torch.zeros(40)), TensorDataset(test, torch.zeros(1))


def loss(outputs, targets):
    return outputs[:, 0]


def metric(outputs, targets):
    return 0.0
"""


def noise_of(run: Recorded, contributors: int) -> tuple[np.ndarray, float]:
    """The first sum in steps (all gradients are zero, so it is noise and rounding) and its planned variance."""
    scheme = run.plan.scheme
    assert isinstance(scheme, DistributedMechanism)
    ((_, _, aggregate),) = run.opened
    assert len(aggregate.contributors) == contributors
    total = np.ldexp(scheme.decode(aggregate.sum, contributors, aggregate.session_id), scheme.fraction_bits)
    plan = scheme.plan
    # sigma_i^2 = (z Delta_2)^2 / (T_min - c), here T_min = 3 and c = 1.
    assert plan.share_sigma**2 == pytest.approx((2.0 * plan.l2_sensitivity) ** 2 / 2)
    return total, contributors * plan.share_sigma**2


@pytest.mark.parametrize("mode", ["distributed-dp-sgd", "client-level"])
@pytest.mark.parametrize("protocol", NAMES)
@pytest.mark.parametrize("lost", [(), ("north",)])
def test_noise_in_a_sum_has_the_planned_variance_whoever_drops_out(
    tmp_path: Path, protocol: str, mode: str, lost: tuple[str, ...]
) -> None:
    text = noised_text(mode, rounds=1)
    write_study(tmp_path, text, MODEL)
    phase = "MaskedInput" if protocol == "secagg" else "Contribution"
    run = run_under(protocol, text, tmp_path, tmp_path / "home", *(Incident(silo, phase) for silo in lost))
    total, planned = noise_of(run, 4 - len(lost))
    low, high = chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], WIDTH) / WIDTH
    assert low <= np.mean(total**2) / planned <= high
    assert 0.92 < low < high < 1.08  # so a missing share (3/4, or 2/3) and half the noise are far outside
    assert abs(np.mean(total)) < 6 * np.sqrt(planned / WIDTH)
    assert abs(np.corrcoef(total[:-1], total[1:])[0, 1]) < 6 / np.sqrt(WIDTH)
