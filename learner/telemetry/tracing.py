"""The learner's part of the traces that follow groups (runtime.traces), on rank 0.

A group's "queue" lasts from its append, by Redis's clock, to the step it is trained in; "commit" and "publish" are those of
the first checkpoint and of the first version that contain it.
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
    from runtime.tracer import Tracer

_AWAITED = 4096  # followed groups that are in no version, or no checkpoint, yet; more are not followed to their end


class LearnerTracing:
    """Follows groups through step, checkpoint and publication; without a tracer it does nothing."""

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer
        self._lock = threading.Lock()  # versions are published by a thread of its own
        self._unpublished: list[tuple[int, SpanContext]] = []  # step, where
        self._uncommitted: dict[str, SpanContext] = {}  # by group id

    def trained(self, step: int, taken: TakenBatch, trained_s: float) -> None:
        """Step ``step`` (1-based) has just been trained on these groups, in so many seconds. Before it is published."""
        if self._tracer is None:
            return
        end = time.time_ns()
        begin = end - int(trained_s * 1e9)
        for ref, group in zip(taken.refs, taken.groups, strict=True):
            place = self._tracer.context_of(ref.group_id, group.metadata.get(TRACEPARENT, ""))
            if place is None:
                continue
            appended = min(int(ref.entry_id.partition("-")[0]) * 1_000_000, begin)
            self._tracer.child("queue", place, appended, fleet=ref.fleet).end(begin)
            self._tracer.child("train", place, begin, step=step).end(end)
            with self._lock:
                if len(self._unpublished) < _AWAITED:
                    self._unpublished.append((step, place))
                if len(self._uncommitted) < _AWAITED:
                    self._uncommitted[ref.group_id] = place

    def published(self, policy: rollout_pb2.Policy, seconds: float) -> None:
        """A version has been announced; it took so many seconds from the snapshot on."""
        if self._tracer is None:
            return
        begin, version = time.time_ns() - int(seconds * 1e9), SpanContext.of_version(policy.manifest_sha256)
        with self._lock:
            contained = [place for step, place in self._unpublished if step <= policy.step]
            self._unpublished = [(step, place) for step, place in self._unpublished if step > policy.step]
        links = () if version is None else (version,)
        if version is not None:
            about = {"version": policy.version, "step": policy.step, "followed_groups": len(contained)}
            self._tracer.version(version, begin, **about).end()
        for place in contained:
            self._tracer.child("publish", place, begin, links, version=policy.version, step=policy.step).end()

    def committed(self, step: int, refs: Sequence[GroupRef], seconds: float) -> None:
        """A checkpoint of ``step`` is durable, and these groups have left the queue."""
        if self._tracer is None:
            return
        begin = time.time_ns() - int(seconds * 1e9)
        for ref in refs:
            place = self._uncommitted.pop(ref.group_id, None)
            if place is not None:
                self._tracer.child("commit", place, begin, step=step).end()

    def close(self) -> None:
        """Sends what waits."""
        if self._tracer is not None:
            self._tracer.close()
