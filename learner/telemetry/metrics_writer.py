"""The learner's record: JSON lines for machines, loggers and Prometheus for people. Written by rank 0 only.

``learner.jsonl`` holds the numbers. ``trained.jsonl`` holds which groups each step trained, ``expired.jsonl`` which were
too old when taken: an account that is kept apart from the ledger, so that the ledger can be checked against it.
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
        directory: made when missing.
        loggers: their names.
        run: its name.
        meters: what Prometheus sees; None: nothing.

    Raises:
        SettingsError: a logger is not installed or cannot be started.
    """

    def __init__(self, directory: Path, loggers: Sequence[str], run: str, meters: RunMetrics | None = None) -> None:
        self._meters = meters
        directory.mkdir(parents=True, exist_ok=True)
        self._file = _appending(directory / "learner.jsonl")
        self._trained = _appending(directory / "trained.jsonl")
        self._expired = _appending(directory / "expired.jsonl")
        self._loggers = Loggers(loggers, directory, run)

    def close(self) -> None:
        self._file.close()
        self._trained.close()
        self._expired.close()
        self._loggers.close()

    def event(self, kind: str, **values: Any) -> None:
        """One row of a kind: "start", "warmup", "version", "checkpoint", "skipped", "alarm". JSON knows no NaN: null."""
        if self._meters is not None:
            self._meters.event(kind, values)
        row = {name: None if _broken(value) else value for name, value in values.items()}
        self._file.write(json.dumps({"kind": kind, "time": time.time(), **row}) + "\n")

    def trained(self, step: int, epoch: int, refs: Sequence[GroupRef]) -> None:
        """Which groups a step trained, whether or not its weights survive."""
        row = {"step": step, "epoch": epoch, "groups": [[ref.fleet, ref.group_id] for ref in refs]}
        self._trained.write(json.dumps(row) + "\n")

    def untrained(self, outcome: str, step: int, refs: Sequence[GroupRef]) -> None:
        """Which groups a take is about to count as "expired" (or "lost") instead of handing them out."""
        row = {"step": step, "outcome": outcome, "groups": [[ref.fleet, ref.group_id] for ref in refs]}
        self._expired.write(json.dumps(row) + "\n")

    def step(self, values: dict[str, Any]) -> None:
        """The row of an optimizer step; ``values["step"]`` numbers it."""
        self.event("step", **values)
        numbers = {name: float(value) for name, value in values.items() if isinstance(value, (int, float))}
        self._loggers.log(int(values["step"]), {name: x for name, x in numbers.items() if name != "step"})


def _appending(path: Path) -> TextIO:
    """The file, to append whole lines to; a learner that was killed, or met a full disk, may have left half of one."""
    file = path.open("a+", buffering=1)
    file.seek(max(0, file.tell() - 1))
    if file.read(1) not in ("", "\n"):
        file.write("\n")
    return file


def _broken(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
