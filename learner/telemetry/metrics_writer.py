"""Writes the learner's metrics on rank 0: JSON lines for programs, experiment loggers and Prometheus for people.

``learner.jsonl`` has the numbers. ``trained.jsonl`` lists the groups that each step trained, ``expired.jsonl`` those that
were too old when taken: records independent of the ledger in Redis, so that the ledger can be checked against them.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from learner.queue import GroupRef
from learner.telemetry.loggers import Loggers
from learner.telemetry.run_metrics import RunMetrics


class MetricsWriter:
    """Appends rows to ``learner.jsonl``, shows them to Prometheus and sends the numbers of step rows to the loggers.

    Args:
        directory: where the files go; made if it does not exist.
        loggers: names of experiment loggers, as in ``LearnerConfig.loggers``.
        run: the run's name.
        run_metrics: Prometheus metrics that every row updates; None for none.

    Raises:
        SettingsError: a logger is not installed or cannot be started.
    """

    def __init__(
        self, directory: Path, loggers: Sequence[str], run: str, run_metrics: RunMetrics | None = None
    ) -> None:
        self._run_metrics = run_metrics
        directory.mkdir(parents=True, exist_ok=True)
        self._file = _appending(directory / "learner.jsonl")
        self._trained = _appending(directory / "trained.jsonl")
        self._expired = _appending(directory / "expired.jsonl")
        self._loggers = Loggers(loggers, directory, run)

    def close(self) -> None:
        """Closes the files and the loggers."""
        self._file.close()
        self._trained.close()
        self._expired.close()
        self._loggers.close()

    def event(self, kind: str, **values: Any) -> None:
        """Appends one row to ``learner.jsonl``.

        Args:
            kind: "start", "step", "warmup", "version", "checkpoint", "skipped", "alarm", ...
            values: the row's fields. NaN and infinities, which JSON does not have, become null.
        """
        if self._run_metrics is not None:
            self._run_metrics.event(kind, values)
        row = {name: None if _not_finite(value) else value for name, value in values.items()}
        self._file.write(json.dumps({"kind": kind, "time": time.time(), **row}) + "\n")

    def trained(self, step: int, epoch: int, refs: Sequence[GroupRef]) -> None:
        """Appends a step's groups to ``trained.jsonl``, whether or not a checkpoint will contain the step."""
        row = {"step": step, "epoch": epoch, "groups": [[ref.fleet, ref.group_id] for ref in refs]}
        self._trained.write(json.dumps(row) + "\n")

    def untrained(self, outcome: str, step: int, refs: Sequence[GroupRef]) -> None:
        """Appends groups to ``expired.jsonl`` that are about to be counted as "expired" or "lost" and not trained."""
        row = {"step": step, "outcome": outcome, "groups": [[ref.fleet, ref.group_id] for ref in refs]}
        self._expired.write(json.dumps(row) + "\n")

    def step(self, values: dict[str, Any]) -> None:
        """Appends the row of an optimizer step, and sends its numbers to the loggers; ``values["step"]`` is its number."""
        self.event("step", **values)
        numbers = {name: float(value) for name, value in values.items() if isinstance(value, (int, float))}
        self._loggers.log(int(values["step"]), {name: x for name, x in numbers.items() if name != "step"})


def _appending(path: Path) -> TextIO:
    """Opens a file to append lines; first ends a partial line, which a killed learner or a full disk may have left."""
    file = path.open("a+", buffering=1)
    file.seek(max(0, file.tell() - 1))
    if file.read(1) not in ("", "\n"):
        file.write("\n")
    return file


def _not_finite(value: Any) -> bool:
    """Whether the value is a float that JSON cannot represent."""
    return isinstance(value, float) and not math.isfinite(value)
