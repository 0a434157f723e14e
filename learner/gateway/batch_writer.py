"""Appends submitted groups to the queue in batches, by one writer through which every group of the gateway passes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Sequence

from learner.gateway.admission_gate import AdmissionGate
from learner.gateway.metrics import GatewayMetrics
from learner.gateway.pending_submit import PendingSubmit
from learner.gateway.recent_acks import RecentAcks
from learner.gateway.retry_reasons import QUEUE_HALTED, QUEUE_MEMORY_FULL, QUEUE_UNAVAILABLE, retry
from learner.gateway.violation import forgotten_violation
from learner.queue import Append, Appended, GatewayQueue
from leeway.v1 import rollout_pb2

_UNDECIDED = rollout_pb2.OUTCOME_UNSPECIFIED
_IN_REDIS = (rollout_pb2.OUTCOME_ACCEPTED, rollout_pb2.OUTCOME_DUPLICATE)  # counted there by their append
_BREAK_S = 1.0  # after a failure Redis is not asked for this long; groups get RETRY at once


class BatchWriter:
    """Appends, counts and acknowledges groups. An ack is sent after Redis has decided about the group, never before.

    Every fleet has a first-in-first-out line of its own, and the lines take turns: a fleet that floods the gateway delays
    only itself.

    Args:
        queue: the run's queue.
        gate: decides which groups may be appended.
        batch_size: the most groups in one round trip to Redis.
        recent_acks: remembers what is acknowledged.
        metrics: receives the outcome of every batch.
    """

    def __init__(
        self,
        queue: GatewayQueue,
        gate: AdmissionGate,
        batch_size: int,
        recent_acks: RecentAcks,
        metrics: GatewayMetrics,
    ) -> None:
        self._queue = queue
        self._gate = gate
        self._batch_size = batch_size
        self._recent_acks = recent_acks
        self._metrics = metrics
        self._lines: dict[str, deque[PendingSubmit]] = {}  # by fleet, empty ones left out; the first has the next turn
        self._wake = asyncio.Event()
        # Counts by fleet that Redis has not taken yet. They survive an outage of Redis, but not the end of this process;
        # each covers whole groups, so that the ledger balances either way.
        self._uncounted: dict[str, Counter[str]] = {}
        self._paused_until = 0.0

    def put(self, submit: PendingSubmit) -> None:
        """Adds a submit to its fleet's line. The streams bound how many can wait."""
        self._lines.setdefault(submit.fleet, deque()).append(submit)
        self._wake.set()

    async def knows(self, fleet: str, group_id: str) -> bool:
        """Whether the queue remembers the id of a group. Raises QueueError."""
        return await self._queue.knows(fleet, group_id)

    async def run(self) -> None:
        """Writes batches until it is cancelled."""
        while True:
            submits = await self._gather()
            await self._flush(submits)

    async def finish(self) -> None:
        """Writes the counts that are left, if Redis takes them. To be called last, when no submit is pending."""
        if self._uncounted:
            await self._flush([])

    async def _gather(self) -> list[PendingSubmit]:
        """Waits for the next batch: at least one submit, or none after counts have waited for a second."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_BREAK_S if self._uncounted else None):
                await self._wake.wait()
        submits: list[PendingSubmit] = []
        while self._lines and len(submits) < self._batch_size:
            fleet = next(iter(self._lines))
            line = self._lines.pop(fleet)
            submits.append(line.popleft())
            if line:
                self._lines[fleet] = line
        if not self._lines:
            self._wake.clear()
        return submits

    async def _flush(self, submits: Sequence[PendingSubmit]) -> None:
        """Decides the outcome of a batch, writes it to Redis, and delivers every ack."""
        undecided = [submit for submit in submits if submit.group is not None]
        if time.monotonic() < self._paused_until:
            for submit in undecided:
                retry(submit.ack, QUEUE_UNAVAILABLE)
            self._count(submits)
        else:
            admitted, groups = await self._gate.admit(undecided)
            await self._append(admitted, groups, [one for one in submits if one.ack.outcome != _UNDECIDED])
        for submit in submits:
            submit.deliver(submit.ack)
            if submit.span is not None:
                submit.span.end(outcome=rollout_pb2.Outcome.Name(submit.ack.outcome), reason=submit.ack.reason)
        self._metrics.flushed(submits)

    async def _append(
        self, admitted: Sequence[PendingSubmit], groups: Sequence[Append], decided: Sequence[PendingSubmit]
    ) -> None:
        """Appends the groups of ``admitted``, and counts and quarantines what is in ``decided``."""
        self._count(decided)
        counts = {fleet: dict(fields) for fleet, fields in self._uncounted.items()}
        quarantined = [submit.quarantined for submit in decided if submit.quarantined]
        asked = time.monotonic()
        flushed = await self._queue.flush(groups, counts, quarantined)
        self._metrics.asked_redis(time.monotonic() - asked)
        for fleet in flushed.counted:
            del self._uncounted[fleet]
        if flushed.backlog is None:
            self._paused_until = time.monotonic() + _BREAK_S
        else:
            self._gate.update(flushed.backlog)
        for submit, outcome in zip(admitted, flushed.outcomes, strict=True):
            _set_outcome(submit.ack, outcome)
        kept = [submit for submit in admitted if submit.ack.outcome in _IN_REDIS]
        self._count([submit for submit in admitted if submit.ack.outcome not in _IN_REDIS])
        self._recent_acks.add((submit.fleet, submit.ack.group_id) for submit in kept)

    def _count(self, submits: Sequence[PendingSubmit]) -> None:
        """Counts rejected and retried groups; accepted and duplicate ones are counted in Redis by their append."""
        for submit in submits:
            fields = self._uncounted.setdefault(submit.fleet, Counter())
            fields["received"] += 1
            if submit.ack.outcome == rollout_pb2.OUTCOME_REJECTED:
                fields["rejected"] += 1
                fields[f"rejected:{submit.ack.reason}"] += 1
                fields.update(submit.counted)
            else:
                fields["retried"] += 1
                fields[f"retried:{submit.ack.reason}"] += 1


def _set_outcome(ack: rollout_pb2.Ack, outcome: Appended) -> None:
    """Writes the outcome of an append into its ack."""
    if outcome is Appended.ACCEPTED:
        ack.outcome = rollout_pb2.OUTCOME_ACCEPTED
    elif outcome is Appended.DUPLICATE:
        ack.outcome = rollout_pb2.OUTCOME_DUPLICATE
    elif outcome is Appended.TOO_OLD:
        violation = forgotten_violation(ack.group_id)
        ack.outcome = rollout_pb2.OUTCOME_REJECTED
        ack.reason, ack.field, ack.value = violation.reason, violation.field, violation.value
    else:
        reasons = {Appended.MEMORY_FULL: QUEUE_MEMORY_FULL, Appended.HALTED: QUEUE_HALTED}
        retry(ack, reasons.get(outcome, QUEUE_UNAVAILABLE))
