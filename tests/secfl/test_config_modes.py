"""What modes B and C refuse in a configuration, and why; and what they leave to the library."""

from __future__ import annotations

import pytest
from small_study import noised_text, study_text

from protocols.errors import ConfigError
from secfl.config import parse_config

B = noised_text("distributed-dp-sgd", aggregation="\n", rest="[server]\n")
C = noised_text("client-level", aggregation="\n", rest="[server]\n")
A = study_text(private=True)

# Text, what stands there instead, the key, the problem, what is allowed.
MISTAKES = [
    (
        B,
        "steps_per_round = 1",
        "steps_per_round = 2",
        "training.steps_per_round",
        "no analysis covers several local",
        "1;",
    ),
    (B, "clip_norm = 1.0", "", "training.clip_norm", "missing", "required with mode distributed-dp-sgd"),
    (
        B,
        "clip_norm = 1.0",
        "clip_norm = 1.0\nmomentum = 0.5",
        "training.momentum",
        "the server's momentum has",
        "local-dp",
    ),
    (B, "clip_norm = 1.0", "clip_norm = 1.0\nproximal = 0.5", "training.proximal", "has no effect", "client-level"),
    (
        B,
        "[aggregation]",
        '[aggregation]\nweights = "uniform"',
        "aggregation.weights",
        "every record counts the same",
        "no",
    ),
    (
        B,
        "[aggregation]",
        "[aggregation]\nvalue_range = 4.0",
        "aggregation.value_range",
        "the clip norm bounds",
        "no such",
    ),
    (
        B,
        "[aggregation]",
        '[aggregation]\nrounding = "nearest"',
        "aggregation.rounding",
        '"nearest" with',
        '"stochastic"',
    ),
    (
        B,
        "[aggregation]",
        '[aggregation]\nrounding = "conditional"',
        "aggregation.rounding",
        "with mode distr",
        '"stoch',
    ),
    (B, "[aggregation]", "[aggregation]\nrotation = true", "aggregation.rotation", "without value_bits", "value_bits"),
    (
        B,
        "[aggregation]",
        '[aggregation]\nprotocol = "ckks"\nvalue_bits = 20',
        "aggregation.value_bits",
        "given with protocol ckks and noise in sums",
        'protocol "secagg"',
    ),
    (
        B,
        "epsilon = 8.0",
        'epsilon = 8.0\nunit = "client"',
        "privacy.unit",
        '"client" with mode distributed',
        '"record"',
    ),
    (
        B,
        "[aggregation]",
        '[rounds]\nmode = "buffered"\n[aggregation]\nprotocol = "oneshot"',
        "rounds.mode",
        "buffered with mode distributed-dp-sgd: every share of noise",
        '"synchronous"',
    ),
    (B, 'name = "study"', 'name = "study"\nreproducible = true', "run.reproducible", "protects nobody", "false with"),
    (
        B,
        "[aggregation]",
        "[aggregation]\nminimum_contributors = 2",
        "aggregation.minimum_contributors",
        "2 with 4",
        "3 to",
    ),
    (C, 'unit = "client"', "", "privacy.unit", '"record" with mode client-level', '"client"'),
    (C, "clip_norm = 1.0", "clip_norm = 1.0\ngrad_sample = 'ghost'", "training.grad_sample", "has no effect", "dp-sgd"),
    (C, "clip_norm = 1.0", "clip_norm = 1.0\npad_batches = true", "training.pad_batches", "has no effect", "dp-sgd"),
    (
        C,
        "clip_norm = 1.0",
        "clip_norm = 1.0\nmax_physical_batch = 3",
        "training.max_physical_batch",
        "no effect",
        "dp-sgd",
    ),
    (
        C,
        "[aggregation]",
        "[aggregation]\nvalue_range = 4.0",
        "aggregation.value_range",
        "the clip norm bounds",
        "no such",
    ),
    (C, "[aggregation]", '[aggregation]\nrounding = "nearest"', "aggregation.rounding", '"nearest"', '"conditional"'),
    (
        C,
        "[aggregation]",
        '[rounds]\nmode = "buffered"\n[aggregation]\nprotocol = "oneshot"',
        "rounds.mode",
        "buffered with mode client-level",
        '"synchronous"',
    ),
    (C, "delta = 1e-5", "delta = 0.03", "privacy.delta", "0.03", "for 4 records"),
    (
        A,
        "[aggregation]",
        "[aggregation]\nrotation = true",
        "aggregation.rotation",
        "no effect with mode local",
        "false, or",
    ),
    (
        A,
        "[aggregation]",
        '[aggregation]\nrounding = "conditional"',
        "aggregation.rounding",
        '"conditional"',
        '"nearest"',
    ),
    (A, "epsilon = 8.0", 'epsilon = 8.0\nunit = "client"', "privacy.unit", '"client" with mode local', '"record"'),
]


@pytest.mark.parametrize(("text", "there", "instead", "key", "problem", "allowed"), MISTAKES)
def test_a_combination_without_meaning_is_refused_with_the_key_and_what_is_allowed(
    text: str, there: str, instead: str, key: str, problem: str, allowed: str
) -> None:
    assert text.count(there) == 1
    parse_config(text)
    with pytest.raises(ConfigError) as caught:
        parse_config(text.replace(there, instead))
    assert caught.value.key == key
    assert problem in str(caught.value)
    assert allowed in caught.value.allowed


@pytest.mark.parametrize(("silos", "contributors"), [(2, 2), (3, 3), (4, 3), (9, 8), (20, 18), (57, 52)])
def test_shares_of_noise_are_made_for_nine_tenths_or_all_but_one_unless_told(silos: int, contributors: int) -> None:
    names = tuple(f"s{number:02d}" for number in range(silos))
    for mode in ("distributed-dp-sgd", "client-level"):
        config = parse_config(noised_text(mode, names, aggregation="collusion_bound = 0"))
        assert config.minimum_contributors == contributors


def test_what_the_budget_protects_is_counted_in_records_or_in_clients() -> None:
    assert parse_config(B).privacy_units == 160
    assert parse_config(C).privacy_units == 4
