"""An operator who changes the run that is soaked, again and again, with the command that an operator uses."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from learner.cli.run.run_directory import RunDirectory

_LIMIT_S = 300.0  # of one command, on a busy machine
# Each line is one turn: what stops the run or a fleet is taken back within it.
_TURNS = (
    ("ctl set RUN lr=2e-4",),
    ("ctl pause RUN", "ctl resume RUN"),
    ("ctl set RUN weights.local=2 objective.spo_alpha=0.15",),
    ("ctl checkpoint RUN",),
    ("fleet drain RUN local", "fleet undrain RUN local"),
    ("ctl unset RUN optimizer.lr",),
    ("ctl publish RUN",),
    ("ctl set RUN quotas.local.max_queued_groups=5000",),
)


class SoakOperator:
    """Takes a turn at a time, in a thread of its own, until it is stopped.

    Args:
        run: the run, whose gateway takes the changes.
        every_s: seconds between the beginnings of two turns; 0: no turn is ever taken.

    Attributes:
        applied: number of commands that were applied.
        problems: commands that were not, with what they said.
    """

    def __init__(self, run: RunDirectory, every_s: float) -> None:
        self.applied = 0
        self.problems: list[str] = []
        self._run = run
        self._every_s = every_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="operator", daemon=True)

    def start(self) -> None:
        """Begins, unless no turn is to be taken."""
        if self._every_s > 0:
            self._thread.start()

    def stop(self) -> None:
        """Ends after the turn under way, so that nothing stays paused or drained."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(2 * _LIMIT_S)

    def _work(self) -> None:
        turn = 0
        while not self._stopped.wait(self._every_s):
            for command in _TURNS[turn % len(_TURNS)]:
                self._command(command)
            turn += 1

    def _command(self, command: str) -> None:
        words = [str(self._run.root) if word == "RUN" else word for word in command.split()]
        try:
            done = subprocess.run(
                [sys.executable, "-m", "learner.cli.app", *words],
                cwd=Path(__file__).parents[2],
                capture_output=True,
                text=True,
                timeout=_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            self.problems.append(f"leeway {command}: no end in {_LIMIT_S:.0f} s")
            return
        if done.returncode:
            self.problems.append(f"leeway {command}: {done.returncode}: {(done.stdout + done.stderr).strip()[-300:]}")
        else:
            self.applied += 1
