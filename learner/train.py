"""Training loop of the learner."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import structlog

from learner.batch.culprits import culprits
from learner.batch.packing import without_groups
from learner.batch.statistics import GroupStatistics, group_statistics
from learner.batch.types import Batch
from learner.changes.application import Changes
from learner.changes.start import Start
from learner.config import LearnerConfig
from learner.control.controller import LearningRateController, LearningRateDecision
from learner.intake.batch_source import TakenBatch
from learner.intake.preparation import PreparedBatch
from learner.megatron.parallel import Ranks
from learner.megatron.training.trainer import Rate, StepStats
from learner.run import Run
from learner.telemetry.rank_metrics import RankMetrics
from learner.telemetry.step_row import StepRecord, step_row, timing


@dataclass(frozen=True)
class _Outcome:
    """What a step was made with.

    Attributes:
        taken: the groups that are in the weights now, or have none of their own there because they had no contrast, or
            because the step was skipped. Groups that were refused are not among them.
        groups: statistics of these groups.
        batch: what was trained; None if no group had a contrast.
        stats: results of training, with weights of these groups only; None if nothing was trained.
    """

    taken: TakenBatch
    groups: GroupStatistics
    batch: Batch | None
    stats: StepStats | None


class _StepRate:
    """Settles a step's learning rate once its gradient is known, before the weights move.

    Attributes:
        decision: what the step was made with; where it changes no weights, what was decided before it.
    """

    def __init__(self, rates: LearningRateController, decided: LearningRateDecision) -> None:
        self.decision = decided
        self._rates = rates

    def __call__(self, stats: StepStats) -> float:
        self.decision = self._rates.settle(self.decision, stats.metrics, stats.gradient_cosine)
        return self.decision.rate


def train(config: LearnerConfig, ranks: Ranks, rank_metrics: RankMetrics) -> bool:
    """Trains from the newest checkpoint (or the initial model) to the run's last step. Collective.

    A stop signal ends it after the current step, with a checkpoint.

    Returns:
        False if the learner is to be started again: an alarm has rolled the run back to a checkpoint, or a stop signal
        came to another node, which its supervisor replaces.

    Raises:
        IntakeError: no batch came within take_timeout_s, if that is set.
        FencedError: a newer learner has taken over this run (rank 0).
    """
    start = Start.read(config, ranks)
    run = Run.open(start.config, ranks, rank_metrics)
    if run is None:
        return True
    step, changes = run.step, Changes(run, start)
    changes.begin(step)
    while step < run.config.steps and not (changes.rolls_back or changes.stops):
        started = time.monotonic()
        with run.waiting("groups"):
            prepared = run.prefetch.take(step)
        if prepared == "look":
            changes.apply(step)
            continue
        if prepared is None:
            break
        waited = time.monotonic()
        batch, recomputed = run.behaviour.recompute(prepared.batch, step, prepared.taken.staleness)
        rate = _StepRate(run.rates, run.rates.decide(step, prepared.groups))
        with run.short_waits():
            made = _train_step(run, step + 1, prepared, batch, rate)
        taken, stats, decision = made.taken, made.stats, rate.decision
        moved = run.after_update(step + 1, made.batch, stats, decision)
        trained = time.monotonic()
        step += 1
        run.tracing.trained(step, taken, trained - waited)
        beta, objective = run.config.optimizer.betas[0], run.config.objective.name
        row = step_row(StepRecord(step, taken, made.groups, made.batch, stats, decision, beta, objective))
        alarms = run.rates.observe(row)
        if step % run.config.publish.every == 0 or step == run.config.steps:
            run.publish(step)
        with run.waiting("checkpoint"), run.short_waits():
            run.checkpointer.after_step(step, taken.refs)
        run.checkpointer.mark_healthy(run.rates.healthy_steps(step))
        row |= recomputed | moved | timing(started, waited, trained, time.monotonic()) | {"prepare_s": prepared.seconds}
        row["routing_records"] = dict(prepared.records)
        with run.short_waits():
            run.report(row, taken, stats, alarms)
        if run.rolls_back(step, alarms):
            run.abandon()
            return False
    return _ended(run, changes, step)


def _ended(run: Run, changes: Changes, step: int) -> bool:
    """Closes the run after its last step, or the one after which an operator or a signal has stopped it. Collective.

    Returns:
        False if the learner is to be started again.
    """
    finished = step >= run.config.steps
    changes.close(finished)
    if changes.rolls_back:
        run.abandon()
        return False
    if finished and run.publisher.published_step != step:  # an operator has ended it
        run.publish(step)
    run.close(step)
    return finished or run.stop.requested()


def _train_step(run: Run, step: int, prepared: PreparedBatch, batch: Batch | None, rate: Rate) -> _Outcome:
    """Makes an optimizer step. Collective.

    If the loss or the gradient is not finite and a few groups can be found that make it so, they are refused: they leave the
    queue as "quarantined", and the step is made without them. Otherwise such a step is skipped, as the model is to blame.

    Args:
        run: the run.
        step: number of the step, 1-based.
        prepared: the step's groups.
        batch: this data rank's part of their sequences; None if none is to be trained.
        rate: the learning rate, or what decides it once the gradient is known.
    """
    if batch is None:
        return _Outcome(prepared.taken, prepared.groups, None, None)
    stats = run.trainer.train_step(batch, run.objective, rate)
    whole = _Outcome(prepared.taken, prepared.groups, batch, stats)
    guilty = None if stats.finite else _culprits(run, prepared, batch)
    if guilty is None:
        return whole
    rest = _without(prepared, batch, guilty, run)
    again = run.trainer.train_step(rest, run.objective, rate)
    if not again.finite:
        return whole
    run.refuse(step, prepared.taken, guilty, stats.skipped or "")
    taken = prepared.taken.without(guilty)
    weights = [weight for group, weight in enumerate(again.group_weights) if group not in guilty]
    statistics = group_statistics(taken.groups, taken.staleness, run.config.max_staleness)
    return _Outcome(taken, statistics, rest, replace(again, group_weights=weights))


def _culprits(run: Run, prepared: PreparedBatch, batch: Batch) -> set[int] | None:
    """Searches the groups that make the loss or the gradient not finite; see ``learner.batch.culprits.culprits``."""
    trained = sorted({sequence.group for sequence in prepared.sequences})
    structlog.get_logger().warning("the step is not finite: the groups are searched for the cause", groups=len(trained))

    def finite(groups: set[int]) -> bool:
        run.watchdog.alive()
        part = without_groups(batch, set(trained) - groups, run.layout)
        return run.trainer.gradient(part, run.objective).finite

    return culprits(trained, prepared.taken.fleets, finite)


def _without(prepared: PreparedBatch, batch: Batch, guilty: set[int], run: Run) -> Batch:
    left = [sequence for sequence in prepared.sequences if sequence.group not in guilty]
    rest = without_groups(batch, guilty, run.layout)
    return replace(rest, sequences=len(left), tokens=sum(len(sequence.tokens) for sequence in left))
