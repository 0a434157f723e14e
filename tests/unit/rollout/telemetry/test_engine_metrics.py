"""The metrics of streamed responses read the pool at each scrape."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from prometheus_client import generate_latest

from rollout.engine.routing_reader import RoutingReader
from rollout.engine.token_counts import TokenCounts
from rollout.telemetry.engine_metrics import declare_engine_metrics
from runtime.metric_registry import MetricRegistry


def test_every_scrape_reads_limits_responses_and_tokens():
    tokens = TokenCounts(received=10, continued=2)
    tokens.discarded["nan"] = 3
    lanes = SimpleNamespace(limits=lambda: [32, 16], responses=lambda: [5, 0], waiting=7)
    pool: Any = SimpleNamespace(lanes=lanes, tokens=tokens, routing=None)
    registry = MetricRegistry()
    declare_engine_metrics(registry, pool)
    tokens.received = 11
    assert 'leeway_worker_routed_responses_total{record="absent"} 0.0' in generate_latest(registry.prometheus).decode()
    pool.routing = RoutingReader(layers=1, top_k=1, experts=2)
    pool.routing.read({}, tokens=1)  # an engine that was asked and does not say
    text = generate_latest(registry.prometheus).decode()
    for line in (
        'leeway_worker_engine_limit{engine="1"} 16.0',
        'leeway_worker_engine_responses{engine="0"} 5.0',
        "leeway_worker_waiting_responses 7.0",
        "leeway_worker_tokens_received_total 11.0",
        'leeway_worker_tokens_discarded_total{reason="nan"} 3.0',
        'leeway_worker_tokens_discarded_total{reason="stop_text"} 0.0',
        "leeway_worker_continued_responses_total 2.0",
        'leeway_worker_routed_responses_total{record="absent"} 1.0',
        'leeway_worker_routed_responses_total{record="recorded"} 0.0',
    ):
        assert line in text
