"""Planning before anything is spent: the noise for a budget, epsilon of a plan, rounds left, what dropouts cost."""

from __future__ import annotations

from collections.abc import Callable

from protocols.errors import PrivacyError
from secfl.privacy.accounting import fits_budget, noise_multiplier_for
from secfl.privacy.budget import require_delta, require_epsilon
from secfl.privacy.distributed import NoisePlan
from secfl.privacy.events import MAX_NOISE_MULTIPLIER, require_sampling_rate

__all__ = ["distributed_noise_multiplier_for", "noise_multiplier_for"]

PlanFactory = Callable[[float], NoisePlan]
"""From a noise multiplier to the plan that has it, all else fixed."""

_RELATIVE_PRECISION = 1e-8
_LOWEST_TRIED = 2.0**-7


def distributed_noise_multiplier_for(
    epsilon: float, delta: float, plan_factory: PlanFactory, steps: int, sampling_rate: float = 1.0
) -> float:
    """Smallest noise multiplier (to 8 digits, rounded up) with which ``steps`` sums fit into the budget.

    They fit against the strongest adversary of the plan, by the filter at ``choose_order`` of all steps, in one event
    or one by one. Where the scale is coarse it may take more noise than the budget asks for to make a share wide enough
    to be accounted at all.

    :param plan_factory: the plan with a noise multiplier; one that it refuses by a `PrivacyError` is taken for too low.
    :raises PrivacyError: a parameter is out of range, or no noise multiplier does.
    """
    require_epsilon(epsilon)
    require_delta(delta)
    require_sampling_rate(sampling_rate)
    refusals: list[PrivacyError] = []
    tried = 0

    def fits(multiplier: float) -> bool:
        nonlocal tried
        tried += 1
        try:
            event = plan_factory(multiplier).event(steps, sampling_rate=sampling_rate)
        except PrivacyError as error:
            refusals.append(error)
            return False
        return fits_budget(epsilon, delta, event)

    high = _LOWEST_TRIED
    while not fits(high):
        high *= 2
        if high > MAX_NOISE_MULTIPLIER:
            if len(refusals) == tried:
                raise refusals[0]
            raise PrivacyError(
                f"epsilon: {epsilon!r} at delta {delta!r} is too little for {steps} sums at sampling rate "
                f"{sampling_rate!r} with any noise multiplier up to {MAX_NOISE_MULTIPLIER:g}"
            )
    low = high / 2
    while high - low > high * _RELATIVE_PRECISION:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
