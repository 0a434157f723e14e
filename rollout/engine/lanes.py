"""Chooses an engine for each request, and has the request wait while there is none."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Sequence

from rollout.engine.lane import RequestLane

_REMEMBERED = 4096  # groups


class Lanes:
    """The lanes to all engines of a pool.

    Args:
        lanes: one for each engine; may be filled until the first request.
        freed: set whenever an engine may take more than it did.

    Attributes:
        waiting: number of streamed responses for which no engine has room.
    """

    def __init__(self, lanes: Sequence[RequestLane], freed: asyncio.Event) -> None:
        self.waiting = 0
        self._lanes = lanes
        self._freed = freed
        self._homes: OrderedDict[str, RequestLane] = OrderedDict()

    def responses(self) -> list[int]:
        """Number of responses under way on each engine."""
        return [lane.responses for lane in self._lanes]

    def limits(self) -> list[int]:
        """How many responses each engine may stream at once."""
        return [lane.limit.value for lane in self._lanes]

    def most(self) -> int:
        """How many streamed responses the engines that serve take at once."""
        return sum(lane.limit.value for lane in self._lanes if lane.version is not None)

    async def for_batch(self) -> RequestLane:
        """Returns the lane with the fewest requests among those that take some; waits until one does."""
        while not (free := self._free()):
            await self._until_freed()
        return min(free, key=lambda lane: lane.requests)

    async def for_response(self, affinity: str) -> RequestLane:
        """Returns a lane that is not full, its group's own if that can be; waits until there is one.

        Args:
            affinity: its group, whose prefix is in the cache of the engine that got the first of its responses; empty: none.
        """
        while not (free := [lane for lane in self._free() if not lane.full()]):
            self.waiting += 1
            try:
                await self._until_freed()
            finally:
                self.waiting -= 1
        home = self._homes.get(affinity)
        if home is not None and home in free:
            self._homes.move_to_end(affinity)
            return home
        chosen = min(free, key=lambda lane: lane.responses)
        if affinity and (home is None or home.version is None):  # an engine that is only full keeps its groups
            self._homes[affinity] = chosen
            if len(self._homes) > _REMEMBERED:
                self._homes.popitem(last=False)
        return chosen

    def _free(self) -> list[RequestLane]:
        return [lane for lane in self._lanes if (wait := lane.free_in_s()) is not None and wait <= 0]

    async def _until_freed(self) -> None:
        """Waits until an engine may take more than it did, or has rested."""
        waits = [wait for lane in self._lanes if (wait := lane.free_in_s()) is not None and wait > 0]
        self._freed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(waits, default=None)):
                await self._freed.wait()
