"""From a request to an arrival: validated, measured, handed to the flusher."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from learner.config import LimitsConfig
from learner.gateway.admission_gate import AdmissionGate
from learner.gateway.batch_writer import BatchWriter
from learner.gateway.pending_submit import UNAVAILABLE, PendingSubmit, retry
from learner.gateway.validation import UNKNOWN_VERSION, Measures, Violation, examine
from learner.gateway.version_feed import VersionFeed
from learner.queue import Append, QueueError
from leeway.v1 import rollout_pb2
from runtime.trace_context import TRACEPARENT

if TYPE_CHECKING:
    from runtime.tracer import Tracer

_ECHOED = 64  # a group id is 36 characters; a stranger's nonsense is not sent back whole
_QUARANTINED_BYTES = 64 << 10


class SubmitHandler:
    """Judges groups and puts them in line.

    Args:
        limits: what a group may look like.
        policies: says which versions exist.
        gate: turns groups away before they are looked at.
        flusher: where every group goes, whatever its fate.
        quarantine: whether rejected groups are kept for the operator.
        tracer: where spans of the groups that are followed go.
    """

    def __init__(
        self,
        limits: LimitsConfig,
        policies: VersionFeed,
        gate: AdmissionGate,
        flusher: BatchWriter,
        quarantine: bool,
        tracer: Tracer | None = None,
    ) -> None:
        self._limits = limits
        self._policies = policies
        self._gate = gate
        self._flusher = flusher
        self._quarantine = quarantine
        self._tracer = tracer
        self._reported: set[tuple[str, str]] = set()
        self._log = structlog.get_logger(process="gateway")

    async def take(
        self, fleet: str, request: rollout_pb2.SubmitRequest, deliver: Callable[[rollout_pb2.Ack], None]
    ) -> None:
        """Puts one group in line; ``deliver`` is called once, later, with its ack."""
        group = request.group
        ack = rollout_pb2.Ack(sequence=request.sequence, group_id=group.group_id[:_ECHOED])
        arrival = PendingSubmit(fleet, ack, deliver)
        if self._gate.refuse(arrival, group.ByteSize):
            self._flusher.put(arrival)
            return
        begun = 0 if self._tracer is None else time.time_ns()
        try:
            found = await self._judge(group)
        except QueueError:
            retry(ack, UNAVAILABLE)
        else:
            if isinstance(found, Measures):
                arrival.group = to_append(fleet, group, found, request.lease_id[:_ECHOED])
            else:
                ack.outcome = rollout_pb2.OUTCOME_REJECTED
                ack.reason, ack.field, ack.value = found.reason, found.field, found.value
                self._report(fleet, found)
                if self._quarantine:
                    arrival.quarantined = _quarantined(fleet, group, found)
        if self._tracer is not None:
            _follow(self._tracer, arrival, group, begun)
        self._flusher.put(arrival)

    def _report(self, fleet: str, violation: Violation) -> None:
        """Logs the first of each kind; all are counted, and a hostile fleet must not fill the disk."""
        if (fleet, violation.reason) not in self._reported:
            self._reported.add((fleet, violation.reason))
            details = {"reason": violation.reason, "field": violation.field, "value": violation.value}
            self._log.warning("first rejection of its kind", fleet=fleet, **details)

    async def _judge(self, group: rollout_pb2.Group) -> Violation | Measures:
        found = examine(group, self._limits, self._policies.known)
        if isinstance(found, Violation) and found.reason == UNKNOWN_VERSION:
            # It may be younger than what we have read: the worker reads weights from storage, not through us.
            await self._policies.refresh()
            found = examine(group, self._limits, self._policies.known)
        return found


def _follow(tracer: Tracer, arrival: PendingSubmit, group: rollout_pb2.Group, begun: int) -> None:
    """The span "validate" of a group that is followed, and the beginning of "append"; ``begun``: Unix nanoseconds."""
    place = tracer.context_of(group.group_id, group.metadata.get(TRACEPARENT, ""))
    if place is None:
        return
    tracer.child("validate", place, begun, fleet=arrival.fleet, reason=arrival.ack.reason).end()
    if arrival.group is not None:
        arrival.span = tracer.child("append", place, fleet=arrival.fleet)


def to_append(fleet: str, group: rollout_pb2.Group, measures: Measures, lease_id: str) -> Append:
    """A valid group."""
    return Append(
        fleet=fleet,
        group_id=group.group_id,
        payload=group.SerializeToString(),
        tokens=measures.tokens,
        generated=measures.generated,
        responses=measures.responses,
        reward=measures.reward,
        lease_id=lease_id,
    )


def _quarantined(fleet: str, group: rollout_pb2.Group, violation: Violation) -> str:
    payload = group.SerializeToString() if group.ByteSize() <= _QUARANTINED_BYTES else b""
    return json.dumps(
        {
            "fleet": fleet,
            "time": time.time(),
            "group_id": group.group_id[:_ECHOED],
            "reason": violation.reason,
            "field": violation.field,
            "value": violation.value,
            "payload": base64.b64encode(payload).decode() or None,
        }
    )
