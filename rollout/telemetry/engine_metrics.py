"""Metrics of the responses that a worker's engines stream, and of the tokens that came to nothing."""

from __future__ import annotations

from rollout.engine.pool import EnginePool
from rollout.engine.routing_reader import TOLD
from runtime.metric_registry import MetricRegistry


def declare_engine_metrics(made: MetricRegistry, pool: EnginePool) -> None:
    """Declares the metrics that every scrape reads from the engine pool's lanes and counts of tokens."""
    made.read_all(
        "leeway_worker_engine_limit",
        "How many streamed responses an engine gets at once; it halves when the engine has too much to do.",
        ("engine",),
        lambda: {(str(engine),): float(limit) for engine, limit in enumerate(pool.lanes.limits())},
    )
    made.read_all(
        "leeway_worker_engine_responses",
        "Responses under way on an engine from this worker.",
        ("engine",),
        lambda: {(str(engine),): float(count) for engine, count in enumerate(pool.lanes.responses())},
    )
    made.read(
        "leeway_worker_waiting_responses",
        "Streamed responses for which no engine has room.",
        lambda: float(pool.lanes.waiting),
    )
    made.read(
        "leeway_worker_tokens_received_total",
        "Tokens that engines have sent, of whole responses and of those that came to nothing.",
        lambda: float(pool.tokens.received),
    )
    made.read_all(
        "leeway_worker_tokens_discarded_total",
        "Tokens that engines have sent and that are in no response, by reason.",
        ("reason",),
        lambda: {(reason,): float(tokens) for reason, tokens in pool.tokens.discarded.items()},
    )
    made.read_all(
        "leeway_worker_routed_responses_total",
        "Answers of engines that were asked which experts they sent the tokens to, by what they say: recorded, absent "
        "(nothing), malformed; too_large: recorded, but the group would outgrow max_message_bytes and went without; 0 where "
        "they are not asked.",
        ("record",),
        lambda: {(told,): float(pool.routing.told[told]) if pool.routing is not None else 0.0 for told in TOLD},
    )
    made.read(
        "leeway_worker_continued_responses_total",
        "Responses that went on from what had arrived when their engine failed or aborted them.",
        lambda: float(pool.tokens.continued),
    )
