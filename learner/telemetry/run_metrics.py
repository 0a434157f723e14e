"""Prometheus metrics of the run, on rank 0: the rows of learner.jsonl. deploy/metrics.md lists them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from learner.config import LearnerConfig
from learner.config.control import AlarmConfig
from learner.telemetry.rate_metrics import RateMetrics
from learner.telemetry.response_metrics import ResponseMetrics
from runtime.disk import DiskWatch
from runtime.metric_registry import MetricRegistry

_STEP_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
_RULES = tuple(name for name in AlarmConfig.model_fields if getattr(AlarmConfig(), name) == "warn")
# Field of a step's row -> metric, help. NaN after a step without a value (nothing trained, or not measured).
_EVERY_STEP = {
    "reward": ("reward", "Mean reward of the step's scored responses; NaN if there are none."),
    "reward_sd": (
        "reward_sd",
        "Standard deviation of the rewards of the step's scored responses; NaN if there are none.",
    ),
    "truncated": ("truncated_ratio", "Share of the step's responses that ended at the token limit."),
    "unscored": ("unscored_ratio", "Share of the step's responses that nobody judged; they carry no loss."),
    "segments": ("response_segments", "Mean number of segments of the step's scored responses."),
    "staleness_mean": ("staleness_mean_steps", "Mean staleness of the step's tokens, in optimizer steps."),
    "staleness_max": ("staleness_max_steps", "Staleness of the step's oldest token, in optimizer steps."),
    "rho": ("rho", "Weight of negative against positive responses; training is impaired when it nears 1."),
    "fleet_dominance": (
        "fleet_dominance_ratio",
        "Mean weight in the gradient of a group of the heaviest fleet over that of the others' groups; NaN with one fleet.",
    ),
    "expert_load_max": (
        "expert_load_ratio",
        "Tokens of the busiest expert over the mean of its layer's experts, in the layer where that is largest; NaN without "
        "experts.",
    ),
    "expert_idle_max": (
        "expert_idle_ratio",
        "Share of a layer's experts that no token of the step was sent to, in the layer where that is largest; NaN without "
        "experts.",
    ),
    "routing_replayed": (
        "routing_replayed_ratio",
        "Share of the step's tokens that went to the experts that engines chose (learner.replay_routing), over all mixture "
        "layers; NaN where none is replayed.",
    ),
    "routing_disagreement": (
        "routing_disagreement_ratio",
        "Share of the replayed choices of experts that the router would not have made; NaN where none is replayed.",
    ),
    "m2po_limit": (
        "m2po_limit_nats",
        "Absolute log ratio of policy to behaviour policy above which M2PO masks the step's tokens that move away from it, "
        "in nats; NaN where none is masked, and without m2po_over batch.",
    ),
    "entropy": ("entropy_nats", "Mean entropy of the policy at the step's tokens, in nats."),
    "loss": ("loss", "Value of the objective."),
    "grad_norm": ("grad_norm", "Norm of the gradient before clipping."),
    "update_norm": ("update_norm", "Norm of the change of the weights."),
    "version": ("version", "Newest version handed to the publisher."),
    "epoch": ("epoch", "Number of this learner's start in the run, from 1."),
}
# Field -> metric, help, for what is measured on some steps only: the last value stays.
_SOME_STEPS = {
    "unusable": (
        "unusable_groups",
        "Groups expired since the learner's start because their version cannot be recomputed.",
    ),
    "true_drift": (
        "drift_nats",
        "Mean log ratio of policy to recomputed behaviour policy at the sampled tokens, in nats.",
    ),
    "effective_share": (
        "effective_sample_ratio",
        "Effective sample size under the ratio of policy to behaviour policy, as a share of the tokens.",
    ),
    "beyond_bound": (
        "drift_beyond_bound_ratio",
        "Share of tokens whose probability has changed by more than 0.15 since they were sampled.",
    ),
}


class RunMetrics:
    """Metrics of the run, updated from the rows that learner.telemetry.metrics_writer.MetricsWriter writes.

    Args:
        registry: where the metrics are declared.
        config: planned steps, staleness limit, and the directories whose disk space is shown.
    """

    def __init__(self, registry: MetricRegistry, config: LearnerConfig) -> None:
        self._every_step = {
            field: registry.gauge(f"leeway_learner_{name}", text) for field, (name, text) in _EVERY_STEP.items()
        }
        self._some_steps = {
            field: registry.gauge(f"leeway_learner_{name}", text) for field, (name, text) in _SOME_STEPS.items()
        }
        for field, gauge in {**self._every_step, **self._some_steps}.items():
            gauge.set(0 if field == "unusable" else math.nan)
        self._nll = registry.gauge(
            "leeway_learner_nll_nats", "Mean NLL per token of positive or negative responses, in nats.", ("sign",)
        )
        self._step = registry.gauge(
            "leeway_learner_step", "Optimizer steps that the current weights have been trained for."
        )
        self._stepped = registry.gauge(
            "leeway_learner_step_timestamp_seconds",
            "When the last step ended; before the first, when the learner started.",
        )
        self._planned = registry.gauge(
            "leeway_learner_steps_planned", "Optimizer step at which the run ends (learner.steps)."
        )
        self.planned(config.steps)
        registry.gauge(
            "leeway_learner_staleness_limit_steps",
            "Staleness that leases aim at (learner.max_staleness), in optimizer steps; an older group is late.",
        ).set(config.max_staleness)
        registry.gauge(
            "leeway_learner_expiry_limit_steps",
            "Staleness above which groups expire (learner.expire_after or its default), in optimizer steps.",
        ).set(config.expiry_bound)
        self._tokens = registry.counter(
            "leeway_learner_trained_tokens_total", "Tokens in training batches, without padding."
        )
        self._groups = registry.counter("leeway_learner_groups_total", "Groups taken into training steps.")
        self._late = registry.counter(
            "leeway_learner_late_groups_total", "Groups taken into training steps that were older than max_staleness."
        )
        self._unscored = registry.counter(
            "leeway_learner_unscored_groups_total",
            "Groups taken into training steps of which nothing was trained: fewer than two responses were scored.",
        )
        self._steps = registry.histogram(
            "leeway_learner_step_seconds", "Seconds of a step with all its phases.", _STEP_S
        )
        self._phases = registry.counter(
            "leeway_learner_phase_seconds_total",
            "Seconds that steps spent in each phase; wait: waiting for groups.",
            ("phase",),
        )
        self._skipped = registry.counter("leeway_learner_skipped_steps_total", "Steps that changed no weights.")
        self._loggers = registry.counter(
            "leeway_learner_dropped_loggers_total",
            "Experiment loggers that failed and were given up; training goes on.",
        )
        self._alarms = registry.counter("leeway_learner_alarms_total", "Alarms raised, by rule.", ("rule",))
        self._rollbacks = registry.counter(
            "leeway_learner_rollbacks_total", "Starts that rolled the run back because of an alarm."
        )
        self._changes = registry.counter(
            "leeway_learner_changes_total",
            "Changes of operators that the learner has applied or refused.",
            ("outcome",),
        )
        for outcome in ("applied", "refused"):
            self._changes.labels(outcome)
        self._rate = RateMetrics(registry, config.lr_control)
        self._responses = ResponseMetrics(registry, config.groups_per_step)
        self._declare_storage(registry, config)
        for rule in _RULES:
            self._alarms.labels(rule)
        for sign in ("positive", "negative"):
            self._nll.labels(sign).set(math.nan)

    def _declare_storage(self, registry: MetricRegistry, config: LearnerConfig) -> None:
        """Declares what is known of checkpoints, publications and the disks they go to."""
        self._saved = registry.gauge(
            "leeway_learner_checkpoint_timestamp_seconds",
            "When a checkpoint last became durable; before the first, when the learner started.",
        )
        self._saved.set_to_current_time()
        self._save_s = registry.gauge(
            "leeway_learner_checkpoint_seconds", "Seconds from snapshot to commit of the last checkpoint."
        )
        self._not_saved = registry.counter(
            "leeway_learner_checkpoint_failures_total", "Checkpoints that could not be written."
        )
        self._committed = registry.counter(
            "leeway_learner_committed_groups_total", "Groups that left the queue as trained."
        )
        self._given_up = registry.counter(
            "leeway_learner_given_up_groups_total",
            "Groups that the ledger counts as trained but a rollback, or damaged checkpoints, removed from the weights.",
        )
        self._published = registry.gauge(
            "leeway_learner_publication_timestamp_seconds",
            "When a version was last announced; before the first, when the learner started.",
        )
        self._published.set_to_current_time()
        self._publish_s = registry.gauge(
            "leeway_learner_publication_seconds", "Seconds from snapshot to announcement of the last version."
        )
        self._not_published = registry.counter(
            "leeway_learner_publication_failures_total", "Versions that could not be written or announced."
        )
        self._coalesced = registry.counter(
            "leeway_learner_coalesced_publications_total",
            "Weights that were never published because newer ones came while the version before them was being published.",
        )
        self._declare_mirrors(registry, [mirror.name for mirror in config.publish.mirror])
        self._refused = registry.counter(
            "leeway_learner_refused_groups_total",
            "Groups that were refused and put into quarantine because their losses or gradients were not finite.",
        )
        disks = DiskWatch({"checkpoints": config.checkpoint.dir, "weights": config.publish.dir})
        for name, text, seen in (
            ("free", "Free space in the file systems of checkpoints and versions.", disks.free),
            ("size", "Size of the file systems of checkpoints and versions.", disks.size),
        ):
            registry.read_all(
                f"leeway_learner_disk_{name}_bytes",
                text,
                ("directory",),
                lambda seen=seen: {(directory,): size for directory, size in dict(seen).items()},
            )

    def _declare_mirrors(self, registry: MetricRegistry, names: Sequence[str]) -> None:
        """Declares what is known of each copy of the versions."""
        by_mirror = ("mirror",)
        self._mirror_version = registry.gauge(
            "leeway_learner_mirror_version", "Newest version that a mirror has; NaN before its first.", by_mirror
        )
        self._mirrored = registry.gauge(
            "leeway_learner_mirror_timestamp_seconds",
            "When a version was last complete in a mirror; before the first, when the learner started.",
            by_mirror,
        )
        self._mirror_s = registry.gauge(
            "leeway_learner_mirror_seconds",
            "Seconds that the last copy to a mirror took; NaN before the first.",
            by_mirror,
        )
        self._mirror_bytes = registry.counter(
            "leeway_learner_mirror_bytes_total", "Bytes of the versions that were copied to a mirror.", by_mirror
        )
        self._mirror_failures = registry.counter(
            "leeway_learner_mirror_failures_total",
            "Versions that could not be copied to a mirror in time (copy), or removals there that failed (remove).",
            ("mirror", "stage"),
        )
        for name in names:
            self._mirror_version.labels(name).set(math.nan)
            self._mirrored.labels(name).set_to_current_time()
            self._mirror_s.labels(name).set(math.nan)
            self._mirror_bytes.labels(name)
            for stage in ("copy", "remove"):
                self._mirror_failures.labels(name, stage)

    def _observe_mirror(self, values: Mapping[str, Any]) -> None:
        name = values["mirror"]
        self._mirror_version.labels(name).set(values["version"])
        self._mirrored.labels(name).set_to_current_time()
        self._mirror_s.labels(name).set(values["seconds"])
        self._mirror_bytes.labels(name).inc(values["bytes"])

    def planned(self, steps: int) -> None:
        """Shows how many steps the run is to make."""
        self._planned.set(steps)

    def event(self, kind: str, values: Mapping[str, Any]) -> None:
        """Updates the metrics from a row of learner.jsonl; rows of other kinds have no metric and are ignored."""
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
        elif kind == "mirrored":
            self._observe_mirror(values)
        elif kind == "mirror_failed":
            self._mirror_failures.labels(values["mirror"], values["stage"]).inc()
        elif kind == "alarm":
            self._alarms.labels(values["rule"]).inc()
        elif kind == "change":
            self._changes.labels("refused" if values["refused"] else "applied").inc()
        elif kind in ("rollback", "damaged", "given_up"):
            self._given_up.inc(values["lost"])
        if kind in (counters := self._counters()):
            counters[kind].inc()

    def _counters(self) -> dict[str, Any]:
        return {
            "publish_failed": self._not_published,
            "coalesced": self._coalesced,
            "checkpoint_failed": self._not_saved,
            "skipped": self._skipped,
            "logger_dropped": self._loggers,
            "quarantined": self._refused,
            "rollback": self._rollbacks,
        }

    def _observe(self, row: Mapping[str, Any]) -> None:
        """Updates the metrics from the row of a step."""
        for field, gauge in self._every_step.items():
            gauge.set(_number(row.get(field)))
        for field, gauge in self._some_steps.items():
            if row.get(field) is not None:
                gauge.set(row[field])
        for sign in ("positive", "negative"):
            self._nll.labels(sign).set(_number(row.get(f"nll_{sign}")))
        self._step.set(row["step"])
        self._stepped.set_to_current_time()
        self._rate.observe(row)
        self._tokens.inc(row["trained_tokens"])
        self._groups.inc(row["groups"])
        self._late.inc(row["late"])
        self._unscored.inc(row["unscored_groups"])
        self._responses.observe(row)
        for field, seconds in row.items():
            if field == "step_s":
                self._steps.observe(seconds)
            elif field.endswith("_s"):
                self._phases.labels(field.removesuffix("_s")).inc(max(0.0, seconds))


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
