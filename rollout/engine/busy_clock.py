"""Measures how long engines have requests to work on."""

from __future__ import annotations

import time


class BusyClock:
    """How long at least one request was under way, and how long none was, since the first ``start``. Seconds."""

    def __init__(self) -> None:
        self._requests = 0
        self._changed: float | None = None
        self._busy = 0.0
        self._idle = 0.0

    def start(self) -> None:
        """An engine is ready: from now on doing nothing counts as idle."""
        if self._changed is None:
            self._changed = time.monotonic()

    def enter(self) -> None:
        """A request begins."""
        self._settle()
        self._requests += 1

    def leave(self) -> None:
        """A request ended."""
        self._settle()
        self._requests -= 1

    def read(self) -> tuple[float, float]:
        """(busy, idle) seconds so far."""
        self._settle()
        return self._busy, self._idle

    def _settle(self) -> None:
        now = time.monotonic()
        if self._changed is not None:
            if self._requests:
                self._busy += now - self._changed
            else:
                self._idle += now - self._changed
            self._changed = now
