"""Emits the learner's spans of traced groups, on rank 0; runtime.traces describes the whole trace.

A group's span "queue" lasts from its append, by Redis's clock, to the step it is trained in; "commit" and "publish" are
those of the first checkpoint and of the first version that contain it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from learner.intake.batch_source import TakenBatch
from learner.queue import GroupRef
from leeway.v1 import rollout_pb2
from runtime.trace_context import TRACEPARENT, SpanContext

if TYPE_CHECKING:
    from runtime.tracer import Tracer  # OpenTelemetry is optional

_MAX_UNFINISHED = 4096  # traced groups that no version, or no checkpoint, contains yet; spans of more are dropped


class LearnerTracing:
    """Emits the spans of traced groups through step, checkpoint and publication.

    Args:
        tracer: where the spans go; without one nothing is done.
    """

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer
        self._lock = threading.Lock()  # the publisher's thread reports versions
        self._unpublished: list[tuple[int, SpanContext]] = []  # (step, span context)
        self._uncommitted: dict[str, SpanContext] = {}  # by group id

    def trained(self, step: int, taken: TakenBatch, trained_s: float) -> None:
        """Emits "queue" and "train" for the groups of a step; to be called right after it and before it is published.

        Args:
            step: number of the step, 1-based.
            taken: its groups.
            trained_s: seconds that training took.
        """
        if self._tracer is None:
            return
        end = time.time_ns()
        begin = end - int(trained_s * 1e9)
        for ref, group in zip(taken.refs, taken.groups, strict=True):
            context = self._tracer.context_of(ref.group_id, group.metadata.get(TRACEPARENT, ""))
            if context is None:
                continue
            appended = min(int(ref.entry_id.partition("-")[0]) * 1_000_000, begin)
            self._tracer.child("queue", context, appended, fleet=ref.fleet).end(begin)
            self._tracer.child("train", context, begin, step=step).end(end)
            with self._lock:
                if len(self._unpublished) < _MAX_UNFINISHED:
                    self._unpublished.append((step, context))
                if len(self._uncommitted) < _MAX_UNFINISHED:
                    self._uncommitted[ref.group_id] = context

    def published(self, policy: rollout_pb2.Policy, seconds: float) -> None:
        """Emits "publish" for the groups that a version is the first to contain, and "version" for the version.

        Args:
            policy: the announced version.
            seconds: from its snapshot to its announcement.
        """
        if self._tracer is None:
            return
        begin, version = time.time_ns() - int(seconds * 1e9), SpanContext.of_version(policy.manifest_sha256)
        with self._lock:
            contained = [context for step, context in self._unpublished if step <= policy.step]
            self._unpublished = [(step, context) for step, context in self._unpublished if step > policy.step]
        links = () if version is None else (version,)
        if version is not None:
            about = {"version": policy.version, "step": policy.step, "followed_groups": len(contained)}
            self._tracer.version(version, begin, **about).end()
        for context in contained:
            self._tracer.child("publish", context, begin, links, version=policy.version, step=policy.step).end()

    def committed(self, step: int, refs: Sequence[GroupRef], seconds: float) -> None:
        """Emits "commit" for the groups that a durable checkpoint has removed from the queue.

        Args:
            step: number of the checkpoint's step.
            refs: the groups.
            seconds: from its snapshot to its commit.
        """
        if self._tracer is None:
            return
        begin = time.time_ns() - int(seconds * 1e9)
        for ref in refs:
            context = self._uncommitted.pop(ref.group_id, None)
            if context is not None:
                self._tracer.child("commit", context, begin, step=step).end()

    def close(self) -> None:
        """Sends the spans that wait to be sent."""
        if self._tracer is not None:
            self._tracer.close()
