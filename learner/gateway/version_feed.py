"""Follows the versions that the run publishes, until it has finished, and whether Redis answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog

from learner.gateway.health import GatewayHealth
from learner.gateway.version_ages import VersionAges
from learner.queue import GatewayQueue, QueueError
from leeway.v1 import rollout_pb2

_WAIT_S = 1.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0


class VersionFeed:
    """Reads announcements of versions from Redis, and tells whether Redis would take a group now.

    Args:
        queue: where versions are announced.
        ages: told of every version.
        health: told after every attempt whether Redis takes writes.
        on_health: called with the same answer at the start and whenever it changes.

    Attributes:
        ages: knows every version that was read, and how stale it is.
        finished: whether the run has made all its steps and takes no more groups.
    """

    def __init__(
        self,
        queue: GatewayQueue,
        ages: VersionAges,
        health: GatewayHealth,
        on_health: Callable[[bool], Awaitable[None]],
    ) -> None:
        self.ages = ages
        self.finished = False
        self._queue = queue
        self._health = health
        self._on_health = on_health
        self._newest: rollout_pb2.Policy | None = None
        self._position = "0"
        self._changed = asyncio.Event()
        self._closed = False
        self._refreshing: asyncio.Task[None] | None = None
        self._log = structlog.get_logger(process="gateway")

    @property
    def known(self) -> set[int]:
        """Numbers of the versions that groups may name."""
        return self.ages.known

    @property
    def newest(self) -> int | None:
        """Number of the newest version that was read; None before the first."""
        return None if self._newest is None else self._newest.version

    async def run(self) -> None:
        """Follows the versions until it is cancelled, through any outage of Redis."""
        healthy: bool | None = None
        pause = _FIRST_PAUSE_S
        while True:
            try:
                if not healthy:
                    await self._queue.check()
                    await self._read(0.0)
                    await self.read_end()
                    await self._queue.probe()
                    await self._queue.look()
                    await self._on_health(True)
                    self._log.info("redis answers and takes writes")
                    healthy, pause = True, _FIRST_PAUSE_S
                    self._health.write_succeeded()
                await self._read(_WAIT_S)
                await self.read_end()
                await self._queue.probe()
                await self._queue.look()
                self._health.write_succeeded()
                # The clock by which leases expire advances only when somebody looks at it.
                await self._queue.leases.occupancy()
            except QueueError as error:
                self._health.write_failed(str(error))
                if healthy is not False:
                    await self._on_health(False)
                    self._log.error("redis cannot take groups; they get RETRY until it can", error=str(error))
                healthy = False
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)

    async def refresh(self) -> None:
        """Reads what was published up to now. Callers at the same time share one read.

        Raises:
            QueueError: Redis does not answer.
        """
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._read(0.0))
        # A caller that goes away must not cancel the read that others wait for.
        await asyncio.shield(self._refreshing)

    async def watch(self, known: int | None) -> AsyncIterator[rollout_pb2.Policy]:
        """Yields the newest version if it is newer than ``known``, then each newest one after it.

        Ends when the run has finished, or at ``close``.
        """
        while not self._closed:
            changed = self._changed
            newest = self._newest
            if newest is not None and (known is None or newest.version > known):
                known = newest.version
                yield newest
            elif self.finished:
                return
            else:
                await changed.wait()

    async def read_end(self) -> None:
        """Reads whether the run has finished; every ``watch`` then ends.

        Raises:
            QueueError: Redis does not answer.
        """
        finished = await self._queue.finished()
        if finished != self.finished:
            self.finished = finished
            self._log.info("the run has finished" if finished else "the run goes on: it has more steps to make")
            self._wake()

    def close(self) -> None:
        """Ends every ``watch``."""
        self._closed = True
        self._changed.set()

    async def _read(self, wait_s: float) -> None:
        """Reads the announcements since the last read; waits up to ``wait_s`` seconds for one."""
        announced = await self._queue.policies(self._position, wait_s)
        if not announced:
            return
        # A learner records its start before it publishes anything.
        new_epoch = announced[-1][1].epoch != self.ages.epoch
        timelines = await self._queue.timelines() if new_epoch else None
        self.ages.add([policy for _, policy in announced], timelines)
        for position, policy in announced:
            self._position = position
            if self._newest is None or policy.version > self._newest.version:
                self._newest = policy
                self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
