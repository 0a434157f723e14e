"""What one gateway knows of leases without asking Redis: those that it granted itself."""

from __future__ import annotations


class OwnGrants:
    """Counts down the leases that this gateway granted, so that their groups need not be looked up in Redis.

    It may know less than Redis (another gateway granted or renewed the lease), never that a lease is not valid.
    All times are seconds of one monotonic clock.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, float]] = {}  # lease -> groups left, when it expires; in the order of grants

    def note(self, lease: str, groups: int, expires: float, now: float) -> None:
        """Records a grant, and forgets leases that have expired."""
        while self._known and self._known[oldest := next(iter(self._known))][1] <= now:
            del self._known[oldest]
        self._known[lease] = (groups, expires)

    def spend(self, lease: str, now: float) -> bool:
        """Counts one group against a lease. Returns whether the lease is known to have covered it."""
        groups, expires = self._known.get(lease, (0, 0.0))
        if groups <= 1 or expires <= now:
            self._known.pop(lease, None)
        else:
            self._known[lease] = (groups - 1, expires)
        return groups > 0 and expires > now

    def forget(self, lease: str) -> None:
        """Forgets a lease that was given back."""
        self._known.pop(lease, None)
