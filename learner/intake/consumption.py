"""Follows how many groups a step consumes, those included that it trains nothing of."""

from __future__ import annotations

import math

_NEW = 0.2  # share of the newest step in the mean: half of the mean is of the last three steps


class Consumption:
    """Exponential mean of the groups that steps consume, which leases and ``hold_staleness`` are counted in.

    Args:
        least: groups_per_step: what a step consumes when every group counts.
        most: the most that a step takes.
        known: what an earlier learner of the run reported last; 0 if there is none.
    """

    def __init__(self, least: int, most: int, known: int = 0) -> None:
        self._least, self._most = least, most
        self._mean = float(min(most, max(least, known)))

    @property
    def groups(self) -> int:
        """Groups that a step consumes, rounded up above 1/20; from ``least`` to ``most``."""
        return min(self._most, max(self._least, math.ceil(self._mean - 0.05)))

    def add(self, groups: int) -> None:
        """Takes in a step that consumed ``groups`` groups."""
        self._mean += _NEW * (groups - self._mean)
