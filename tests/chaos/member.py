"""Keeps one process of a stack alive: starts it again whenever it is found dead."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable

from runtime.children import Child

_PAUSE_S = (0.1, 0.5, 1.0, 2.0)  # before a restart, longer while it keeps dying young
_YOUNG_S = 5.0


class Member:
    """A process that is restarted when it dies.

    Args:
        name: what the schedule calls it.
        launch: starts it; called from the main thread, again for each restart.

    Attributes:
        wanted: whether it is started again.
        may_finish: whether exit status 0 is the end of it.
        starts: how often it was started.
        started_at: Unix seconds.
        deaths: exit statuses, in order; negative for a signal.
    """

    def __init__(self, name: str, launch: Callable[[], Child]) -> None:
        self.name = name
        self.wanted = True
        self.may_finish = False
        self.starts = 0
        self.started_at = 0.0
        self.deaths: list[int] = []
        self._launch = launch
        self._lives: list[Child] = []
        self._started = 0.0
        self._young = 0
        self._due = 0.0
        self._dead = True
        self._output_start = 0
        self.start()

    @property
    def child(self) -> Child:
        """The process as it was started last."""
        return self._lives[-1]

    @property
    def finished(self) -> bool:
        """Whether the process has ended by itself with status 0, where it may."""
        return self.may_finish and self.child.exit_code() == 0

    @property
    def alive(self) -> bool:
        return self.child.exit_code() is None

    def output(self) -> str:
        """What the process has logged since its last start."""
        with self.child.log.open("rb") as file:
            file.seek(self._output_start)
            return file.read().decode(errors="replace")

    def start(self) -> None:
        self._output_start = self.child.log.stat().st_size if self._lives else 0
        self._lives.append(self._launch())
        self.starts += 1
        self._started = time.monotonic()
        self.started_at = time.time()
        self._dead = False

    def tick(self) -> None:
        """Notices a death, and restarts the process when the pause is over."""
        now = time.monotonic()
        if not self._dead and (status := self.child.exit_code()) is not None:
            self._dead = True
            self.deaths.append(status)
            self.wanted = self.wanted and not (self.may_finish and status == 0)
            self._young = self._young + 1 if now - self._started < _YOUNG_S else 0
            self._due = now + _PAUSE_S[min(self._young, len(_PAUSE_S) - 1)]
        if self._dead and self.wanted and now >= self._due:
            self.start()

    def kill(self) -> None:
        """Sends SIGKILL to the process alone; its children are left as they are."""
        os.kill(self.child.pid, signal.SIGKILL)
        self.child.process.wait(20)

    def freeze(self) -> None:
        """Sends SIGSTOP to every process of its session."""
        os.killpg(self.child.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGCONT)

    def set_aside(self) -> Child:
        """Starts another process beside the present one, and returns the old one to the caller, who has to end it."""
        old = self.child
        self.start()
        self._lives.remove(old)
        return old

    def end(self, grace_s: float) -> int | None:
        """Sends SIGTERM, without a restart; returns the exit status, None if the process had to be killed."""
        self.wanted = False
        self.child.terminate()
        self.child.wait(time.monotonic() + grace_s)
        status = self.child.exit_code()
        self.child.kill()
        return status

    def sweep(self) -> None:
        """Kills every process that was started under this name and still runs."""
        self.wanted = False
        for child in self._lives:
            child.kill()
