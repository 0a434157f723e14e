"""Handles SIGTERM and SIGINT: a clean stop within the grace period, and an enforced one at its end."""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
import time
from types import FrameType

import structlog

_LEAVE_S = 1.0  # to close the queue and leave the process groups
_REPORT_S = 0.5  # before the period is over: to log a hang before the supervisor kills the process


class StopSignal:
    """Remembers that SIGTERM or SIGINT came, so that the loop can end between two steps. Construct it in the main thread.

    Args:
        grace_s: seconds from the signal until its sender kills the process.
    """

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._since: float | None = None
        # A pipe, not a threading.Event: a signal handler must not take a lock, and an Event has one.
        self._read_end, self._write_end = os.pipe()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def requested(self) -> bool:
        """Whether a stop signal has come."""
        return self._since is not None

    def left_s(self) -> float | None:
        """Seconds of the grace period that are left for work, at least 0; None if no signal has come."""
        if self._since is None:
            return None
        return max(0.0, self._since + self._grace_s - _LEAVE_S - time.monotonic())

    def enforce(self) -> None:
        """Makes the process end with the grace period, whatever hangs.

        That may be a save into a file system that does not answer, a collective, or a thread that the interpreter waits
        for. The process then logs an error and every thread's stack, and ends with exit status 1. A checkpoint that was
        being written does not count: the one before it stays the newest, and groups since then stay in the queue.
        """
        threading.Thread(target=self._enforce, name="grace", daemon=True).start()

    def _enforce(self) -> None:
        os.read(self._read_end, 1)
        assert self._since is not None
        while (left := self._since + self._grace_s - _REPORT_S - time.monotonic()) > 0:
            time.sleep(left)
        # In a thread, because stderr may be a file in the file system that hangs.
        report = threading.Thread(target=self._report, daemon=True)
        report.start()
        report.join(_REPORT_S / 2)
        os._exit(1)

    def _report(self) -> None:
        structlog.get_logger().error(
            "not done within the grace period: the process ends now; the run continues from its newest complete checkpoint",
            stop_grace_s=self._grace_s,
        )
        faulthandler.dump_traceback(all_threads=True)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._since is None:
            self._since = time.monotonic()
            os.write(self._write_end, b"!")
