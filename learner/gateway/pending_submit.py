"""A group on its way through the gateway, and what RETRY says."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from learner.queue import Append
from leeway.v1 import rollout_pb2

if TYPE_CHECKING:
    from runtime.tracer import OpenSpan

UNAVAILABLE = "queue_unavailable"  # Redis does not answer
MEMORY_FULL = "queue_memory_full"  # Redis has reached its maxmemory
FULL = "queue_full"  # the run's backlog
BACKLOG = "quota_backlog"  # the fleet's own backlog
RATE = "quota_rate"  # the fleet's groups or bytes per second
REASONS = (UNAVAILABLE, MEMORY_FULL, FULL, BACKLOG, RATE)
_AFTER_S = {UNAVAILABLE: 1.0, MEMORY_FULL: 2.0, FULL: 2.0, BACKLOG: 2.0}  # the learner frees room step by step


@dataclass(slots=True)
class PendingSubmit:
    """A group on its way through the gateway."""

    fleet: str
    ack: rollout_pb2.Ack  # sequence and group id; the outcome too when it is decided already
    deliver: Callable[[rollout_pb2.Ack], None]  # called once, with the outcome
    group: Append | None = None  # what to append; None when the outcome is decided already
    quarantined: str = ""  # JSON for the operator, of a rejected group
    since: float = field(default_factory=time.monotonic)  # when it was read
    span: OpenSpan | None = None  # of its append, when the group is followed


def retry(ack: rollout_pb2.Ack, reason: str, after_s: float | None = None) -> None:
    """Makes the ack a RETRY; ``after_s`` where it is known better than by its reason."""
    ack.outcome = rollout_pb2.OUTCOME_RETRY
    ack.reason = reason
    ack.retry_after_ms = max(1, round(1000 * (_AFTER_S[reason] if after_s is None else after_s)))
