"""The Prometheus metrics of a worker's tasks, by the task's label."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from rollout.data.prompt_memory import RESTING, Resting, has_contrast
from rollout.generation.generated import MadeGroup
from rollout.generation.task_prompts import PASSED_OVER, PassedOver
from rollout.generation.withdrawal import Withdrawal
from rollout.tasks.row_error import UNUSABLE_ROWS, UnusableRow
from runtime.metric_registry import MetricRegistry

_OUTCOMES = ("contrast", "no_contrast", "withdrawn")
_RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.999, 1.0)


class TaskMetrics:
    """Counts what becomes of each task's prompts; a ``SupplyObserver``.

    Args:
        registry: where the metrics are declared.
        labels: of the worker's tasks.
    """

    def __init__(self, registry: MetricRegistry, labels: Sequence[str]) -> None:
        self._labels = list(labels)
        self._resting: Callable[[], Sequence[Mapping[Resting, int]]] = list
        self._groups = registry.counter(
            "leeway_worker_task_groups_total",
            "Groups generated, by task: contrast (rewards that differ), no_contrast (all the same), withdrawn.",
            ("task", "outcome"),
        )
        self._reward = registry.gauge(
            "leeway_worker_task_reward", "Mean reward of the last scored group, by task.", ("task",)
        )
        self._truncated = registry.counter(
            "leeway_worker_task_truncated_responses_total", "Responses that max_new_tokens cut off, by task.", ("task",)
        )
        self._unscored = registry.counter(
            "leeway_worker_task_unscored_responses_total",
            "Responses without a score, by task, in groups that were submitted or not.",
            ("task",),
        )
        self._passed_over = registry.counter(
            "leeway_worker_passed_over_prompts_total",
            "Prompts not asked when it was their turn: held_out (for evaluation), or at rest because all responses to them "
            "are right (solved) or none is better than another (hopeless).",
            ("task", "reason"),
        )
        self._cut_short = registry.counter(
            "leeway_worker_rests_cut_short_total",
            "How often every prompt of a task rested, so that the next ones were asked early.",
            ("task",),
        )
        self._rates = registry.histogram(
            "leeway_worker_prompt_pass_rate",
            "Moving pass rate of the prompts whose groups were made, of tasks whose prompts may rest: 0 is the lowest mean "
            "reward seen, 1 the highest.",
            _RATES,
            ("task",),
        )
        self._unusable = registry.gauge(
            "leeway_worker_unusable_rows",
            "Rows of a task's data set of which no prompt is made, by what is wrong with them; the log names the first ones.",
            ("task", "reason"),
        )
        registry.read_all(
            "leeway_worker_resting_prompts",
            "Prompts asked less often because their groups have no contrast: solved or hopeless.",
            ("task", "reason"),
            self._by_reason,
        )
        for label in labels:
            self._declare(label)

    def follow(self, resting: Callable[[], Sequence[Mapping[Resting, int]]]) -> None:
        """From now on, scrapes read how many prompts rest; ``resting`` returns it for every task, by why."""
        self._resting = resting

    def unusable_rows(self, task: str, rows: Mapping[UnusableRow, int]) -> None:
        """Notes how many rows of a task's data are unusable."""
        for reason, number in rows.items():
            self._unusable.labels(task, reason).set(number)

    def made(self, label: str, made: MadeGroup) -> None:
        """Counts a group that was made."""
        rewards = made.rewards
        self._truncated.labels(label).inc(made.truncated)
        self._unscored.labels(label).inc(len(made.outcomes) - len(rewards))
        if isinstance(made.group, Withdrawal):
            self._groups.labels(label, "withdrawn").inc()
        else:
            self._groups.labels(label, "contrast" if has_contrast(rewards) else "no_contrast").inc()
        if rewards:
            self._reward.labels(label).set(sum(rewards) / len(rewards))

    def passed_over(self, task: str, why: PassedOver, prompts: int) -> None:
        """Counts prompts that were not asked when it was their turn."""
        self._passed_over.labels(task, why).inc(prompts)

    def rest_cut_short(self, task: str) -> None:
        """Counts that every prompt of a task rested."""
        self._cut_short.labels(task).inc()

    def pass_rate(self, task: str, rate: float) -> None:
        """Notes the pass rate of a prompt whose group was made."""
        self._rates.labels(task).observe(rate)

    def _declare(self, label: str) -> None:
        """Makes every series of a task, so that none is absent until something happens."""
        for outcome in _OUTCOMES:
            self._groups.labels(label, outcome)
        for reason in PASSED_OVER:
            self._passed_over.labels(label, reason)
        for reason in UNUSABLE_ROWS:
            self._unusable.labels(label, reason).set(0)
        for metric in (self._truncated, self._unscored, self._cut_short, self._rates):
            metric.labels(label)
        self._reward.labels(label).set(math.nan)

    def _by_reason(self) -> dict[tuple[str, ...], float]:
        counts = self._resting() or [{} for _ in self._labels]
        return {
            (label, reason): own.get(reason, 0)
            for label, own in zip(self._labels, counts, strict=True)
            for reason in RESTING
        }
