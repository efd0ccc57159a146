"""What an aggregation gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from protocols.shape import Aggregate, Fault
from secfl.aggregation.agreement import Agreement
from secfl.aggregation.codecs import Totals
from secfl.engines.base import PhaseRecord

__all__ = ["AggregationResult"]


@dataclass(frozen=True)
class AggregationResult:
    """The sum over the contributors, and their mean.

    :param session_id: in hex.
    :param contributors: whose values are in the sum.
    :param dropped: parties of the cohort whose values are not.
    :param excluded: parties of weight zero, which were not asked.
    :param weights: of the contributors, as used (floats after quantisation).
    :param checks: what was verified on the way.
    :param faults: messages that were refused.
    :param clipped: number of coordinates clipped at each party; known in a simulation only, empty otherwise.
    :param phases: as carried, with sizes and times; empty where another carried them.
    """

    session_id: str
    contributors: tuple[str, ...]
    dropped: tuple[str, ...]
    excluded: tuple[str, ...]
    weights: dict[str, float]
    checks: tuple[str, ...]
    faults: tuple[Fault, ...]
    clipped: dict[str, int]
    phases: tuple[PhaseRecord, ...] = field(repr=False)
    _agreement: Agreement = field(repr=False)
    _total: Totals = field(repr=False)

    @classmethod
    def of(
        cls,
        agreement: Agreement,
        aggregate: Aggregate,
        clipped: dict[str, int] | None = None,
        phases: tuple[PhaseRecord, ...] = (),
    ) -> AggregationResult:
        """Decode an opened sum.

        :raises EncodingError: a sum that these contributors cannot have sent: somebody kept to no range.
        """
        contributors = tuple(map(str, aggregate.contributors))
        return cls(
            session_id=aggregate.session_id.hex(),
            contributors=contributors,
            dropped=tuple(party for party in agreement.cohort if party not in contributors),
            excluded=agreement.weights.excluded,
            weights=agreement.weights.used(contributors),
            checks=aggregate.checks,
            faults=aggregate.faults,
            clipped=clipped or {},
            phases=phases,
            _agreement=agreement,
            _total=agreement.codec.decode(aggregate.sum, agreement.weights.total(contributors)),
        )

    @cached_property
    def sum(self) -> Any:
        """Weighted sum, in the shape and container that came in. Integers: exact, int64 (float64 with float weights).
        Floats: the dtypes that came in.

        :raises EncodingError: a sum beyond the range of its dtype (float16).
        """
        return self._agreement.codec.shaped(self._agreement.sum_of(self._total))

    @cached_property
    def mean(self) -> Any:
        """Weighted mean, in the shape and container that came in. Integers: float64. Floats: the dtypes that came
        in.
        """
        return self._agreement.codec.shaped(self._agreement.mean_of(self._total, self.contributors))
