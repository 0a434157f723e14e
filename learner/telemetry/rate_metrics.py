"""Prometheus metrics of a step's learning rate and of what bounds it. deploy/metrics.md lists them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from learner.config.control import LrControlConfig
from runtime.metric_registry import MetricRegistry

_BOUNDS = ("none", "drift", "ess", "gac", "hold")
# Field of a step's row -> metric, help. NaN after a step without a value.
_EVERY_STEP = {
    "lr": ("learning_rate", "Learning rate that the optimizer used."),
    "lr_scheduled": (
        "learning_rate_scheduled",
        "Learning rate before lr_control bounds it: schedule, holds and rollbacks.",
    ),
    "lr_ceiling_share": (
        "learning_rate_ceiling_ratio",
        "Learning rate over its ceiling, the scheduled rate, under lr_control drift and ess; NaN under others, and where the "
        "rate is 0.",
    ),
    "drift_scale": (
        "drift_scale_nats",
        "Movement of the policy per unit of learning rate, in nats per token and square root of a step; NaN until measured.",
    ),
    "drift_predicted": (
        "drift_predicted_nats",
        "Predicted movement of the policy over the age of the step's tokens, in nats per token; NaN until measured.",
    ),
    "ess_share": (
        "response_effective_sample_ratio",
        "Effective sample size of the step's responses under their importance weights, as a share of them; NaN without "
        "weights.",
    ),
    "gradient_cosine": (
        "gradient_cosine",
        "Cosine between the step's gradient and that of the last step that changed the weights; NaN where not measured.",
    ),
}


class RateMetrics:
    """Metrics of the learning rate, updated from the rows of learner.jsonl. What is not measured exists and is NaN.

    Args:
        registry: where the metrics are declared.
        control: the mode, and the target of the governor of drift.
    """

    def __init__(self, registry: MetricRegistry, control: LrControlConfig) -> None:
        self._every_step = {
            field: registry.gauge(f"leeway_learner_{name}", text) for field, (name, text) in _EVERY_STEP.items()
        }
        self._measured = registry.gauge(
            "leeway_learner_drift_measured_nats",
            "Mean absolute change of log p at sampled tokens over lr_control.drift_every steps, as last measured, in nats.",
        )
        registry.gauge(
            "leeway_learner_drift_target_nats",
            "Largest predicted movement that the governor of drift allows (lr_control.drift_target); NaN without it.",
        ).set(control.drift_target if control.mode == "drift" else math.nan)
        self._bound = registry.gauge(
            "leeway_learner_learning_rate_bound",
            "1 for the bound that keeps the learning rate below the schedule, 0 for the others.",
            ("bound",),
        )
        for gauge in (*self._every_step.values(), self._measured):
            gauge.set(math.nan)
        for bound in _BOUNDS:
            self._bound.labels(bound).set(0)

    def observe(self, row: Mapping[str, Any]) -> None:
        """Updates the metrics from the row of a step."""
        for field, gauge in self._every_step.items():
            value = row.get(field)
            gauge.set(math.nan if value is None else float(value))
        if (measured := row.get("drift_measured")) is not None:  # only every few steps make a measurement
            self._measured.set(measured)
        for bound in _BOUNDS:
            self._bound.labels(bound).set(row.get("lr_active") == bound)
