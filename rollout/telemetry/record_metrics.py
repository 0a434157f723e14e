"""The Prometheus metrics of the rollouts that a worker records."""

from __future__ import annotations

from typing import Literal, get_args

from runtime.metric_registry import MetricRegistry

RecordOutcome = Literal["written", "failed", "too_large"]


class RecordMetrics:
    """Counts groups that were recorded, or could not be.

    Args:
        registry: where the metrics are declared.
    """

    def __init__(self, registry: MetricRegistry) -> None:
        self._records = registry.counter(
            "leeway_worker_recorded_groups_total",
            "Groups recorded as text for people: written, failed (the disk), too_large (over record.group_bytes).",
            ("outcome",),
        )
        self._masked = registry.counter(
            "leeway_worker_masked_secrets_total", "Secrets that *** stands for in recorded groups."
        )
        for outcome in get_args(RecordOutcome):
            self._records.labels(outcome)

    def recorded(self, outcome: RecordOutcome) -> None:
        """Counts a group."""
        self._records.labels(outcome).inc()

    def masked(self, secrets: int) -> None:
        """Counts secrets that were found in a group."""
        self._masked.inc(secrets)
