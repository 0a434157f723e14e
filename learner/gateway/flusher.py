"""The one writer of a gateway: every group of every stream passes here, in order, in batches."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from learner.gateway.admission import Admission
from learner.gateway.vanished import Acked
from learner.queue import Append, Appended, GatewayQueue
from leeway.v1 import rollout_pb2

_ACCEPTED = rollout_pb2.OUTCOME_ACCEPTED
_DUPLICATE = rollout_pb2.OUTCOME_DUPLICATE
_REJECTED = rollout_pb2.OUTCOME_REJECTED
_RETRY = rollout_pb2.OUTCOME_RETRY

UNAVAILABLE = "queue_unavailable"
_FULL = "queue_full"
_MEMORY = "queue_memory_full"
_RETRY_AFTER_MS = {UNAVAILABLE: 1000, _FULL: 2000, _MEMORY: 2000}
_BREAK_S = 1.0  # after a failure Redis is left alone for so long; groups get RETRY at once


@dataclass(slots=True)
class Arrival:
    """A group on its way through the gateway."""

    fleet: str
    ack: rollout_pb2.Ack  # sequence and group id; the outcome too when it is decided already
    deliver: Callable[[rollout_pb2.Ack], None]  # called once, with the outcome
    group: Append | None = None  # what to append; None when the outcome is decided already
    quarantined: str = ""  # JSON for the operator, of a rejected group


def retry(ack: rollout_pb2.Ack, reason: str) -> None:
    """Makes the ack a RETRY."""
    ack.outcome = _RETRY
    ack.reason = reason
    ack.retry_after_ms = _RETRY_AFTER_MS.get(reason, 1000)


class Flusher:
    """Appends, counts and acknowledges. An ack is sent after Redis has said what became of the group, never before.

    Args:
        queue: the run's queue.
        admission: says who has room.
        batch: the most groups in one round trip.
        acked: told what is acknowledged.
    """

    def __init__(self, queue: GatewayQueue, admission: Admission, batch: int, acked: Acked) -> None:
        self._acked = acked
        self._queue = queue
        self._admission = admission
        self._batch = batch
        self._arrivals: asyncio.Queue[Arrival] = asyncio.Queue()
        self._backlog: dict[str, int] = {}
        # Counts that Redis has not taken yet, by fleet. They survive an outage of Redis, not of this process; each is
        # made of whole groups, so that the law holds either way.
        self._uncounted: dict[str, Counter[str]] = {}
        self._closed_until = 0.0
        self._log = structlog.get_logger(process="gateway")

    def put(self, arrival: Arrival) -> None:
        """Takes a group in; streams bound how many."""
        self._arrivals.put_nowait(arrival)

    async def run(self) -> None:
        """Flushes for ever."""
        while True:
            arrivals = await self._gather()
            await self._flush(arrivals)

    async def finish(self) -> None:
        """Writes the counts that are left, if Redis takes them. For the end, when no arrivals are left."""
        if self._uncounted:
            await self._flush([])

    async def _gather(self) -> list[Arrival]:
        """What has arrived, at least one; or nothing when counts have waited for a second."""
        try:
            async with asyncio.timeout(_BREAK_S if self._uncounted else None):
                arrivals = [await self._arrivals.get()]
        except TimeoutError:
            return []
        while len(arrivals) < self._batch and not self._arrivals.empty():
            arrivals.append(self._arrivals.get_nowait())
        return arrivals

    async def _flush(self, arrivals: Sequence[Arrival]) -> None:
        available = time.monotonic() >= self._closed_until
        groups: list[Append] = []
        pending: list[Arrival] = []
        decided: list[Arrival] = []
        for arrival in arrivals:
            if arrival.group is not None and not available:
                retry(arrival.ack, UNAVAILABLE)
            elif arrival.group is not None and not self._admission.has_room(arrival.fleet, self._backlog):
                retry(arrival.ack, _FULL)
            elif arrival.group is not None:
                groups.append(arrival.group)
                pending.append(arrival)
                continue
            decided.append(arrival)
        self._count(decided)
        if available:
            counts = {fleet: dict(fields) for fleet, fields in self._uncounted.items()}
            quarantined = [arrival.quarantined for arrival in decided if arrival.quarantined]
            flushed = await self._queue.flush(groups, counts, quarantined)
            for fleet in flushed.counted:
                del self._uncounted[fleet]
            if flushed.backlog is None:
                self._closed_until = time.monotonic() + _BREAK_S
            else:
                self._backlog = {f: b.queued for f, b in flushed.backlog.items()}
            for arrival, outcome in zip(pending, flushed.outcomes, strict=True):
                _settle(arrival.ack, outcome)
            self._count([arrival for arrival in pending if arrival.ack.outcome == _RETRY])
            self._acked.add((one.fleet, one.ack.group_id) for one in pending if one.ack.outcome != _RETRY)
        for arrival in arrivals:
            arrival.deliver(arrival.ack)

    def _count(self, arrivals: Sequence[Arrival]) -> None:
        """Notes groups that were not accepted; the accepted and duplicate ones are counted by their append."""
        for arrival in arrivals:
            fields = self._uncounted.setdefault(arrival.fleet, Counter())
            fields["received"] += 1
            if arrival.ack.outcome == _REJECTED:
                fields["rejected"] += 1
                fields[f"rejected:{arrival.ack.reason}"] += 1
            else:
                fields["retried"] += 1
                fields[f"retried:{arrival.ack.reason}"] += 1


def _settle(ack: rollout_pb2.Ack, outcome: Appended) -> None:
    if outcome is Appended.ACCEPTED:
        ack.outcome = _ACCEPTED
    elif outcome is Appended.DUPLICATE:
        ack.outcome = _DUPLICATE
    else:
        retry(ack, _MEMORY if outcome is Appended.MEMORY_FULL else UNAVAILABLE)
