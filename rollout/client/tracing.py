"""Spans for the groups that a client submits, and the span context in a group's metadata."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from leeway.v1 import rollout_pb2
from runtime.trace_context import TRACEPARENT

if TYPE_CHECKING:
    from runtime.tracer import OpenSpan, Tracer

_METADATA_KEYS, _METADATA_BYTES = 32, 4096  # limits of Group.metadata in proto/leeway/v1/rollout.proto


class SubmitTracing:
    """Opens a span "submit" for each sampled group.

    Args:
        tracer: None: no spans.
    """

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer

    def submitting(self, group: rollout_pb2.Group) -> OpenSpan | None:
        """Opens the span "submit" of a group and writes its context into the group. Call it before the group is serialized.

        Returns:
            The span, which the caller ends; None when the group is not sampled or its metadata is full.
        """
        if self._tracer is None:
            return None
        parent = self._tracer.context_of(group.group_id, group.metadata.get(TRACEPARENT, ""))
        if parent is not None:
            span = self._tracer.child("submit", parent)
        elif self._tracer.is_sampled(group.group_id):
            span = self._tracer.root("submit", group.group_id, time.time_ns())
        else:
            return None
        return span if write_span_context(group, span) else None


def write_span_context(group: rollout_pb2.Group, span: OpenSpan) -> bool:
    """Writes the span's context into the group's metadata, where the next process reads it.

    Returns:
        False, and the group is unchanged, when the metadata would exceed the limits of the wire contract.
    """
    others = {key: value for key, value in group.metadata.items() if key != TRACEPARENT}
    value = span.context.traceparent
    size = sum(len(key.encode()) + len(text.encode()) for key, text in others.items()) + len(TRACEPARENT) + len(value)
    if len(others) >= _METADATA_KEYS or size > _METADATA_BYTES:
        return False
    group.metadata[TRACEPARENT] = value
    return True
