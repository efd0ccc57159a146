"""How many neighbours a client of a sparse graph needs, and of how many shares its secrets are rebuilt.

Bell et al. 2020 (eprint 2020/704), in the exact form of its reference implementation (federated-compute, graph
parameter finder): union bounds over hypergeometric tails instead of the paper's closed forms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, unique
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from protocols.errors import UsageError
from protocols.session import RATE_SLACK, rate_bound

__all__ = [
    "Claim",
    "Requirements",
    "find_fully_active_graph_parameters",
    "find_graph_parameters",
    "requirements",
]

SECURITY_BITS = 40
FULLY_ACTIVE_BITS = 104
"""40, and 64 more for a server that grinds: it tries sets of advertisements until it likes the ring."""
CORRECTNESS_BITS = 20
LARGEST_SUM_OF_RATES = 0.9
_NEGLIGIBLE_BITS = 160
_RATE_STEP = 0.01


@unique
class Claim(Enum):
    """Against which server a sparse graph protects."""

    HONEST_BUT_CURIOUS = "honest but curious"
    SEMI_MALICIOUS = "semi-malicious"
    """It may lie about everything once the ring is fixed, which it has not chosen; whom it drops it has not aimed."""
    FULLY_ACTIVE = "fully active"
    """It may grind the ring (2^64 tries) and choose after seeing it whom to drop."""


@dataclass(frozen=True)
class Requirements:
    """What is asked of a k-regular ring graph.

    :param clients: n, at least 3.
    :param adversary_rate: fraction of the clients that collude with the server.
    :param dropout_rate: fraction of the clients that may be missing at the end.
    :param claim: which server it is to withstand.
    :param security_bits: all bad events together have probability 2^-security_bits.
    :raises UsageError: naming the value and what is allowed, or what would be feasible.
    """

    clients: int
    adversary_rate: float
    dropout_rate: float
    claim: Claim
    security_bits: int = SECURITY_BITS

    def __post_init__(self) -> None:
        if self.clients < 3:
            raise UsageError(f"clients: {self.clients}; a graph of degree 2 or more has at least 3")
        if self.security_bits < 1:
            raise UsageError(f"security_bits: {self.security_bits}; at least 1")
        for name, rate in (("adversary_rate", self.adversary_rate), ("dropout_rate", self.dropout_rate)):
            if not 0 <= rate < 1:
                raise UsageError(f"{name}: {rate}; allowed: 0 to below 1")
        weight = 1 if self.claim is Claim.HONEST_BUT_CURIOUS else 2
        if self.adversary_rate + weight * self.dropout_rate > LARGEST_SUM_OF_RATES:
            times = "" if weight == 1 else f"{weight} * "
            most = max(0.0, LARGEST_SUM_OF_RATES - self.adversary_rate) / weight
            allowed = f"dropout_rate up to {most:.3g} at this adversary_rate" if most else "adversary_rate up to 0.9"
            raise UsageError(
                f"adversary_rate + {times}dropout_rate: {self.adversary_rate:.3g} + {times}{self.dropout_rate:.3g} is "
                f"more than {LARGEST_SUM_OF_RATES}, which no degree satisfies ({self.claim.value}); feasible: {allowed}"
            )

    def thresholds(self, degree: int) -> tuple[int, int] | None:
        """Least and greatest threshold with which this degree is good; None if it is not good with any.

        At least t: fewer colluding neighbours than would rebuild a secret (or, against an active server, both of a
        client's secrets). At most: enough neighbours are left to rebuild it, but for a probability of 2^-20.
        """
        n = self.clients
        if degree % 2 or not 2 <= degree < n - 1 or not self._connected(degree):
            return None
        colluding = _counts(n, rate_bound(self.adversary_rate, n), degree)
        surviving = _counts(n, math.ceil((1 - self.dropout_rate - RATE_SLACK) * n), degree)
        most_colluding = colluding.least_with_tail_at_most(2.0 ** -(self.security_bits + 1) / n)
        least_surviving = surviving.least_with_mass_of(2.0**-CORRECTNESS_BITS / n)
        if self.claim is not Claim.HONEST_BUT_CURIOUS:
            # 2 t > k + colluding neighbours: two sets of t neighbours share an honest one.
            most_colluding = math.ceil((most_colluding + degree - 1.25) / 2)
        least = max(most_colluding + 1, 2)
        if self.claim is Claim.FULLY_ACTIVE:
            least = self._against_cut_arcs(degree, least)
        return (least, least_surviving) if least <= least_surviving else None

    def smallest(self) -> tuple[int, int]:
        """The smallest degree that is good, with its least threshold.

        :raises UsageError: there is none below n - 1.
        """
        found = self._search()
        if found is None:
            raise UsageError(self._infeasible())
        return found

    def _search(self) -> tuple[int, int] | None:
        for degree in range(2, self.clients - 1, 2):
            allowed = self.thresholds(degree)
            if allowed is not None:
                return degree, allowed[0]
        return None

    def _connected(self, degree: int) -> bool:
        """Whether the honest clients that are left are connected, but for half of the probability allowed.

        Two gaps cut a ring, each of k / 2 clients in a row that collude or are lost; there are n (n - k - 1) / 2 pairs.
        """
        n = self.clients
        bad = rate_bound(self.adversary_rate, n) + rate_bound(self.dropout_rate, n)
        if degree > bad:
            return True
        pairs = math.log(n) + math.log(n - degree - 1) - math.log(2)
        both_bad = _log_binomial(n - degree, bad - degree) - _log_binomial(n, bad)
        return pairs + both_bad < -(self.security_bits + 1) * math.log(2)

    def _against_cut_arcs(self, degree: int, least: int) -> int:
        """The least threshold with which no arc of the ring can be cut out by dropping the honest clients around it.

        The honest client at either end of an arc has k / 2 neighbours within it, and must find t - k / 2 colluders
        among the k / 2 on its other side, or it refuses the set of contributors. There are about (n P)^2 / 2 pairs of
        such ends.
        """
        n, half = self.clients, degree // 2
        beside = _counts(n, rate_bound(self.adversary_rate, n), half)
        # (n P[X >= t - k / 2 - 1])^2 / 2 < 2^-(104 + 1)
        below = math.nextafter(2.0 ** -(FULLY_ACTIVE_BITS // 2) / n, 0)
        return max(least, beside.least_with_tail_at_most(below) + half + 2)

    def _infeasible(self) -> str:
        lower = self.dropout_rate
        while lower > 0:
            lower = round(max(0.0, lower - _RATE_STEP), 6)
            other = Requirements(self.clients, self.adversary_rate, lower, self.claim, self.security_bits)
            if other._search() is not None:
                feasible = f"dropout_rate up to about {lower:.2f} at this adversary_rate"
                break
        else:
            feasible = "a lower adversary_rate"
        return (
            f"no degree below {self.clients - 1} is enough for adversary_rate {self.adversary_rate:.3g} and "
            f"dropout_rate {self.dropout_rate:.3g} among {self.clients} clients ({self.claim.value}, "
            f"{self.security_bits} bits); feasible: {feasible}, more clients, or the complete graph"
        )


def find_graph_parameters(
    clients: int, adversary_rate: float, dropout_rate: float, active_server: bool, security_bits: int = SECURITY_BITS
) -> tuple[int, int]:
    """Smallest degree, and its threshold, of a random k-regular ring graph (Bell et al. 2020, section 3 and 4).

    The formulas alone: for few clients they ask for a degree that protects against next to nothing.

    :param clients: n.
    :param adversary_rate: fraction of clients that collude with the server, 0 to below 1.
    :param dropout_rate: fraction of clients that may be missing at the end, 0 to below 1.
    :param active_server: semi-malicious; else honest but curious.
    :param security_bits: statistical security.
    :returns: (degree, threshold): degree even and below n - 1; any ``threshold`` of a client's neighbours rebuild
        its secrets.
    :raises UsageError: a value out of range, or infeasible together; it says what would be feasible.
    """
    claim = Claim.SEMI_MALICIOUS if active_server else Claim.HONEST_BUT_CURIOUS
    return Requirements(clients, adversary_rate, dropout_rate, claim, security_bits).smallest()


def find_fully_active_graph_parameters(clients: int, adversary_rate: float, dropout_rate: float) -> tuple[int, int]:
    """The same against a server that grinds the ring and aims its drops: 104 bits, and no arc can be cut out.

    The threshold is the least of those that the degree allows with which the last condition holds; with the least of
    `find_graph_parameters` it never does.

    :raises UsageError: as `find_graph_parameters`.
    """
    return requirements(clients, adversary_rate, dropout_rate, Claim.FULLY_ACTIVE).smallest()


def requirements(clients: int, adversary_rate: float, dropout_rate: float, claim: Claim) -> Requirements:
    """What a claim asks for, at its own security level.

    :raises UsageError: as `Requirements`.
    """
    bits = FULLY_ACTIVE_BITS if claim is Claim.FULLY_ACTIVE else SECURITY_BITS
    return Requirements(clients, adversary_rate, dropout_rate, claim, bits)


def _log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


@dataclass(frozen=True)
class _Counts:
    """Hypergeometric probabilities of the counts first, first + 1, ..., outside which all is negligible."""

    first: int
    probabilities: NDArray[np.float64]

    def least_with_tail_at_most(self, limit: float) -> int:
        """Smallest x with P[X > x] <= limit < 1, the largest with P[X >= x] > limit; small terms are summed first."""
        at_least = np.cumsum(self.probabilities[::-1])[::-1]
        return self.first + int(np.flatnonzero(at_least > limit)[-1])

    def least_with_mass_of(self, limit: float) -> int:
        """Smallest x with P[X <= x] >= limit, limit < 1."""
        return self.first + int(np.flatnonzero(np.cumsum(self.probabilities) >= limit)[0])


@lru_cache(maxsize=8)
def _counts(population: int, marked: int, drawn: int) -> _Counts:
    """Distribution of the number of marked ones among those drawn.

    Counts further than w from the mean have probability 2 exp(-2 w^2 / drawn) at most (Hoeffding 1963, section 6),
    which for the w taken here is 2^-160. The others follow from the mode's by their ratios: few roundings each.
    """
    mean = drawn * marked / population
    width = math.sqrt(drawn * (_NEGLIGIBLE_BITS + 1) * math.log(2) / 2) + 1
    low = max(0, drawn - (population - marked), math.floor(mean - width))
    high = min(marked, drawn, math.ceil(mean + width))
    mode = min(high, max(low, int((drawn + 1) * (marked + 1) / (population + 2))))
    counts = np.arange(low, high, dtype=np.float64)
    with_ratio = np.log((marked - counts) * (drawn - counts)) - np.log(
        (counts + 1) * (population - marked - drawn + counts + 1)
    )
    steps = np.concatenate(([0.0], np.cumsum(with_ratio)))
    at_mode = (
        _log_binomial(marked, mode)
        + _log_binomial(population - marked, drawn - mode)
        - _log_binomial(population, drawn)
    )
    return _Counts(low, np.exp(steps - steps[mode - low] + at_mode))
