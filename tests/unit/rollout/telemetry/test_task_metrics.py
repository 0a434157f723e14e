"""Metrics by task: every series exists from the start, and groups count by what they teach."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from prometheus_client import CollectorRegistry

from leeway.v1 import rollout_pb2
from rollout.generation.asked_prompt import AskedPrompt
from rollout.generation.generated import MadeGroup
from rollout.generation.outcome import Finish, ResponseOutcome
from rollout.generation.withdrawal import Withdrawal
from rollout.tasks import Prompt
from rollout.tasks.score import Score
from rollout.telemetry.task_metrics import TaskMetrics
from runtime.metric_registry import MetricRegistry

Outcome = tuple[float | None, Finish]


def made(*outcomes: Outcome, withdrawn: bool = False) -> MadeGroup:
    responses = [
        ResponseOutcome([], finish, None if reward is None else Score(reward), "" if reward is not None else "aborted")
        for reward, finish in outcomes
    ]
    group = Withdrawal("truncated", "") if withdrawn else rollout_pb2.Group()
    return MadeGroup(AskedPrompt(0, 0, Prompt("p", "?")), [1], responses, group)


@pytest.fixture
def registry() -> MetricRegistry:
    return MetricRegistry()


def values(registry: CollectorRegistry, name: str) -> dict[tuple[str, ...], float]:
    """The samples of a metric by their label values."""
    return {
        tuple(sample.labels.values()): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == name
    }


def test_every_series_exists_from_the_start(registry: MetricRegistry):
    TaskMetrics(registry, ["sort", "add"])
    shown = registry.prometheus
    groups = values(shown, "leeway_worker_task_groups_total")
    assert groups == {
        (task, outcome): 0 for task in ("sort", "add") for outcome in ("contrast", "no_contrast", "withdrawn")
    }
    reasons = ("held_out", "solved", "hopeless")
    assert values(shown, "leeway_worker_passed_over_prompts_total") == {
        (task, reason): 0 for task in ("sort", "add") for reason in reasons
    }
    assert values(shown, "leeway_worker_resting_prompts") == {
        (task, reason): 0 for task in ("sort", "add") for reason in reasons[1:]
    }
    for name in ("truncated_responses_total", "unscored_responses_total"):
        assert values(shown, f"leeway_worker_task_{name}") == {("sort",): 0, ("add",): 0}
    assert set(values(shown, "leeway_worker_task_reward")) == {("sort",), ("add",)}
    assert values(shown, "leeway_worker_prompt_pass_rate_count") == {("sort",): 0, ("add",): 0}
    assert values(shown, "leeway_worker_rests_cut_short_total") == {("sort",): 0, ("add",): 0}


@pytest.mark.parametrize(
    ("group", "outcome", "truncated", "unscored", "reward"),
    [
        (made((1.0, "stop"), (0.0, "length")), "contrast", 1, 0, 0.5),
        (made((1.0, "stop"), (1.0, "stop"), (None, "abort")), "no_contrast", 0, 1, 1.0),
        (made((None, "length"), (None, "length"), withdrawn=True), "withdrawn", 2, 2, None),
    ],
)
def test_a_group_counts_under_its_task(
    registry: MetricRegistry, group: MadeGroup, outcome: str, truncated: int, unscored: int, reward: float | None
):
    metrics = TaskMetrics(registry, ["sort", "add"])
    metrics.made("add", group)
    groups = values(registry.prometheus, "leeway_worker_task_groups_total")
    assert {key for key, count in groups.items() if count} == {("add", outcome)}
    assert values(registry.prometheus, "leeway_worker_task_truncated_responses_total")["add",] == truncated
    assert values(registry.prometheus, "leeway_worker_task_unscored_responses_total")["add",] == unscored
    shown = values(registry.prometheus, "leeway_worker_task_reward")["add",]
    assert shown == pytest.approx(math.nan if reward is None else reward, nan_ok=True)


def test_what_is_passed_over_and_what_rests_is_shown_by_why(registry: MetricRegistry):
    metrics = TaskMetrics(registry, ["sort", "add"])
    metrics.passed_over("sort", "solved", 3)
    metrics.rest_cut_short("add")
    metrics.pass_rate("add", 0.95)
    resting: Sequence[dict] = [{"solved": 5, "hopeless": 2}, {"solved": 0, "hopeless": 1}]
    metrics.follow(lambda: resting)
    shown = registry.prometheus
    assert values(shown, "leeway_worker_passed_over_prompts_total")["sort", "solved"] == 3
    assert values(shown, "leeway_worker_rests_cut_short_total")["add",] == 1
    assert values(shown, "leeway_worker_resting_prompts") == {
        ("sort", "solved"): 5, ("sort", "hopeless"): 2, ("add", "solved"): 0, ("add", "hopeless"): 1
    }  # fmt: skip
    buckets = values(shown, "leeway_worker_prompt_pass_rate_bucket")
    assert (buckets["add", "0.9"], buckets["add", "0.999"]) == (0, 1)
