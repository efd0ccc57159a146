"""The noise of opened sums, through whole sessions with dropouts, against the exact distribution of a sum of shares.

The parties' vectors lie on the grid and within the clip, so that what is opened less their plain sum is noise alone:
the sum of as many discrete Gaussians as there are contributors, whose probabilities are a convolution.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
from scipy import signal, stats

from protocols.identity import Identity, Role, Roster
from protocols.primitives.ring import centre
from protocols.primitives.signing import SigningKey
from protocols.session import ClientPolicy
from protocols.shape import Aggregate, ArraySource
from protocols.testing.network import Drop, Network
from protocols.testing.randomness import DeterministicEntropy
from protocols.testing.storage import MemoryStore
from secfl.privacy.mechanism import DistributedMechanism
from secfl.registry import offered

Source = Callable[[str], Callable[[int], bytes]]
NAMES = tuple(f"c{number}" for number in range(6))
VECTOR_PHASE = {"secagg": "MaskedInput", "oneshot": "Contribution"}


def mechanism(length: int, share_sigma: float) -> DistributedMechanism:
    clip_steps = 4096.0
    multiplier = share_sigma * 2 / (clip_steps + np.sqrt(length))
    return DistributedMechanism.choose(
        clip_norm=1.0,
        noise_multiplier=float(multiplier),
        dimension=length,
        minimum_contributors=4,
        maximum_contributors=len(NAMES),
        layout_digest=bytes(32),
        fraction_bits=12,
    )


def on_the_grid(length: int, party: str) -> np.ndarray:
    """Whole steps, short of the clip."""
    steps = np.random.default_rng(int(party[1:])).integers(-3, 4, length)
    vector = steps * 2.0**-12
    assert np.linalg.norm(vector) < 0.99
    return vector.astype(np.float32)


def open_session(protocol: str, it: DistributedMechanism, source: Source, *drops: Drop) -> Aggregate:
    entry = offered(protocol)
    identities = {
        name: entry.equipped(
            Identity(name, SigningKey.generate(source(f"identity {name}"))), list(Role), source(f"keys {name}")
        )
        for name in NAMES
    }
    roster = Roster(identity.member() for identity in identities.values())
    parameters = entry.parameters(
        roster,
        NAMES,
        value_bound=it.largest_entry,
        nonce=source("nonce")(32),
        run_id="noise",
        round_number=1,
        modulus_bits=it.modulus_bits,
        vector_length=it.word_count(),
        context_hash=bytes(32),
        encoding=it.to_bytes(),
        minimum_contributors=it.minimum_contributors,
        threshold=4,
        collusion_bound=0 if protocol == "secagg" else 1,
    )
    seed = bytes.fromhex(parameters.session_id().hex())
    policy = ClientPolicy(protocols=frozenset({protocol}), minimum_contributors=4, collusion_bound=0)
    roles = {Role.CLIENT} if protocol == "secagg" else {Role.CLIENT, Role.COMMITTEE}
    parties = {
        name: entry.organisation(
            identities[name], roster, policy, roles=roles, entropy=source(f"party {name}"), store=MemoryStore()
        )
        for name in NAMES
    }
    words = {
        name: ArraySource(it.encode(on_the_grid(it.dimension, name), seed, source(f"noise {name}"))[0])
        for name in NAMES
    }
    network = Network(entry.server(parameters, roster), parties, words, drops=drops)
    aggregate = network.run()
    assert not network.refusals
    return aggregate


def noise_of(aggregate: Aggregate, it: DistributedMechanism) -> np.ndarray:
    plain = sum(on_the_grid(it.dimension, str(party)).astype(np.float64) for party in aggregate.contributors)
    return centre(aggregate.sum, it.modulus_bits) - np.rint(plain * 2.0**it.fraction_bits).astype(np.int64)


def pmf_of_sum(sigma: float, shares: int) -> tuple[np.ndarray, np.ndarray]:
    """Values and probabilities of a sum of discrete Gaussians, by convolution."""
    reach = int(13 * sigma) + 2
    one = np.exp(-np.square(np.arange(-reach, reach + 1) / sigma) / 2)
    one /= one.sum()
    whole = one
    for _ in range(shares - 1):
        whole = signal.fftconvolve(whole, one)  # off by 1e-16 or so; the bins hold a fortieth each
    return np.arange(whole.size) - whole.size // 2, whole


def p_value(noise: np.ndarray, sigma: float, shares: int) -> float:
    """Chi-square over about 40 bins of equal probability."""
    values, pmf = pmf_of_sum(sigma, shares)
    cut = np.unique(np.searchsorted(np.cumsum(pmf), np.arange(1, 40) / 40))
    expected = np.add.reduceat(pmf, np.concatenate([[0], cut]))
    edges = np.concatenate([[-np.inf], values[cut] - 0.5, [np.inf]])
    counts = np.histogram(noise, edges)[0]
    return float(stats.chisquare(counts, expected / expected.sum() * noise.size).pvalue)


@pytest.mark.parametrize("protocol", ["secagg", "oneshot"])
@pytest.mark.parametrize(
    ("drops", "contributors"),
    [((), 6), ((False,), 5), ((False, False), 4), ((True, False), 5)],
    ids=["all", "one lost", "two lost", "one lost before its vector, one after"],
)
def test_the_opened_sum_has_the_noise_of_its_contributors(
    protocol: str, drops: tuple[bool, ...], contributors: int
) -> None:
    it, name = mechanism(20_000, 5.0), f"{protocol}/{drops}"
    lost = [Drop(NAMES[at], VECTOR_PHASE[protocol], answered=answered) for at, answered in enumerate(drops)]
    aggregate = open_session(protocol, it, lambda what: DeterministicEntropy(f"{name}/{what}"), *lost)
    assert len(aggregate.contributors) == contributors
    noise = noise_of(aggregate, it)
    # The source is fixed: this holds or it does not.
    assert p_value(noise, it.plan.share_sigma, contributors) > 1e-3
    assert p_value(noise, it.plan.share_sigma, contributors - 1) < 1e-6, "a share less would have been noticed"


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["secagg", "oneshot"])
@pytest.mark.parametrize("share_sigma", [4.0, 60.0, 3000.0])
@pytest.mark.parametrize("lost", [0, 2])
def test_fresh_noise_of_a_hundred_thousand_coordinates_is_exact(protocol: str, share_sigma: float, lost: int) -> None:
    """A false alarm once in a million runs of a case; one share less would be noticed."""
    it = mechanism(100_000, share_sigma)
    drops = [Drop(NAMES[at], VECTOR_PHASE[protocol]) for at in range(lost)]
    aggregate = open_session(protocol, it, lambda _what: os.urandom, *drops)
    noise, shares = noise_of(aggregate, it), len(NAMES) - lost
    assert len(aggregate.contributors) == shares
    assert p_value(noise, it.plan.share_sigma, shares) > 1e-6
    assert p_value(noise, it.plan.share_sigma, shares - 1) < 1e-6
    # No coordinate follows another: the lag-one correlation of independent draws is normal with deviation 1/sqrt(d).
    correlation = float(np.corrcoef(noise[:-1], noise[1:])[0, 1])
    assert abs(correlation) < 5 / np.sqrt(noise.size)
