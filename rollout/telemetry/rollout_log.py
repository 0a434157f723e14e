"""The rollouts that a worker keeps as text: whole groups, in files of limited size of which the first is never deleted."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import structlog

from rollout.config import WorkerConfig
from rollout.generation.generated import MadeGroup
from rollout.telemetry.group_record import GroupRecorder
from rollout.telemetry.record_limit import limited_line
from rollout.telemetry.record_metrics import RecordMetrics
from runtime.rollout_files import RolloutFile, rollout_files

_FIRST = 8  # groups of a process that are all recorded: what a run began with is compared with what it ended with


class RolloutLog:
    """Appends the first groups, then one every now and then, to the newest file.

    A disk that fails costs records, never the worker.

    A line is written by one call, so that a crash tears the last line at most, which readers pass over.

    Args:
        config: the worker's settings; ``record`` says what is kept. The directory is made when the first group is written.
        metrics: counts groups and masked secrets.
        clock: seconds that only grow.
    """

    def __init__(
        self, config: WorkerConfig, metrics: RecordMetrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config.record
        self._directory = config.record_dir
        self._worker = config.name
        self._metrics = metrics
        self._clock = clock
        self._recorder = GroupRecorder(config)
        self._first = _FIRST  # groups to be recorded whatever the time
        self._next = 0.0  # when the next group is recorded
        self._file = -1  # descriptor; -1: none is open
        self._bytes = 0  # in the open file
        self._number = 0  # the open file's
        self._said = False  # that writing fails

    @property
    def due(self) -> bool:
        """Whether a group would be recorded now."""
        return self._config.enabled and (self._first > 0 or self._clock() >= self._next)

    def keep(self, made: MadeGroup) -> None:
        """Records a group if one is due. Takes a millisecond for 8 responses of 1,000 tokens each."""
        if not self.due:
            return
        self._first -= 1
        self._next = self._clock() + self._config.every_s
        record = self._recorder.record(made)
        self._metrics.masked(record.masked + sum(one.masked for one in record.responses))
        line = limited_line(record, self._config.group_bytes)
        if line is None:
            self._metrics.recorded("too_large")
            return
        try:
            self._append(line)
        except OSError as error:
            self.close()
            self._metrics.recorded("failed")
            if not self._said:
                self._said = True
                structlog.get_logger().error(
                    "rollouts cannot be recorded; groups go on without it",
                    directory=str(self._directory),
                    error=str(error),
                )
        else:
            self._metrics.recorded("written")

    def close(self) -> None:
        """Closes the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _append(self, line: bytes) -> None:
        if self._file < 0:
            self._open_newest()
        if self._bytes and self._bytes + len(line) > self._config.file_bytes:
            self.close()
            self._open(self._number + 1)
            self._delete_oldest()
        written = os.write(self._file, line)
        self._bytes += written
        if written < len(line):
            raise OSError(f"{written} of {len(line)} bytes were written: the disk is full")

    def _open_newest(self) -> None:
        """Goes on with the newest file; a line that a crash has torn is ended, so that it spoils no other."""
        self._directory.mkdir(parents=True, exist_ok=True)
        mine = rollout_files(self._directory, self._worker)
        self._open(mine[-1].number if mine else 0)
        if self._bytes and os.pread(self._file, 1, self._bytes - 1) != b"\n":
            self._bytes += os.write(self._file, b"\n")

    def _open(self, number: int) -> None:
        path = RolloutFile.of(self._directory, self._worker, number).path
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._bytes = os.fstat(self._file).st_size
        self._number = number

    def _delete_oldest(self) -> None:
        """Deletes the oldest files above the limit, but never the first one: it has what the run began with."""
        mine = rollout_files(self._directory, self._worker)
        for file in mine[1 : len(mine) - self._config.files + 1]:
            file.path.unlink(missing_ok=True)
