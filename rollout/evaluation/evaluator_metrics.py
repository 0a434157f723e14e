"""The Prometheus metrics of an evaluator, beside those of its engine."""

from __future__ import annotations

import math

from runtime.metric_registry import MetricRegistry

OUTCOMES = ("reported", "mixed_versions", "failed", "timeout", "not_fetched")


class EvaluatorMetrics:
    """Counts evaluations.

    Args:
        registry: where the metrics are declared.
    """

    def __init__(self, registry: MetricRegistry) -> None:
        self._ended = registry.counter(
            "leeway_evaluator_evaluations_total",
            "Evaluations of one version, task and sampling that have ended: reported, mixed_versions (tokens of another "
            "version), failed, timeout; not_fetched: a version that could not be had.",
            ("outcome",),
        )
        for outcome in OUTCOMES:
            self._ended.labels(outcome)
        self._version = registry.gauge(
            "leeway_evaluator_version", "Version that is being evaluated; NaN while none is."
        )
        self._version.set(math.nan)
        self._unreported = registry.gauge(
            "leeway_evaluator_unreported_results", "Results in the file that no gateway has taken yet."
        )

    def ended(self, outcome: str) -> None:
        """Counts an evaluation by its outcome, one of OUTCOMES."""
        self._ended.labels(outcome).inc()

    def evaluating(self, version: int | None) -> None:
        """Shows which version is being evaluated."""
        self._version.set(math.nan if version is None else version)

    def unreported(self, results: int) -> None:
        """Shows how many results wait for a gateway."""
        self._unreported.set(results)
