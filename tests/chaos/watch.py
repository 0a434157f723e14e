"""Follows the progress of a stack through the logs of its processes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.chaos.tail import Tail


class Watch:
    """Counters over the logs of a stack; ``poll`` brings them up to date.

    Attributes:
        steps: optimizer steps seen, over all learners.
        epoch: epoch of the newest learner that has trained a step.
        epochs: epoch of each learner that has begun -> the step it resumed at.
        rollbacks: number of the newest rollback.
        answers: producer -> number of acks of any outcome, and of grants or refusals of leases.
    """

    def __init__(self, directory: Path) -> None:
        self.steps = 0
        self.epoch = 0
        self.begun = 0.0  # Unix seconds: when the newest learner had taken over the queue
        self.epochs: dict[int, int] = {}
        self.rollbacks = 0
        self.events: Counter[str] = Counter()  # of the learner, by kind
        self.answers: Counter[str] = Counter()
        self._directory = directory
        self._acked: Counter[str] = Counter()
        self._learner = Tail(directory / "metrics/learner.jsonl")
        self._producers: dict[str, Tail] = {}

    def acked(self, producer: str) -> int:
        """Number of acknowledged groups of a producer or the worker."""
        return self._acked[producer]

    def poll(self) -> None:
        for row in self._learner.rows():
            self.events[row["kind"]] += 1
            if row["kind"] == "step":
                self.steps += 1
                self.epoch = max(self.epoch, row["epoch"])
            elif row["kind"] == "start":
                self.epochs[row["epoch"]] = row["resumed_step"]
                self.begun = row["time"]
            elif row["kind"] == "rollback":
                self.rollbacks = row["number"]
        for path in self._logs():
            name = path.name.partition(".")[0]
            for row in self._producers.setdefault(name, Tail(path)).rows():
                self.answers[name] += row.get("kind", "ack") != "made"
                # A worker's log has acknowledged groups only, and no outcome.
                self._acked[name] += row.get("kind", "ack") == "ack" and row.get("outcome") != "REJECTED"

    def _logs(self) -> list[Path]:
        return [*self._directory.glob("producers/*.jsonl"), *self._directory.glob("state/*.acked.jsonl")]
