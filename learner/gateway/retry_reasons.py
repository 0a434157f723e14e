"""Reasons of RETRY acks, and how a RETRY ack is written."""

from __future__ import annotations

from leeway.v1 import rollout_pb2

QUEUE_UNAVAILABLE = "queue_unavailable"  # Redis does not answer
QUEUE_MEMORY_FULL = "queue_memory_full"  # Redis has reached its maxmemory
QUEUE_HALTED = "queue_halted"  # the data in Redis is not the run's newest: an operator must decide
QUEUE_FULL = "queue_full"  # the run's backlog has reached its cap
QUOTA_BACKLOG = "quota_backlog"  # the fleet's own backlog has reached its cap
QUOTA_RATE = "quota_rate"  # the fleet's groups or bytes per second
OVER_SHARE = "over_share"  # no lease covers the group, and its fleet has its share beside fleets that lease
RUN_FINISHED = "run_finished"  # nobody will train the group, unless the run is resumed with more steps
REASONS = (
    *(QUEUE_UNAVAILABLE, QUEUE_MEMORY_FULL, QUEUE_HALTED, QUEUE_FULL),
    *(QUOTA_BACKLOG, QUOTA_RATE, OVER_SHARE, RUN_FINISHED),
)
# Fixed, because nobody knows when the learner will free memory. QUOTA_RATE has none: whoever refuses computes the delay.
_DEFAULT_AFTER_S = {
    QUEUE_UNAVAILABLE: 1.0,
    QUEUE_MEMORY_FULL: 2.0,
    QUEUE_HALTED: 5.0,
    QUEUE_FULL: 2.0,
    QUOTA_BACKLOG: 2.0,
    OVER_SHARE: 1.0,
    RUN_FINISHED: 10.0,
}


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
