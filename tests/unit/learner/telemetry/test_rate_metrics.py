"""Prometheus metrics of the learning rate, its ceiling, and what the governor of drift measures."""

from __future__ import annotations

import math
from typing import get_args, get_type_hints

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from learner.config.control import LrControlConfig
from learner.control.controller import LearningRateDecision
from learner.telemetry.rate_metrics import RateMetrics
from runtime.metric_registry import MetricRegistry

# Field of a step's row -> its series.
SERIES = {
    "lr": "learning_rate", "lr_scheduled": "learning_rate_scheduled", "lr_ceiling_share": "learning_rate_ceiling_ratio",
    "drift_measured": "drift_measured_nats", "drift_scale": "drift_scale_nats", "drift_predicted": "drift_predicted_nats",
    "ess_share": "response_effective_sample_ratio", "gradient_cosine": "gradient_cosine",
}  # fmt: skip
ROW = {
    "lr": 2e-4, "lr_scheduled": 1e-3, "lr_ceiling_share": 0.2, "drift_measured": 0.03, "drift_scale": 75.0,
    "drift_predicted": 0.25, "ess_share": 0.9, "gradient_cosine": -0.125, "lr_active": "drift",
}  # fmt: skip


@pytest.fixture
def registry() -> MetricRegistry:
    return MetricRegistry()


def shown(registry: MetricRegistry) -> dict[str, float]:
    families = text_string_to_metric_families(generate_latest(registry.prometheus).decode())
    samples = [sample for family in families for sample in family.samples]
    return {"/".join([one.name.removeprefix("leeway_learner_"), *one.labels.values()]): one.value for one in samples}


def test_a_rate_is_shown_with_its_ceiling_and_what_was_measured(registry: MetricRegistry):
    metrics = RateMetrics(registry, LrControlConfig(mode="drift", drift_target=0.3))
    assert shown(registry)["drift_target_nats"] == 0.3
    metrics.observe(ROW)
    seen = shown(registry)
    assert {field: seen[name] for field, name in SERIES.items()} == {field: ROW[field] for field in SERIES}


def test_what_is_not_measured_exists_and_says_nothing(registry: MetricRegistry):
    metrics = RateMetrics(registry, LrControlConfig())
    assert all(math.isnan(shown(registry)[name]) for name in [*SERIES.values(), "drift_target_nats"])  # from the start
    metrics.observe({"lr": 1e-3, "lr_scheduled": 1e-3, "lr_active": "none"})
    seen = shown(registry)
    known = {"learning_rate", "learning_rate_scheduled", "learning_rate_bound/none"}
    assert {name for name, value in seen.items() if not (math.isnan(value) or value == 0)} == known


def test_the_last_measurement_of_drift_stays_until_the_next(registry: MetricRegistry):
    metrics = RateMetrics(registry, LrControlConfig(mode="drift"))
    metrics.observe(ROW)
    metrics.observe(ROW | {"drift_measured": None, "lr_ceiling_share": None, "gradient_cosine": None})
    seen = shown(registry)
    assert seen["drift_measured_nats"] == 0.03
    assert math.isnan(seen["learning_rate_ceiling_ratio"])
    assert math.isnan(seen["gradient_cosine"])


@pytest.mark.parametrize("bound", get_args(get_type_hints(LearningRateDecision.active.fget)["return"]))
def test_whatever_bounds_the_rate_has_a_series_from_the_start(registry: MetricRegistry, bound: str):
    metrics = RateMetrics(registry, LrControlConfig())
    assert shown(registry)[f"learning_rate_bound/{bound}"] == 0
    metrics.observe(ROW | {"lr_active": bound})
    bounds = {name: value for name, value in shown(registry).items() if name.startswith("learning_rate_bound/")}
    assert bounds.pop(f"learning_rate_bound/{bound}") == 1
    assert set(bounds.values()) == {0}
