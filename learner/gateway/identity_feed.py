"""Follows the identities that operators add and revoke at any gateway of the run."""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from learner.gateway.auth import Identities
from learner.queue import GatewayQueue, QueueError

_EVERY_S = 0.3  # with the half second of the open streams, a revoked identity's streams end within a second


class IdentityFeed:
    """Merges the added identities into those of the file; while Redis is away, or halted, the last known ones stay.

    Args:
        queue: where they are.
        identities: what they are merged into.
    """

    def __init__(self, queue: GatewayQueue, identities: Identities) -> None:
        self._queue = queue
        self._identities = identities
        self._revision: str | None = None
        self._log = structlog.get_logger(process="gateway")

    async def run(self) -> None:
        """Looks for changes three times a second until it is cancelled, through any outage of Redis."""
        while True:
            # The version feed logs an outage, once; this would for the same reason.
            with contextlib.suppress(QueueError):
                await self.look()
            await asyncio.sleep(_EVERY_S)

    async def look(self) -> None:
        """Puts in force what was changed since the last look.

        Raises:
            QueueError: Redis does not answer, or its data is not the run's newest.
        """
        found = await self._queue.identities(self._revision)
        if found is None:
            return
        self._revision = found.revision
        for name in found.damaged:
            self._log.error("an added identity cannot be read and counts for nothing: add it again", fleet=name)
        self._identities.merge(found)
        self._log.info("added identities read again", fleets=len(found.by_name))
