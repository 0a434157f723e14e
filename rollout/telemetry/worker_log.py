"""The files a worker writes: progress lines, rollouts as text, and the ids of accepted groups."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from leeway.v1 import rollout_pb2
from rollout.config import WorkerConfig
from rollout.engine.busy_clock import BusyClock
from rollout.engine.observer import Failure, ReplicaState
from rollout.generation.generated import Generated
from rollout.generation.group import generated_tokens
from rollout.generation.withdrawal import known
from rollout.telemetry.jsonl import JsonLines
from rollout.telemetry.rollout_log import RolloutLog
from rollout.telemetry.worker_metrics import WorkerMetrics
from rollout.versions.manifest import FetchError, VersionError


@dataclass
class _Counts:
    """Counters of the progress lines; they start at 0 with the process."""

    groups_generated: int = 0
    groups_accepted: int = 0
    groups_rejected: int = 0
    groups_withdrawn: int = 0
    tokens_generated: int = 0


class WorkerLog:
    """The log files of one worker, of bounded size; every event is counted in its metrics too.

    metrics/<worker>.jsonl: progress once a second, refits, engine states, versions that were refused or could not be fetched.
    rollouts/<worker>-<number>.jsonl: whole groups; see RolloutLog.
    state/<worker>.acked.jsonl: one line per accepted group: the producer's side of the ledger.
    """

    def __init__(self, config: WorkerConfig, metrics: WorkerMetrics) -> None:
        self._metrics = metrics
        self._labels = [task.label for task in config.task]
        directory = config.metrics_dir or config.state_dir.parent / "metrics"
        self._events = JsonLines(directory / f"{config.name}.jsonl", config.file_bytes)
        self._rollouts = RolloutLog(config, metrics.records)
        self._acked = JsonLines(config.state_dir / f"{config.name}.acked.jsonl", config.file_bytes)
        self._counts = _Counts()
        self._rewards: list[float] = []  # since the last progress line
        self._reward: float | None = None  # mean of the last progress line that had any
        self._last = (time.monotonic(), 0)  # time and tokens_generated of the last progress line

    def generated(self, made: Generated) -> None:
        """Counts the groups of a complete request, and records one of them now and then."""
        for one in made.groups:
            self._rollouts.keep(one)
            self._metrics.truncated(one.truncated)
            self._metrics.wasted(one)
            self._metrics.tasks.made(self._labels[one.asked.task], one)
        groups = made.submitted
        if not groups:
            return
        responses = [response for group in groups for response in group.responses]
        tokens = sum(map(generated_tokens, responses))
        rewards = [response.reward for response in responses if not response.unscored]
        unscored = [known(response.unscored) for response in responses if response.unscored]
        self._metrics.generated(len(groups), tokens, rewards, unscored)
        self._counts.groups_generated += len(groups)
        self._counts.tokens_generated += tokens
        self._rewards += rewards

    def acknowledged(self, ack: rollout_pb2.Ack) -> None:
        """Counts a group's final ack; the id of an accepted one is written."""
        self._metrics.acknowledged(ack)
        if ack.outcome == rollout_pb2.OUTCOME_REJECTED:
            self._counts.groups_rejected += 1
            return
        self._counts.groups_accepted += 1
        self._acked.append(group_id=ack.group_id)

    def waited(self, seconds: float) -> None:
        """Counts the time that a request slot has to wait for a lease."""
        self._metrics.waited(seconds)

    def leases_lost(self, lease_ids: Sequence[str]) -> None:
        """Counts leases that could not be renewed while their groups were being made."""
        self._metrics.leases_lost(len(lease_ids))

    def skipped(self, prompts: int) -> None:
        """Counts prompts that were given up because no engine could answer them."""
        self._metrics.skipped(prompts)

    def withdrawn(self, reason: str, groups: int = 1) -> None:
        """Counts groups that were generated and are not submitted, by reason."""
        self._metrics.withdrawn(reason, groups)
        self._counts.groups_withdrawn += groups

    def refused(self, version: int, error: VersionError) -> None:
        """Records a published version that failed its verification and was not loaded."""
        self._metrics.refused()
        self._events.append(kind="refused", version=version, reason=str(error))

    def fetch_failed(self, version: int, error: FetchError) -> None:
        """Records an attempt to fetch a published version that failed and is made again."""
        self._metrics.fetch_failed()
        self._events.append(kind="fetch_failed", version=version, reason=str(error))

    def engine_state(self, engine: int, state: ReplicaState) -> None:
        """Records an engine's change of state."""
        self._metrics.engine_state(engine, state)
        self._events.append(kind="engine", engine=engine, state=state)

    def engine_refit(self, engine: int, version: int, seconds: float) -> None:
        """Records that an engine has loaded a version."""
        self._metrics.engine_refit(engine, version, seconds)
        self._events.append(kind="refit", engine=engine, version=version, seconds=round(seconds, 4))

    def request_failed(self, engine: int, failure: Failure) -> None:
        """Counts a request that an engine did not answer."""
        self._metrics.request_failed(engine, failure)

    def progress(self, version: int | None, engines_serving: int, clock: BusyClock) -> None:
        """Writes a progress line: counters since the start, tokens/s and mean reward since the line before.

        The reward is the last known one when no request was completed since then.
        """
        now, tokens = time.monotonic(), self._counts.tokens_generated
        since, before = self._last
        busy, idle = clock.read()
        self._metrics.progressed(busy, idle)
        if self._rewards:
            self._reward = sum(self._rewards) / len(self._rewards)
        self._events.append(
            kind="progress",
            **vars(self._counts),
            tokens_per_s=round((tokens - before) / max(now - since, 1e-9), 1),
            reward=self._reward,
            version=version,
            engines_serving=engines_serving,
            generate_s=round(busy, 3),
            idle_s=round(idle, 3),
        )
        self._last = (now, tokens)
        self._rewards = []

    def close(self) -> None:
        """Closes the files."""
        for lines in (self._events, self._rollouts, self._acked):
            lines.close()
