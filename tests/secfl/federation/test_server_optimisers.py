"""Server optimisers against the formulas of Reddi et al. 2021, worked out by hand or step by step."""

from __future__ import annotations

import numpy as np
import pytest

from protocols.errors import UsageError
from secfl.federation.optimisers import Adam, ServerOptimiser, Sgd, Yogi

MEANS = [np.array([1.0, -2.0, 0.0]), np.array([0.5, 0.5, -1.0])]


def test_sgd_at_rate_one_adds_the_mean_itself() -> None:
    assert Sgd().step(MEANS[0]).tolist() == [1.0, -2.0, 0.0]


def test_sgd_with_momentum_accumulates_velocity() -> None:
    optimiser = Sgd(learning_rate=0.5, momentum=0.9)
    assert optimiser.step(MEANS[0]).tolist() == [0.5, -1.0, 0.0]
    np.testing.assert_allclose(optimiser.step(MEANS[1]), 0.5 * (0.9 * MEANS[0] + MEANS[1]), rtol=1e-15)


def test_adam_follows_the_paper_without_bias_correction() -> None:
    optimiser = Adam(learning_rate=0.1, beta1=0.9, beta2=0.99, tau=1e-3)
    np.testing.assert_allclose(
        optimiser.step(MEANS[0]), [0.1 * 0.1 / (0.1 + 1e-3), -0.1 * 0.2 / (0.2 + 1e-3), 0.0], rtol=1e-12
    )
    first = 0.9 * 0.1 * MEANS[0] + 0.1 * MEANS[1]
    second = 0.99 * 0.01 * MEANS[0] ** 2 + 0.01 * MEANS[1] ** 2
    np.testing.assert_allclose(optimiser.step(MEANS[1]), 0.1 * first / (np.sqrt(second) + 1e-3), rtol=1e-12)


def test_yogi_moves_its_second_moment_by_the_sign() -> None:
    optimiser = Yogi(learning_rate=0.1, beta1=0.0, beta2=0.9, tau=1e-3)
    optimiser.step(MEANS[0])
    np.testing.assert_allclose(optimiser.moments["second"], [0.1, 0.4, 0.0], rtol=1e-15)
    optimiser.step(MEANS[1])
    # 0.1 < 0.25: grows by .1 * .25; 0.4 > 0.25: shrinks by as much; 0 < 1: grows by .1.
    np.testing.assert_allclose(optimiser.moments["second"], [0.125, 0.375, 0.1], rtol=1e-15)


@pytest.mark.parametrize("make", [lambda: Sgd(0.5, 0.9), Adam, Yogi])
def test_moments_restored_from_a_checkpoint_continue_bit_for_bit(make: type[ServerOptimiser]) -> None:
    whole, halved = make(), make()
    for mean in MEANS:
        expected = whole.step(mean)
    halved.step(MEANS[0])
    resumed = make()
    resumed.restore({name: moment.copy() for name, moment in halved.moments.items()})
    assert resumed.step(MEANS[1]).tobytes() == expected.tobytes()


def test_moments_of_another_optimiser_are_refused() -> None:
    adam = Adam()
    adam.step(MEANS[0])
    with pytest.raises(UsageError, match="velocity"):
        Sgd(momentum=0.9).restore(adam.moments)
