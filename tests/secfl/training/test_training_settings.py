from __future__ import annotations

import pytest

from protocols.errors import ConfigError
from secfl.privacy import SampledGaussian
from secfl.training import DpSgdSettings, PlainSettings

GOOD = {
    "sampling_rate": 0.25,
    "nominal_size": 200,
    "noise_multiplier": 1.5,
    "clip_norm": 1.0,
    "learning_rate": 0.1,
}


def test_divisor_is_rate_times_nominal_size() -> None:
    assert DpSgdSettings(**GOOD).expected_batch == 50.0


def test_event_counts_every_step_at_the_configured_rate() -> None:
    assert DpSgdSettings(**GOOD).event(40) == SampledGaussian(sampling_rate=0.25, noise_multiplier=1.5, steps=40)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sampling_rate", 0.0),
        ("sampling_rate", 1.0000001),
        ("sampling_rate", float("nan")),
        ("nominal_size", 0),
        ("nominal_size", 10.0),
        ("nominal_size", True),
        ("noise_multiplier", 0.0),
        ("noise_multiplier", float("inf")),
        ("clip_norm", 0.0),
        ("clip_norm", "1"),
        ("learning_rate", 0.0),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("grad_sample", "functorch"),
        ("max_physical_batch", 0),
    ],
)
def test_setting_out_of_range_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        DpSgdSettings(**{**GOOD, key: value})
    assert caught.value.key == f"training.{key}"


@pytest.mark.parametrize(("key", "value"), [("batch_size", 0), ("learning_rate", -1.0), ("momentum", 1.0)])
def test_plain_setting_out_of_range_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        PlainSettings(**{"batch_size": 8, "learning_rate": 0.1, key: value})
    assert caught.value.key == f"training.{key}"
