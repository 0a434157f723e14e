"""Finds groups that were acknowledged and then lost with Redis: with AOF everysec, those of its last second."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterable

import structlog

from learner.queue import REPAIRED_S, GatewayQueue

_BATCH = 1000


class RecentAcks:
    """Remembers what this gateway acknowledged in the last seconds, and looks for it when Redis has come back.

    The producers have forgotten these groups, and the ledger in Redis has lost them with all their counts: only this
    gateway still knows of them. What is missing is added to the fleet's ledger as ``vanished``.

    Args:
        queue: the run's queue.
    """

    def __init__(self, queue: GatewayQueue) -> None:
        self._queue = queue
        self._recent: deque[tuple[float, list[tuple[str, str]]]] = deque()
        self._log = structlog.get_logger(process="gateway")

    def add(self, groups: Iterable[tuple[str, str]]) -> None:
        """Remembers groups, as (fleet, group id), whose acks go out now as ACCEPTED or DUPLICATE."""
        now = time.monotonic()
        self._recent.append((now, list(groups)))
        # Trimmed when acks are added, not when they are verified: an outage may be long.
        while self._recent[0][0] < now - REPAIRED_S:
            self._recent.popleft()

    async def verify(self) -> None:
        """Looks for every remembered group in Redis; to be called whenever Redis answers again.

        Raises:
            QueueError: Redis has gone away again; call this again when it is back.
        """
        ids: defaultdict[str, list[str]] = defaultdict(list)
        for _, groups in self._recent:
            for fleet, group_id in groups:
                ids[fleet].append(group_id)
        for fleet, own in ids.items():
            missing = 0
            for start in range(0, len(own), _BATCH):
                missing += await self._queue.note_vanished(fleet, own[start : start + _BATCH])
            if missing:
                self._log.error(
                    "acknowledged groups have vanished from redis: appendonly everysec keeps no more than its last second",
                    fleet=fleet,
                    groups=missing,
                )
