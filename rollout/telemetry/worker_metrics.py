"""What a rollout worker shows Prometheus. The reference is deploy/metrics.md."""

from __future__ import annotations

import math
from collections.abc import Sequence

from leeway.v1 import rollout_pb2
from rollout.client.client import SubmitClient
from rollout.engine.observer import State
from rollout.engine.pool import EnginePool
from runtime.metric_registry import MetricRegistry
from runtime.status import Heartbeat

_LOOP_S = 30.0  # an event loop that stands still for longer is stuck for good
_REFIT_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 300.0)
_STATES: tuple[State, ...] = ("starting", "stale", "serving", "dead")


class WorkerMetrics:
    """A worker's metrics.

    Args:
        engines: how many it has.

    Attributes:
        loop: beaten by the worker's event loop.
        instruments: what /metrics shows.
    """

    def __init__(self, engines: int) -> None:
        self.loop = Heartbeat("the event loop", _LOOP_S)
        self.instruments = made = MetricRegistry()
        self._state: dict[int, State] = {}
        self._worked = 0.0, 0.0
        made.read_all("leeway_worker_engines", "Engines by state.", ("state",), self._by_state)
        self._restarts = made.counter("leeway_worker_engine_restarts_total", "Lives after the first.", ("engine",))
        self._refits = made.histogram(
            "leeway_worker_refit_seconds", "Loading a version into an engine, running requests paused.", _REFIT_S
        )
        self._version = made.gauge("leeway_worker_engine_version", "What an engine was last given.", ("engine",))
        self._refused = made.counter(
            "leeway_worker_refused_versions_total", "Published versions that were damaged or not this model's."
        )
        self._groups = made.counter(
            "leeway_worker_groups_total", "Groups generated, and by final ack accepted or rejected.", ("stage",)
        )
        self._responses = made.counter("leeway_worker_responses_total", "Responses generated.")
        self._tokens = made.counter("leeway_worker_tokens_total", "Response tokens generated.")
        self._reward = made.gauge("leeway_worker_reward", "Mean reward of the last complete request.")
        self._reward.set(math.nan)
        self._skipped = made.counter("leeway_worker_skipped_prompts_total", "Prompts given up: no engine could answer.")
        self._waited = made.counter(
            "leeway_worker_lease_wait_seconds_total", "Time that request slots waited for leave to generate, summed."
        )
        for stage in ("generated", "accepted", "rejected"):
            self._groups.labels(stage)
        for engine in range(engines):
            self._restarts.labels(str(engine))

    def follow(self, client: SubmitClient, fleet: EnginePool) -> None:
        """Shows what these two know from here on."""
        made = self.instruments
        made.read(
            "leeway_worker_ready",
            "1 while /readyz says so: an engine serves the current version.",
            lambda: float(fleet.behind() is None),
        )
        made.read("leeway_worker_unacked_groups", "Submitted, and not acknowledged yet.", lambda: client.unacked)
        made.read("leeway_worker_retries_total", "RETRY acks obeyed.", lambda: client.retried)
        made.read(
            "leeway_worker_reconnects_total", "Submit streams opened after the first.", lambda: client.reconnected
        )
        made.read(
            "leeway_worker_version",
            "Oldest version that an engine serves; NaN while none does.",
            lambda: _number(fleet),
        )
        made.read("leeway_worker_busy_seconds_total", "Time with a request under way.", lambda: self._worked[0])
        made.read(
            "leeway_worker_idle_seconds_total",
            "Time with none, since an engine first served.",
            lambda: self._worked[1],
        )

    def generated(self, groups: int, tokens: int, rewards: Sequence[float]) -> None:
        """A request is complete: how many groups, response tokens, and each response's reward."""
        self._groups.labels("generated").inc(groups)
        self._responses.inc(len(rewards))
        self._tokens.inc(tokens)
        if rewards:
            self._reward.set(sum(rewards) / len(rewards))

    def acknowledged(self, ack: rollout_pb2.Ack) -> None:
        """A group's final ack."""
        rejected = ack.outcome == rollout_pb2.OUTCOME_REJECTED
        self._groups.labels("rejected" if rejected else "accepted").inc()

    def progressed(self, busy_s: float, idle_s: float) -> None:
        """The event loop turns; seconds with and without a request under way, so far."""
        self.loop.beat()
        self._worked = busy_s, idle_s

    def waited(self, seconds: float) -> None:
        """A request slot got no lease and waits."""
        self._waited.inc(seconds)

    def skipped(self, prompts: int) -> None:
        """Prompts were given up."""
        self._skipped.inc(prompts)

    def refused(self) -> None:
        """A version was not loaded."""
        self._refused.inc()

    def engine_state(self, engine: int, state: State) -> None:
        """An engine went into a state."""
        if state == "starting" and engine in self._state:
            self._restarts.labels(str(engine)).inc()
        self._state[engine] = state

    def engine_refit(self, engine: int, version: int, seconds: float) -> None:
        """An engine has a version."""
        self._refits.observe(seconds)
        self._version.labels(str(engine)).set(version)

    def _by_state(self) -> dict[tuple[str, ...], float]:
        states = list(dict(self._state).values())
        return {(state,): states.count(state) for state in _STATES}


def _number(fleet: EnginePool) -> float:
    version = fleet.running_version()
    return math.nan if version is None else version
