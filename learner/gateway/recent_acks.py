"""Groups that were acknowledged and that Redis has forgotten: with AOF everysec, its last second when it is killed."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterable

import structlog

from learner.queue import GatewayQueue

_REMEMBERED_S = 10.0  # fsync every second, and some more when the disk is slow
_BATCH = 1000


class RecentAcks:
    """Remembers what this gateway acknowledged in the last seconds, and looks for it when Redis has come back.

    The producers have forgotten these groups, and so has the ledger, every counter of it: only here does anybody know.
    What is missing is put on the fleet's account as ``vanished``.

    Args:
        queue: the run's.
    """

    def __init__(self, queue: GatewayQueue) -> None:
        self._queue = queue
        self._recent: deque[tuple[float, list[tuple[str, str]]]] = deque()
        self._log = structlog.get_logger(process="gateway")

    def add(self, groups: Iterable[tuple[str, str]]) -> None:
        """Fleet and id of groups whose acks go out now, ACCEPTED or DUPLICATE."""
        now = time.monotonic()
        self._recent.append((now, list(groups)))
        # Measured from the last ack, not from now: an outage may be long.
        while self._recent[0][0] < now - _REMEMBERED_S:
            self._recent.popleft()

    async def verify(self) -> None:
        """Looks for each of them; to be called whenever Redis answers again.

        Raises:
            QueueError: Redis went away once more; call again when it is back.
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
