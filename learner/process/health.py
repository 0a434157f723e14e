"""Tells a supervisor whether a learner rank makes progress, and whether it takes batches."""

from __future__ import annotations

import time

from runtime.status import Heartbeat


class RankHealth:
    """State of a rank, set by its training loop and read by the threads of the status endpoint.

    ``alive`` and ``ready`` are checks in the sense of runtime.status.Check.

    Args:
        limit_s: seconds without progress after which the rank counts as stuck. learner.process.watchdog ends it then; if
            that fails too, ``alive`` reports it.

    Attributes:
        moved: when the rank last made progress, Unix seconds; 0 before the first time.
        paused: whether an operator has paused the run: the rank trains nothing, and is ready all the same.
    """

    def __init__(self, limit_s: float) -> None:
        self.moved = 0.0
        self.paused = False
        self._progress = Heartbeat("training", limit_s)
        self._unready: str | None = "starting: model, queue, checkpoint or warm start"
        self._halted: str | None = None

    def progress(self) -> None:
        """Records that the rank has made progress."""
        self.moved = time.time()
        self._progress.beat()

    def opened(self) -> None:
        """Records that the run is open: batches are taken from here on."""
        self._unready = None

    def halted(self, why: str | None) -> None:
        """Records why the queue stands still; None when it goes on."""
        self._halted = why

    def closing(self) -> None:
        """Records that the last batch has been taken."""
        self._unready = "ending"

    def alive(self) -> str | None:
        """Describes a fault that only a restart repairs; None if there is none, and before and after training."""
        return self._progress.problem() if self._unready is None else None

    def ready(self) -> str | None:
        """Describes why no batch is taken; None while batches are taken."""
        return self._unready or self._halted
