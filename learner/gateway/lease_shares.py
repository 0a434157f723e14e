"""Computes how much of the run's capacity each fleet may occupy. Pure: numbers in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from learner.config import AdmissionConfig
from learner.queue import Allowance, Occupancy

# Multiples of it modulo 1 fill [0, 1) evenly: round_shares then gives a share of 0.32 a whole group in 32 % of the steps.
# A rounding that does not change from step to step, such as largest remainders, would give small fleets nothing for ever.
_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
_LEAST_USE = (
    1 / 16
)  # a fleet that has wasted all its leases keeps this much of its weight, to show that it uses them again


class LeaseShares:
    """Shares the staleness bound between fleets by weight.

    Staleness is bounded by leases: queued and leased groups together never exceed what the learner consumes within the
    bound, so that slow, long rollouts are not the ones that expire. A step consumes what the learner reports: more than
    groups_per_step where it replaces groups of which nothing is trained (learner.refill). While only one fleet wants more, it
    may have all of it. Fleets that compete (that asked within the last seconds and got less than they asked for) are limited
    to their weighted shares of what the other fleets leave: max-min fairness. A fleet that lets its leases expire unused has
    a lower weight, until it uses them again.

    Nothing is taken back: a fleet above its share gets nothing more until it is below, so that what becomes free goes to the
    others. They need not wait for what the fleet was never promised, or keeps from them: beyond its share, groups that came
    without a lease, renewed leases, and leases that by its habits it will not use do not count against the bound. They make
    late only that fleet's own groups, because the learner takes from the fleets in turn.

    Args:
        config: the bound and the weights.
    """

    def __init__(self, config: AdmissionConfig) -> None:
        self._steps = config.max_staleness + 1
        self._groups_per_step = config.groups_per_step
        self._weights = config.weights

    def per_step(self, occupancy: Occupancy | None = None) -> int:
        """Returns the groups that the learner consumes in a step: what it reports, and groups_per_step at least."""
        return max(self._groups_per_step, occupancy.consumed if occupancy is not None else 0)

    def bound(self, occupancy: Occupancy | None = None) -> int:
        """Returns the most groups that may be queued or leased: those of max_staleness steps ahead and the current step."""
        return self._steps * self.per_step(occupancy)

    def share(self, fleet: str, occupancy: Occupancy) -> int:
        """Returns the most groups that ``fleet``, which asks for more, may occupy now."""
        if occupancy.hungry <= {fleet}:
            return self.bound(occupancy)
        return self.shares(replace(occupancy, hungry=occupancy.hungry | {fleet}))[fleet]

    def shares(self, occupancy: Occupancy) -> dict[str, int]:
        """Returns every active fleet's share in groups when the hungry ones compete. Their sum never exceeds the bound."""
        wanted: dict[str, float] = {fleet: float(groups) for fleet, groups in occupancy.occupied.items() if groups}
        wanted |= dict.fromkeys(occupancy.hungry, math.inf)
        weights = {
            fleet: self._weights.get(fleet, 1.0) * max(_LEAST_USE, occupancy.use.get(fleet, 1.0)) for fleet in wanted
        }
        exact = max_min_shares(float(self.bound(occupancy)), wanted, weights)
        return round_shares(exact, (occupancy.step * _GOLDEN_RATIO) % 1.0)

    def allowance(self, fleet: str, occupancy: Occupancy) -> Allowance:
        """Returns the limits of a lease for ``fleet``, which asks for one now."""
        shares = self.shares(replace(occupancy, hungry=occupancy.hungry | {fleet}))
        counted: dict[str, int] = {}
        for other, groups in occupancy.occupied.items():
            most = max(shares.get(other, 0), groups - _unkept(other, occupancy))
            if other != fleet and most < groups:
                counted[other] = most
        bound = self.bound(occupancy)
        return Allowance(bound, self.share(fleet, occupancy), counted, bound)

    def room(self, fleet: str, occupancy: Occupancy) -> float:
        """Returns how many more groups without a lease ``fleet`` may submit: no more than it could lease now.

        Infinity if no other fleet is hungry, holds leases or has groups that came with them: then it takes nothing from them.
        """
        occupied = occupancy.occupied
        obeying = {name for name, groups in occupied.items() if groups > occupancy.unleased.get(name, 0)}
        if obeying | occupancy.hungry <= {fleet}:
            return math.inf
        allowance = self.allowance(fleet, occupancy)
        counted = sum(min(groups, allowance.counted.get(name, groups)) for name, groups in occupied.items())
        return min(allowance.bound - counted, allowance.share - occupied.get(fleet, 0))


def _unkept(fleet: str, occupancy: Occupancy) -> int:
    """Counts the groups of a fleet that other fleets need not wait for if they are beyond its share.

    Promises that were never renewed count by the fraction that the fleet uses; those of a fleet that has used none yet not at
    all, or whoever comes first could lock the others out for the time of a lease.
    """
    wasted = round(occupancy.fresh.get(fleet, 0) * (1.0 - occupancy.use.get(fleet, 0.0)))
    return occupancy.unleased.get(fleet, 0) + occupancy.renewed.get(fleet, 0) + wasted


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
