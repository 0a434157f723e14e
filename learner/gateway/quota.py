"""Tells groups of a fleet over its rate when to come back. Pure: clock readings in, delays out."""

from __future__ import annotations

from collections.abc import Mapping

from learner.config import QuotaConfig

_MAX_DELAY_S = 30.0  # clients may be gone before a longer delay is over


class Quotas:
    """Spreads the refused groups of each fleet over time: each gets a turn of its own, as far apart as the rate allows.

    Redis decides whether a group passes, for all gateways. Once Redis has refused a fleet, this gateway knows until when
    Redis would refuse it again, and until then turns the fleet's groups away by itself, before it has looked at them: a
    flood is cheap. Turns are as far apart as the rate says, so that a fleet that obeys them is not refused again.

    All times are seconds of one monotonic clock.

    Args:
        default: for fleets without a quota of their own.
        own: quotas by fleet.
    """

    def __init__(self, default: QuotaConfig, own: Mapping[str, QuotaConfig]) -> None:
        self.configure(default, own)
        self._opens: dict[str, float] = {}  # fleet -> when Redis lets a group of it pass again
        self._next_turn: dict[str, float] = {}  # fleet -> the earliest turn that no group has been given

    def configure(self, default: QuotaConfig, own: Mapping[str, QuotaConfig]) -> None:
        """Takes other quotas; a fleet that was refused keeps its turn."""
        self._default, self._own = default, dict(own)

    def of(self, fleet: str) -> QuotaConfig:
        """Returns the fleet's own quota, or the default one."""
        return self._own.get(fleet, self._default)

    def has_rate(self, fleet: str) -> bool:
        """Whether the fleet's quota limits groups or bytes per second."""
        quota = self.of(fleet)
        return quota.groups_per_s is not None or quota.bytes_per_s is not None

    def refused(self, fleet: str, now: float, wait_s: float) -> None:
        """Records that Redis has refused a group of the fleet and lets none pass within ``wait_s`` seconds."""
        self._opens[fleet] = now + wait_s
        self._next_turn[fleet] = max(self._next_turn.get(fleet, 0.0), now + wait_s)

    def closed(self, fleet: str, now: float) -> bool:
        """Whether Redis is known to refuse the fleet's next group."""
        return now < self._opens.get(fleet, 0.0)

    def turn(self, fleet: str, now: float, size: int) -> float:
        """Gives a refused group of ``size`` bytes the fleet's next turn.

        Returns:
            Seconds from ``now`` until that turn, 0 to 30.
        """
        quota = self.of(fleet)
        start = max(self._next_turn.get(fleet, 0.0), self._opens.get(fleet, 0.0), now)
        for_groups = 1 / quota.groups_per_s if quota.groups_per_s else 0.0
        for_bytes = size / quota.bytes_per_s if quota.bytes_per_s else 0.0
        self._next_turn[fleet] = min(start + max(for_groups, for_bytes), now + _MAX_DELAY_S)
        return min(start - now, _MAX_DELAY_S)
