"""What the parties of an aggregation and their server agree on beforehand: form, range and weights of the values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from protocols.errors import EncodingError, UsageError
from protocols.identity import Roster, client_id
from protocols.primitives.labels import tagged_hash
from protocols.session import ClientPolicy, SessionParameters
from secfl.aggregation.codecs import (
    Codec,
    FloatCodec,
    IntegerCodec,
    Totals,
    Value,
    named,
    tensor_forms,
)
from secfl.aggregation.weights import Weights, is_number
from secfl.encoding.scheme import OnOverflow
from secfl.encoding.tensors import INTEGER_DTYPES
from secfl.registry import Entry, offered

__all__ = ["Agreement", "Limits", "Rules", "party_names", "require_cohort"]

MINIMUM_COHORT = ClientPolicy().minimum_cohort


@dataclass(frozen=True)
class Limits:
    """Public bounds of the values.

    :param bits: of one value, sign included: floats are rounded to a grid of 2^bits points over the range (8 to 32),
        integers stay below 2^(bits - 1) in magnitude unless ``clip`` says otherwise (2 to 62).
    :param clip: bound of every coordinate's magnitude. Required for floats. Public: it must not depend on the values.
    :param rounding: of floats: ``"stochastic"`` (unbiased) or ``"nearest"``.
    :param on_overflow: what becomes of a coordinate beyond the range: an ``"error"``, or ``"clip"`` to the range.
    :raises UsageError: a value that is not allowed.
    """

    bits: int = 32
    clip: float | None = None
    rounding: Literal["stochastic", "nearest"] = "stochastic"
    on_overflow: OnOverflow = "error"

    def __post_init__(self) -> None:
        if type(self.bits) is not int or not 2 <= self.bits <= 62:
            raise UsageError(f"bits: {self.bits!r}; allowed: 2 to 62 for integers, 8 to 32 for floats")
        if self.clip is not None and not (is_number(self.clip) and 0 < self.clip < math.inf):
            raise UsageError(f"clip: {self.clip!r}; allowed: a finite number above 0")
        if self.rounding not in ("stochastic", "nearest"):
            raise UsageError(f"rounding: {self.rounding!r}; allowed: 'stochastic' or 'nearest'")
        if self.on_overflow not in ("error", "clip"):
            raise UsageError(f"on_overflow: {self.on_overflow!r}; allowed: 'error' or 'clip'")

    @property
    def integer_bound(self) -> int:
        """Largest magnitude of an integer."""
        return 2 ** (self.bits - 1) - 1 if self.clip is None else math.floor(self.clip)

    def codec(self, like: Value, contributors: int, maximum_weight: int) -> Codec:
        """Codec for values of the same form as ``like``.

        :raises EncodingError: a form that cannot be encoded.
        :raises UsageError: bits or clip that do not fit the form, the number of parties or the weights.
        """
        forms = tensor_forms(like)
        if all(form.dtype in INTEGER_DTYPES for form in forms.values()):
            if not all(isinstance(item, np.ndarray) for item in named(like).values()):
                raise EncodingError(next(iter(forms)), "integers are summed as numpy arrays")
            if self.integer_bound < 1:
                raise UsageError(f"clip: {self.clip}; allowed for integers: at least 1")
            shapes = {name: form.shape for name, form in forms.items()}
            return IntegerCodec(
                shapes,
                self.integer_bound,
                contributors,
                maximum_weight,
                self.on_overflow,
                not isinstance(like, Mapping),
            )
        if self.clip is None:
            raise UsageError(
                "clip: required for floats: the largest magnitude of a coordinate. It is public and fixed before the "
                "values are known, never computed from them"
            )
        if not 8 <= self.bits <= 32:
            raise UsageError(f"bits: {self.bits}; allowed for floats: 8 to 32")
        room = 53 - (maximum_weight - 1).bit_length() + 1
        if self.bits > room:
            raise UsageError(f"bits: {self.bits}; with weights up to {maximum_weight} floats can have up to {room}")
        return FloatCodec.choose(
            like,
            clip=float(self.clip),
            bits=self.bits,
            contributors=contributors,
            maximum_weight=maximum_weight,
            rounding=self.rounding,
            on_overflow=self.on_overflow,
        )


@dataclass(frozen=True)
class Rules:
    """The protocol and its numbers; None for the protocol's defaults.

    :param protocol: by name, see `secfl.registry`.
    :param threshold: t, of the cohort or of the committee; by default the smallest that is safe.
    :param collusion_bound: c, parties assumed to collude with the server; by default a third of the cohort, or what
        the protocol can take if that is less.
    :param minimum_contributors: fewest parties in a sum that is opened; by default max(c + 2, 3).
    """

    protocol: str = "secagg"
    threshold: int | None = None
    collusion_bound: int | None = None
    minimum_contributors: int | None = None

    def __post_init__(self) -> None:
        offered(self.protocol)


@dataclass(frozen=True)
class Agreement:
    """All that server and parties fix before a session, each from its own configuration.

    Make it with :meth:`of`, from the same arguments at every party and at the server: its hash is part of every
    session, and a party refuses a session under any other.
    """

    codec: Codec = field(repr=False)
    weights: Weights
    rules: Rules

    @classmethod
    def of(
        cls,
        parties: Iterable[str],
        like: Value,
        *,
        limits: Limits | None = None,
        weights: Mapping[str, float] | None = None,
        rules: Rules | None = None,
    ) -> Agreement:
        """Agree on values of the form of ``like`` (its shapes and dtypes count, its content does not).

        :param parties: names; with the weights they give the cohort, at least 3 parties of weight above 0.
        :raises UsageError: see `Limits.codec` and `Weights`; too few parties, a name twice.
        :raises EncodingError: a form that cannot be encoded.
        """
        chosen = Weights.of(party_names(parties), weights)
        require_cohort(tuple(chosen.units))
        codec = (limits or Limits()).codec(like, len(chosen.units), chosen.largest)
        return cls(codec, chosen, rules or Rules())

    @property
    def protocol(self) -> Entry:
        """The protocol of the rules."""
        return offered(self.rules.protocol)

    @property
    def cohort(self) -> tuple[str, ...]:
        """The parties that are asked, in order."""
        return tuple(sorted(self.weights.units))

    @property
    def minimum_contributors(self) -> int | None:
        """Fewest contributors to an opened sum; None for the protocol's c + 2, where that is at least 3."""
        if self.rules.minimum_contributors is None and self.collusion_bound + 2 < MINIMUM_COHORT:
            return MINIMUM_COHORT
        return self.rules.minimum_contributors

    @property
    def collusion_bound(self) -> int:
        """Parties assumed to collude with the server."""
        given, size = self.rules.collusion_bound, len(self.cohort)
        everybody = (*self.cohort, *self.weights.excluded)
        return self.protocol.collusion_bound(size, self.protocol.cast(everybody)) if given is None else given

    @cached_property
    def digest(self) -> bytes:
        """32-byte hash of form, range, weights and rules."""
        units = msgspec.msgpack.encode(sorted(self.weights.units.items()))
        rules = msgspec.msgpack.encode(
            [self.rules.protocol, self.rules.threshold, self.collusion_bound, self.minimum_contributors]
        )
        step = self.weights.step
        return tagged_hash(
            "aggregation/agreement", self.codec.to_bytes(), units, step.numerator, step.denominator, rules
        )

    def context_hash(self, context: bytes) -> bytes:
        """Hash that binds a session to this agreement and to what else the caller wants all parties to agree on."""
        return tagged_hash("aggregation/context", self.digest, context)

    def parameters(
        self,
        roster: Roster,
        *,
        nonce: bytes,
        run_id: str,
        round_number: int,
        attempt: int,
        context: bytes,
        public_context: bytes = b"",
    ) -> SessionParameters:
        """Parameters of a session under this agreement.

        :param public_context: the key holder's, for a protocol that has one.
        :raises UsageError: values that no session may have.
        """
        return self.protocol.parameters(
            roster,
            self.cohort,
            nonce=nonce,
            run_id=run_id,
            round_number=round_number,
            attempt=attempt,
            modulus_bits=self.codec.modulus_bits,
            vector_length=self.codec.vector_length,
            context_hash=self.context_hash(context),
            encoding=self.codec.to_bytes(),
            value_bound=self.codec.peak,
            public_context=public_context,
            threshold=self.rules.threshold,
            collusion_bound=self.collusion_bound,
            minimum_contributors=self.minimum_contributors,
        )

    def policy(self) -> ClientPolicy:
        """Floors of a party that trusts this agreement and nothing else."""
        return ClientPolicy(
            protocols=frozenset({self.rules.protocol}),
            minimum_cohort=len(self.cohort),
            minimum_contributors=self.minimum_contributors or self.collusion_bound + 2,
            collusion_bound=self.collusion_bound,
            adversary_rate=self.collusion_bound / len(self.cohort),
            value_range=self.codec.peak,
            maximum_vector_length=self.codec.vector_length,
        )

    def sum_of(self, total: Totals) -> Totals:
        """The weighted sum in the weights' own unit; exact integers where all weights are integers."""
        return total if self.weights.step == 1 else np.multiply(total, float(self.weights.step), dtype=np.float64)

    def mean_of(self, total: Totals, contributors: Iterable[str]) -> npt.NDArray[np.float64]:
        """The weighted mean, float64."""
        return np.true_divide(total, self.weights.total(contributors), dtype=np.float64)


def party_names(parties: Iterable[Any]) -> tuple[str, ...]:
    """Names, checked.

    :raises UsageError: a single string, a name twice or one that a roster does not take.
    """
    if isinstance(parties, str | bytes):
        raise UsageError("parties: a list of names is expected, not one string")
    names = tuple(parties)
    for name in names:
        if not isinstance(name, str):
            raise UsageError(f"parties: a name is a str, not {type(name).__name__}")
        client_id(name)
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise UsageError(f"parties: {repeated!r} is listed twice")
    return names


def require_cohort(names: tuple[str, ...], what: str = "") -> None:
    """Refuse a cohort whose sum would show a party's value to another.

    :raises UsageError: fewer than 3.
    """
    if len(names) < MINIMUM_COHORT:
        listed = f" ({', '.join(names)})" if names else ""
        raise UsageError(
            f"parties: {len(names)}{what}{listed}; at least {MINIMUM_COHORT} are needed: the sum over one shows its "
            "value, the sum over two shows each the other's"
        )
