"""Says in the log, now and then, what the learner waits for and since when."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

_FIRST_S = 30.0
_EVERY_S = 300.0


class WaitLog:
    """Logs a wait for groups after half a minute, and then every five minutes until it ends.

    Args:
        wanted: groups that a full batch has.
        clock: returns seconds.
    """

    def __init__(self, wanted: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._wanted = wanted
        self._clock = clock
        self._began = clock()
        self._since = datetime.now(UTC)
        self._next = self._began + _FIRST_S

    def seconds(self) -> float:
        """How long the wait has lasted."""
        return self._clock() - self._began

    def begin_again(self) -> None:
        """Counts from now: what was waited for until now were no groups."""
        self._began, self._since = self._clock(), datetime.now(UTC)
        self._next = self._began + _FIRST_S

    def waiting(self, step: int, have: int) -> None:
        """Logs a line if it is time for one.

        Args:
            step: the step that waits for its groups.
            have: groups that have come so far.
        """
        now = self._clock()
        if now < self._next:
            return
        self._next = now + _EVERY_S
        structlog.get_logger(process="learner").warning(
            "waiting for groups: do the fleets run, and do their groups arrive before they expire?",
            step=step, have=have, wanted=self._wanted, since=self._since.isoformat(timespec="seconds"),
            waited_s=round(now - self._began),
        )  # fmt: skip
