"""How much each fleet's groups weigh in the gradient, against the others': who dominates a step, and who has for a while."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Shares = Mapping[str, Sequence[float]]

_KEPT = 16  # fleets in a step's row: those with the largest weights
_LEAST_SHARE = 0.25  # of the whole weight: a fleet with less does not dominate anything
_FORGOTTEN = 1e-6
_NOTHING = 1e-12  # stands for the weight of others that have none, in place of a division by 0


def fleet_shares(weights: Sequence[float], fleets: Sequence[str]) -> dict[str, list[float]]:
    """Adds up a step's groups by fleet.

    Args:
        weights: weight of each group in the gradient; groups with 0 (without contrast) do not count, nor do those at the end
            that are not there.
        fleets: who submitted each group.

    Returns:
        Fleet -> its share of the weight, and its share of the groups that have a weight; the sixteen largest.
    """
    sums: dict[str, list[float]] = {}
    for weight, fleet in zip(weights, fleets, strict=False):
        if weight > 0:
            found = sums.setdefault(fleet, [0.0, 0.0])
            found[0] += weight
            found[1] += 1
    weight, groups = (sum(found[index] for found in sums.values()) for index in (0, 1))
    largest = sorted(sums, key=lambda fleet: (-sums[fleet][0], fleet))[:_KEPT]
    return {fleet: [sums[fleet][0] / weight, sums[fleet][1] / groups] for fleet in largest}


def heaviest(shares: Shares) -> tuple[str, float] | None:
    """Finds the fleet whose groups weigh most.

    Returns:
        The fleet, and the mean weight of one of its groups over that of one of the others' groups; None with one fleet only.
    """
    weight, groups = (sum(share[index] for share in shares.values()) for index in (0, 1))
    ratios = {
        fleet: own[0] / own[1] * (groups - own[1]) / max(_NOTHING, weight - own[0]) for fleet, own in shares.items()
    }
    return max(ratios.items(), key=lambda item: (item[1], item[0])) if len(ratios) > 1 else None


class FleetWeights:
    """Exponential sums, over about ``window`` steps, of what ``fleet_shares`` says of each.

    They are sums of shares, so one step says no more than another, whatever its gradient's size.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._sums: dict[str, list[float]] = {}
        self._steps = 0

    def add(self, shares: Shares) -> None:
        """Takes in a step; one in which nothing had a weight changes nothing."""
        if not shares:
            return
        keep = 1 - 1 / self._window
        self._steps += 1
        for fleet in {**self._sums, **shares}:
            old, new = self._sums.get(fleet, (0.0, 0.0)), shares.get(fleet, (0.0, 0.0))
            self._sums[fleet] = [keep * was + now for was, now in zip(old, new, strict=True)]
        self._sums = {fleet: sums for fleet, sums in self._sums.items() if sums[1] > _FORGOTTEN}

    def dominant(self) -> tuple[str, float, float] | None:
        """Finds the fleet whose groups weigh most, if it has a quarter of the whole weight at least.

        Returns:
            The fleet, the mean weight of one of its groups over that of one of the others', and its share of the weight. None
            before half a window of steps, and with one fleet only.
        """
        weight = sum(own for own, _ in self._sums.values())
        large = {fleet: own[0] / weight for fleet, own in self._sums.items() if own[0] >= _LEAST_SHARE * weight}
        found = heaviest(self._sums)
        if found is None or self._steps < self._window // 2 or found[0] not in large:
            return None
        return *found, large[found[0]]

    def clear(self) -> None:
        """Forgets every step."""
        self._sums, self._steps = {}, 0

    def state_dict(self) -> dict[str, Any]:
        """Returns the state for a checkpoint: JSON values."""
        return {"sums": {fleet: list(sums) for fleet, sums in self._sums.items()}, "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        self._sums = {fleet: list(sums) for fleet, sums in state["sums"].items()}
        self._steps = state["steps"]
