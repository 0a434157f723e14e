"""Validates submitted groups and hands each to the batch writer as a PendingSubmit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from learner.gateway.admission_gate import AdmissionGate
from learner.gateway.batch_writer import BatchWriter
from learner.gateway.measures import Measures
from learner.gateway.pending_submit import PendingSubmit
from learner.gateway.retry_reasons import QUEUE_UNAVAILABLE, RUN_FINISHED, retry
from learner.gateway.validation import GroupRules, examine, id_time_violation
from learner.gateway.version_feed import VersionFeed
from learner.gateway.violation import TOO_STALE, UNKNOWN_VERSION, Violation, staleness_violation
from learner.queue import Append, QueueError
from learner.queue.histogram import histogram_fields
from learner.queue.quarantine import quarantine_entry
from leeway.v1 import rollout_pb2
from runtime.trace_context import TRACEPARENT

if TYPE_CHECKING:
    from runtime.tracer import Tracer  # OpenTelemetry is optional

_ID_CHARACTERS = 64  # a group id is 36 characters; a longer one is cut before it is echoed or stored


class SubmitHandler:
    """Decides what a submitted group is, and puts it in line for the batch writer.

    Args:
        rules: what a group may look like, and how old its id may be.
        version_feed: knows which versions exist, and which are too stale.
        gate: turns groups of fleets over their rate away before they are validated.
        batch_writer: takes every group, also those whose outcome is decided already.
        quarantine: whether rejected groups are kept for the operator.
        tracer: where the spans of traced groups go; None if nothing is traced.
    """

    def __init__(
        self,
        rules: GroupRules,
        version_feed: VersionFeed,
        gate: AdmissionGate,
        batch_writer: BatchWriter,
        quarantine: bool,
        tracer: Tracer | None = None,
    ) -> None:
        self._rules = rules
        self._version_feed = version_feed
        self._gate = gate
        self._batch_writer = batch_writer
        self._quarantine = quarantine
        self._tracer = tracer
        self._reported: set[tuple[str, str]] = set()
        self._log = structlog.get_logger(process="gateway")

    async def take(
        self, fleet: str, request: rollout_pb2.SubmitRequest, deliver: Callable[[rollout_pb2.Ack], None]
    ) -> None:
        """Puts one group in line.

        Args:
            fleet: the authenticated submitter.
            request: the group, its sequence number and its lease.
            deliver: called once, later, with the group's ack.
        """
        group = request.group
        ack = rollout_pb2.Ack(sequence=request.sequence, group_id=group.group_id[:_ID_CHARACTERS])
        submit = PendingSubmit(fleet, ack, deliver)
        if self._gate.refuse(submit, group.ByteSize):
            self._batch_writer.put(submit)
            return
        if self._version_feed.finished:
            retry(ack, RUN_FINISHED)
            self._batch_writer.put(submit)
            return
        begun = 0 if self._tracer is None else time.time_ns()
        try:
            found = await self._examine(submit, group)
        except QueueError:
            retry(ack, QUEUE_UNAVAILABLE)
        else:
            if isinstance(found, Measures):
                submit.group = to_append(fleet, group, found, request.lease_id[:_ID_CHARACTERS])
                submit.routing = found.routing
            else:
                ack.outcome = rollout_pb2.OUTCOME_REJECTED
                ack.reason, ack.field, ack.value = found.reason, found.field, found.value
                self._report(fleet, found)
                if self._quarantine:
                    submit.quarantined = _quarantined(fleet, group, found)
        if self._tracer is not None:
            _trace(self._tracer, submit, group, begun)
        self._batch_writer.put(submit)

    def _report(self, fleet: str, violation: Violation) -> None:
        """Logs the first rejection per fleet and reason; all are counted, but a hostile fleet must not fill the disk."""
        if (fleet, violation.reason) not in self._reported:
            self._reported.add((fleet, violation.reason))
            details = {"reason": violation.reason, "field": violation.field, "value": violation.value}
            self._log.warning("first rejection of its kind", fleet=fleet, **details)

    async def _examine(self, submit: PendingSubmit, group: rollout_pb2.Group) -> Violation | Measures:
        """Validates a group; looks for newer versions first if it names one that is not known."""
        found = examine(group, self._rules.limits, self._version_feed.known)
        if isinstance(found, Violation) and found.reason == UNKNOWN_VERSION:
            # Workers read weights from storage, not through the gateway: they may know a version sooner.
            await self._version_feed.refresh()
            found = examine(group, self._rules.limits, self._version_feed.known)
        if isinstance(found, Violation):
            return found
        violation = id_time_violation(group.group_id, self._rules.id_memory_s)
        if violation is not None:
            return violation
        ages = self._version_feed.ages
        too_stale = ages.too_stale(found.versions)
        # One that was accepted in time and is sent again gets its answer from the queue: it is a duplicate.
        if too_stale is not None and not await self._batch_writer.knows(submit.fleet, group.group_id):
            # What is refused for its age is compared with what is trained, like what expires.
            submit.wasted = found.generated
            submit.counted = histogram_fields(TOO_STALE, found.generated / found.responses, found.reward)
            return staleness_violation(group, *too_stale)
        return found._replace(versions=ages.deciding(found.versions))


def to_append(fleet: str, group: rollout_pb2.Group, measures: Measures, lease_id: str) -> Append:
    """Builds the queue's form of a valid group."""
    return Append(
        fleet=fleet,
        group_id=group.group_id,
        payload=group.SerializeToString(),
        tokens=measures.tokens,
        generated=measures.generated,
        responses=measures.responses,
        reward=measures.reward,
        versions=tuple(measures.versions),
        lease_id=lease_id,
        kind=measures.kind,
        unscored=measures.unscored,
    )


def _trace(tracer: Tracer, submit: PendingSubmit, group: rollout_pb2.Group, begun: int) -> None:
    """Sends the span "validate", begun at Unix nanoseconds ``begun``, and begins "append", if the group is traced."""
    context = tracer.context_of(group.group_id, group.metadata.get(TRACEPARENT, ""))
    if context is None:
        return
    tracer.child("validate", context, begun, fleet=submit.fleet, reason=submit.ack.reason).end()
    if submit.group is not None:
        submit.span = tracer.child("append", context, fleet=submit.fleet)


def _shown_id(text: str) -> str:
    """Cuts a group id, and quotes one that a terminal would not show as it is."""
    shown = text[:_ID_CHARACTERS]
    return shown if shown.isprintable() else repr(shown)


def _quarantined(fleet: str, group: rollout_pb2.Group, violation: Violation) -> str:
    """Builds the quarantine record of a rejected group, as JSON."""
    fault = (violation.reason, violation.field, violation.value)
    return quarantine_entry(fleet, _shown_id(group.group_id), group, fault)
