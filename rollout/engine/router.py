"""A router in front of the engines, as sglang-router is: generation goes through it, refits go to the engines themselves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from rollout.client.backoff import Backoff
from rollout.engine.lane import RequestLane
from rollout.engine.sglang import Engine

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_SETTLES_S = 60.0  # one that is away for longer is one that a router has set aside too
_LOOK_S = 0.1


class Router:
    """The one lane of a pool whose requests go through a router. It chooses the engine; the versions come from the answers.

    It has no weights that could be loaded, and passes on neither aborts nor the engines' load: a response that nobody wants
    runs on for two seconds, and only refusals lower the number of responses under way.

    Args:
        engine: client of the router.
        lane: of the router.
        version: the oldest version that an engine serves; None while none does.
        prove: has every engine prove that its weights are those that were loaded into it.
        settled: whether every engine serves.
    """

    def __init__(
        self,
        engine: Engine,
        lane: RequestLane,
        version: Callable[[], int | None],
        prove: Callable[[], Awaitable[None]],
        settled: Callable[[], bool],
    ) -> None:
        self.lane = lane
        self._engine = engine
        self._version = version
        self._prove = prove
        self._settled = settled

    def follow(self) -> None:
        """Opens the lane while an engine serves, and closes it while none does."""
        if not self.lane.failure.done():
            self.lane.version = self._version()
            self.lane.freed()

    async def run(self) -> None:
        """Watches the router's health, and opens its lane again after a failure. Never returns."""
        self.lane.lead_to(self._engine)
        self.lane.limit.look(None, 0)
        backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        while True:
            self.lane.renew()
            self.follow()
            watch = asyncio.create_task(self.lane.health.watch(self._engine))
            try:
                await asyncio.wait({watch, self.lane.failure}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                watch.cancel()
            if not self.lane.failure.done():
                self.lane.fail("the router does not answer")
            structlog.get_logger().warning("router failed", error=self.lane.failure.result())
            await asyncio.gather(watch, return_exceptions=True)
            await self._until_settled()
            await backoff.wait()

    async def _until_settled(self) -> None:
        """Waits, for a while, until every engine serves: the router goes on sending requests to one with other weights."""
        await self._prove()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLES_S):
                while not self._settled():  # noqa: ASYNC110 - engines report to the pool, which only has events for requests
                    await asyncio.sleep(_LOOK_S)
