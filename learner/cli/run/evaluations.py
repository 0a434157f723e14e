"""The evaluations of a run, version by version, as its evaluator records them in metrics/evaluations.jsonl."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learner.cli.run.paired import paired_difference
from learner.cli.run.run_history import LineReader, Row

EVALUATIONS = "evaluations"  # stem of the file


@dataclass(frozen=True)
class Estimate:
    """A metric's value with its 95 % interval, in the metric's unit."""

    value: float
    low: float
    high: float

    def overlaps(self, other: Estimate) -> bool:
        """Whether both intervals have a point in common."""
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True)
class Evaluation:
    """One version, evaluated on the prompts of one task with one sampling.

    Attributes:
        time: when it ended, in Unix seconds.
        version: the version's number.
        name: the evaluation's name, which stands for its prompts.
        sampling: how responses were sampled, such as "greedy".
        prompts: number of prompts.
        samples: responses per prompt.
        unscored: number of responses that no reward could be found for.
        metrics: estimates by name, in the order in which they were recorded.
        seconds: how long it took.
        prompt_means: mean reward of each prompt, in the order of the prompts; None: no response was judged.
    """

    time: float
    version: int
    name: str
    sampling: str
    prompts: int
    samples: int
    unscored: int
    metrics: dict[str, Estimate]
    seconds: float
    prompt_means: tuple[float | None, ...] = ()

    @property
    def subject(self) -> tuple[str, str]:
        """What is compared from version to version: the name and the sampling."""
        return self.name, self.sampling

    @property
    def headline(self) -> str | None:
        """Name of the metric to look at first: the first mean, else the first metric; None without any."""
        means = [name for name in self.metrics if name.startswith("mean")]
        return next(iter([*means, *self.metrics]), None)


@dataclass(frozen=True)
class Change:
    """The first and the last evaluated version of one name and sampling, by their headline metric.

    Attributes:
        metric: the metric's name.
        before: the evaluation of the lowest version.
        after: that of the highest version; both have the metric.
    """

    metric: str
    before: Evaluation
    after: Evaluation

    @property
    def first(self) -> Estimate:
        """The metric before."""
        return self.before.metrics[self.metric]

    @property
    def last(self) -> Estimate:
        """The metric after."""
        return self.after.metrics[self.metric]

    @property
    def same_size(self) -> bool:
        """Whether both were computed from as many prompts and samples; otherwise the prompts cannot be equal."""
        return (self.before.prompts, self.before.samples) == (self.after.prompts, self.after.samples)

    @property
    def gain(self) -> Estimate | None:
        """The mean over prompts of what each gained; None where the prompts are not the same, or it is no mean reward."""
        if not (self.same_size and self.metric.startswith("mean@")):
            return None
        found = paired_difference(self.before.prompt_means, self.after.prompt_means)
        return None if found is None else Estimate(*found)

    def row(self) -> Row:
        """Plain values for JSON; ``gain`` compares prompt by prompt, ``intervals_overlap`` is there where it cannot."""
        return {
            "name": self.before.name,
            "sampling": self.before.sampling,
            "metric": self.metric,
            "prompts": self.after.prompts,
            "samples": self.after.samples,
            "same_size": self.same_size,
            "first": {"version": self.before.version, **vars(self.first)},
            "last": {"version": self.after.version, **vars(self.last)},
            "difference": self.last.value - self.first.value,
            "intervals_overlap": self.first.overlaps(self.last),
            "gain": None if self.gain is None else vars(self.gain),
        }


def read_evaluations(metrics: Path) -> list[Evaluation]:
    """Reads the evaluations of a metrics directory, by version; one that was made again replaces the earlier one.

    Rows that are not whole, or have a number that is not finite, are passed over. Raises OSError.
    """
    found: dict[tuple[str, str, int], Evaluation] = {}
    for row in LineReader(metrics / f"{EVALUATIONS}.jsonl").read():
        evaluation = _parsed(row)
        if evaluation is not None:
            found[(*evaluation.subject, evaluation.version)] = evaluation
    return sorted(found.values(), key=lambda one: one.version)


def by_subject(evaluations: Iterable[Evaluation]) -> dict[tuple[str, str], list[Evaluation]]:
    """Groups evaluations by name and sampling, each in the given order."""
    grouped: dict[tuple[str, str], list[Evaluation]] = {}
    for evaluation in evaluations:
        grouped.setdefault(evaluation.subject, []).append(evaluation)
    return grouped


def changes(evaluations: Sequence[Evaluation]) -> list[Change]:
    """The first against the last version of every name and sampling that has at least two evaluated versions."""
    found = []
    for rows in by_subject(evaluations).values():
        metric = rows[-1].headline
        rows = [row for row in rows if metric in row.metrics]
        if metric is not None and len(rows) > 1:
            found.append(Change(metric, rows[0], rows[-1]))
    return found


def best(evaluations: Sequence[Evaluation], by: str | None = None) -> tuple[Evaluation, str] | None:
    """The evaluation with the largest value of a metric, and the metric's name; the later version where several have it.

    Args:
        evaluations: of the whole run, by version.
        by: "name:sampling:metric", as eval.best is written; None: the headline metric of the evaluation that was recorded
            first.

    Returns:
        None when no evaluation has the metric.
    """
    if not evaluations:
        return None
    first = min(evaluations, key=lambda one: one.time)
    # A metric may have any name, a part's for example; names of tasks and samplings have no colon.
    (name, sampling), metric = first.subject, first.headline or ""
    if by:
        name, _, rest = by.partition(":")
        sampling, _, metric = rest.partition(":")
    candidates = [one for one in evaluations if one.subject == (name, sampling) and metric in one.metrics]
    if not candidates:
        return None
    return max(candidates, key=lambda one: (one.metrics[metric].value, one.version)), metric


def _parsed(row: Row) -> Evaluation | None:
    if row.get("kind") != "evaluation":
        return None
    try:
        metrics = {str(name): Estimate(*map(float, values)) for name, values in row["metrics"].items()}
        return Evaluation(
            time=float(row["time"]),
            version=int(row["version"]),
            name=str(row["name"]),
            sampling=str(row["sampling"]),
            prompts=int(row["prompts"]),
            samples=int(row["samples"]),
            unscored=int(row.get("unscored") or 0),
            metrics={name: one for name, one in metrics.items() if _finite(one)},
            seconds=float(row.get("seconds") or 0.0),
            prompt_means=tuple(None if one is None else float(one) for one in row.get("prompt_means", ())),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _finite(estimate: Any) -> bool:
    return all(map(math.isfinite, (estimate.value, estimate.low, estimate.high)))
