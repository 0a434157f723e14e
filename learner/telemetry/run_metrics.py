"""What rank 0 shows Prometheus of the run: the rows of learner.jsonl, as metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from learner.config import LearnerConfig
from learner.config.control import AlarmConfig
from runtime.disk import DiskWatch
from runtime.metric_registry import MetricRegistry

_STEP_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
_BOUNDS = ("none", "batch", "critical", "hold")
_RULES = tuple(name for name in AlarmConfig.model_fields if getattr(AlarmConfig(), name) == "warn")
# Field of a step's row -> metric, help. Where a step has no value (nothing trained, not measured) it is NaN.
_OF_STEP = {
    "reward": ("reward", "Mean reward of the step's responses."),
    "staleness_mean": ("staleness_mean_steps", "Mean staleness of the step's tokens, in optimizer steps."),
    "staleness_max": ("staleness_max_steps", "Staleness of the step's oldest token."),
    "rho": ("rho", "Weight of negatives against that of positives; near 1 the objective is no longer held together."),
    "entropy": ("entropy_nats", "Mean entropy of the policy at the step's tokens."),
    "loss": ("loss", "The objective's value."),
    "grad_norm": ("grad_norm", "Norm of the gradient before clipping."),
    "update_norm": ("update_norm", "Norm of the weights' change."),
    "lr": ("learning_rate", "What the optimizer used."),
    "lr_scheduled": ("learning_rate_scheduled", "What the schedule said."),
    "version": ("version", "Newest version handed to publication."),
    "epoch": ("epoch", "Number of this learner's start."),
}
# The same, measured on some steps only: the last value stays.
_NOW_AND_THEN = {
    "unusable": ("unusable_groups", "Groups expired since the start because their version cannot be recomputed."),
    "true_drift": ("drift_nats", "Mean log of policy over recomputed behaviour at the sampled tokens."),
    "effective_share": ("effective_sample_ratio", "Effective sample size under that ratio, as a share of the tokens."),
    "beyond_bound": ("drift_beyond_bound_ratio", "Share of tokens whose probability has moved by more than 0.15."),
}


class RunMetrics:
    """The run's metrics, fed with the rows that learner.telemetry.metrics_writer.MetricsWriter writes.

    Args:
        instruments: where they are declared.
        config: the run's.
    """

    def __init__(self, instruments: MetricRegistry, config: LearnerConfig) -> None:
        made = instruments
        self._of_step = {field: made.gauge(f"leeway_learner_{name}", text) for field, (name, text) in _OF_STEP.items()}
        self._now_and_then = {
            field: made.gauge(f"leeway_learner_{name}", text) for field, (name, text) in _NOW_AND_THEN.items()
        }
        for field, gauge in {**self._of_step, **self._now_and_then}.items():
            gauge.set(0 if field == "unusable" else math.nan)
        self._nll = made.gauge("leeway_learner_nll_nats", "Mean NLL per token of right or wrong responses.", ("sign",))
        self._step = made.gauge("leeway_learner_step", "Optimizer steps behind the weights.")
        self._stepped = made.gauge("leeway_learner_step_timestamp_seconds", "When the last step, or the start, was.")
        made.gauge("leeway_learner_steps_planned", "learner.steps: the run ends there.").set(config.steps)
        made.gauge("leeway_learner_staleness_limit_steps", "learner.max_staleness: older groups expire.").set(
            config.max_staleness
        )
        self._bound = made.gauge(
            "leeway_learner_learning_rate_bound", "1 for what keeps the learning rate below the schedule.", ("bound",)
        )
        self._tokens = made.counter(
            "leeway_learner_trained_tokens_total", "Tokens in training batches, padding not among them."
        )
        self._groups = made.counter("leeway_learner_groups_total", "Groups taken into steps.")
        self._steps = made.histogram("leeway_learner_step_seconds", "A step with all its phases.", _STEP_S)
        self._phases = made.counter(
            "leeway_learner_phase_seconds_total", "Where steps spend their time; wait: for groups.", ("phase",)
        )
        self._skipped = made.counter("leeway_learner_skipped_steps_total", "Steps that changed no weights.")
        self._alarms = made.counter("leeway_learner_alarms_total", "Alarms raised, by rule.", ("rule",))
        self._rollbacks = made.counter("leeway_learner_rollbacks_total", "Starts that went back because of an alarm.")
        self._declare_storage(made, config)
        for rule in _RULES:
            self._alarms.labels(rule)
        for sign in ("positive", "negative"):
            self._nll.labels(sign).set(math.nan)

    def _declare_storage(self, made: MetricRegistry, config: LearnerConfig) -> None:
        self._saved = made.gauge(
            "leeway_learner_checkpoint_timestamp_seconds",
            "When a checkpoint was last durable; before, when we started.",
        )
        self._saved.set_to_current_time()
        self._save_s = made.gauge("leeway_learner_checkpoint_seconds", "From its snapshot to its commit, the last one.")
        self._not_saved = made.counter(
            "leeway_learner_checkpoint_failures_total", "Checkpoints that could not be written."
        )
        self._committed = made.counter(
            "leeway_learner_committed_groups_total", "Groups that left the queue as trained."
        )
        self._given_up = made.counter(
            "leeway_learner_given_up_groups_total",
            "Groups that the ledger calls trained and these weights have not seen: a rollback, or damaged checkpoints.",
        )
        self._published = made.gauge(
            "leeway_learner_publication_timestamp_seconds",
            "When a version was last announced; before, when we started.",
        )
        self._published.set_to_current_time()
        self._publish_s = made.gauge(
            "leeway_learner_publication_seconds", "From snapshot to announcement, the last one."
        )
        self._not_published = made.counter(
            "leeway_learner_publication_failures_total", "Versions that could not be written or announced."
        )
        disks = DiskWatch({"checkpoints": config.checkpoint.dir, "weights": config.publish.dir})
        for name, text, seen in (
            ("free", "Room left where checkpoints and versions go.", disks.free),
            ("size", "Size of that file system.", disks.size),
        ):
            made.read_all(
                f"leeway_learner_disk_{name}_bytes",
                text,
                ("directory",),
                lambda seen=seen: {(directory,): size for directory, size in dict(seen).items()},
            )

    def event(self, kind: str, values: Mapping[str, Any]) -> None:
        """A row of learner.jsonl. Kinds that have no metric are passed over."""
        if kind == "step":
            self._observe(values)
        elif kind == "start":
            self._step.set(values["resumed_step"])
            self._stepped.set_to_current_time()
        elif kind == "version":
            self._published.set_to_current_time()
            self._publish_s.set(values["seconds"])
        elif kind == "checkpoint":
            self._saved.set_to_current_time()
            self._save_s.set(values["seconds"])
            self._committed.inc(values["committed"])
        elif kind == "alarm":
            self._alarms.labels(values["rule"]).inc()
        elif kind in ("rollback", "damaged"):
            self._given_up.inc(values["lost"])
        if kind in (counters := self._counters()):
            counters[kind].inc()

    def _counters(self) -> dict[str, Any]:
        return {
            "publish_failed": self._not_published,
            "checkpoint_failed": self._not_saved,
            "skipped": self._skipped,
            "rollback": self._rollbacks,
        }

    def _observe(self, row: Mapping[str, Any]) -> None:
        for field, gauge in self._of_step.items():
            gauge.set(_number(row.get(field)))
        for field, gauge in self._now_and_then.items():
            if row.get(field) is not None:
                gauge.set(row[field])
        for sign in ("positive", "negative"):
            self._nll.labels(sign).set(_number(row.get(f"nll_{sign}")))
        self._step.set(row["step"])
        self._stepped.set_to_current_time()
        for bound in _BOUNDS:
            self._bound.labels(bound).set(row.get("lr_active") == bound)
        self._tokens.inc(row["trained_tokens"])
        self._groups.inc(row["groups"])
        for field, seconds in row.items():
            if field == "step_s":
                self._steps.observe(seconds)
            elif field.endswith("_s"):
                self._phases.labels(field.removesuffix("_s")).inc(max(0.0, seconds))


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
