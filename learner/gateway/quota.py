"""When a fleet over its rate may come back. Pure: clock readings in, delays out."""

from __future__ import annotations

from collections.abc import Mapping

from learner.config import QuotaConfig

_LONGEST_S = 30.0  # a promise further ahead would outlive those it was made to


class Quotas:
    """Gives the excess of each fleet turns to come back in, one after another, as its rate frees them.

    Whether a group passes is decided in Redis, for all gateways. Once Redis has refused a fleet, this gateway knows until
    when it would refuse again, and turns the fleet's groups away by itself until then, before it has looked at them: a
    flood is cheap. Turns are as far apart as the rate says, so that a fleet that obeys them need not ask in vain.

    Args:
        default: of fleets that have none of their own.
        own: fleet -> quota.
    """

    def __init__(self, default: QuotaConfig, own: Mapping[str, QuotaConfig]) -> None:
        self._default = default
        self._own = dict(own)
        self._opens: dict[str, float] = {}  # fleet -> when Redis lets a group of it pass again
        self._turn: dict[str, float] = {}  # fleet -> the next turn that is not given away

    def of(self, fleet: str) -> QuotaConfig:
        """The fleet's quota."""
        return self._own.get(fleet, self._default)

    def has_rate(self, fleet: str) -> bool:
        """Whether the fleet has a rate to obey at all."""
        quota = self.of(fleet)
        return quota.groups_per_s is not None or quota.bytes_per_s is not None

    def refused(self, fleet: str, now: float, wait_s: float) -> None:
        """Redis has refused a group of the fleet: none passes within ``wait_s`` seconds."""
        self._opens[fleet] = now + wait_s
        self._turn[fleet] = max(self._turn.get(fleet, 0.0), now + wait_s)

    def closed(self, fleet: str, now: float) -> bool:
        """Whether Redis would refuse the fleet's next group."""
        return now < self._opens.get(fleet, 0.0)

    def turn(self, fleet: str, now: float, size: int) -> float:
        """Seconds until the turn of a refused group of ``size`` bytes; nobody else gets that turn from here."""
        quota = self.of(fleet)
        start = max(self._turn.get(fleet, 0.0), self._opens.get(fleet, 0.0), now)
        groups = 1 / quota.groups_per_s if quota.groups_per_s else 0.0
        apart = max(groups, size / quota.bytes_per_s if quota.bytes_per_s else 0.0)
        self._turn[fleet] = min(start + apart, now + _LONGEST_S)
        return min(start - now, _LONGEST_S)
