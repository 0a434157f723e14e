"""What a learner rank shows Prometheus. The reference is deploy/metrics.md."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge

from learner.vitals import Vitals


class Meters:
    """One rank's metrics.

    Attributes:
        registry: what /metrics shows.
    """

    def __init__(self, vitals: Vitals) -> None:
        self.registry = CollectorRegistry()
        self.vitals = vitals
        Gauge(
            "leeway_learner_progress_timestamp_seconds",
            "When anything last moved on this rank; waiting for groups counts.",
            registry=self.registry,
        ).set_function(lambda: vitals.moved)
