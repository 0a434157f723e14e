"""One supervised process: restarted after a growing delay when it dies, and given up when it dies too often."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from learner.checkpoint.rollback import ROLLED_BACK
from learner.cli.run.failure_reason import failure_reason
from runtime.children import Child

_FATAL_STATUSES = {2, 3}  # our exit statuses for a wrong configuration or authorization, which no restart corrects
_RANK_EXIT = re.compile(r"exitcode\s*:\s*(-?\d+)")  # torchrun itself always exits with 1


class ProcessFailed(Exception):
    """A process that the run needs has failed for good. The message contains the process's own reason."""


@dataclass(frozen=True)
class RestartPolicy:
    """How often a process may be restarted, and how soon.

    Attributes:
        budget: most restarts within ``window_s``.
        window_s: seconds over which restarts are counted.
        first_delay_s: seconds before the first restart; each further one within the window waits twice as long.
        longest_delay_s: most seconds before a restart.
    """

    budget: int = 5
    window_s: float = 300.0
    first_delay_s: float = 0.5
    longest_delay_s: float = 10.0


class Process:
    """A child process that is restarted when it dies.

    Args:
        name: what the display and messages call it.
        launch: starts it; called from the main thread, again for each restart.
        log: the file that receives its output.
        policy: how often it may be restarted.

    Attributes:
        name: the argument of that name.
        state: "waiting" before the first start, then "running", "restarting", "done" or "stopped".
        restarts: how often it was restarted.
        started: time.monotonic() of the last start.
        child: the process itself; None before the first start.
    """

    def __init__(self, name: str, launch: Callable[[], Child], log: Path, policy: RestartPolicy | None = None) -> None:
        self.name = name
        self.state = "waiting"
        self.restarts = 0
        self.started = 0.0
        self._launch = launch
        self._log = log
        self._policy = policy or RestartPolicy()
        self._deaths: deque[float] = deque()
        self._due = 0.0
        self._log_start = 0
        self.child: Child | None = None

    def start(self) -> None:
        """Starts the process."""
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        self.child = self._launch()
        self.started = time.monotonic()
        self.state = "running"

    def check(self, may_finish: bool = False) -> None:
        """Notices when the process has died, and restarts it when its delay is over. Call it several times a second.

        Args:
            may_finish: whether exit status 0 means that it is done; otherwise it counts as a death.

        Raises:
            ProcessFailed: it died because of its configuration, or too often.
        """
        if self.state == "restarting":
            if time.monotonic() >= self._due:
                self.restarts += 1
                self.start()
            return
        if self.state != "running" or self.child is None:
            return
        status = self.child.exit_code()
        if status is None:
            return
        if status == 0 and may_finish:
            self.state = "done"
            return
        self.child.kill()  # ends what it left in its session
        self._died(status)

    def _died(self, status: int) -> None:
        output = self._output()
        statuses = {status, *(int(code) for code in _RANK_EXIT.findall(output))}
        if statuses & _FATAL_STATUSES:
            raise ProcessFailed(f"{self.name}: {failure_reason(output).removeprefix(f'{self.name}: ')}")
        now = time.monotonic()
        if ROLLED_BACK in statuses:  # the learner limits its rollbacks itself
            self._due = now
            self.state = "restarting"
            return
        self._deaths.append(now)
        while self._deaths[0] < now - self._policy.window_s:
            self._deaths.popleft()
        if len(self._deaths) > self._policy.budget:
            raise ProcessFailed(
                f"{self.name}: died {len(self._deaths)} times in {self._policy.window_s:.0f} s, last with "
                f"{_describe(status)}: {failure_reason(output)} (log: {self._log})"
            )
        delay = self._policy.first_delay_s * 2 ** (len(self._deaths) - 1)
        self._due = now + min(delay, self._policy.longest_delay_s)
        self.state = "restarting"

    def _output(self) -> str:
        """The last 32 KiB of what it wrote since its last start."""
        if not self._log.exists():
            return ""
        with self._log.open("rb") as file:
            file.seek(max(self._log_start, self._log.stat().st_size - 32_768))
            return file.read().decode(errors="replace")


def _describe(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"
