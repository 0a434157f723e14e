"""Prometheus metrics of a step's groups: contrast, lengths, rewards by task and part. deploy/metrics.md lists them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from learner.batch.lengths import FINISHES
from learner.batch.routing import RECORDS
from learner.batch.task_statistics import MOST_NAMES, OTHER
from learner.intake.step_groups import ENDINGS
from learner.queue import WASTES
from runtime.metric_registry import MetricRegistry

_STATISTICS = ("mean", "p50", "p95", "max")
_RESPONSES = ("all", "positive", "negative", *FINISHES)


class ResponseMetrics:
    """Metrics of the groups that steps take, updated from the rows of learner.jsonl.

    Names of tasks and parts come from fleets: the first 32 of either have series of their own, in the order in which they are
    seen; what comes later is shown as "other". A task keeps its last values in a step without a group of it.

    Args:
        registry: where the metrics are declared.
        groups_per_step: what a step consumes before it is measured.
    """

    def __init__(self, registry: MetricRegistry, groups_per_step: int) -> None:
        self._kinds = registry.gauge(
            "leeway_learner_groups_ratio",
            "Share of the step's groups: informative (rewards that differ), all_right (all equal and above 0), all_wrong "
            "(all equal and 0 or below), unscored (fewer than two scored responses).",
            ("kind",),
        )
        self._lengths = registry.gauge(
            "leeway_learner_response_tokens",
            "Generated tokens of the step's responses: mean, p50, p95 and max, of all, of those with a positive or negative "
            "advantage, and of those that ended by stop, length or abort; NaN if there are none.",
            ("responses", "statistic"),
        )
        self._replaced = registry.counter(
            "leeway_learner_replaced_groups_total",
            "Groups that nothing could be trained of and that a step took others in the place of.",
        )
        self._endings = registry.counter(
            "leeway_learner_collections_total",
            "Steps by why they took no more groups: full (they had groups_per_step), most (learner.refill.most), late (a "
            "late group, and none waiting), timeout (take_timeout_s).",
            ("ending",),
        )
        self._routing = registry.counter(
            "leeway_learner_routing_records_total",
            "Sequences by their record of experts, where that is replayed: replayed, absent (the router chooses), foreign "
            "(of another model: not used).",
            ("record",),
        )
        for record in RECORDS:
            self._routing.labels(record)
        self._consumed = registry.gauge(
            "leeway_learner_consumed_groups",
            "Groups that a step consumes, smoothed, replaced ones included; gateways lease capacity for so many.",
        )
        self._wasted = registry.counter(
            "leeway_learner_wasted_tokens_total",
            "Generated tokens of accepted groups that were not trained: expired (too stale), unusable (their version cannot "
            "be recomputed), lost (their content was gone), quarantined (not finite).",
            ("reason",),
        )
        self._rewards = registry.gauge(
            "leeway_learner_task_reward", "Mean reward of a task's scored responses in its last step.", ("task",)
        )
        self._informative = registry.gauge(
            "leeway_learner_task_informative_ratio",
            "Share of a task's groups whose rewards differ, in its last step.",
            ("task",),
        )
        self._parts = registry.gauge(
            "leeway_learner_task_part_reward", "Mean of a part of a task's reward in its last step.", ("task", "part")
        )
        self._tasks: set[str] = set()
        self._part_names: set[str] = set()
        self._consumed.set(groups_per_step)
        for kind in ("informative", "all_right", "all_wrong", "unscored"):
            self._kinds.labels(kind).set(math.nan)
        for responses in _RESPONSES:
            self._show_lengths(responses, None)
        for ending in ENDINGS:
            self._endings.labels(ending)
        for reason in WASTES:
            self._wasted.labels(reason)

    def observe(self, row: Mapping[str, Any]) -> None:
        """Updates the metrics from the row of a step."""
        for kind in ("informative", "all_right", "all_wrong"):
            self._kinds.labels(kind).set(row[kind])
        self._kinds.labels("unscored").set(row["unscored_groups"] / row["groups"])
        for name in ("all", "positive", "negative"):
            self._show_lengths(name, row["length" if name == "all" else f"length_{name}"])
        for finish, summary in row["length_by_finish"].items():
            self._show_lengths(finish, summary)
        self._replaced.inc(row["replaced"])
        self._endings.labels(row["ending"]).inc()
        self._consumed.set(row["consumed"])
        for record, sequences in row["routing_records"].items():
            self._routing.labels(record).inc(sequences)
        for reason, tokens in row["tokens_wasted"].items():
            self._wasted.labels(reason).inc(tokens)
        self._show_tasks(row["tasks"])

    def _show_lengths(self, responses: str, summary: Mapping[str, float] | None) -> None:
        for statistic in _STATISTICS:
            self._lengths.labels(responses, statistic).set(math.nan if summary is None else summary[statistic])

    def _show_tasks(self, tasks: Mapping[str, Mapping[str, Any]]) -> None:
        for name, task in tasks.items():
            label = _bounded(name, self._tasks)
            self._informative.labels(label).set(task["informative"])
            if task["reward"] is not None:
                self._rewards.labels(label).set(task["reward"])
            for part, mean in task["parts"].items():
                self._parts.labels(label, _bounded(part, self._part_names)).set(mean)


def _bounded(name: str, known: set[str]) -> str:
    """Returns the label value for a name: itself, or "other" once there are 32 others; adds it to ``known``."""
    if name not in known:
        if len(known) >= MOST_NAMES:
            return OTHER
        known.add(name)
    return name
