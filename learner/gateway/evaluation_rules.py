"""What is wrong with a reported evaluation, if anything is: the field, its value and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Container

from learner.gateway.violation import name_violation
from leeway.v1 import rollout_pb2

_MOST_NAME_BYTES = 128
_MOST_SAMPLING_BYTES = 64
_MOST_METRICS = 64
_MOST_METRIC_BYTES = 128


def evaluation_problem(evaluation: rollout_pb2.Evaluation, known: Container[int]) -> str | None:
    """Describes what is wrong with an evaluation; None if it can be recorded.

    Args:
        evaluation: as it was reported.
        known: versions that the run has published.
    """
    if evaluation.version not in known:
        return f"version = {evaluation.version}: expected one that this run has published"
    for field, text, most in (
        ("name", evaluation.name, _MOST_NAME_BYTES),
        ("sampling", evaluation.sampling, _MOST_SAMPLING_BYTES),
    ):
        if (violation := name_violation(field, field, text, most)) is not None:
            return f"{violation.field} = {violation.value}"
    if not evaluation.prompts or not evaluation.samples:
        return f"prompts = {evaluation.prompts}, samples = {evaluation.samples}: expected at least 1 of both"
    asked = evaluation.prompts * evaluation.samples
    if evaluation.unscored > asked:
        return f"unscored = {evaluation.unscored}: expected at most prompts * samples = {asked}"
    if not (math.isfinite(evaluation.seconds) and evaluation.seconds >= 0):
        return f"seconds = {evaluation.seconds}: expected a finite number of at least 0"
    return _metrics_problem(evaluation)


def _metrics_problem(evaluation: rollout_pb2.Evaluation) -> str | None:
    if not 1 <= len(evaluation.metrics) <= _MOST_METRICS:
        return f"metrics: {len(evaluation.metrics)} of them, expected 1 to {_MOST_METRICS}"
    for name, interval in sorted(evaluation.metrics.items()):
        if (violation := name_violation("metric", "metrics", name, _MOST_METRIC_BYTES)) is not None:
            return f"{violation.field}[{violation.value}]"
        numbers = interval.low, interval.value, interval.high
        if not all(map(math.isfinite, numbers)) or not interval.low <= interval.value <= interval.high:
            return (
                f"metrics[{name!r}]: low = {interval.low}, value = {interval.value}, high = {interval.high}: expected finite "
                "numbers, low <= value <= high"
            )
    return None
