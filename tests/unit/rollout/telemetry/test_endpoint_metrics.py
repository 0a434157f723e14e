"""Every call of an agent, and every parameter that was not obeyed, is counted; what has not happened is there at 0."""

from __future__ import annotations

from rollout.telemetry.endpoint_metrics import EndpointMetrics
from runtime.metric_registry import MetricRegistry

CALLS, OVERRIDDEN = "leeway_worker_endpoint_calls_total", "leeway_worker_endpoint_overridden_total"


def test_counts_calls_by_api_and_outcome_and_parameters_by_name():
    registry = MetricRegistry()
    metrics = EndpointMetrics(registry)

    def calls(api: str, outcome: str) -> float | None:
        return registry.prometheus.get_sample_value(CALLS, {"api": api, "outcome": outcome})

    assert calls("anthropic", "hung_up") == 0
    metrics.called("anthropic", "hung_up")
    metrics.called("anthropic", "hung_up")
    metrics.overridden("temperature")
    assert [calls("anthropic", "hung_up"), calls("openai", "hung_up")] == [2, 0]
    counted = [
        registry.prometheus.get_sample_value(OVERRIDDEN, {"parameter": name}) for name in ("temperature", "strict")
    ]
    assert counted == [1, 0]
