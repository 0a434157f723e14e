"""A run's recorded metrics: the JSON lines that its processes write, read while the files grow."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.rollout_files import first_records, last_records
from runtime.rollout_record import text_of

Row = dict[str, Any]
# The learner's lists of group ids, for audits, and what the evaluator found, which learner.cli.run.evaluations reads.
_NOT_METRICS = {"trained", "expired", "evaluations"}
_SAMPLES = 64  # groups from the beginning of a run, and from its end


class LineReader:
    """Follows a file of JSON lines. A line is read once it is complete; damaged lines are skipped.

    Attributes:
        path: the file, which need not exist yet.
        damaged: number of lines skipped because they were not JSON objects.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = 0
        self._offset = 0

    def read(self) -> list[Row]:
        """Reads the rows that have become complete since the last call. Raises OSError."""
        try:
            with self.path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._offset:  # it has been begun anew
                    self._offset = 0
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        complete = data[: data.rfind(b"\n") + 1]
        self._offset += len(complete)
        return [row for line in complete.splitlines() if (row := self._parse(line)) is not None]

    def _parse(self, line: bytes) -> Row | None:
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            self.damaged += 1
            return None
        return row


@dataclass
class LearnerHistory:
    """The learner's recorded rows on the surviving timeline: a resume from step c removes the steps after c.

    Attributes:
        recent: how many of the newest rows of each kind are kept; None: all.
        steps: step rows by step number, ascending.
        warmup: measurements of the supervised warm start.
        versions: published versions.
        checkpoints: saved checkpoints.
        starts: starts of the learner, each with the step it resumed from.
        skipped: number of steps that were skipped.
        alarms: alarms that were raised.
        rollbacks: rollbacks to earlier checkpoints.
        activity: what the learner waited for when it last said so; None if it never did.
        changes: changes of operators that it has applied or refused.
    """

    recent: int | None = None
    steps: dict[int, Row] = field(default_factory=dict)
    warmup: list[Row] = field(default_factory=list)
    versions: list[Row] = field(default_factory=list)
    checkpoints: list[Row] = field(default_factory=list)
    starts: list[Row] = field(default_factory=list)
    skipped: int = 0
    alarms: list[Row] = field(default_factory=list)
    rollbacks: list[Row] = field(default_factory=list)
    activity: Row | None = None
    changes: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Adds one row; ignores kinds that are not known."""
        match row.get("kind"):
            case "step":
                self.steps.pop(row["step"], None)
                self.steps[row["step"]] = row
            case "start":
                self.starts.append(row)
                self.steps = {step: old for step, old in self.steps.items() if step <= row["resumed_step"]}
            case "warmup":
                self.warmup.append(row)
            case "version":
                self.versions.append(row)
            case "checkpoint":
                self.checkpoints.append(row)
            case "skipped":
                self.skipped += 1
            case "alarm":
                self.alarms.append(row)
            case "rollback":
                self.rollbacks.append(row)
            case "activity":
                self.activity = row
            case "change":
                self.changes.append(row)
        self._forget()

    def _forget(self) -> None:
        if self.recent is None:
            return
        while len(self.steps) > self.recent:
            del self.steps[next(iter(self.steps))]
        for rows in (
            self.warmup,
            self.versions,
            self.checkpoints,
            self.starts,
            self.alarms,
            self.rollbacks,
            self.changes,
        ):
            del rows[: -self.recent]

    @property
    def paused(self) -> bool:
        """Whether an operator has paused the learner, by what it said last."""
        return self.activity is not None and self.activity["what"] == "paused"

    def phase(self, since: float) -> str:
        """What a learner that started at ``since`` (Unix seconds) is doing, as a word or two for the display."""
        if self.activity is not None and self.paused and self.activity["time"] >= max(since, self._newest):
            return "paused"
        stages = {"training": self.last(1), "waiting for rollouts": self.starts, "warm start": self.warmup}
        return next((name for name, rows in stages.items() if rows and rows[-1]["time"] >= since), "starting")

    @property
    def _newest(self) -> float:
        """When the newest step ended, or the learner began, in Unix seconds; 0 before both."""
        return max((rows[-1]["time"] for rows in (self.last(1), self.starts) if rows), default=0.0)

    def steady(self) -> list[Row]:
        """Step rows without the first after each start, which waits until engines have started."""
        first = {row["resumed_step"] + 1 for row in self.starts}
        return [row for row in self.steps.values() if row["step"] not in first]

    def last(self, count: int) -> list[Row]:
        """The newest ``count`` step rows, oldest first."""
        return list(self.steps.values())[-count:]


@dataclass
class WorkerHistory:
    """One rollout worker's recorded rows. Its counters start again at 0 when it restarts.

    Attributes:
        recent: how many of the newest rows of each kind are kept; None: all.
        progress: cumulative counters and rates, recorded at intervals.
        refits: versions loaded by an engine.
        refused: versions that did not pass verification.
        engines: state of each engine, by index.
    """

    recent: int | None = None
    progress: list[Row] = field(default_factory=list)
    refits: list[Row] = field(default_factory=list)
    refused: list[Row] = field(default_factory=list)
    engines: dict[int, str] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Adds one row; ignores kinds that are not known."""
        match row.get("kind"):
            case "progress":
                self.progress.append(row)
            case "refit":
                self.refits.append(row)
            case "refused":
                self.refused.append(row)
            case "engine":
                self.engines[row["engine"]] = row["state"]
        if self.recent is not None:
            for rows in (self.progress, self.refits, self.refused):
                del rows[: -self.recent]

    def total(self, key: str) -> float:
        """Total of a cumulative counter over all restarts of the worker."""
        return _increase(self.progress, key, 0.0)

    def rate(self, window_s: float) -> float:
        """Tokens generated per second over the last ``window_s`` seconds of reports; 0 with fewer than two reports."""
        end = self.progress[-1]["time"] if self.progress else 0.0
        rows = [row for row in self.progress[-1000:] if row["time"] >= end - window_s]
        if len(rows) < 2 or rows[-1]["time"] <= rows[0]["time"]:
            return 0.0
        return _increase(rows[1:], "tokens_generated", rows[0]["tokens_generated"]) / (end - rows[0]["time"])


class RunHistory:
    """All recorded metrics of a run. Call ``poll`` to read what is new.

    Args:
        directory: the run's metrics directory.
        recent: keep only so many of the newest rows of each kind, which bounds memory when a run is watched for weeks; totals
            then cover these rows only. None: keep all.

    Attributes:
        learner: the learner's rows.
        workers: each worker's rows, by the worker's name.
    """

    def __init__(self, directory: Path, recent: int | None = None) -> None:
        self._directory = directory
        self._recent = recent
        self._readers: dict[str, LineReader] = {}
        self.learner = LearnerHistory(recent)
        self.workers: dict[str, WorkerHistory] = {}

    def poll(self) -> RunHistory:
        """Reads the rows written since the last call; returns the history itself. Raises OSError."""
        for path in sorted(self._directory.glob("*.jsonl")):
            if path.stem in _NOT_METRICS:
                continue
            if path.stem not in self._readers:
                self._readers[path.stem] = LineReader(path)
                older = LineReader(path.with_name(f"{path.name}.1")).read()  # of a worker's file that was begun anew
            else:
                older = []
            rows = older + self._readers[path.stem].read()
            target = self.learner if path.stem == "learner" else self._worker(path.stem)
            for row in rows:
                target.add(row)
        return self

    def _worker(self, name: str) -> WorkerHistory:
        return self.workers.setdefault(name, WorkerHistory(self._recent))

    def tokens_generated(self) -> int:
        """Tokens generated by all workers, over all their restarts."""
        return int(sum(worker.total("tokens_generated") for worker in self.workers.values()))

    def generation_rate(self, window_s: float = 10.0, since: float = 0.0) -> float:
        """Tokens generated per second by all workers over the ``window_s`` seconds before each one's last report.

        Args:
            window_s: seconds of reports.
            since: Unix seconds; a worker that has reported nothing since then makes nothing.
        """
        reporting = [one for one in self.workers.values() if one.progress and one.progress[-1]["time"] >= since]
        return sum(worker.rate(window_s) for worker in reporting)


def _increase(rows: list[Row], key: str, before: float) -> float:
    """How much a counter rose over the rows, from ``before`` on; a fall means that it was restarted from 0."""
    total = 0.0
    for row in rows:
        value = row.get(key, 0.0)
        total += value - before if value >= before else value
        before = value
    return total


def mean(rows: list[Row], key: str) -> float | None:
    """Mean of ``key`` over the rows that have a value for it; None when no row has."""
    values = [row[key] for row in rows if row.get(key) is not None]
    return sum(values) / len(values) if values else None


@dataclass(frozen=True)
class Stretch:
    """Consecutive steps whose rows have the same value of some key, such as the objective.

    Attributes:
        value: the value.
        first: the first of the steps.
        last: the last of them.
    """

    value: str
    first: int
    last: int


def stretches(rows: list[Row], key: str) -> list[Stretch]:
    """Splits step rows, in ascending order, where the value of ``key`` changes; rows without one are passed over."""
    found: list[Stretch] = []
    for row in rows:
        value = row.get(key)
        if not value:
            continue
        if found and found[-1].value == value:
            found[-1] = Stretch(value, found[-1].first, row["step"])
        else:
            found.append(Stretch(value, row["step"], row["step"]))
    return found


def read_samples(rollouts: Path) -> list[Row]:
    """Reads a response of each of the first and the last recorded groups of a run; oldest first. Raises OSError.

    Args:
        rollouts: the run's directory of recorded groups.

    Returns:
        Rows with time, version, prompt, response, and reward, which is None where no response of the group has one.
    """
    groups = {one.group_id: one for one in [*first_records(rollouts, _SAMPLES), *last_records(rollouts, _SAMPLES)]}
    rows = []
    for group in groups.values():
        shown = next((one for one in group.responses if one.reward is not None), None)
        if shown is None and group.responses:
            shown = group.responses[0]
        if shown is not None and group.versions:
            row = {"time": group.time, "version": group.versions[-1], "prompt": text_of(group.prompt)}
            rows.append({**row, "response": text_of(shown.turns), "reward": shown.reward})
    return rows
