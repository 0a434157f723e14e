"""Writes the learner's metrics on rank 0: JSON lines for programs, experiment loggers and Prometheus for people.

``learner.jsonl`` has the numbers. ``trained.jsonl`` lists the groups that each step trained, ``expired.jsonl`` those that
were too old when taken: records independent of the ledger in Redis, so that the ledger can be checked against them.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from learner.queue import GroupRef
from learner.telemetry.flat_fields import numbers, shown_config
from learner.telemetry.loggers import Loggers
from learner.telemetry.run_metrics import RunMetrics


class MetricsWriter:
    """Appends rows to ``learner.jsonl``, shows them to Prometheus and sends the numbers of step rows to the loggers.

    Args:
        directory: where the files go; made if it does not exist.
        loggers: names of experiment loggers, as in ``LearnerConfig.loggers``.
        run: the run's name.
        run_metrics: Prometheus metrics that every row updates; None for none.
        settings: the run's settings as JSON values; loggers show them without credentials.

    Raises:
        SettingsError: a logger is not installed or cannot be started.
    """

    def __init__(
        self,
        directory: Path,
        loggers: Sequence[str],
        run: str,
        run_metrics: RunMetrics | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._run_metrics = run_metrics
        directory.mkdir(parents=True, exist_ok=True)
        self._file = _appending(directory / "learner.jsonl")
        self._trained = _appending(directory / "trained.jsonl")
        self._expired = _appending(directory / "expired.jsonl")
        shown = shown_config(settings or {})
        self._loggers = Loggers(loggers, directory, run, shown, self._logger_dropped)

    def planned(self, steps: int) -> None:
        """Shows how many steps the run is to make."""
        if self._run_metrics is not None:
            self._run_metrics.planned(steps)

    def close(self) -> None:
        """Closes the loggers and the files."""
        self._loggers.close()
        self._file.close()
        self._trained.close()
        self._expired.close()

    def event(self, kind: str, **values: Any) -> None:
        """Appends one row to ``learner.jsonl``.

        Args:
            kind: "start", "step", "warmup", "version", "checkpoint", "skipped", "alarm", ...
            values: the row's fields. NaN and infinities, which JSON does not have, become null.
        """
        if self._run_metrics is not None:
            self._run_metrics.event(kind, values)
        self._file.write(json.dumps({"kind": kind, "time": time.time(), **_finite(values)}) + "\n")

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
        self._loggers.log(int(values["step"]), numbers(values))

    def _logger_dropped(self, name: str, reason: str) -> None:
        self.event("logger_dropped", logger=name, reason=reason)


def _appending(path: Path) -> TextIO:
    """Opens a file to append lines; first ends a partial line, which a killed learner or a full disk may have left."""
    file = path.open("a+", buffering=1)
    file.seek(max(0, file.tell() - 1))
    if file.read(1) not in ("", "\n"):
        file.write("\n")
    return file


def _finite(value: Any) -> Any:
    """Returns the value with None for floats that JSON cannot represent, in nested fields too."""
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
