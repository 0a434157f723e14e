"""A gate in front of one engine that keeps requests out while a draining refit runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class DrainGate:
    """Lets requests through, except during a refit that drains.

    The server itself lets a request slip in between the new weights and the flush of its cache, and then refuses to flush.

    Attributes:
        shut: requests are kept out.
    """

    def __init__(self) -> None:
        self.shut = False
        self._changed = asyncio.Condition()
        self._inside = 0

    async def through(self, request: Coroutine[Any, Any, T]) -> T:
        """Runs the request as soon as the gate is open, and returns its result."""
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: not self.shut)
                self._inside += 1
        except asyncio.CancelledError:
            request.close()
            raise
        try:
            return await request
        finally:
            self._inside -= 1
            await asyncio.shield(self._notify())

    @contextlib.asynccontextmanager
    async def closed(self, wait: bool) -> AsyncIterator[None]:
        """Closes the gate for the block.

        Args:
            wait: True: new requests are kept out, and the block begins when those inside have ended. False: does nothing.
        """
        if not wait:
            yield
            return
        self.shut = True
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: not self._inside)
            yield
        finally:
            self.shut = False
            await asyncio.shield(self._notify())

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
