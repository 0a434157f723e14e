"""The Prometheus metrics of the endpoint that agents call."""

from __future__ import annotations

from typing import get_args

from rollout.endpoint.api_error import Api
from rollout.endpoint.foreign_sampling import PARAMETERS
from rollout.endpoint.observer import OUTCOMES, Outcome
from runtime.metric_registry import MetricRegistry


class EndpointMetrics:
    """Counts the calls of agents, and what they asked for and did not get; an ``EndpointObserver``.

    Args:
        registry: where the metrics are declared.
    """

    def __init__(self, registry: MetricRegistry) -> None:
        self._calls = registry.counter(
            "leeway_worker_endpoint_calls_total",
            "Calls of agents at the endpoint, by API and by how they ended: answered, refused, unauthorized (no open "
            "episode), over_limit (of the episode), hung_up (by the caller), failed.",
            ("api", "outcome"),
        )
        self._overridden = registry.counter(
            "leeway_worker_endpoint_overridden_total",
            "Parameters of agents' calls that the worker's settings have overridden, or that this policy does not know.",
            ("parameter",),
        )
        for api in get_args(Api):
            for outcome in OUTCOMES:
                self._calls.labels(api, outcome)
        for parameter in PARAMETERS:
            self._overridden.labels(parameter)

    def called(self, api: Api, outcome: Outcome) -> None:
        """Counts a call that has ended."""
        self._calls.labels(api, outcome).inc()

    def overridden(self, parameter: str) -> None:
        """Counts a parameter that was not obeyed."""
        self._overridden.labels(parameter).inc()
