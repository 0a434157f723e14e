"""The Prometheus metrics of a rollout worker; deploy/metrics.md lists them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from leeway.v1 import rollout_pb2
from rollout.client import SubmitClient
from rollout.engine.observer import FAILURES, Failure, ReplicaState
from rollout.engine.pool import EnginePool
from rollout.generation.generated import MadeGroup
from rollout.generation.withdrawal import REASONS, UNSCORED, Withdrawal, known
from rollout.telemetry.endpoint_metrics import EndpointMetrics
from rollout.telemetry.engine_metrics import declare_engine_metrics
from rollout.telemetry.episode_metrics import EpisodeMetrics
from rollout.telemetry.record_metrics import RecordMetrics
from rollout.telemetry.task_metrics import TaskMetrics
from runtime.certificates import expiry
from runtime.metric_registry import MetricRegistry
from runtime.status import Heartbeat

_LOOP_S = 30.0  # an event loop that stands still for longer counts as stuck
_REFIT_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 300.0)
_STATES: tuple[ReplicaState, ...] = ("starting", "stale", "serving", "dead")


class WorkerMetrics:
    """A worker's metrics.

    Args:
        engines: number of the worker's engines.
        tasks: the labels of its tasks.
        certificate: file of its client certificate; None without one.

    Attributes:
        loop: heartbeat of the worker's event loop.
        endpoint: metrics of the endpoint that agents call.
        episodes: metrics of episodes.
        records: metrics of recorded groups.
        tasks: metrics by task.
        registry: every metric declared here.
    """

    def __init__(self, engines: int, tasks: Sequence[str], certificate: Path | None = None) -> None:
        self.loop = Heartbeat("the event loop", _LOOP_S)
        self.registry = made = MetricRegistry()
        self._state: dict[int, ReplicaState] = {}
        self._worked = 0.0, 0.0
        made.read_all("leeway_worker_engines", "Engines by state.", ("state",), self._by_state)
        made.read(
            "leeway_worker_certificate_expiry_timestamp_seconds",
            "When the client certificate in tls.certificate expires; 0 if it cannot be read, +Inf without one.",
            lambda: math.inf if certificate is None else expiry(certificate),
        )
        self._restarts = made.counter(
            "leeway_worker_engine_restarts_total", "Starts of an engine after its first.", ("engine",)
        )
        self._failed_requests = made.counter(
            "leeway_worker_failed_requests_total",
            "Requests that an engine did not answer or not usably, by reason; each is tried again.",
            ("engine", "reason"),
        )
        self._refits = made.histogram(
            "leeway_worker_refit_seconds", "Loading a version into an engine, running requests paused.", _REFIT_S
        )
        self._version = made.gauge("leeway_worker_engine_version", "Version an engine loaded last.", ("engine",))
        self._refused = made.counter(
            "leeway_worker_refused_versions_total",
            "Published versions that were damaged, not of this model, or at a place that allowed_uris does not list.",
        )
        self._fetch_failures = made.counter(
            "leeway_worker_fetch_failures_total",
            "Attempts to fetch a published version that failed; each is made again.",
        )
        self._groups = made.counter(
            "leeway_worker_groups_total", "Groups generated, and by final ack accepted or rejected.", ("stage",)
        )
        self._responses = made.counter("leeway_worker_responses_total", "Responses generated.")
        self._tokens = made.counter("leeway_worker_tokens_total", "Response tokens generated.")
        self._reward = made.gauge("leeway_worker_reward", "Mean reward of the last complete request.")
        self._reward.set(math.nan)
        self._skipped = made.counter("leeway_worker_skipped_prompts_total", "Prompts given up: no engine could answer.")
        self._withdrawn = made.counter(
            "leeway_worker_withdrawn_groups_total", "Groups generated and not submitted, by reason.", ("reason",)
        )
        self._wasted = made.counter(
            "leeway_worker_wasted_tokens_total",
            "Generated tokens of groups that were not submitted, by the reason of their withdrawal.",
            ("reason",),
        )
        self._truncated = made.counter(
            "leeway_worker_truncated_responses_total",
            "Responses that max_new_tokens cut off, in groups that were submitted or not.",
        )
        self._waited = made.counter(
            "leeway_worker_lease_wait_seconds_total", "Time that request slots waited for a lease, summed."
        )
        self._lost_leases = made.counter(
            "leeway_worker_lost_leases_total", "Leases that could not be renewed while their groups were being made."
        )
        self._unscored = made.counter(
            "leeway_worker_unscored_responses_total",
            "Responses in submitted groups that nobody has judged, by reason; they carry no loss.",
            ("reason",),
        )
        self.endpoint = EndpointMetrics(made)
        self.episodes = EpisodeMetrics(made)
        self.records = RecordMetrics(made)
        self.tasks = TaskMetrics(made, tasks)
        for reason in UNSCORED:
            self._unscored.labels(reason)
        for stage in ("generated", "accepted", "rejected"):
            self._groups.labels(stage)
        for reason in REASONS:
            self._withdrawn.labels(reason)
            self._wasted.labels(reason)
        for engine in range(engines):
            self._restarts.labels(str(engine))
            for reason in FAILURES:
                self._failed_requests.labels(str(engine), reason)

    def follow(self, client: SubmitClient, pool: EnginePool) -> None:
        """Declares the metrics that every scrape reads from the client and the engine pool."""
        made = self.registry
        declare_engine_metrics(made, pool)
        made.read(
            "leeway_worker_ready",
            "1 while /readyz answers 200: an engine serves the current version.",
            lambda: float(pool.behind() is None),
        )
        made.read("leeway_worker_unacked_groups", "Groups submitted and not acknowledged yet.", lambda: client.unacked)
        made.read("leeway_worker_retries_total", "RETRY acks obeyed.", lambda: client.retried)
        made.read(
            "leeway_worker_reconnects_total", "Submit streams opened after the first.", lambda: client.reconnected
        )
        made.read(
            "leeway_worker_version",
            "Oldest version that an engine serves; NaN while none does.",
            lambda: _version_or_nan(pool),
        )
        made.read("leeway_worker_busy_seconds_total", "Time with a request under way.", lambda: self._worked[0])
        made.read(
            "leeway_worker_idle_seconds_total",
            "Time without a request under way, since an engine first served.",
            lambda: self._worked[1],
        )

    def generated(self, groups: int, tokens: int, rewards: Sequence[float], unscored: Sequence[str]) -> None:
        """Counts a complete request.

        Args:
            groups: number of its groups.
            tokens: number of their response tokens.
            rewards: of the responses that have one.
            unscored: of the others, why they have none.
        """
        self._groups.labels("generated").inc(groups)
        self._responses.inc(len(rewards) + len(unscored))
        self._tokens.inc(tokens)
        for reason in unscored:
            self._unscored.labels(reason).inc()
        if rewards:
            self._reward.set(sum(rewards) / len(rewards))

    def acknowledged(self, ack: rollout_pb2.Ack) -> None:
        """Counts a group's final ack as accepted or rejected."""
        rejected = ack.outcome == rollout_pb2.OUTCOME_REJECTED
        self._groups.labels("rejected" if rejected else "accepted").inc()

    def progressed(self, busy_s: float, idle_s: float) -> None:
        """Beats the event loop's heartbeat and sets the seconds with and without a request under way, so far."""
        self.loop.beat()
        self._worked = busy_s, idle_s

    def waited(self, seconds: float) -> None:
        """Counts the time that a request slot has to wait for a lease."""
        self._waited.inc(seconds)

    def leases_lost(self, leases: int) -> None:
        """Counts leases that could not be renewed."""
        self._lost_leases.inc(leases)

    def skipped(self, prompts: int) -> None:
        """Counts prompts that were given up."""
        self._skipped.inc(prompts)

    def withdrawn(self, reason: str, groups: int) -> None:
        """Counts groups that are not submitted, by reason."""
        self._withdrawn.labels(reason).inc(groups)

    def wasted(self, made: MadeGroup) -> None:
        """Counts the tokens of a group that is not submitted; those of another one are not wasted."""
        if isinstance(made.group, Withdrawal):
            self._wasted.labels(known(made.group.reason)).inc(made.generated_tokens)

    def truncated(self, responses: int) -> None:
        """Counts responses that the length limit cut off."""
        self._truncated.inc(responses)

    def fetch_failed(self) -> None:
        """Counts an attempt to fetch a version that failed."""
        self._fetch_failures.inc()

    def refused(self) -> None:
        """Counts a published version that was not loaded."""
        self._refused.inc()

    def engine_state(self, engine: int, state: ReplicaState) -> None:
        """Sets an engine's state; "starting" counts as a restart, except the first time."""
        if state == "starting" and engine in self._state:
            self._restarts.labels(str(engine)).inc()
        self._state[engine] = state

    def request_failed(self, engine: int, failure: Failure) -> None:
        """Counts a request that an engine did not answer."""
        self._failed_requests.labels(str(engine), failure).inc()

    def engine_refit(self, engine: int, version: int, seconds: float) -> None:
        """Records the version that an engine has loaded, and the seconds it took."""
        self._refits.observe(seconds)
        self._version.labels(str(engine)).set(version)

    def _by_state(self) -> dict[tuple[str, ...], float]:
        states = list(dict(self._state).values())
        return {(state,): states.count(state) for state in _STATES}


def _version_or_nan(pool: EnginePool) -> float:
    version = pool.running_version()
    return math.nan if version is None else version
