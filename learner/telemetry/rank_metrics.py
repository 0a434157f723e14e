"""Prometheus metrics of a learner rank. deploy/metrics.md lists them."""

from __future__ import annotations

from learner.config import LearnerConfig
from learner.process.health import RankHealth
from learner.telemetry.run_metrics import RunMetrics
from runtime.metric_registry import MetricRegistry


class RankMetrics:
    """Metrics that every rank has. Rank 0 adds those of the run.

    Args:
        health: whether the rank makes progress and takes batches.

    Attributes:
        health: the argument.
        registry: every metric declared here or by the run metrics.
    """

    def __init__(self, health: RankHealth) -> None:
        self.health = health
        self.registry = MetricRegistry()
        self.registry.read(
            "leeway_learner_ready",
            "1 while /readyz answers 200: the rank has opened the run and takes batches. Every rank has this metric.",
            lambda: float(health.ready() is None),
        )
        self.registry.read(
            "leeway_learner_progress_timestamp_seconds",
            "When this rank last made progress, waiting included; 0 before the first time. Every rank has this metric.",
            lambda: health.moved,
        )

        self.registry.read(
            "leeway_learner_paused",
            "1 while an operator has paused the run, and the rank trains nothing. Every rank has this metric.",
            lambda: float(health.paused),
        )

    def add_run(self, config: LearnerConfig) -> RunMetrics:
        """Adds the metrics of the run to this rank's, to be called once, on rank 0."""
        return RunMetrics(self.registry, config)
