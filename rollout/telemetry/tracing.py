"""A worker's spans: of the groups it generates and submits, and of the versions its engines load (see runtime.traces)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from leeway.v1 import rollout_pb2
from rollout.client.tracing import SubmitTracing, write_span_context
from rollout.engine.observer import Failure, Observer, ReplicaState
from rollout.generation.group import generated_tokens
from runtime.response_spans import spans_of
from runtime.trace_context import SpanContext

if TYPE_CHECKING:
    from runtime.tracer import OpenSpan, Tracer

_OPEN = 4096  # largest number of open "group" spans; groups above it get none
_VERSIONS = 16  # announced versions whose span contexts are kept


class WorkerTracing(SubmitTracing):
    """Traces groups from their prompts to their acks, and versions into engines.

    Args:
        tracer: None: no spans.
    """

    def __init__(self, tracer: Tracer | None = None) -> None:
        super().__init__(tracer)
        self._roots: dict[str, OpenSpan] = {}  # group id -> its span "group"
        self._versions: dict[int, SpanContext] = {}

    def generated(self, groups: Sequence[rollout_pb2.Group], begun: int, answered: int, scored: int) -> None:
        """Opens the span "group" of the sampled groups of one request, and records "generate" and "reward" in it.

        Args:
            groups: not submitted yet.
            begun, answered, scored: when the engine request was sent, answered, and its responses were scored, in Unix
                nanoseconds.
        """
        if self._tracer is None:
            return
        for group in groups:
            if len(self._roots) >= _OPEN or not self._tracer.is_sampled(group.group_id):
                continue
            version = max(span.version for response in group.responses for span in spans_of(response))
            tokens = sum(map(generated_tokens, group.responses))
            root = self._tracer.root("group", group.group_id, begun, prompt=group.prompt_id, task=group.task)
            self._tracer.child("generate", root.context, begun, version=version, tokens=tokens).end(answered)
            self._tracer.child("reward", root.context, answered).end(scored)
            if write_span_context(group, root):
                self._roots[group.group_id] = root

    def acknowledged(self, ack: rollout_pb2.Ack) -> None:
        """Ends a group's span "group" with its final ack."""
        root = self._roots.pop(ack.group_id, None)
        if root is not None:
            root.end(outcome=rollout_pb2.Outcome.Name(ack.outcome))

    def announced(self, policy: rollout_pb2.Policy) -> None:
        """Remembers the span context of a version that engines will load."""
        context = None if self._tracer is None else SpanContext.of_version(policy.manifest_sha256)
        if context is not None:
            self._versions[policy.version] = context
            while len(self._versions) > _VERSIONS:
                del self._versions[min(self._versions)]

    def refitted(self, engine: int, version: int, seconds: float) -> None:
        """Records the span "refit" of an engine that has just loaded a version."""
        context = self._versions.get(version)
        if self._tracer is not None and context is not None:
            begun = time.time_ns() - int(seconds * 1e9)
            self._tracer.child("refit", context, begun, engine=engine, version=version).end()

    def observing(self, observer: Observer) -> Observer:
        """Returns an observer that passes events on to ``observer`` and records refits as spans."""
        return observer if self._tracer is None else _TracingObserver(observer, self)

    def close(self) -> None:
        """Sends the spans that wait to be exported."""
        if self._tracer is not None:
            self._tracer.close()


class _TracingObserver:
    """Passes engine events on to an observer, and refits to the tracing too."""

    def __init__(self, observer: Observer, tracing: WorkerTracing) -> None:
        self._observer = observer
        self._tracing = tracing

    def engine_state(self, engine: int, state: ReplicaState) -> None:
        self._observer.engine_state(engine, state)

    def engine_refit(self, engine: int, version: int, seconds: float) -> None:
        self._observer.engine_refit(engine, version, seconds)
        self._tracing.refitted(engine, version, seconds)

    def request_failed(self, engine: int, failure: Failure) -> None:
        self._observer.request_failed(engine, failure)
