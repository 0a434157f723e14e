"""One supervised process: started, restarted after a growing delay, given up on when it dies too often."""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from learner.checkpoint.rollback import ROLLED_BACK
from runtime.children import Child

_HOPELESS = {2, 3}  # exit statuses of ours: a configuration or an authorization that no restart mends
_RANK_EXIT = re.compile(r"exitcode\s*:\s*(-?\d+)")  # torchrun itself always exits with 1


class ProcessFailed(Exception):
    """A process that the run cannot do without. The message holds the process's own last words."""


@dataclass(frozen=True)
class RestartPolicy:
    """At most ``budget`` restarts within ``window_s`` seconds; the delay doubles from one to the next."""

    budget: int = 5
    window_s: float = 300.0
    first_delay_s: float = 0.5
    longest_delay_s: float = 10.0


class Process:
    """A child that is wanted.

    Args:
        name: what the display and messages call it.
        launch: starts it; called from the main thread, again for each restart.
        log: where its output goes.
        policy: how often it may die.
    """

    def __init__(self, name: str, launch: Callable[[], Child], log: Path, policy: RestartPolicy | None = None) -> None:
        self.name = name
        self.state = "waiting"  # then running, restarting, done, stopped
        self.restarts = 0
        self.started = 0.0  # time.monotonic() of the last start
        self._launch = launch
        self._log = log
        self._policy = policy or RestartPolicy()
        self._deaths: deque[float] = deque()
        self._due = 0.0
        self._log_start = 0
        self.child: Child | None = None

    def start(self) -> None:
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        self.child = self._launch()
        self.started = time.monotonic()
        self.state = "running"

    def check(self, may_finish: bool = False) -> None:
        """Notices a death and restarts when its time has come.

        Args:
            may_finish: exit status 0 means done; otherwise it is a death like any other.

        Raises:
            ProcessFailed: it died of its configuration, or too often.
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
        self.child.kill()  # whatever it left in its session
        self._died(status)

    def _died(self, status: int) -> None:
        words = self._output()
        statuses = {status, *(int(code) for code in _RANK_EXIT.findall(words))}
        if statuses & _HOPELESS:
            raise ProcessFailed(f"{self.name}: {last_words(words).removeprefix(f'{self.name}: ')}")
        now = time.monotonic()
        if ROLLED_BACK in statuses:  # it counts its rollbacks itself
            self._due = now
            self.state = "restarting"
            return
        self._deaths.append(now)
        while self._deaths[0] < now - self._policy.window_s:
            self._deaths.popleft()
        if len(self._deaths) > self._policy.budget:
            raise ProcessFailed(
                f"{self.name}: died {len(self._deaths)} times in {self._policy.window_s:.0f} s, last with "
                f"{_describe(status)}: {last_words(words)} (log: {self._log})"
            )
        delay = self._policy.first_delay_s * 2 ** (len(self._deaths) - 1)
        self._due = now + min(delay, self._policy.longest_delay_s)
        self.state = "restarting"

    def _output(self) -> str:
        """What it wrote since its last start, the last 32 KiB of it."""
        if not self._log.exists():
            return ""
        with self._log.open("rb") as file:
            file.seek(max(self._log_start, self._log.stat().st_size - 32_768))
            return file.read().decode(errors="replace")


def last_words(output: str) -> str:
    """The reason a process gave: its last error line (structured, or ``error: ...``), or else its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and row.get("level") in ("error", "critical"):
            return str(row.get("error") or row.get("event"))
    for line in reversed(lines):
        if re.match(r"(\w+\.)*\w*(Error|Exception)\b.*:", line) and "ChildFailedError" not in line:
            return line
    return lines[-1] if lines else "it said nothing"


def _describe(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"
