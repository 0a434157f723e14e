"""A fleet's part of the traces that follow groups (runtime.traces)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from leeway.v1 import rollout_pb2
from rollout.engine.observer import Observer, State
from runtime.trace_context import TRACEPARENT, SpanContext

if TYPE_CHECKING:
    from runtime.tracer import OpenSpan, Tracer

_OPEN = 4096  # groups followed at once; more are not
_VERSIONS = 16  # announced versions whose places are remembered
_METADATA_KEYS, _METADATA_BYTES = 32, 4096  # the contract's, see Group.metadata


class WorkerTracing:
    """Follows groups from their prompts to their acks, and versions into engines; without a tracer it does nothing."""

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer
        self._roots: dict[str, OpenSpan] = {}
        self._versions: dict[int, SpanContext] = {}

    def generated(self, groups: Sequence[rollout_pb2.Group], begun: int, answered: int, judged: int) -> None:
        """Groups of one request, not yet submitted; when it was sent, answered, and judged, in Unix nanoseconds."""
        if self._tracer is None:
            return
        for group in groups:
            if len(self._roots) >= _OPEN or not self._tracer.is_sampled(group.group_id):
                continue
            version = max(span.version for response in group.responses for span in response.spans)
            tokens = sum(len(response.tokens) // 4 for response in group.responses)
            root = self._tracer.root("group", group.group_id, begun, prompt=group.prompt_id, task=group.task)
            self._tracer.child("generate", root.place, begun, version=version, tokens=tokens).end(answered)
            self._tracer.child("reward", root.place, answered).end(judged)
            if _mark(group, root):
                self._roots[group.group_id] = root

    def submitting(self, group: rollout_pb2.Group) -> OpenSpan | None:
        """The span "submit" of a group that is followed; from here on the group says so. Before it is serialized."""
        if self._tracer is None:
            return None
        parent = self._tracer.context_of(group.group_id, group.metadata.get(TRACEPARENT, ""))
        if parent is not None:
            span = self._tracer.child("submit", parent)
        elif self._tracer.is_sampled(group.group_id):
            span = self._tracer.root("submit", group.group_id, time.time_ns())
        else:
            return None
        return span if _mark(group, span) else None

    def acknowledged(self, ack: rollout_pb2.Ack) -> None:
        """A group's final ack: the worker is done with it."""
        root = self._roots.pop(ack.group_id, None)
        if root is not None:
            root.end(outcome=rollout_pb2.Outcome.Name(ack.outcome))

    def announced(self, policy: rollout_pb2.Policy) -> None:
        """A version that engines will load."""
        place = None if self._tracer is None else SpanContext.of_version(policy.manifest_sha256)
        if place is not None:
            self._versions[policy.version] = place
            while len(self._versions) > _VERSIONS:
                del self._versions[min(self._versions)]

    def refitted(self, engine: int, version: int, seconds: float) -> None:
        """An engine has loaded a version."""
        place = self._versions.get(version)
        if self._tracer is not None and place is not None:
            begun = time.time_ns() - int(seconds * 1e9)
            self._tracer.child("refit", place, begun, engine=engine, version=version).end()

    def observing(self, observer: Observer) -> Observer:
        """An observer that tells us of refits too."""
        return observer if self._tracer is None else _Both(observer, self)

    def close(self) -> None:
        """Sends what waits."""
        if self._tracer is not None:
            self._tracer.close()


class _Both:
    """An observer, and a trail beside it."""

    def __init__(self, observer: Observer, tracing: WorkerTracing) -> None:
        self._observer = observer
        self._tracing = tracing

    def engine_state(self, engine: int, state: State) -> None:
        self._observer.engine_state(engine, state)

    def engine_refit(self, engine: int, version: int, seconds: float) -> None:
        self._observer.engine_refit(engine, version, seconds)
        self._tracing.refitted(engine, version, seconds)


def _mark(group: rollout_pb2.Group, span: OpenSpan) -> bool:
    """Writes the span's place into the metadata; not where that would make the group break the contract."""
    others = {key: value for key, value in group.metadata.items() if key != TRACEPARENT}
    value = span.place.traceparent
    size = sum(len(key.encode()) + len(text.encode()) for key, text in others.items()) + len(TRACEPARENT) + len(value)
    if len(others) >= _METADATA_KEYS or size > _METADATA_BYTES:
        return False
    group.metadata[TRACEPARENT] = value
    return True
