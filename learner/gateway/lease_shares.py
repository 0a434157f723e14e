"""Computes how much of the run's capacity each fleet may occupy. Pure: numbers in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Mapping

from learner.config import AdmissionConfig
from learner.queue import Occupancy

# Multiples of it modulo 1 fill [0, 1) evenly: round_shares then gives a share of 0.32 a whole group in 32 % of the steps.
# A rounding that does not change from step to step, such as largest remainders, would give small fleets nothing for ever.
_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


class LeaseShares:
    """Shares the staleness bound between fleets by weight.

    Staleness is bounded by leases: queued and leased groups together never exceed what the learner trains within the
    bound, so that slow, long rollouts are not the ones that expire. While only one fleet wants more, it may have all of
    it. Fleets that compete (that asked within the last seconds and got less than they asked for) are limited to their
    weighted shares of what the other fleets leave: max-min fairness. Nothing is taken back: a fleet above its share gets
    nothing more until it is below, so that what becomes free goes to the others.

    Args:
        config: the bound and the weights.
    """

    def __init__(self, config: AdmissionConfig) -> None:
        self._bound = (config.max_staleness + 1) * config.groups_per_step
        self._weights = config.weights

    @property
    def bound(self) -> int:
        """The most groups that may be queued or leased: those of max_staleness steps ahead and of the current step."""
        return self._bound

    def share(self, fleet: str, occupancy: Occupancy) -> int:
        """Returns the most groups that ``fleet``, which asks for more, may occupy now."""
        if occupancy.hungry <= {fleet}:
            return self._bound
        return self.shares(Occupancy(occupancy.step, occupancy.occupied, occupancy.hungry | {fleet}))[fleet]

    def shares(self, occupancy: Occupancy) -> dict[str, int]:
        """Returns every active fleet's share in groups when the hungry ones compete. Their sum never exceeds the bound."""
        wanted: dict[str, float] = {fleet: float(groups) for fleet, groups in occupancy.occupied.items() if groups}
        wanted |= dict.fromkeys(occupancy.hungry, math.inf)
        exact = max_min_shares(float(self._bound), wanted, self._weights)
        return round_shares(exact, (occupancy.step * _GOLDEN_RATIO) % 1.0)


def max_min_shares(bound: float, wanted: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """Splits ``bound`` by weight so that no fleet gets more than it wants: max-min fairness.

    Args:
        bound: what there is to share.
        wanted: fleet -> the most it can use; infinity for a fleet that takes all it can get.
        weights: fleet -> weight; 1 for a fleet that is not in it.

    Returns:
        The share of every fleet in ``wanted``; they add up to ``bound``, or to all that is wanted if that is less.
    """
    shares: dict[str, float] = {}
    unsatisfied = dict(wanted)
    while unsatisfied:
        total = sum(weights.get(fleet, 1.0) for fleet in unsatisfied)
        each = {fleet: bound * weights.get(fleet, 1.0) / total for fleet in unsatisfied}
        satisfied = [fleet for fleet, most in unsatisfied.items() if most <= each[fleet]]
        if not satisfied:
            return shares | each
        for fleet in satisfied:
            shares[fleet] = unsatisfied.pop(fleet)
            bound -= shares[fleet]
    return shares


def round_shares(shares: Mapping[str, float], phase: float) -> dict[str, int]:
    """Rounds shares to whole numbers, each less than 1 away from its share, with the same sum (rounded down at most).

    Systematic sampling: over all phases in [0, 1) each rounded share is its exact share on average, however small it is.

    Args:
        shares: fleet -> exact share, at least 0.
        phase: the offset of the sampling grid, in [0, 1).
    """
    result: dict[str, int] = {}
    end = phase
    for fleet in sorted(shares):
        start, end = end, end + shares[fleet]
        # The margin keeps sums like 0.1 * 10 from falling short of a whole number.
        result[fleet] = math.floor(end + 1e-9) - math.floor(start + 1e-9)
    return result
