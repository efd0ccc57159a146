"""Parties that charge a privacy ledger: the real silo, with its ledger and a small event, in killed processes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from crash_party import take_part
from crash_points import Points, WatchedStore
from crash_world import PARTIES, RUN, World

from protocols import SessionParameters
from protocols.shape import Entropy
from protocols.testing.randomness import DeterministicEntropy
from secfl.encoding import EncodingScheme, TensorLayout
from secfl.engines import FileStore
from secfl.federation.silo import LocalTraining, Silo, Vector, context_hash
from secfl.privacy import Ledger, Lineage, PrivacyBudget, SampledGaussian
from secfl.privacy.ledger import LedgerSummary, ReleaseState, verify

LAYOUT = TensorLayout.of({"weight": np.zeros(150, np.float32)})
SCHEME = EncodingScheme.choose(4.0, 16, maximum_contributors=len(PARTIES), layout_digest=LAYOUT.digest)
EVENT = SampledGaussian(0.5, 2.0, 2)
RELEASE = f"{RUN}/1/0"
CHARGED = (ReleaseState.SENDING, ReleaseState.COMMITTED)


class SiloWorld(World):
    """Silos with ledgers; their updates lie on the encoding's grid, so that the sum of words is known."""

    def __init__(self, protocol: str, directory: Path) -> None:
        super().__init__(protocol, directory)
        for name in PARTIES:
            lineage = Lineage(name, "records", "synthetic", 1000)
            key = self.identities[name].signing_key
            Ledger.create(self.ledger_path(name), key, lineage, PrivacyBudget(8.0, 1e-5), order=8).close()

    def ledger_path(self, name: str) -> Path:
        return self.directory / name / "records.ledger"

    def context(self) -> bytes:
        return np.arange(LAYOUT.size, dtype="<f4").tobytes()

    def parameters(self, **changes: Any) -> SessionParameters:
        arguments: dict[str, Any] = {
            "modulus_bits": SCHEME.modulus_bits,
            "vector_length": SCHEME.word_count(LAYOUT.size),
            "context_hash": context_hash(LAYOUT, self.context()),
            "encoding": SCHEME.to_bytes(),
        }
        return super().parameters(**(arguments | changes))

    def steps(self, party: str) -> npt.NDArray[np.int64]:
        """The update in steps of the encoding's grid."""
        drawn = DeterministicEntropy(f"update/{party}")(2 * LAYOUT.size)
        return np.frombuffer(drawn, np.int16).astype(np.int64)

    def update(self, party: str) -> Vector:
        return (self.steps(party) * SCHEME.step).astype(np.float32)

    def total(self, contributors: Iterable[str]) -> list[int]:
        total = sum(self.steps(party) for party in contributors)
        return [int(value) for value in np.asarray(total) % (1 << SCHEME.modulus_bits)]

    def ledger(self, name: str) -> LedgerSummary:
        """As it lies on the disk; nothing in it is changed."""
        return verify(self.ledger_path(name), self.identities[name].signing_key.public)

    def charged(self, name: str) -> bool:
        """Whether the round is charged; a ledger never charges it twice."""
        states = [item.state for item in self.ledger(name).releases if item.reservation.release_id == RELEASE]
        assert len(states) <= 1
        return bool(states) and states[0] in CHARGED


def silo_process(world: SiloWorld, name: str, points: Points) -> None:
    """Main function of a silo: it keeps no session, so a restart leaves it out of the round that it had entered."""
    identity = world.identities[name]

    def train(_state: Vector, _entropy: Entropy) -> Vector:
        return world.update(name)

    silo = Silo(
        identity,
        world.roster,
        world.policy,
        store=WatchedStore(FileStore(world.directory / name / "answers.log"), points),
        training=LocalTraining(train, EVENT, LAYOUT, LAYOUT),
        scheme=SCHEME,
        ledger=Ledger.open(world.ledger_path(name), identity.signing_key, timeout=5),
    )
    take_part(world, name, silo, points)
