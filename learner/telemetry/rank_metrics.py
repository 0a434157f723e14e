"""What a learner rank shows Prometheus. The reference is deploy/metrics.md."""

from __future__ import annotations

from learner.config import LearnerConfig
from learner.process.health import RankHealth
from learner.telemetry.run_metrics import RunMetrics
from runtime.metric_registry import MetricRegistry


class RankMetrics:
    """One rank's metrics; rank 0 has the run's too.

    Attributes:
        vitals: whether the rank gets on.
        instruments: what /metrics shows.
    """

    def __init__(self, health: RankHealth) -> None:
        self.health = health
        self.instruments = MetricRegistry()
        self.instruments.read(
            "leeway_learner_ready",
            "1 while /readyz says so: the rank has opened the run and takes batches. Every rank has this one.",
            lambda: float(health.ready() is None),
        )
        self.instruments.read(
            "leeway_learner_progress_timestamp_seconds",
            "When anything last moved on this rank, waiting for groups included; 0: never. Every rank has this one.",
            lambda: health.moved,
        )

    def lead(self, config: LearnerConfig) -> RunMetrics:
        """Rank 0's: the run's metrics from here on."""
        return RunMetrics(self.instruments, config)
