"""Sampling of the cohort: which silos are asked in a round.

Participation is visible to the server, so sampling a cohort never counts as amplification of privacy; it saves budget
and bandwidth of those who are not asked.
"""

from __future__ import annotations

from collections.abc import Sequence

from protocols.errors import UsageError
from protocols.primitives.sampling import uniform_below
from protocols.shape import Entropy

__all__ = ["sample_cohort"]


def sample_cohort(silos: Sequence[str], size: int | None, entropy: Entropy) -> tuple[str, ...]:
    """A uniformly random subset of the silos, in their order.

    :param size: None for all.
    :raises UsageError: more than there are, or fewer than two.
    """
    if size is None:
        return tuple(silos)
    if not 2 <= size <= len(silos):
        raise UsageError(f"cohort of {size} from {len(silos)} silos; allowed: 2 to {len(silos)}")
    remaining = list(silos)
    chosen = {remaining.pop(int(uniform_below(len(remaining), 1, entropy)[0])) for _ in range(size)}
    return tuple(silo for silo in silos if silo in chosen)
