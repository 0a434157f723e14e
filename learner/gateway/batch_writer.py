"""The one writer of a gateway: every group of every stream passes here, in order, in batches."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Sequence

from learner.gateway.admission_gate import AdmissionGate
from learner.gateway.metrics import GatewayMetrics
from learner.gateway.pending_submit import MEMORY_FULL, UNAVAILABLE, PendingSubmit, retry
from learner.gateway.recent_acks import RecentAcks
from learner.queue import Append, Appended, GatewayQueue
from leeway.v1 import rollout_pb2

_UNDECIDED = rollout_pb2.OUTCOME_UNSPECIFIED
_BREAK_S = 1.0  # after a failure Redis is left alone for so long; groups get RETRY at once


class BatchWriter:
    """Appends, counts and acknowledges. An ack is sent after Redis has said what became of the group, never before.

    Every fleet has a line of its own, and the lines take turns: a flood waits behind itself.

    Args:
        queue: the run's queue.
        gate: says who may pass.
        batch: the most groups in one round trip.
        acked: told what is acknowledged.
        meters: told of every batch.
    """

    def __init__(
        self, queue: GatewayQueue, gate: AdmissionGate, batch: int, acked: RecentAcks, meters: GatewayMetrics
    ) -> None:
        self._queue = queue
        self._gate = gate
        self._batch = batch
        self._acked = acked
        self._meters = meters
        self._lines: dict[str, deque[PendingSubmit]] = {}  # of fleets with arrivals; whose turn it is comes first
        self._wake = asyncio.Event()
        # Counts that Redis has not taken yet, by fleet. They survive an outage of Redis, not of this process; each is
        # made of whole groups, so that the law holds either way.
        self._uncounted: dict[str, Counter[str]] = {}
        self._closed_until = 0.0

    def put(self, arrival: PendingSubmit) -> None:
        """Takes a group in; streams bound how many."""
        self._lines.setdefault(arrival.fleet, deque()).append(arrival)
        self._wake.set()

    async def run(self) -> None:
        """Flushes for ever."""
        while True:
            arrivals = await self._gather()
            await self._flush(arrivals)

    async def finish(self) -> None:
        """Writes the counts that are left, if Redis takes them. For the end, when no arrivals are left."""
        if self._uncounted:
            await self._flush([])

    async def _gather(self) -> list[PendingSubmit]:
        """What has arrived, at least one; or nothing when counts have waited for a second."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_BREAK_S if self._uncounted else None):
                await self._wake.wait()
        arrivals: list[PendingSubmit] = []
        while self._lines and len(arrivals) < self._batch:
            fleet = next(iter(self._lines))
            line = self._lines.pop(fleet)
            arrivals.append(line.popleft())
            if line:
                self._lines[fleet] = line
        if not self._lines:
            self._wake.clear()
        return arrivals

    async def _flush(self, arrivals: Sequence[PendingSubmit]) -> None:
        undecided = [arrival for arrival in arrivals if arrival.group is not None]
        if time.monotonic() < self._closed_until:
            for arrival in undecided:
                retry(arrival.ack, UNAVAILABLE)
            self._count(arrivals)
        else:
            admitted, groups = await self._gate.admit(undecided)
            await self._append(admitted, groups, [one for one in arrivals if one.ack.outcome != _UNDECIDED])
        for arrival in arrivals:
            arrival.deliver(arrival.ack)
            if arrival.span is not None:
                arrival.span.end(outcome=rollout_pb2.Outcome.Name(arrival.ack.outcome), reason=arrival.ack.reason)
        self._meters.flushed(arrivals)

    async def _append(
        self, admitted: Sequence[PendingSubmit], groups: Sequence[Append], decided: Sequence[PendingSubmit]
    ) -> None:
        """Appends what was admitted and counts what was not."""
        self._count(decided)
        counts = {fleet: dict(fields) for fleet, fields in self._uncounted.items()}
        quarantined = [arrival.quarantined for arrival in decided if arrival.quarantined]
        asked = time.monotonic()
        flushed = await self._queue.flush(groups, counts, quarantined)
        self._meters.asked_redis(time.monotonic() - asked)
        for fleet in flushed.counted:
            del self._uncounted[fleet]
        if flushed.backlog is None:
            self._closed_until = time.monotonic() + _BREAK_S
        else:
            self._gate.update(flushed.backlog)
        for arrival, outcome in zip(admitted, flushed.outcomes, strict=True):
            _settle(arrival.ack, outcome)
        self._count([arrival for arrival in admitted if arrival.ack.outcome == rollout_pb2.OUTCOME_RETRY])
        kept = [arrival for arrival in admitted if arrival.ack.outcome != rollout_pb2.OUTCOME_RETRY]
        self._acked.add((arrival.fleet, arrival.ack.group_id) for arrival in kept)

    def _count(self, arrivals: Sequence[PendingSubmit]) -> None:
        """Notes groups that were not accepted; the accepted and duplicate ones are counted by their append."""
        for arrival in arrivals:
            fields = self._uncounted.setdefault(arrival.fleet, Counter())
            fields["received"] += 1
            if arrival.ack.outcome == rollout_pb2.OUTCOME_REJECTED:
                fields["rejected"] += 1
                fields[f"rejected:{arrival.ack.reason}"] += 1
            else:
                fields["retried"] += 1
                fields[f"retried:{arrival.ack.reason}"] += 1


def _settle(ack: rollout_pb2.Ack, outcome: Appended) -> None:
    if outcome is Appended.ACCEPTED:
        ack.outcome = rollout_pb2.OUTCOME_ACCEPTED
    elif outcome is Appended.DUPLICATE:
        ack.outcome = rollout_pb2.OUTCOME_DUPLICATE
    else:
        retry(ack, MEMORY_FULL if outcome is Appended.MEMORY_FULL else UNAVAILABLE)
