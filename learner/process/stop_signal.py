"""A stop signal, and how long it leaves."""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
import time
from types import FrameType

import structlog

_LEAVING_S = 1.0  # to close the queue and leave the process groups in good order
_LAST_S = 0.5  # before the period is over: to say so before whoever sent the signal kills us


class StopSignal:
    """Remembers that SIGTERM or SIGINT came, so that the loop can end between two steps. Made in the main thread.

    Args:
        grace_s: from the signal until whoever sent it kills us.
    """

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._since: float | None = None
        self._heard, self._bell = os.pipe()  # a handler may take no lock, and an Event has one
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def requested(self) -> bool:
        return self._since is not None

    def left_s(self) -> float | None:
        """Seconds of the grace period that are left for work, at least 0; None when no signal came."""
        if self._since is None:
            return None
        return max(0.0, self._since + self._grace_s - _LEAVING_S - time.monotonic())

    def enforce(self) -> None:
        """The process ends with the grace period, whatever hangs: a save into a file system that does not answer, a
        collective, a thread that the interpreter waits for. Exit status 1, after a line of log and every thread's stack.

        What was being written is no checkpoint: the one before it stays the newest, and groups since then stay in the queue.
        """
        threading.Thread(target=self._enforce, name="grace", daemon=True).start()

    def _enforce(self) -> None:
        os.read(self._heard, 1)
        assert self._since is not None
        while (left := self._since + self._grace_s - _LAST_S - time.monotonic()) > 0:
            time.sleep(left)
        last_words = threading.Thread(target=self._say, daemon=True)  # stderr may be a file there too
        last_words.start()
        last_words.join(_LAST_S / 2)
        os._exit(1)

    def _say(self) -> None:
        structlog.get_logger().error(
            "not done within the grace period: ended as it is; the run goes on from its newest whole checkpoint",
            stop_grace_s=self._grace_s,
        )
        faulthandler.dump_traceback(all_threads=True)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._since is None:
            self._since = time.monotonic()
            os.write(self._bell, b"!")
