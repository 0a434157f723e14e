"""What a supervisor may ask a learner rank: does it get on, does it take batches? Read by the status endpoint's threads."""

from __future__ import annotations

import time

from runtime.status import Heartbeat


class RankHealth:
    """Told by the loop what happens; answers ``alive`` and ``ready`` (runtime.status.Check).

    Args:
        limit_s: nothing moves for so long: the rank is stuck (learner.process.watchdog ends it then, unless it cannot).

    Attributes:
        moved: when something last did, Unix seconds; 0 before the first time.
    """

    def __init__(self, limit_s: float) -> None:
        self.moved = 0.0
        self._progress = Heartbeat("training", limit_s)
        self._unready: str | None = "starting: model, checkpoint or warm start"

    def progress(self) -> None:
        """Something moved."""
        self.moved = time.time()
        self._progress.beat()

    def opened(self) -> None:
        """From here on batches are taken."""
        self._unready = None

    def closing(self) -> None:
        """The last batch has been taken."""
        self._unready = "ending"

    def alive(self) -> str | None:
        """What only a restart mends."""
        return self._progress.problem() if self._unready is None else None

    def ready(self) -> str | None:
        """Why no batch is taken."""
        return self._unready
