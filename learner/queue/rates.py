"""Rate limits of the fleets' quotas, kept in Redis: they apply to all gateways of a run together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from learner.queue.keys import Keys

Call = Callable[[str, Sequence[str], Sequence[Any]], Awaitable[Any]]


@dataclass(frozen=True)
class Permit:
    """How many of the requested groups may pass now."""

    groups: int  # the first ones of those requested
    wait_s: float  # seconds until the next one may pass; 0 when all pass


class Rates:
    """A gateway's access to the run's token buckets (permit.lua).

    Args:
        keys: the run's keys.
        call: runs one script.
    """

    def __init__(self, keys: Keys, call: Call) -> None:
        self._keys = keys
        self._call = call

    async def permit(
        self, fleet: str, groups_per_s: float | None, bytes_per_s: float | None, sizes: Sequence[int]
    ) -> Permit:
        """Asks to let groups of a fleet pass. Those that pass use up the quota, even if they are not accepted later.

        Args:
            fleet: who submits them.
            groups_per_s: the quota's rate; None: no limit.
            bytes_per_s: the quota's rate of payload bytes; None: no limit.
            sizes: payload bytes of each group, in order.

        Raises:
            QueueError: Redis cannot be asked.
        """
        arguments = [groups_per_s or 0, bytes_per_s or 0, *sizes]
        groups, wait_ms = await self._call("permit", [self._keys.rates(fleet)], arguments)
        return Permit(groups, wait_ms / 1000)
