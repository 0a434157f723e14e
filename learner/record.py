"""The record of one step, from what was taken and what training returned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from learner.batch.groups import describe
from learner.batch.types import Batch
from learner.intake import Taken
from learner.megatron.step import StepStats


@dataclass(frozen=True)
class StepRecord:
    """What is known after step ``step`` (1-based).

    ``times`` are monotonic seconds: start, groups there, packed, trained, publication and checkpoint handed over.
    """

    step: int
    taken: Taken
    batch: Batch | None
    stats: StepStats | None
    lr: float
    times: tuple[float, float, float, float, float]


def step_row(record: StepRecord) -> dict[str, Any]:
    """The numbers of a step, as metrics/learner.jsonl keeps them. Rank 0 only: it alone knows the staleness."""
    groups = describe(record.taken.groups, record.taken.staleness)
    start, waited, packed, trained, end = record.times
    sums = record.stats.metrics if record.stats else {}
    return {
        "step": record.step,
        "reward": groups.reward,
        "informative": groups.informative,
        "staleness_mean": groups.staleness_mean,
        "staleness_max": groups.staleness_max,
        "staleness_tokens": {str(age): count for age, count in sorted(groups.staleness_tokens.items())},
        "groups": len(record.taken.groups),
        "responses": groups.responses,
        "tokens": groups.tokens,
        "trained_tokens": record.batch.tokens if record.batch else 0,
        "nll_positive": _mean(sums, "nll_positive"),
        "nll_negative": _mean(sums, "nll_negative"),
        "entropy": _mean(sums, "entropy"),
        "loss": record.stats.loss if record.stats else 0.0,
        "grad_norm": record.stats.grad_norm if record.stats else 0.0,
        "lr": record.lr,
        "wait_s": waited - start,
        "pack_s": packed - waited,
        "train_s": trained - packed,
        "publish_s": end - trained,
        "step_s": end - start,
    }


def _mean(sums: dict[str, float], name: str) -> float:
    count = sums.get(f"{name}_count", 0.0)
    return sums.get(f"{name}_sum", 0.0) / count if count else 0.0
