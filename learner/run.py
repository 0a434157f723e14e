"""Composes one run of the learner: builds its components, opens them in the right order, and closes them.

The loop that uses them is learner.train. What only rank 0 has (the queue, the metrics files, the trace exporter) is in one
object, RankZeroCallbacks; the other ranks have None instead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import structlog

from learner import objectives
from learner.batch.packing import Layout
from learner.batch.types import Batch
from learner.behaviour.drift_probe import DriftProbe
from learner.behaviour.recompute import Behaviour
from learner.behaviour.token_scorer import TokenScorer
from learner.checkpoint.fingerprint import Fingerprint, fingerprint, require_same
from learner.checkpoint.rollback import request_rollback
from learner.checkpoint.saver import Checkpointer
from learner.checkpoint.takeover import Takeover
from learner.config import LearnerConfig, PublishConfig
from learner.control.alarms import Alarm
from learner.control.controller import LearningRateController, LearningRateDecision
from learner.intake.batch_source import TakenBatch
from learner.intake.prefetch import Prefetch
from learner.intake.preparation import Preparation
from learner.megatron.checkpointing.sharded_state import ShardedState
from learner.megatron.model.build import load_policy
from learner.megatron.model.export import Export, Exporter
from learner.megatron.model.packed_model import Policy
from learner.megatron.parallel import Ranks
from learner.megatron.training.scorer import Scorer
from learner.megatron.training.trainer import StepStats, Trainer
from learner.megatron.training.weight_average import WeightAverage
from learner.process.stop_signal import StopSignal
from learner.process.watchdog import Watchdog
from learner.publish.mirrors import MirrorOutcome
from learner.publish.publisher import Publisher
from learner.queue import GroupRef, LearnerQueue
from learner.queue.learner_heartbeat import LearnerHeartbeat
from learner.telemetry.activity import Activity, Waiting
from learner.telemetry.metrics_writer import MetricsWriter
from learner.telemetry.rank_metrics import RankMetrics
from learner.telemetry.step_row import headline
from learner.telemetry.tracing import LearnerTracing
from learner.warmup import warm_up
from leeway.v1 import rollout_pb2 as pb
from runtime import traces
from runtime.version_format.base_digest import weights_digest

_PATIENCE_S = 10.0  # for Redis, in the training loop; far below any collective_timeout_s


@dataclass(frozen=True)
class RankZeroCallbacks:
    """Services that only rank 0 has, and how they are told that something has been published, saved or trained.

    It is the PublicationCallbacks of learner.publish.publisher and the CheckpointCallbacks of learner.checkpoint.saver.
    """

    queue: LearnerQueue
    metrics: MetricsWriter
    behaviour: Behaviour
    tracing: LearnerTracing
    activity: Activity
    expire_after: int  # optimizer steps
    best: str | None = None  # the metric by which the best version is chosen

    def published(self, policy: pb.Policy, seconds: float) -> None:
        """Announces a version that is complete on disk to the gateways; ``seconds`` is how long its publication took."""
        self.queue.publish(policy)
        self.metrics.event("version", version=policy.version, step=policy.step, seconds=seconds)
        structlog.get_logger().debug("version published", version=policy.version, step=policy.step, seconds=seconds)
        self.tracing.published(policy, seconds)

    def not_published(self, version: int, error: Exception) -> None:
        """Records that a version could not be written."""
        structlog.get_logger().error(
            "version not published; the one before it stays current", version=version, error=str(error)
        )
        self.metrics.event("publish_failed", version=version, error=str(error))

    def mirrored(self, outcomes: Sequence[MirrorOutcome]) -> None:
        """Records what became of a version in the mirrors; one that failed is tried again with the next version."""
        for one in outcomes:
            facts = {"mirror": one.mirror, "version": one.version, "seconds": one.seconds}
            if one.error:
                structlog.get_logger().error("mirror failed", stage=one.stage, error=one.error, **facts)
                self.metrics.event("mirror_failed", stage=one.stage, error=one.error, **facts)
            else:
                self.metrics.event("mirrored", bytes=one.size, **facts)

    def coalesced(self, step: int, replaced: int) -> None:
        """Records that publication is slower than training: the weights after step ``replaced`` are never published."""
        structlog.get_logger().info(
            "publication under way: newer weights wait instead of older ones", step=step, replaced=replaced
        )
        self.metrics.event("coalesced", step=step, replaced=replaced)

    def in_use(self) -> set[int]:
        """Returns versions that must stay on disk: for fleets, for log mu of waiting groups, for evaluation; and the best."""
        running, evaluated = self.queue.running_versions(self.expire_after), self.queue.evaluated_versions(self.best)
        return running | evaluated | self.behaviour.needed(self.queue.fresh)

    def committed(self, step: int, refs: Sequence[GroupRef], seconds: float) -> None:
        """Removes the groups of a durable checkpoint from the queue; ``seconds`` is how long the checkpoint took.

        Raises:
            StillAwayError: Redis is away, or the queue is halted: the groups leave it with the next checkpoint.
        """
        count = self.queue.commit(step, refs)
        self.metrics.event("checkpoint", step=step, seconds=seconds, committed=count)
        structlog.get_logger().info("checkpoint durable", step=step, seconds=seconds, groups_committed=count)
        self.tracing.committed(step, refs, seconds)

    def not_saved(self, step: int, error: Exception) -> None:
        """Records that a checkpoint could not be written; its groups stay in the queue."""
        structlog.get_logger().error("checkpoint not written; tried again later", step=step, error=str(error))
        self.metrics.event("checkpoint_failed", step=step, error=str(error))

    def report(self, row: dict[str, Any], taken: TakenBatch, stats: StepStats | None, alarms: list[Alarm]) -> None:
        """Writes the step's metrics row, the groups trained in it, its alarms, and whether it was skipped."""
        step = row["step"]
        row |= {"queue_depth": self.queue.waiting(), "expired": self.queue.expired(), "unusable": self.queue.unusable}
        row |= {"consumed": self.queue.consumed, "tokens_wasted": self.queue.wasted()}
        self.metrics.step(row | {"epoch": self.queue.epoch})
        self.metrics.trained(step, self.queue.epoch, taken.refs)
        if stats is None or stats.skipped:
            reason = stats.skipped if stats else f"no group had a contrast, of {len(taken.groups)}"
            structlog.get_logger().warning("the step is skipped: it changes no weights", step=step, reason=reason)
            self.metrics.event("skipped", step=step, reason=reason)
        for alarm in alarms:
            structlog.get_logger().warning("alarm", step=step, **asdict(alarm))
            self.metrics.event("alarm", step=step, **asdict(alarm))

    def refused(self, step: int, refused: Sequence[tuple[GroupRef, pb.Group]], fault: str) -> None:
        """Takes groups out of the queue that made step ``step`` not finite, says which, and keeps them for the operator."""
        self.queue.quarantine(step, refused, fault)
        for ref, group in refused:
            facts = {"step": step, "fleet": ref.fleet, "group": ref.group_id, "prompt": group.prompt_id, "fault": fault}
            structlog.get_logger().error("a group is not finite: it is refused, and kept in quarantine", **facts)
            self.metrics.event("quarantined", **facts)

    def configure(self, config: LearnerConfig) -> None:
        """Puts changed settings to work: weights of fleets, and the number of steps that is shown."""
        self.queue.weigh(config.weights)
        self.metrics.planned(config.steps)

    def close(self) -> None:
        """Closes the queue's connection and the metrics files."""
        self.activity.close()
        self.queue.close()
        self.metrics.close()


@dataclass
class Run:
    """Everything a step needs, in the state the newest checkpoint left it.

    Attributes:
        config: settings in force: the run file's, and what operators have changed (``configure``).
        objective: as ``config`` says.
        rates: decides each step's learning rate, and raises alarms.
        average: of the weights, which is published in their place; None: they are published themselves.
        probe: measures how far the policy moves; None unless lr_control.mode is "drift".
        lead: services that only rank 0 has; None on the other ranks.
        step: optimizer steps in the checkpoint that the run resumes from, 0 for a new run.
    """

    config: LearnerConfig
    ranks: Ranks
    exporter: Exporter
    trainer: Trainer
    objective: objectives.Objective
    rates: LearningRateController
    average: WeightAverage | None
    behaviour: Behaviour
    probe: DriftProbe | None
    layout: Layout
    prefetch: Prefetch
    publisher: Publisher
    checkpointer: Checkpointer
    watchdog: Watchdog
    rank_metrics: RankMetrics
    tracing: LearnerTracing
    stop: StopSignal
    lead: RankZeroCallbacks | None
    step: int

    @classmethod
    def open(cls, config: LearnerConfig, ranks: Ranks, rank_metrics: RankMetrics) -> Run | None:
        """Builds the model, warm-starts or resumes it, commits what the checkpoint contains, opens the prefetch. Collective.

        Returns:
            None when a stop signal came during the warm start.
        """
        stop = StopSignal(config.stop_grace_s)
        stop.enforce()
        metrics = _metrics_writer(config, rank_metrics) if ranks.rank == 0 else None
        tracer = traces.start(config.traces, "learner", config.queue.run) if ranks.rank == 0 else None
        objective, rates = objectives.get(config.objective), LearningRateController(config)
        layout = _layout(config, ranks)
        policy = load_policy(config.model, ranks, config)
        takeover = Takeover.start(config, ranks, metrics)
        queue = takeover.queue
        if takeover.resume is None and not _warm_started(config, policy, layout, ranks, metrics, stop):
            if queue is not None:
                queue.close()
            return None
        trainer = Trainer(policy, config.optimizer, ranks, config.diagnostics, config.lr_control.projects_above)
        average = WeightAverage(trainer, config.publish.average) if config.publish.average else None
        state = ShardedState(policy, trainer, ranks, average)
        model = fingerprint(asdict(policy.architecture), config.model, config.lora, _digest(config, ranks))
        step, reference = _resumed(takeover, state, objective, rates, model)
        first_version = takeover.begin()
        scorer = Scorer(policy, ranks, config.publish.weights_dtype, average, config.publish.form)
        tokens = TokenScorer(scorer, ranks, layout, config.seed)
        behaviour = Behaviour(config, objective, tokens, ranks)
        probe = DriftProbe(config.lr_control, tokens, ranks) if config.lr_control.mode == "drift" else None
        behaviour.freeze_reference(first_version if reference is None else reference, step)
        if queue is not None and objective.needs_behaviour:
            queue.require(behaviour.usable)
        tracing = LearnerTracing(tracer)
        lead = _lead(config, queue, metrics, behaviour, tracing)
        exporter = _exporter(policy, trainer, ranks, config.publish, average)
        publisher = Publisher(config.publish, takeover.versions, config.model, first_version, lead, config.lora)

        def extra() -> dict[str, Any]:
            seen = {} if queue is None else {"witness": queue.guard.witness()}
            return _checkpointed(publisher.version, run.objective, rates, behaviour.reference_version, model) | seen

        checkpointer = Checkpointer(config.checkpoint, takeover.checkpoints, state, lead, ranks.barrier, extra)
        watchdog = Watchdog(config.silence_s, rank_metrics.health.progress)
        preparation = _preparation(config, objective, layout, ranks, policy)
        run = cls(
            config=config, ranks=ranks, exporter=exporter, trainer=trainer, objective=objective, rates=rates,
            average=average, probe=probe, behaviour=behaviour, layout=layout, publisher=publisher,
            checkpointer=checkpointer, watchdog=watchdog,
            prefetch=Prefetch(config, queue, ranks, stop.requested, watchdog.alive, preparation),
            rank_metrics=rank_metrics, tracing=tracing, stop=stop, lead=lead, step=step,
        )  # fmt: skip
        if takeover.resume is None:
            checkpointer.save(step)
        run.publish(step)
        rank_metrics.health.opened()
        if queue is not None:
            queue.while_waiting(watchdog.alive)
            queue.guard.on_halt(rank_metrics.health.halted)
            structlog.get_logger().info("learner opened", step=step, epoch=queue.epoch, version=publisher.version)
        return run

    def configure(self, config: LearnerConfig) -> None:
        """Puts changed settings to work between two steps; every rank is given the same ones.

        Args:
            config: what differs from the settings in force must be among learner.config.changeable; none of that changes how
                groups are weighed, so that a batch which was prepared before stays right.
        """
        if config.objective != self.config.objective:
            objective = objectives.get(config.objective)
            objective.load_state_dict(self.objective.state_dict())
            self.objective = objective
        self.config = config
        self.rates.configure(config)
        self.trainer.configure(config.optimizer, config.lr_control.projects_above)
        self.behaviour.configure(config, self.objective)
        if self.probe is not None:
            self.probe.configure(config.lr_control)
        self.publisher.configure(config.publish)
        self.checkpointer.configure(config.checkpoint)
        self.prefetch.configure(config)
        if self.lead is not None:
            self.lead.configure(config)

    def after_update(
        self, step: int, batch: Batch | None, stats: StepStats | None, decision: LearningRateDecision
    ) -> dict[str, float | None]:
        """Tells the objective, the average of the weights and the probe of a step; returns numbers for its row. Collective.

        Args:
            step: number of the step, 1-based.
            batch: what this data rank trained; None if nothing was trained.
            stats: results of training; None if nothing was trained.
            decision: the step's learning rate.
        """
        if stats and not stats.skipped:
            self.objective.observe(stats.metrics)
            self.rates.updated(decision)
        if self.average is not None:
            self.average.update()
        if self.probe is None:
            return {}
        movement = self.probe.after_step(step, batch, stats, decision.rate)
        if movement is not None:
            self.rates.observe_drift(movement)
        return {"drift_measured": movement.drift if movement is not None else None}

    def publish(self, step: int) -> None:
        """Hands the current weights to the publisher, and to the cache of versions; both use one copy. Collective."""
        with self.waiting("publication"):
            self.publisher.publish(step, self._export)

    def _export(self, version: int) -> Export:
        caches = self.behaviour.caches
        export = self.exporter.begin(whole=caches)
        if caches:
            self.behaviour.cache(version, export.weights.hold())
        return export

    def waiting(self, what: Waiting) -> contextlib.AbstractContextManager[None]:
        """Context in which the training loop waits for something; rank 0 records it when it lasts."""
        return contextlib.nullcontext() if self.lead is None else self.lead.activity.doing(what)

    def short_waits(self) -> contextlib.AbstractContextManager[None]:
        """Context of a step: its calls of the queue wait for Redis for seconds only, as the other ranks may wait for them.

        What could not be written then is written with the next step or checkpoint. Waiting for groups has no such limit.
        """
        return contextlib.nullcontext() if self.lead is None else self.lead.queue.waiting_at_most(_PATIENCE_S)

    def report_progress(self, step: int) -> None:
        """Reports to the gateways what has been committed since the last step. Does nothing but on rank 0."""
        if self.lead is not None:
            self.lead.queue.report(step, self.publisher.version, self.checkpointer.uncommitted)

    def report(self, row: dict[str, Any], taken: TakenBatch, stats: StepStats | None, alarms: list[Alarm]) -> None:
        """Reports the step to the gateways, and writes its metrics row and alarms. Does nothing but on rank 0."""
        if self.lead is not None:
            uncommitted = self.checkpointer.uncommitted
            self.lead.queue.report(row["step"], self.publisher.version, uncommitted, headline(row))
            self.lead.report(row | {"version": self.publisher.version}, taken, stats, alarms)

    def refuse(self, step: int, taken: TakenBatch, groups: Collection[int], fault: str) -> None:
        """Takes groups of a step out of the queue that were not finite; does nothing but on rank 0.

        Args:
            step: number of the step, 1-based.
            taken: the step's groups.
            groups: indices of those that are refused.
            fault: what was not finite, in words.
        """
        if self.lead is not None:
            self.lead.refused(step, [(taken.refs[index], taken.groups[index]) for index in sorted(groups)], fault)

    def rolls_back(self, step: int, alarms: list[Alarm]) -> bool:
        """Requests the rollback that an alarm asks for; without a healthy checkpoint it freezes the weights instead.

        Collective if an alarm asks for one. Returns whether the run is to be rolled back.
        """
        alarm = next((alarm for alarm in alarms if alarm.action == "rollback"), None)
        if alarm is None:
            return False
        fence, limits = self.checkpointer.fence, self.rates.next_rollback()
        requested = self.lead is not None and request_rollback(fence, step, alarm, *limits)
        if not self.ranks.agree([int(bool(requested))])[0]:
            structlog.get_logger().error(
                "no healthy checkpoint to roll back to: the weights are frozen instead", step=step
            )
            self.rates.hold()
            return False
        return True

    def abandon(self) -> None:
        """Closes everything without saving: what was trained since the newest healthy checkpoint is given up."""
        self.rank_metrics.health.closing()
        self.prefetch.close()
        self.checkpointer.abandon()
        self.publisher.wait(while_waiting=self.watchdog.alive)
        self.watchdog.stop()
        if self.lead is not None:
            self.lead.close()
        self.tracing.close()

    def close(self, step: int) -> None:
        """Saves and commits a last checkpoint first, because a stop must be quick; then finishes the publication."""
        self.rank_metrics.health.closing()
        self.prefetch.close()
        with self.waiting("checkpoint"):
            # A step that the run resumed from is in a checkpoint already.
            known = step == self.step and step % self.config.checkpoint.every == 0 and step > 0
            if self.checkpointer.saved_step != step and not known:
                self.checkpointer.save(step)
            self.checkpointer.finish()
        with self.waiting("publication"):
            self.publisher.wait(self.stop.left_s(), self.watchdog.alive)
        self.watchdog.stop()
        if self.lead is not None:
            self.lead.queue.report(step, self.publisher.version, self.checkpointer.uncommitted)
            if step >= self.config.steps and not self.checkpointer.uncommitted:
                self.lead.queue.end()
                structlog.get_logger().info("the run has finished: its fleets are told", step=step)
            self.lead.close()
        self.tracing.close()


def _preparation(
    config: LearnerConfig, objective: objectives.Objective, layout: Layout, ranks: Ranks, policy: Policy
) -> Preparation:
    """What makes this data rank's batches of the groups that were taken."""
    routing = policy.architecture.routing if config.replay_routing else None
    pinned = ranks.device.type == "cuda"
    return Preparation(objective.weighting, layout, config.max_staleness, ranks.data_rank, routing, pinned=pinned)


def _digest(config: LearnerConfig, ranks: Ranks) -> str | None:
    """Digest of the weights that adapters adapt, the same on every rank; None without adapters. Collective."""
    if config.lora is None:
        return None
    found = ranks.run_on_rank_zero(lambda: weights_digest(config.model))  # it reads all of them
    return ranks.broadcast_bytes((found or "").encode()).decode()


def _metrics_writer(config: LearnerConfig, rank_metrics: RankMetrics) -> MetricsWriter:
    """Opens the metrics files; on rank 0."""
    observed, settings = rank_metrics.add_run(config), config.model_dump(mode="json")
    return MetricsWriter(config.metrics_dir, config.loggers, config.queue.run, observed, settings)


def _layout(config: LearnerConfig, ranks: Ranks) -> Layout:
    least = config.min_micro_batches or ranks.pipeline_size
    return Layout(ranks.data_size, least, config.micro_batch_tokens, ranks.tensor_size, ranks.context_size)


def _lead(
    config: LearnerConfig,
    queue: LearnerQueue | None,
    metrics: MetricsWriter | None,
    behaviour: Behaviour,
    tracing: LearnerTracing,
) -> RankZeroCallbacks | None:
    """Services that only rank 0 has; None on the other ranks, which have no queue and no metrics files."""
    if queue is None or metrics is None:
        return None
    activity = Activity(metrics.event, queue.away_s, heartbeat=LearnerHeartbeat(config.queue)).start()
    return RankZeroCallbacks(queue, metrics, behaviour, tracing, activity, config.expiry_bound, config.publish.best)


def _exporter(
    policy: Policy, trainer: Trainer, ranks: Ranks, publish: PublishConfig, average: WeightAverage | None
) -> Exporter:
    """Exporter of the policy, or of its average, whose copies no update of the weights overtakes. Collective."""
    averages = average.weights if average is not None else None
    exporter = Exporter(policy, ranks, publish.weights_dtype, averages, publish.form)
    trainer.before_update(exporter.protect)
    return exporter


def _warm_started(
    config: LearnerConfig,
    policy: Policy,
    layout: Layout,
    ranks: Ranks,
    metrics: MetricsWriter | None,
    stop: StopSignal,
) -> bool:
    """Trains the initial policy on demonstrations if [learner.warmup] is set; False if a stop signal ended that early."""
    if config.warmup is None:
        return True
    optimizer = config.optimizer.model_copy(update={"lr": config.warmup.lr, "warmup_steps": 0})
    return warm_up(config, Trainer(policy, optimizer, ranks), layout, ranks, metrics, stop.requested)


def _checkpointed(
    version: int,
    objective: objectives.Objective,
    rates: LearningRateController,
    reference: int | None,
    model: Fingerprint,
) -> dict[str, Any]:
    """What a checkpoint contains beside model, optimizer and groups; `_resumed` reads it."""
    return {
        "version": version,
        "objective": objective.state_dict(),
        "rates": rates.state_dict(),
        "reference": reference,
        "model": model,
    }


def _resumed(
    takeover: Takeover,
    state: ShardedState,
    objective: objectives.Objective,
    rates: LearningRateController,
    model: Fingerprint,
) -> tuple[int, int | None]:
    """Loads the checkpoint to resume from; returns its step and its reference version, (0, None) for a new run.

    Raises:
        FingerprintError: the checkpoint is of another model than ``model``.
    """
    if takeover.rollback is not None and takeover.resume is None:
        raise AssertionError("a rollback was requested, but there is no checkpoint to resume from")
    resume = takeover.resume
    if resume is None:
        return 0, None
    extra, config = resume.state.extra, takeover.config
    require_same(resume.directory, extra["model"], model, config.model, config.publish.dir)
    state.load(resume.directory)
    objective.load_state_dict(extra["objective"])
    rates.load_state_dict(extra["rates"])
    if takeover.rollback is not None:
        rates.resume_after_rollback(takeover.rollback.number, takeover.rollback.factor)
    return resume.step, extra["reference"]
