"""One round, step by step: parameters, session, engine, decoding. It ends in a mean update, or in why there is none."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from protocols.errors import EncodingError, SecflError
from protocols.identity import Roster
from protocols.session import SessionParameters
from protocols.shape import Aggregate, Entropy, ServerSession
from protocols.workers import SERIAL, Workers
from secfl.encoding import EncodingScheme, TensorLayout, decode_mean
from secfl.engines.base import Carried, Engine, PhaseRecord
from secfl.federation.noised import Divisor
from secfl.federation.silo import Scheme, context_hash
from secfl.registry import offered

__all__ = ["RoundOutcome", "RoundPlan"]


@dataclass(frozen=True)
class RoundOutcome:
    """How an attempt at a round ended."""

    number: int
    attempt: int
    parameters: SessionParameters = field(repr=False)
    session: str
    model_hash: str
    mean: npt.NDArray[np.float64] | None = field(repr=False)
    """Mean update over the contributors, flat; None if there is no sum."""
    failure: SecflError | None
    contributors: tuple[str, ...]
    checks: tuple[str, ...]
    phases: tuple[PhaseRecord, ...] = field(repr=False)


@dataclass(frozen=True)
class RoundPlan:
    """What stays the same over the rounds of a run.

    :param weights: public integer weight of each silo.
    :param divisor: with noise in sums, instead of weights.
    :param protocol: by name.
    :param public_context: see `secfl.registry.Entry.public_context`.
    :param threshold: t, c and T_min: None for the protocol's defaults.
    """

    run_id: str
    roster: Roster
    scheme: Scheme
    layout: TensorLayout
    update_layout: TensorLayout
    weights: Mapping[str, int]
    divisor: Divisor | None = None
    protocol: str = "secagg"
    public_context: bytes = field(default=b"", repr=False)
    threshold: int | None = None
    collusion_bound: int | None = None
    minimum_contributors: int | None = None
    session_options: Mapping[str, Any] = field(default_factory=dict)
    """See `secfl.registry.Entry.session_options`."""
    workers: Workers = SERIAL

    def parameters(
        self,
        number: int,
        attempt: int,
        cohort: Iterable[str],
        context: bytes,
        entropy: Entropy = os.urandom,
        **added: Any,
    ) -> SessionParameters:
        """Parameters of one attempt's session.

        :param added: what only this protocol's sessions have.
        :raises UsageError: values that no session may have.
        """
        return offered(self.protocol).parameters(
            self.roster,
            cohort,
            nonce=entropy(32),
            run_id=self.run_id,
            round_number=number,
            attempt=attempt,
            modulus_bits=self.scheme.modulus_bits,
            vector_length=self.scheme.word_count(self.update_layout.size),
            context_hash=context_hash(self.layout, context),
            encoding=self.scheme.to_bytes(),
            value_bound=self.scheme.largest_entry,
            public_context=self.public_context,
            threshold=self.threshold,
            collusion_bound=self.collusion_bound,
            minimum_contributors=self.minimum_contributors,
            **self.session_options,
            **added,
        )

    def open(self, parameters: SessionParameters) -> ServerSession:
        """The server's side of a session with these parameters."""
        return offered(self.protocol).server(parameters, self.roster, workers=self.workers)

    def run(
        self, engine: Engine, state: npt.NDArray[np.float32], number: int, attempt: int, cohort: Iterable[str]
    ) -> RoundOutcome:
        """Run one attempt from the global state with the silos of a cohort."""
        context = state.astype("<f4").tobytes()
        parameters = self.parameters(number, attempt, cohort, context)
        return self.outcome(parameters, engine.run_session(self.open(parameters), context))

    def weight(self, _parameters: SessionParameters, aggregate: Aggregate) -> int:
        """Sum of the public weights that a sum's vectors were encoded with."""
        return sum(self.weights[str(party)] for party in aggregate.contributors)

    def mean(self, parameters: SessionParameters, aggregate: Aggregate) -> npt.NDArray[np.float64]:
        """The change of the global model that a sum stands for.

        :raises EncodingError: a sum that its contributors cannot have sent.
        """
        if isinstance(self.scheme, EncodingScheme):
            weight = self.weight(parameters, aggregate)
            return decode_mean(aggregate.sum, self.scheme, weight, layout=self.update_layout)
        contributors = tuple(map(str, aggregate.contributors))
        total = self.scheme.decode(aggregate.sum, len(contributors), parameters.session_id())
        return (self.divisor or Divisor(dict.fromkeys(contributors, 1.0))).change(total, contributors)

    def outcome(self, parameters: SessionParameters, carried: Carried) -> RoundOutcome:
        """What a session that was carried to its end comes to."""
        mean, failure = None, carried.failure
        contributors: tuple[str, ...] = ()
        checks: tuple[str, ...] = ()
        if carried.aggregate is not None:
            contributors = tuple(map(str, carried.aggregate.contributors))
            checks = carried.aggregate.checks
            try:
                mean = self.mean(parameters, carried.aggregate)
            except EncodingError as error:  # a sum that these contributors cannot have sent: nothing to use
                failure = error
        return RoundOutcome(
            number=parameters.round_number,
            attempt=parameters.attempt,
            parameters=parameters,
            session=parameters.session_id().hex(),
            model_hash=parameters.context_hash.hex(),
            mean=mean,
            failure=failure,
            contributors=contributors,
            checks=checks,
            phases=carried.phases,
        )
