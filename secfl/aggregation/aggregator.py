"""`SecureAggregator`: the protocol over values that one process holds, to develop and test a pipeline with."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from typing import Literal

from protocols.errors import EncodingError, UsageError
from protocols.identity import Identity, Roster
from protocols.primitives.signing import SigningKey
from protocols.session import SessionParameters
from protocols.shape import Chunk, Entropy, Reply, Words
from secfl.aggregation.agreement import (
    Agreement,
    Limits,
    Rules,
    party_names,
    require_cohort,
)
from secfl.aggregation.codecs import Value, blame, check_integer_range
from secfl.aggregation.parties import AggregationParty
from secfl.aggregation.result import AggregationResult
from secfl.encoding.scheme import OnOverflow
from secfl.engines.base import Carried
from secfl.engines.embedded import EmbeddedEngine, Incident
from secfl.engines.workers import local_workers
from secfl.events import Event, Observer, RoundFinished, carried_events, opened_event, session_fields
from secfl.registry import Entry, offered

__all__ = ["SecureAggregator"]


class SecureAggregator:
    """Sums and means over parties by the real protocol, every message encoded. **A simulation: this process sees every
    input**, so it protects nobody from whoever runs it. A deployment gives each party its own process:
    `AggregationServer` and `AggregationParty`.

    >>> aggregator = SecureAggregator(["north", "south", "west"])
    >>> result = aggregator.sum({"north": np.array([1, 2]), "south": np.array([3, 4]), "west": np.array([5, 6])})
    >>> result.sum
    array([ 9, 12])

    :param parties: names (at least 3), or identities (`protocols.Identity`) to sign with keys of your own.
    :param bits: of one value, sign included: integers stay below 2^(bits - 1) in magnitude (2 to 62 bits), floats are
        rounded to a grid of 2^bits points over the range (8 to 32 bits). The modulus follows so that no sum wraps.
    :param clip: bound of every coordinate's magnitude: required for floats, optional for integers, where it takes the
        place of 2^(bits - 1). It is public, so it must not be computed from the values.
    :param protocol: ``"secagg"``, ``"oneshot"`` (all parties are on the committee) or ``"ckks"`` (with a key holder
        beside them).
    :param threshold: parties that must stay to the end; None for the protocol's default.
    :param roster: pinned public keys; made from the parties, with fresh keys for their roles, by default.
    :param collusion_bound: parties assumed to collude with the server; None for a third, or what the protocol can take
        if that is less.
    :param minimum_contributors: fewest parties in a sum that is opened.
    :param rounding: of floats, ``"stochastic"`` (unbiased) or ``"nearest"``.
    :param on_overflow: ``"error"`` for a coordinate beyond the range, or ``"clip"`` it and count it.
    :param incidents: what goes wrong on schedule; each `sum` or `mean` is a round, the first is 1.
    :param observer: told of every event (`secfl.events`).
    :param threads: that expand masks; 0 for one a core. Sums do not depend on it.
    :raises UsageError: fewer than 3 parties, a name twice, a sum that could wrap, any other value that is not allowed.
    """

    def __init__(  # noqa: PLR0913  the README's call; all but two are by keyword
        self,
        parties: Iterable[str | Identity],
        bits: int = 32,
        clip: float | None = None,
        protocol: str = "secagg",
        threshold: int | None = None,
        *,
        roster: Roster | None = None,
        collusion_bound: int | None = None,
        minimum_contributors: int | None = None,
        rounding: Literal["stochastic", "nearest"] = "stochastic",
        on_overflow: OnOverflow = "error",
        incidents: Iterable[Incident] = (),
        observer: Observer | None = None,
        entropy: Entropy = os.urandom,
        threads: int = 0,
    ) -> None:
        self._threads = threads
        self._limits = Limits(bits, clip, rounding, on_overflow)
        self._rules = Rules(protocol, threshold, collusion_bound, minimum_contributors)
        self._entropy = entropy
        self._identities = _identities(parties, entropy)
        self.parties = tuple(self._identities)
        if roster is None:
            self._equip(offered(protocol))
        require_cohort(self.parties)
        if clip is None:
            check_integer_range(self._limits.integer_bound, len(self.parties))
        self.roster = roster or Roster(identity.member() for identity in self._identities.values())
        self._public_context = offered(protocol).public_context(self._identities.values())
        self._stores = {party: _RunStore() for party in self._identities}
        self._incidents = tuple(incidents)
        for incident in self._incidents:
            if incident.party not in self._identities:
                raise UsageError(f"incidents: {incident.party!r} is no party; known: {', '.join(self._identities)}")
        self._observer = observer
        self._run_id = f"aggregation-{entropy(8).hex()}"
        self._rounds = 0
        self._probe()

    def __repr__(self) -> str:
        return (
            f"SecureAggregator({len(self.parties)} parties, {self._rules.protocol}; "
            "simulation: this process sees every input)"
        )

    def sum(self, values: Mapping[str, Value], weights: Mapping[str, float] | None = None) -> AggregationResult:
        """Sum of the values, each times its party's weight if there are weights.

        :param values: by party: an array, a number, or a dict of arrays; the same names, shapes and kinds everywhere.
            A party that is missing drops out.
        :param weights: public, for every party of the aggregation; see `secfl.aggregation.Weights`.
        :raises UsageError: no value, an unknown party, weights that cannot be used, floats without ``clip``.
        :raises EncodingError: names the tensor and the party whose value does not fit.
        :raises ThresholdNotMet: too many parties dropped out; nothing was revealed.
        """
        result = self._aggregate(values, weights)
        _ = result.sum  # what cannot be given in its dtype is an error here, not later
        return result

    def mean(self, values: Mapping[str, Value], weights: Mapping[str, float] | None = None) -> AggregationResult:
        """Mean over the contributors, by weight if there are weights. Arguments and errors as for :meth:`sum`."""
        result = self._aggregate(values, weights)
        _ = result.mean
        return result

    def _aggregate(self, values: Mapping[str, Value], weights: Mapping[str, float] | None) -> AggregationResult:
        agreement, words, clipped = self._encode(values, weights)
        self._rounds += 1
        parameters = self._parameters(agreement)
        parties = {
            party: self._simulated(party, agreement, words.get(party))
            for party, identity in self._identities.items()
            if agreement.protocol.roles(identity, self.roster, agreement.cohort)
        }
        server = agreement.protocol.server(parameters, self.roster, workers=local_workers(self._threads))
        absent = [Incident(party, server.phase or "") for party in agreement.cohort if party not in words]
        engine = EmbeddedEngine(parties, incidents=[*absent, *self._incidents])
        self._tell(opened_event(parameters, simulation=True))
        began = time.perf_counter()
        carried = engine.run_session(server, b"")
        self._report(parameters, carried, time.perf_counter() - began)
        if carried.failure is not None:
            for item in (event for phase in carried.phases for event in phase.events):
                carried.failure.add_note(f"{item.phase}: party {item.party!r}: {item.error}")
            raise carried.failure
        if carried.aggregate is None:
            raise UsageError("the engine gave neither a sum nor an error")
        return AggregationResult.of(agreement, carried.aggregate, clipped, carried.phases)

    def _encode(
        self, values: Mapping[str, Value], weights: Mapping[str, float] | None
    ) -> tuple[Agreement, dict[str, Words], dict[str, int]]:
        """Every value as words, before anything is sent: a bad one is an error, not a dropout."""
        if not isinstance(values, Mapping):
            raise UsageError(f"values: a dict of party to array is expected, not {type(values).__name__}")
        for party in values:
            if party not in self.parties:
                raise UsageError(f"values: {party!r} is no party of this aggregation; known: {', '.join(self.parties)}")
        present = [party for party in self.parties if party in values]
        if not present:
            raise UsageError("values: empty; no party has one")
        try:
            agreement = Agreement.of(
                self.parties, values[present[0]], limits=self._limits, weights=weights, rules=self._rules
            )
        except EncodingError as error:
            raise blame(present[0], error) from None
        words, clipped = {}, {}
        for party in present:
            if party not in agreement.weights.units:
                continue
            try:
                words[party], count = agreement.codec.encode(
                    values[party], agreement.weights.units[party], self._entropy
                )
            except EncodingError as error:
                raise blame(party, error) from None
            if count:
                clipped[party] = count
        return agreement, words, clipped

    def _parameters(self, agreement: Agreement) -> SessionParameters:
        return agreement.parameters(
            self.roster,
            nonce=self._entropy(32),
            run_id=self._run_id,
            round_number=self._rounds,
            attempt=0,
            context=b"",
            public_context=self._public_context,
        )

    def _equip(self, entry: Entry) -> None:
        """Give every party the keys that its roles need, and add those that only open sums."""
        cast = entry.cast(self.parties)
        for office in cast.offices:
            self._identities[office] = Identity(office, SigningKey.generate(self._entropy))
        for party, identity in self._identities.items():
            self._identities[party] = entry.equipped(identity, cast.roles(party), self._entropy)

    def _probe(self) -> None:
        """Refuse a threshold or collusion bound that no session takes, before the first sum."""
        self._parameters(Agreement.of(self.parties, 0, limits=Limits(bits=8), rules=self._rules))

    def _simulated(self, party: str, agreement: Agreement, words: Words | None) -> _SimulatedParty:
        store = self._stores[party]
        end = AggregationParty(
            self._identities[party], self.roster, agreement, store=store, entropy=self._entropy, threads=self._threads
        )
        return _SimulatedParty(end, words)

    def _report(self, parameters: SessionParameters, carried: Carried, seconds: float) -> None:
        for event in carried_events(parameters, carried.phases):
            self._tell(event)
        aggregate = carried.aggregate
        contributors = tuple(map(str, aggregate.contributors)) if aggregate else ()
        self._tell(
            RoundFinished(
                **session_fields(parameters),
                outcome="summed" if aggregate else "failed",
                contributors=contributors,
                dropped=tuple(party for party in parameters.cohort if party not in contributors),
                seconds=seconds,
                error="" if carried.failure is None else type(carried.failure).__name__,
            )
        )

    def _tell(self, event: Event) -> None:
        if self._observer is not None:
            self._observer(event)


class _SimulatedParty:
    """A party as the embedded engine sees it."""

    def __init__(self, end: AggregationParty, words: Words | None) -> None:
        self._end = end
        self._words = words

    def answer(self, header: bytes, chunks: Iterable[Chunk], context: bytes) -> Reply:
        """See `secfl.engines.Party`."""
        return self._end.reply(header, chunks, self._value, context)

    def delivered(self, reply: Reply) -> None:
        """See `secfl.engines.Party`; nothing is to be remembered."""

    def _value(self) -> Words:
        if self._words is None:
            raise UsageError("a party without a value was asked for it")
        return self._words


class _RunStore:
    """A once-only record that lasts as long as the simulation that it belongs to."""

    def __init__(self) -> None:
        self._records: dict[bytes, bytes] = {}

    def record(self, key: bytes, value: bytes) -> bytes:
        """See `protocols.shape.OnceStore`."""
        return self._records.setdefault(key, value)


def _identities(parties: Iterable[str | Identity], entropy: Entropy) -> dict[str, Identity]:
    if isinstance(parties, str | bytes):
        raise UsageError("parties: a list of names is expected, not one string")
    given = [
        item if isinstance(item, Identity) else Identity(party_names([item])[0], SigningKey.generate(entropy))
        for item in parties
    ]
    names = party_names([str(identity.id) for identity in given])
    return dict(zip(names, given, strict=True))
