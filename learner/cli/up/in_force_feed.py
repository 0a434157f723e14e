"""What operators have changed in a run, read now and then for the display of `leeway up`."""

from __future__ import annotations

import time
from collections.abc import Callable

from learner.config import QueueConfig
from learner.queue import QueueError
from learner.queue.change_journal import ChangeJournal, InForce

_EVERY_S = 5.0
_TIMEOUT_S = 1.0  # the display waits for it


class InForceFeed:
    """Reads what is in force, at most every five seconds.

    Args:
        queue: where the run's queue is.
        clock: returns seconds.
    """

    def __init__(self, queue: QueueConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._queue = queue.model_copy(update={"timeout_s": _TIMEOUT_S})
        self._clock = clock
        self._due = clock()
        self._found: InForce | None = None

    def read(self) -> InForce | None:
        """Returns what was in force when Redis was last read; None before it was."""
        if self._clock() >= self._due:
            try:
                with ChangeJournal(self._queue) as journal:
                    self._found = journal.in_force()
            except QueueError:
                pass  # that Redis is away is shown by the learner's own rows
            self._due = self._clock() + _EVERY_S
        return self._found
