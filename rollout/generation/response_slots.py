"""How many responses are under way, against how many the engines can use."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable

_LOOK_S = 0.2  # the engines' limit grows by itself


class ResponseSlots:
    """Responses under way.

    Args:
        limit: returns how many there may be now.
    """

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self._ended = asyncio.Event()
        self.under_way = 0

    def begin(self, responses: int) -> None:
        """Counts responses as under way, from the moment in which it is decided to make them."""
        self.under_way += responses

    def end(self, responses: int = 1) -> None:
        """Counts responses as ended."""
        self.under_way -= responses
        self._ended.set()

    async def free(self) -> int:
        """Waits until there is room for one more response; returns for how many there is."""
        while (free := self._limit() - self.under_way) <= 0:
            self._ended.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._ended.wait()
        return free


async def any_free(slots: Iterable[ResponseSlots]) -> int:
    """Waits until any of some slots have room for one more response; returns for how many those with the most have it."""
    waits = [asyncio.ensure_future(one.free()) for one in dict.fromkeys(slots)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        return max(wait.result() for wait in waits if wait.done())
    finally:
        for wait in waits:
            wait.cancel()
