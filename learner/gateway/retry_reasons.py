"""Reasons of RETRY acks, and how a RETRY ack is written."""

from __future__ import annotations

from leeway.v1 import rollout_pb2

QUEUE_UNAVAILABLE = "queue_unavailable"  # Redis does not answer
QUEUE_MEMORY_FULL = "queue_memory_full"  # Redis has reached its maxmemory
QUEUE_FULL = "queue_full"  # the run's backlog has reached its cap
QUOTA_BACKLOG = "quota_backlog"  # the fleet's own backlog has reached its cap
QUOTA_RATE = "quota_rate"  # the fleet's groups or bytes per second
REASONS = (QUEUE_UNAVAILABLE, QUEUE_MEMORY_FULL, QUEUE_FULL, QUOTA_BACKLOG, QUOTA_RATE)
# Fixed, because nobody knows when the learner will free memory. QUOTA_RATE has none: whoever refuses computes the delay.
_DEFAULT_AFTER_S = {QUEUE_UNAVAILABLE: 1.0, QUEUE_MEMORY_FULL: 2.0, QUEUE_FULL: 2.0, QUOTA_BACKLOG: 2.0}


def retry(ack: rollout_pb2.Ack, reason: str, after_s: float | None = None) -> None:
    """Turns ``ack`` into a RETRY.

    Args:
        ack: changed in place.
        reason: one of REASONS.
        after_s: seconds until the client is to send the group again; None takes the reason's default, which QUOTA_RATE
            does not have.
    """
    ack.outcome = rollout_pb2.OUTCOME_RETRY
    ack.reason = reason
    ack.retry_after_ms = max(1, round(1000 * (_DEFAULT_AFTER_S[reason] if after_s is None else after_s)))
