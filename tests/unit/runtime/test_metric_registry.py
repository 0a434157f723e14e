"""Metrics that are read when scraped, and a histogram without locks, as Prometheus sees them."""

from __future__ import annotations

import pytest
from prometheus_client import generate_latest

from runtime.metric_registry import MetricRegistry


def lines(made: MetricRegistry) -> list[str]:
    return [line for line in generate_latest(made.prometheus).decode().splitlines() if not line.startswith("#")]


def test_what_is_read_is_read_at_every_scrape_and_not_before():
    made, counts = MetricRegistry(), {("a", "x"): 1.0}
    made.read("leeway_test_number", "A number.", lambda: counts["a", "x"] * 10)
    made.read_all("leeway_test_things_total", "Things.", ("fleet", "outcome"), lambda: counts)
    assert lines(made) == ["leeway_test_number 10.0", 'leeway_test_things_total{fleet="a",outcome="x"} 1.0']
    counts |= {("a", "x"): 2.0, ("b", "y"): 5.0}
    assert lines(made)[1:] == [
        'leeway_test_things_total{fleet="a",outcome="x"} 2.0', 'leeway_test_things_total{fleet="b",outcome="y"} 5.0',
    ]  # fmt: skip


def test_durations_are_a_cumulative_histogram_with_bounds_included():
    made = MetricRegistry()
    durations = made.durations("leeway_test_seconds", "Seconds.", (0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 2.0):
        durations.observe(seconds)
    assert lines(made) == [
        'leeway_test_seconds_bucket{le="0.1"} 2.0',
        'leeway_test_seconds_bucket{le="1.0"} 3.0',
        'leeway_test_seconds_bucket{le="+Inf"} 4.0',
        "leeway_test_seconds_count 4.0",
        "leeway_test_seconds_sum 2.65",
    ]


def test_only_counters_end_in_total():
    with pytest.raises(AssertionError, match="leeway_test_things"):
        MetricRegistry().counter("leeway_test_things", "Things.")
    with pytest.raises(AssertionError, match="leeway_test_things_total"):
        MetricRegistry().gauge("leeway_test_things_total", "Things.")
