"""Training loop of the learner."""

from __future__ import annotations

import time

from learner.batch.packing import pack
from learner.config import LearnerConfig
from learner.megatron.parallel import Ranks
from learner.run import Run
from learner.telemetry.rank_metrics import RankMetrics
from learner.telemetry.step_row import StepRecord, step_row, timing


def train(config: LearnerConfig, ranks: Ranks, rank_metrics: RankMetrics) -> bool:
    """Trains from the newest checkpoint (or the initial model) to ``config.steps``. Collective.

    A stop signal ends it after the current step, with a checkpoint.

    Returns:
        False if the learner is to be started again: an alarm has rolled the run back to a checkpoint, or a stop signal
        came to another node, which its supervisor replaces.

    Raises:
        IntakeError: no batch came within take_timeout_s, if that is set.
        FencedError: a newer learner has taken over this run (rank 0).
    """
    run = Run.open(config, ranks, rank_metrics)
    if run is None:
        return True
    step = run.step
    while step < config.steps:
        started = time.monotonic()
        prepared = run.prefetch.take(step)
        if prepared is None:
            break
        waited = time.monotonic()
        taken, groups, sequences = prepared.taken, prepared.groups, prepared.sequences
        batch = pack(sequences, run.layout, ranks.data_rank) if sequences else None
        packed = time.monotonic()
        batch, recomputed = run.behaviour.recompute(batch, step, taken.staleness)
        decision = run.rates.decide(step, groups)
        stats = run.trainer.train_step(batch, run.objective, decision.rate) if batch else None
        if stats and not stats.skipped:
            run.objective.observe(stats.metrics)
        trained = time.monotonic()
        step += 1
        run.tracing.trained(step, taken, trained - packed)
        row = step_row(StepRecord(step, taken, groups, batch, stats, decision, config.optimizer.betas[0]))
        alarms = run.rates.observe(row)
        if step % config.publish.every == 0 or step == config.steps:
            run.publish(step)
        run.checkpointer.after_step(step, taken.refs)
        run.checkpointer.mark_healthy(run.rates.healthy_steps(step))
        row |= recomputed | timing(started, waited, packed, trained, time.monotonic())
        run.report(row, taken, stats, alarms)
        if run.rolls_back(step, alarms):
            run.abandon()
            return False
    run.close(step)
    return step >= config.steps or run.stop.requested()
