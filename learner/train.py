"""The learner's loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import structlog

from learner import objectives
from learner.alarms import Alarm
from learner.batch.packing import Layout, pack
from learner.behaviour import Behaviour
from learner.checkpoint import Checkpointer
from learner.config import LearnerConfig, OptimizerConfig
from learner.intake import Taken
from learner.megatron.convert import export
from learner.megatron.model import Policy, load_policy
from learner.megatron.parallel import Ranks
from learner.megatron.scoring import Scorer
from learner.megatron.state import ShardedState
from learner.megatron.step import StepStats, Trainer
from learner.megatron.update import count
from learner.meters import Meters
from learner.metrics import MetricsWriter
from learner.opening import Opening
from learner.prefetch import Prefetch
from learner.publish import Publisher
from learner.queue import GroupRef, LearnerQueue
from learner.record import StepRecord, step_row, timing
from learner.rollback import give_order
from learner.steering import Steering
from learner.stop_signal import StopSignal
from learner.trail import Trail
from learner.warmup import warm_up
from learner.watchdog import Watchdog
from leeway.v1 import rollout_pb2 as pb
from runtime import traces


def train(config: LearnerConfig, ranks: Ranks, meters: Meters) -> bool:
    """Runs the learner from its newest checkpoint (or the initial model) to ``config.steps``. Collective.

    A stop signal ends it after the step under way, with a checkpoint.

    Returns:
        False when it is to be started again: an alarm has rolled the run back to a checkpoint, or a stop signal came to
        another node, which somebody replaces.

    Raises:
        IntakeError: no batch came within take_timeout_s.
        FencedError: a newer learner has taken over this run (rank 0).
    """
    run = Run.open(config, ranks, meters)
    if run is None:
        return True
    step = run.step
    while step < config.steps:
        started = time.monotonic()
        prepared = run.intake.take(step)
        if prepared is None:
            break
        waited = time.monotonic()
        taken, groups, sequences = prepared.taken, prepared.groups, prepared.sequences
        batch = pack(sequences, run.layout, ranks.data_rank) if sequences else None
        packed = time.monotonic()
        batch, recomputed = run.behaviour.fill(batch, step, taken.staleness)
        pace = run.steering.pace(step, groups)
        stats = run.trainer.train_step(batch, run.objective, pace.rate) if batch else None
        if stats and not stats.skipped:
            run.objective.observe(stats.metrics)
        trained = time.monotonic()
        step += 1
        run.trail.trained(step, taken, trained - packed)
        row = step_row(StepRecord(step, taken, groups, batch, stats, pace, config.optimizer.betas[0]))
        alarms = run.steering.observe(row)
        if step % config.publish.every == 0 or step == config.steps:
            run.publisher.publish(step, export(run.policy, ranks))
            run.behaviour.hold(run.publisher.version)
        run.checkpointer.after_step(step, taken.refs)
        run.checkpointer.vouch(run.steering.proven(step))
        row |= recomputed | timing(started, waited, packed, trained, time.monotonic())
        run.report(row, taken, stats, alarms)
        if run.rolls_back(step, alarms):
            run.abandon()
            return False
    run.close(step)
    return step >= config.steps or run.stop.requested()


@dataclass
class Run:
    """Everything a step needs, in the state the newest checkpoint left it."""

    config: LearnerConfig
    policy: Policy
    trainer: Trainer
    objective: objectives.Objective
    steering: Steering
    behaviour: Behaviour
    layout: Layout
    intake: Prefetch
    publisher: Publisher
    checkpointer: Checkpointer
    queue: LearnerQueue | None  # rank 0
    metrics: MetricsWriter | None  # rank 0
    watchdog: Watchdog
    meters: Meters
    trail: Trail
    stop: StopSignal
    agree: Callable[[list[int]], list[int]]
    step: int

    @classmethod
    def open(cls, config: LearnerConfig, ranks: Ranks, meters: Meters) -> Run | None:
        """Builds the model, warm-starts or resumes it, commits what the checkpoint contains, opens the intake.

        None when a stop signal came during the warm start.
        """
        lead = ranks.rank == 0
        stop = StopSignal(config.stop_grace_s)
        stop.enforce()
        metrics = _metrics(config, meters) if lead else None
        objective, steering = objectives.get(config.objective), Steering(config)
        least = config.min_micro_batches or ranks.pipeline_size
        layout = Layout(ranks.data_size, least, config.micro_batch_tokens, ranks.tensor_size, ranks.context_size)
        policy = load_policy(config.model, ranks, config)
        opening = Opening.start(config, ranks, metrics)
        resume, queue = opening.resume, opening.queue
        if resume is None and config.warmup is not None:
            teacher = Trainer(policy, _warmup_optimizer(config), ranks)
            if not warm_up(config, teacher, layout, ranks, metrics, stop.requested):
                if queue is not None:
                    queue.close()
                return None
        trainer = Trainer(policy, config.optimizer, ranks, config.diagnostics)
        state = ShardedState(policy, trainer, ranks)
        steering.expect(count(trainer.optimizer, ranks.device))
        if resume is not None:
            state.load(resume.directory)
            objective.load_state_dict(resume.state.extra.get("objective", {}))
            steering.load_state_dict(resume.state.extra.get("steering", {}))
        if opening.rollback is not None:
            steering.rolled_back(opening.rollback.number, opening.rollback.factor)
        step = resume.step if resume else 0
        first_version = opening.begin()
        behaviour = Behaviour(config, objective, Scorer(policy, ranks, config.publish.dtype), ranks, layout)
        behaviour.freeze(resume.state.extra.get("reference", 0) if resume else first_version, step)
        if queue is not None and objective.needs_behaviour:
            queue.require(behaviour.usable)
        trail = Trail(traces.start(config.traces, "learner", config.queue.run) if lead else None)
        desk = Desk(queue, metrics, behaviour, trail) if queue is not None and metrics is not None else None
        publisher = Publisher(config.publish, opening.versions, config.model, first_version, desk)

        def extra() -> dict[str, Any]:
            return {
                "version": publisher.version,
                "objective": objective.state_dict(),
                "steering": steering.state_dict(),
                "reference": behaviour.reference_version,
            }

        checkpointer = Checkpointer(config.checkpoint, opening.checkpoints, state, desk, ranks.barrier, extra)
        if resume is None:
            checkpointer.save(step)
        publisher.publish(step, export(policy, ranks))
        behaviour.hold(publisher.version)
        watchdog = Watchdog(config.silence_s, meters.vitals.progress)
        intake = Prefetch(config, queue, ranks, stop.requested, watchdog.alive, objective.weighting)
        services = (intake, publisher, checkpointer, queue, metrics, watchdog, meters, trail, stop, ranks.agree)
        meters.vitals.opened()
        if queue is not None:
            structlog.get_logger().info("learner opened", step=step, epoch=queue.epoch, version=publisher.version)
        return cls(config, policy, trainer, objective, steering, behaviour, layout, *services, step)

    def report(self, row: dict[str, Any], taken: Taken, stats: StepStats | None, alarms: list[Alarm]) -> None:
        """Writes the step's row and what is remarkable about it, and tells the gateways how far we are (rank 0)."""
        if self.queue is None or self.metrics is None:
            return
        step = row["step"]
        self.queue.report(step, self.publisher.version, self.checkpointer.uncommitted)
        row |= {"version": self.publisher.version, "epoch": self.queue.epoch}
        row |= {"queue_depth": self.queue.waiting(), "expired": self.queue.expired(), "unusable": self.queue.unusable}
        self.metrics.step(row)
        self.metrics.trained(step, self.queue.epoch, taken.refs)
        if stats is None or stats.skipped:
            self.metrics.event("skipped", step=step, reason=stats.skipped if stats else "no group had a contrast")
        for alarm in alarms:
            structlog.get_logger().warning("alarm", step=step, **asdict(alarm))
            self.metrics.event("alarm", step=step, **asdict(alarm))

    def rolls_back(self, step: int, alarms: list[Alarm]) -> bool:
        """Orders the rollback that an alarm asks for; without a healthy checkpoint it is a hold. Collective if one asks."""
        alarm = next((alarm for alarm in alarms if alarm.action == "rollback"), None)
        if alarm is None:
            return False
        ordered = self.queue is not None and give_order(
            self.checkpointer.claim, step, alarm, *self.steering.next_rollback()
        )
        if not self.agree([int(bool(ordered))])[0]:
            structlog.get_logger().error("no healthy checkpoint to roll back to: the weights are held", step=step)
            self.steering.hold()
            return False
        return True

    def abandon(self) -> None:
        """Lets go of everything as it is: what was trained since the healthy checkpoint is given up."""
        self.meters.vitals.closing()
        self.intake.close()
        self.checkpointer.abandon()
        self.publisher.wait()
        self.watchdog.stop()
        if self.queue is not None and self.metrics is not None:
            self.queue.close()
            self.metrics.close()
        self.trail.close()

    def close(self, step: int) -> None:
        """A last checkpoint and commit, first of all: what stops us may not wait long. Then the publication under way."""
        self.meters.vitals.closing()
        self.intake.close()
        if step % self.config.checkpoint.every or step == 0:
            self.checkpointer.save(step)
        self.checkpointer.finish()
        self.publisher.wait(self.stop.left_s())
        self.watchdog.stop()
        if self.queue is not None and self.metrics is not None:
            self.queue.report(step, self.publisher.version, self.checkpointer.uncommitted)
            self.queue.close()
            self.metrics.close()
        self.trail.close()


@dataclass(frozen=True)
class Desk:
    """Rank 0's dealings with the queue on behalf of the publisher and the checkpointer (learner.publish.Registry and
    learner.checkpoint.Accounts)."""

    queue: LearnerQueue
    metrics: MetricsWriter
    behaviour: Behaviour
    trail: Trail

    def published(self, policy: pb.Policy, seconds: float) -> None:
        self.queue.publish(policy)
        self.metrics.event("version", version=policy.version, step=policy.step, seconds=seconds)
        structlog.get_logger().debug("version published", version=policy.version, step=policy.step, seconds=seconds)
        self.trail.published(policy, seconds)

    def not_published(self, version: int, error: Exception) -> None:
        structlog.get_logger().error(
            "version not published; the one before it stays current", version=version, error=str(error)
        )
        self.metrics.event("publish_failed", version=version, error=str(error))

    def in_use(self) -> set[int]:
        return self.queue.running_versions() | self.behaviour.needed(self.queue.fresh)

    def committed(self, step: int, refs: Sequence[GroupRef], seconds: float) -> None:
        count = self.queue.commit(step, refs)
        self.metrics.event("checkpoint", step=step, seconds=seconds, committed=count)
        structlog.get_logger().info("checkpoint durable", step=step, seconds=seconds, groups_committed=count)
        self.trail.committed(step, refs, seconds)

    def not_saved(self, step: int, error: Exception) -> None:
        structlog.get_logger().error("checkpoint not written; tried again later", step=step, error=str(error))
        self.metrics.event("checkpoint_failed", step=step, error=str(error))


def _metrics(config: LearnerConfig, meters: Meters) -> MetricsWriter:
    return MetricsWriter(config.metrics_dir, config.loggers, config.queue.run, meters.lead(config))


def _warmup_optimizer(config: LearnerConfig) -> OptimizerConfig:
    assert config.warmup is not None
    return config.optimizer.model_copy(update={"lr": config.warmup.lr, "warmup_steps": 0})
