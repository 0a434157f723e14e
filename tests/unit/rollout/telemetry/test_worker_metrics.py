"""Tokens of groups that are generated and not submitted, by the reason of their withdrawal."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from leeway.v1 import rollout_pb2
from rollout.engine.response import VersionSpan
from rollout.episodes.record import SegmentRecord
from rollout.generation.asked_prompt import AskedPrompt
from rollout.generation.generated import MadeGroup
from rollout.generation.outcome import ResponseOutcome
from rollout.generation.withdrawal import Withdrawal
from rollout.tasks import Prompt
from rollout.tasks.score import Score
from rollout.telemetry.worker_metrics import WorkerMetrics


def made(group: rollout_pb2.Group | Withdrawal) -> MadeGroup:
    """A group of two responses: 3 generated tokens of 5 in one segment, and 3 + 1 in two."""
    segment = SegmentRecord([1], [2, 3, 4, 5, 6], [VersionSpan(0, 0, 2), VersionSpan(1, 4, 5)], "first")
    short = SegmentRecord([1], [2], [VersionSpan(1, 0, 1)], "first")
    outcomes = [ResponseOutcome(own, "stop", Score(1.0)) for own in ([segment], [segment, short])]
    return MadeGroup(AskedPrompt(0, 0, Prompt("p", "?")), [1], outcomes, group)


def wasted(registry: CollectorRegistry, reason: str) -> float | None:
    return registry.get_sample_value("leeway_worker_wasted_tokens_total", {"reason": reason})


def test_tokens_of_withdrawn_groups_are_counted_by_reason_and_those_of_submitted_ones_are_not():
    metrics = WorkerMetrics(1, ["sort"])
    shown = metrics.registry.prometheus
    assert (wasted(shown, "truncated"), wasted(shown, "other")) == (0, 0)
    for group in (
        rollout_pb2.Group(),
        Withdrawal("truncated", ""),
        Withdrawal("truncated", ""),
        Withdrawal("mine", ""),
    ):
        metrics.wasted(made(group))
    assert (wasted(shown, "truncated"), wasted(shown, "other")) == (14, 7)
