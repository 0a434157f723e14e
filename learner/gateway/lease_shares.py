"""How much of the run's capacity each fleet may hold. Pure: numbers in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Mapping

from learner.config import AdmissionConfig
from learner.queue import Occupancy

_GOLDEN = (math.sqrt(5) - 1) / 2


class LeaseShares:
    """Shares the staleness bound between fleets by weight.

    Staleness is bounded by leases: what waits and what is promised together never exceed what the learner trains within
    the bound, so that slow, long rollouts are not the ones that expire. While only one fleet wants more, it may have all
    of it. Fleets that compete (those that asked and were cut short, within the last seconds) are held to their weighted
    shares of what the others, who are content, leave: max-min fairness. Nothing is taken back: a fleet above its share
    gets nothing more until it is below, so that what becomes free goes to the others.
    """

    def __init__(self, config: AdmissionConfig) -> None:
        self._bound = (config.max_staleness + 1) * config.groups_per_step
        self._weights = config.weights

    @property
    def bound(self) -> int:
        """The most groups that may wait or be promised: max_staleness steps ahead, and the step under way."""
        return self._bound

    def share(self, fleet: str, occupancy: Occupancy) -> int:
        """The most groups that ``fleet``, who asks for more, may hold now."""
        if occupancy.hungry <= {fleet}:
            return self._bound
        return self.shares(Occupancy(occupancy.step, occupancy.held, occupancy.hungry | {fleet}))[fleet]

    def shares(self, occupancy: Occupancy) -> dict[str, int]:
        """Every active fleet's share when the hungry ones compete. Their sum never exceeds the bound."""
        wanted: dict[str, float] = {fleet: float(held) for fleet, held in occupancy.held.items() if held}
        wanted |= dict.fromkeys(occupancy.hungry, math.inf)
        exact = fill(float(self._bound), wanted, self._weights)
        return whole(exact, (occupancy.step * _GOLDEN) % 1.0)


def fill(bound: float, wanted: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """Max-min fair shares of ``bound`` by weight (1 where none is named); nobody gets more than wanted."""
    shares: dict[str, float] = {}
    open_fleets = dict(wanted)
    while open_fleets:
        total = sum(weights.get(fleet, 1.0) for fleet in open_fleets)
        each = {fleet: bound * weights.get(fleet, 1.0) / total for fleet in open_fleets}
        content = [fleet for fleet, most in open_fleets.items() if most <= each[fleet]]
        if not content:
            return shares | each
        for fleet in content:
            shares[fleet] = open_fleets.pop(fleet)
            bound -= shares[fleet]
    return shares


def whole(shares: Mapping[str, float], phase: float) -> dict[str, int]:
    """Whole numbers, each less than 1 away from its share, with the same sum (rounded down at most).

    Systematic sampling: over all phases in [0, 1) each is its share on average, however small it is.
    """
    result: dict[str, int] = {}
    end = phase
    for fleet in sorted(shares):
        start, end = end, end + shares[fleet]
        # The margin keeps sums like 0.1 * 10 from falling short of a whole number.
        result[fleet] = math.floor(end + 1e-9) - math.floor(start + 1e-9)
    return result
