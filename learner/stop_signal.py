"""A stop signal, and how long it leaves."""

from __future__ import annotations

import signal
import time
from types import FrameType

_LEAVING_S = 1.0  # to close the queue and leave the process groups in good order


class StopSignal:
    """Remembers that SIGTERM or SIGINT came, so that the loop can end between two steps. Made in the main thread.

    Args:
        grace_s: from the signal until whoever sent it kills us.
    """

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._since: float | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def requested(self) -> bool:
        return self._since is not None

    def left_s(self) -> float | None:
        """Seconds of the grace period that are left for work, at least 0; None when no signal came."""
        if self._since is None:
            return None
        return max(0.0, self._since + self._grace_s - _LEAVING_S - time.monotonic())

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._since = self._since or time.monotonic()
