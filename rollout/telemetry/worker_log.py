"""What a worker writes about its work: metrics, sample responses, and the ids whose acceptance it saw."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from leeway.v1 import rollout_pb2
from rollout.config import WorkerConfig
from rollout.engine.busy_clock import BusyClock
from rollout.engine.observer import State
from rollout.telemetry.jsonl import JsonLines
from rollout.telemetry.worker_metrics import WorkerMetrics
from rollout.versions.verifier import VersionError

_SAMPLES = 4  # responses, to different prompts, logged at a time


@dataclass
class _Counts:
    groups_generated: int = 0
    groups_accepted: int = 0
    groups_rejected: int = 0
    tokens_generated: int = 0


@dataclass(frozen=True)
class Sample:
    """One response as a person reads it."""

    prompt: str
    response: str
    reward: float


class WorkerLog:
    """The files of one worker. Counters start at 0 with the process.

    metrics/<worker>.jsonl: progress once a second, refits, engine states, refused versions.
    state/<worker>.samples.jsonl: a few responses every ``sample_every_s``.
    state/<worker>.acked.jsonl: one line per accepted group: the producer's side of the account.
    """

    def __init__(self, config: WorkerConfig, meters: WorkerMetrics) -> None:
        self._meters = meters
        metrics = config.metrics_dir or config.state_dir.parent / "metrics"
        self._metrics = JsonLines(metrics / f"{config.name}.jsonl")
        self._samples = JsonLines(config.state_dir / f"{config.name}.samples.jsonl")
        self._acked = JsonLines(config.state_dir / f"{config.name}.acked.jsonl")
        self._every_s = config.sample_every_s
        self._next_sample = 0.0
        self._counts = _Counts()
        self._rewards: list[float] = []  # since the last progress line
        self._reward: float | None = None  # the mean when last there was one
        self._last = (time.monotonic(), 0)  # when progress was last written, tokens then

    def generated(self, groups: Sequence[rollout_pb2.Group], samples: Sequence[Sample]) -> None:
        """A request is complete: its groups, and some of its responses, of which a few are logged now and then."""
        responses = [response for group in groups for response in group.responses]
        tokens, rewards = sum(len(response.tokens) // 4 for response in responses), [one.reward for one in responses]
        self._meters.generated(len(groups), tokens, rewards)
        self._counts.groups_generated += len(groups)
        self._counts.tokens_generated += tokens
        self._rewards += rewards
        now = time.monotonic()
        if now >= self._next_sample:
            self._next_sample = now + self._every_s
            version = max(span.version for response in responses for span in response.spans)
            for sample in samples[:_SAMPLES]:
                self._samples.append(version=version, **vars(sample))

    def acknowledged(self, ack: rollout_pb2.Ack) -> None:
        """A group's final ack."""
        self._meters.acknowledged(ack)
        if ack.outcome == rollout_pb2.OUTCOME_REJECTED:
            self._counts.groups_rejected += 1
            return
        self._counts.groups_accepted += 1
        self._acked.append(group_id=ack.group_id)

    def waited(self, seconds: float) -> None:
        """A request slot has no lease and waits."""
        self._meters.waited(seconds)

    def skipped(self, prompts: int) -> None:
        """Prompts were given up: no engine could answer them."""
        self._meters.skipped(prompts)

    def refused(self, version: int, error: VersionError) -> None:
        """A published version was not loaded."""
        self._meters.refused()
        self._metrics.append(kind="refused", version=version, reason=str(error))

    def engine_state(self, engine: int, state: State) -> None:
        """An engine went into a state."""
        self._meters.engine_state(engine, state)
        self._metrics.append(kind="engine", engine=engine, state=state)

    def engine_refit(self, engine: int, version: int, seconds: float) -> None:
        """An engine has a version."""
        self._meters.engine_refit(engine, version, seconds)
        self._metrics.append(kind="refit", engine=engine, version=version, seconds=round(seconds, 4))

    def progress(self, version: int | None, engines_serving: int, clock: BusyClock) -> None:
        """One line: counters since the start; tokens/s and mean reward since the line before (or the last known)."""
        now, tokens = time.monotonic(), self._counts.tokens_generated
        since, before = self._last
        busy, idle = clock.read()
        self._meters.progressed(busy, idle)
        if self._rewards:
            self._reward = sum(self._rewards) / len(self._rewards)
        self._metrics.append(
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
        for lines in (self._metrics, self._samples, self._acked):
            lines.close()
