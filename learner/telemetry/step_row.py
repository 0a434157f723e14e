"""Builds the metrics row of one step from what was taken and what training returned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from learner.batch.lengths import Lengths, LengthSummary
from learner.batch.statistics import GroupStatistics
from learner.batch.types import Batch
from learner.control.controller import LearningRateDecision
from learner.control.effective_sample import ess_share
from learner.control.expert_loads import expert_loads
from learner.control.fleet_weights import fleet_shares, heaviest
from learner.intake.batch_source import TakenBatch
from learner.megatron.training.trainer import StepStats
from learner.telemetry.diagnostics import ballistic, ratios, replayed, reward_by_staleness

_HEADLINE = ("reward", "loss", "lr", "grad_norm", "staleness_mean", "step_s")


@dataclass(frozen=True)
class StepRecord:
    """Everything that the metrics row of one step is made of.

    Attributes:
        step: number of the step, 1-based.
        taken: the groups of the step.
        groups: their statistics.
        batch: what was trained; None if no group had a contrast.
        stats: results of training; None if nothing was trained.
        decision: the step's learning rate, and what bounded it.
        beta: decay of Adam's first moment.
        objective: name of the objective that the step was trained with: a resumed run may go on with another.
    """

    step: int
    taken: TakenBatch
    groups: GroupStatistics
    batch: Batch | None
    stats: StepStats | None
    decision: LearningRateDecision
    beta: float
    objective: str


def step_row(record: StepRecord) -> dict[str, Any]:
    """Returns the fields of a step's row in learner.jsonl, equal on every rank; None where a number is not known."""
    groups, stats = record.groups, record.stats
    by_age = reward_by_staleness(record.taken.groups, record.taken.staleness)
    row = {
        "step": record.step,
        "objective": record.objective,
        "reward": groups.reward,
        "reward_sd": groups.reward_sd,
        "informative": groups.informative,
        "groups_informative": groups.groups_informative,
        "all_right": groups.all_right,
        "all_wrong": groups.all_wrong,
        "staleness_mean": groups.staleness_mean,
        "staleness_max": groups.staleness_max,
        "staleness_tokens": {str(age): count for age, count in sorted(groups.staleness_tokens.items())},
        "reward_staleness": {str(age): [reward, count] for age, (reward, count) in by_age.items()},
        "groups": len(record.taken.groups),
        "replaced": record.taken.uncounted,
        "ending": record.taken.ending,
        "late": groups.late,
        "responses": groups.responses,
        "unscored": groups.unscored / groups.responses,
        "unscored_groups": groups.unscored_groups,
        "segments": groups.segments,
        "truncated": groups.truncated,
        **_lengths(groups.lengths),
        "tasks": {task: asdict(one) for task, one in groups.tasks.items()},
        "tokens": groups.tokens,
        "trained_tokens": record.batch.tokens if record.batch else 0,
        "nll_positive": None,
        "nll_negative": None,
        "entropy": None,
        "rho": None,
        "loss": stats.loss if stats else 0.0,
        "grad_norm": stats.grad_norm if stats else 0.0,
        "finite": stats is None or stats.finite,
        "ess_share": ess_share(stats.metrics) if stats else None,
        "gradient_cosine": stats.gradient_cosine if stats else None,
        **_fleets(record),
        **expert_loads(stats.expert_tokens if stats else {}),
        **replayed(stats.replay if stats else None),
    }
    return row | (ratios(stats.metrics) if stats else {}) | _update(record) | _learning_rate(record.decision)


def headline(row: Mapping[str, Any]) -> dict[str, float]:
    """Returns the few numbers of a step's row that operators are shown first; those that are not known are left out."""
    return {name: float(row[name]) for name in _HEADLINE if row.get(name) is not None}


def timing(start: float, waited: float, trained: float, end: float) -> dict[str, float]:
    """Returns the seconds of each phase of a step.

    Args:
        start: when the step started, monotonic seconds, as all others.
        waited: when it had its groups, packed.
        trained: when it had trained.
        end: when it was done.
    """
    return {
        "wait_s": waited - start,
        "train_s": trained - waited,
        "publish_s": end - trained,
        "step_s": end - start,
    }


def _lengths(lengths: Lengths) -> dict[str, Any]:
    """Returns the summaries of response lengths, each a mapping of mean, p50, p95 and max, or None."""

    def fields(summary: LengthSummary | None) -> dict[str, float] | None:
        return None if summary is None else asdict(summary)

    return {
        "length": fields(lengths.all),
        "length_positive": fields(lengths.positive),
        "length_negative": fields(lengths.negative),
        "length_by_finish": {finish: fields(summary) for finish, summary in lengths.by_finish.items()},
    }


def _fleets(record: StepRecord) -> dict[str, Any]:
    """Returns each fleet's shares of the gradient's weight and of the groups, and how much the heaviest outweighs others."""
    stats = record.stats
    if stats is None or not stats.finite:
        return {"fleets": {}, "fleet_dominance": None}
    shares = fleet_shares(stats.group_weights, record.taken.fleets)
    found = heaviest(shares)
    return {"fleets": shares, "fleet_dominance": found[1] if found else None}


def _update(record: StepRecord) -> dict[str, float | None]:
    """Returns how the weights moved; ``growth`` is the update norm per unit of learning rate."""
    update = record.stats.update if record.stats else None
    rate = record.decision.rate
    return {
        "update_norm": update.norm if update else None,
        "growth": update.norm / rate if update and rate > 0 else None,
        "update_cosine": update.cosine if update else None,
        "ballistic": ballistic(update.cosine, record.beta) if update else None,
    }


def _learning_rate(decision: LearningRateDecision) -> dict[str, Any]:
    """Returns the learning rate of the step, and what the controller derived it from if it computed that."""
    row: dict[str, Any] = {"lr": decision.rate, "lr_scheduled": decision.scheduled, "lr_active": decision.active}
    if decision.drift is not None:
        row |= {"drift_scale": decision.drift.scale, "drift_predicted": decision.drift.predicted}
    if decision.drift is not None or decision.share is not None:
        row |= {"lr_ceiling_share": decision.rate / decision.scheduled if decision.scheduled > 0 else None}
    return row
