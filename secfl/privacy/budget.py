"""The privacy budget: what may be spent over the life of a lineage of records."""

from __future__ import annotations

import math
from typing import Literal, get_args

import msgspec

from protocols.errors import PrivacyError

__all__ = ["PrivacyBudget", "UnitOfPrivacy", "check_delta"]

UnitOfPrivacy = Literal["record", "client"]
MAX_DELTA = 1e-5


class PrivacyBudget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An (epsilon, delta) budget and the unit that it protects.

    :param epsilon: above 0, finite.
    :param delta: above 0, at most 1e-5; ``check_delta`` compares it with the number of records.
    :param unit: ``"record"`` (one record of one silo) or ``"client"`` (one client's whole update). A person may have
        many records, so no budget is ever per person.
    :raises PrivacyError: a field is out of its range.
    """

    epsilon: float
    delta: float
    unit: UnitOfPrivacy = "record"

    def __post_init__(self) -> None:
        require_epsilon(self.epsilon)
        require_delta(self.delta)
        if self.delta > MAX_DELTA:
            raise PrivacyError(f"delta: {self.delta!r}; allowed: above 0, at most {MAX_DELTA:g}")
        if self.unit not in get_args(UnitOfPrivacy):
            raise PrivacyError(f"unit: {self.unit!r}; allowed: {', '.join(map(repr, get_args(UnitOfPrivacy)))}")
        msgspec.structs.force_setattr(self, "epsilon", float(self.epsilon))
        msgspec.structs.force_setattr(self, "delta", float(self.delta))


def check_delta(delta: float, total_records: int) -> None:
    """Refuse a delta that permits too much: it must be at most min(1e-5, 1 / (10 N)).

    :param delta: probability with which the guarantee may fail.
    :param total_records: N, the public total number of units (records, or clients) that the claim is about, 1 or more.
    :raises PrivacyError: delta is above the limit; at 1/N and above the message says why no such claim means anything.
    """
    require_delta(delta)
    if type(total_records) is not int or total_records < 1:
        raise PrivacyError(f"total_records: {total_records!r}; allowed: a whole number, 1 or more")
    limit = min(MAX_DELTA, 1 / (10 * total_records))
    if delta >= 1 / total_records:
        raise PrivacyError(
            f"delta: {delta:g} is at least 1/{total_records}: publishing one record in full would satisfy it; "
            f"allowed: at most {limit:g}"
        )
    if delta > limit:
        raise PrivacyError(f"delta: {delta:g}; allowed: at most {limit:g} for {total_records} records")


def require_epsilon(epsilon: float) -> None:
    """Refuse an epsilon that is not above 0 and finite.

    :raises PrivacyError: names the parameter.
    """
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0.0 < epsilon < math.inf:
        raise PrivacyError(f"epsilon: {epsilon!r}; allowed: above 0 and finite")


def require_delta(delta: float) -> None:
    """Refuse a delta that is not above 0 and below 1.

    :raises PrivacyError: names the parameter.
    """
    if isinstance(delta, bool) or not isinstance(delta, int | float) or not 0.0 < delta < 1.0:
        raise PrivacyError(f"delta: {delta!r}; allowed: above 0, below 1")
