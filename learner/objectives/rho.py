"""Watches the effective rho: what negatives weigh against positives (evidence.md)."""

from __future__ import annotations

import structlog

LIMIT = 0.3  # below 0.2 all was well on every task tried; from 0.4 clearly worse; about 1 collapses


class RhoWatch:
    """Warns once each time rho rises above the limit."""

    def __init__(self) -> None:
        self._above = False

    def observe(self, sums: dict[str, float], step: int) -> bool:
        """Takes a step's reduced metrics; True, with a warning logged, when rho has just crossed the limit upwards."""
        up, down = sums.get("rho_count", 0.0), sums.get("rho_sum", 0.0)
        if up == 0 and down == 0:  # no token had a gradient: nothing to judge
            return False
        above = down > LIMIT * up
        crossed = above and not self._above
        self._above = above
        if crossed:
            structlog.get_logger().warning(
                "negatives weigh much against positives: training may collapse. Lower objective.rho_max (asympo) or "
                "objective.spo_alpha (spo)",
                rho=round(down / up, 3) if up else None,
                limit=LIMIT,
                step=step,
            )
        return crossed
