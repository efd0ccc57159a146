"""A run under any protocol with everything on the table: what was opened, and what the silos had put in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from small_study import MemoryJournal

from protocols.shape import Aggregate, ServerSession
from secfl.config import parse_config
from secfl.engines import EmbeddedEngine, Incident
from secfl.engines.base import Carried
from secfl.federation.randomness import Randomness
from secfl.federation.run import RunResult, first_checkpoint, run_rounds
from secfl.federation.setup import Parties, Plan, plan_run, set_up_parties
from secfl.federation.silo import Vector
from secfl.federation.work import contribution
from secfl.registry import PROTOCOLS

NAMES = tuple(PROTOCOLS)


class RecordingEngine(EmbeddedEngine):
    """Keeps every aggregate, with the global model that its session began with."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.opened: list[tuple[int, Vector, Aggregate]] = []

    def run_session(self, server: ServerSession, context: bytes) -> Carried:
        carried = super().run_session(server, context)
        if carried.aggregate is not None:
            state = np.frombuffer(context, "<f4").astype(np.float32)
            self.opened.append((server.parameters.round_number, state, carried.aggregate))
        return carried


class Recorded:
    """A finished run and its sums."""

    def __init__(self, plan: Plan, result: RunResult, engine: RecordingEngine, parties: Parties) -> None:
        self.plan, self.result, self.parties = plan, result, parties
        self.opened = engine.opened

    def sums(self) -> list[npt.NDArray[Any]]:
        return [aggregate.sum for _, _, aggregate in self.opened]

    def plain_sums(self) -> list[npt.NDArray[np.uint64]]:
        """The silos' encoded vectors, made anew from the seed, added up as plain integers modulo 2^b."""
        totals = []
        for number, state, aggregate in self.opened:
            session = aggregate.session_id
            words = [encoded(self.plan, silo, state, number, session) for silo in aggregate.contributors]
            modulus = np.uint64((1 << self.plan.scheme.modulus_bits) - 1)
            totals.append(np.sum([vector.astype(np.uint64) for vector in words], axis=0, dtype=np.uint64) & modulus)
        return totals


def encoded(plan: Plan, silo: str, state: Vector, number: int, session: bytes) -> npt.NDArray[Any]:
    """What a silo puts into a round of a reproducible run."""
    settings = next(item for item in plan.config.silo if item.name == silo)
    entropy = plan.randomness(silo, number, 0)
    words, _ = contribution(plan, settings).words(state, plan.scheme, lambda: plan.weights[silo], entropy, session)
    return words


def run_under(
    protocol: str,
    text: str,
    directory: Path,
    home: Path,
    *incidents: Incident,
    randomness: Randomness | None = None,
    **options: Any,
) -> Recorded:
    """A run of a configuration under this protocol.

    :param text: of the configuration, without a protocol of its own.
    :param directory: of its model file; the parties' files go to ``home``.
    :param randomness: of training, rounding and noise.
    """
    config = parse_config(text.replace("[aggregation]", f'[aggregation]\nprotocol = "{protocol}"'))
    plan = plan_run(config, directory, randomness=randomness)
    with set_up_parties(plan, home) as parties:
        engine = RecordingEngine(parties.answering, incidents=incidents, **options)
        start = first_checkpoint(plan, "run-1", "", None)
        result = run_rounds(plan, parties, engine, start, MemoryJournal())
        return Recorded(plan, result, engine, parties)
