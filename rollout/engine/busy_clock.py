"""Measures how long engines have requests to work on."""

from __future__ import annotations

import time


class BusyClock:
    """Seconds with at least one request under way, and seconds with none, since the first ``start``."""

    def __init__(self) -> None:
        self._requests = 0
        self._changed: float | None = None
        self._busy = 0.0
        self._idle = 0.0

    def start(self) -> None:
        """Starts the clock at the first call: an engine is ready, and time without requests now counts as idle."""
        if self._changed is None:
            self._changed = time.monotonic()

    def enter(self) -> None:
        """Counts a request that begins."""
        self._add_elapsed()
        self._requests += 1

    def leave(self) -> None:
        """Counts a request that has ended."""
        self._add_elapsed()
        self._requests -= 1

    def read(self) -> tuple[float, float]:
        """Returns (busy, idle) seconds so far."""
        self._add_elapsed()
        return self._busy, self._idle

    def _add_elapsed(self) -> None:
        now = time.monotonic()
        if self._changed is not None:
            if self._requests:
                self._busy += now - self._changed
            else:
                self._idle += now - self._changed
            self._changed = now
