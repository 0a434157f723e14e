"""The rates of the fleets' quotas, kept in Redis: they hold over all gateways of a run together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from learner.queue.keys import Keys

Call = Callable[[str, Sequence[str], Sequence[Any]], Awaitable[Any]]


@dataclass(frozen=True)
class Permit:
    """What may pass now."""

    groups: int  # the first ones of those asked for
    wait_s: float  # until the next one could; 0 when all pass


class Rates:
    """A gateway's hold on the run's token buckets (permit.lua).

    Args:
        keys: the run's.
        call: runs one script.
    """

    def __init__(self, keys: Keys, call: Call) -> None:
        self._keys = keys
        self._call = call

    async def permit(
        self, fleet: str, groups_per_s: float | None, bytes_per_s: float | None, sizes: Sequence[int]
    ) -> Permit:
        """Asks for groups of a fleet; those that pass are paid for, whatever becomes of them.

        Args:
            fleet: whose they are.
            groups_per_s: None: no limit.
            bytes_per_s: of payload; None: no limit.
            sizes: payload bytes of each, in order.

        Raises:
            QueueError: Redis cannot say.
        """
        arguments = [groups_per_s or 0, bytes_per_s or 0, *sizes]
        groups, wait_ms = await self._call("permit", [self._keys.rates(fleet)], arguments)
        return Permit(groups, wait_ms / 1000)
