"""An exponential mean that knows how it began and how far it has been."""

from __future__ import annotations

import math
from typing import Any


class TrackedMean:
    """Exponential mean over about ``window`` values of a quantity, and the first, highest and lowest that the mean has been.

    The mean is known from half a window of values on. Only ``lowest`` counts earlier ones, as a collapse may begin with the
    second step.

    Attributes:
        first: the first known mean; None before.
        lowest: lowest mean so far; infinity before the first value.
        highest: highest known mean; minus infinity before.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self.clear()

    @property
    def mean(self) -> float | None:
        """The mean; None before half a window of values."""
        return self._sum / self._weight if self._count >= self._window // 2 else None

    def add(self, value: float) -> None:
        """Takes in one value."""
        keep = 1 - 1 / self._window
        self._count += 1
        self._sum = keep * self._sum + value
        self._weight = keep * self._weight + 1
        self.lowest = min(self.lowest, self._sum / self._weight)
        if self.mean is not None:
            self.first = self.mean if self.first is None else self.first
            self.highest = max(self.highest, self.mean)

    def clear(self) -> None:
        """Forgets every value."""
        self._count, self._sum, self._weight = 0, 0.0, 0.0
        self.first: float | None = None
        self.lowest, self.highest = math.inf, -math.inf

    def state_dict(self) -> dict[str, Any]:
        """Returns the state for a checkpoint: JSON values, which know no infinity."""
        if not self._count:
            return {}
        highest = None if self.first is None else self.highest
        return {
            "count": self._count,
            "sum": self._sum,
            "weight": self._weight,
            "first": self.first,
            "lowest": self.lowest,
            "highest": highest,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        self.clear()
        if state:
            self._count, self._sum, self._weight = state["count"], state["sum"], state["weight"]
            self.first, self.lowest = state["first"], state["lowest"]
            self.highest = -math.inf if state["highest"] is None else state["highest"]
