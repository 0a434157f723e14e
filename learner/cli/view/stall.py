"""What a run that makes no steps is waiting for, since when, and where to look."""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import dataclass

from learner.cli.run.run_file import RunFile
from learner.cli.run.run_history import Row, RunHistory
from learner.cli.view.text import duration

_QUIET_STEPS = 5.0  # as many median steps without a new one are a stall
_QUIET_S = 30.0  # and at least as long


@dataclass(frozen=True)
class Stall:
    """A wait of the learner.

    Attributes:
        since: when it began, in Unix seconds.
        what: what it waits for.
        look: where to look.
    """

    since: float
    what: str
    look: str

    def text(self, now: float) -> str:
        """One line for people."""
        clock = time.strftime("%H:%M:%S", time.localtime(self.since))
        return f"{self.what} for {duration(max(0.0, now - self.since))} (since {clock}): {self.look}"


def find_stall(history: RunHistory, run_file: RunFile, now: float) -> Stall | None:
    """Returns what a learner that runs waits for; None while it makes steps as it did before."""
    steps, activity = history.learner.last(30), history.learner.activity
    newest = max((rows[-1]["time"] for rows in (steps, history.learner.starts) if rows), default=0.0)
    if activity and activity["what"] in _WAITS and activity["time"] >= newest:
        what, look = _WAITS[activity["what"]]
        return Stall(activity["since"], what, look or _where_groups_stay(history, run_file))
    if len(steps) >= 2 and steps[-1]["time"] == newest and now - newest > max(_QUIET_S, _QUIET_STEPS * _median(steps)):
        return Stall(newest, "no step", f"look at {run_file.directory.logs}/learner.log")
    return None


_WAITS = {
    "groups": ("waiting for groups", ""),
    "redis": ("Redis does not answer", "look at Redis (queue.url) and at logs/gateway.log; nothing is lost meanwhile"),
    "checkpoint": ("writing a checkpoint", "look at the disk of learner.checkpoint.dir, its space and speed"),
    "paused": ("paused by an operator", "leeway ctl RUN resume lets it go on"),
    "backup": ("making a backup that an operator asked for", "look at the place that it is copied to"),
    "publication": ("publishing a version", "look at the disk of learner.publish.dir, its space and speed"),
}


def _where_groups_stay(history: RunHistory, run_file: RunFile) -> str:
    """Says why no groups come, as far as the workers of this machine show it."""
    root = run_file.directory.root
    if not run_file.rollout.workers:
        return (
            f"no worker runs here (rollout.workers = 0): leeway ledger {root} says what fleets submit, leeway fleet add "
            f"{root} NAME makes a token for one"
        )
    states = [state for worker in history.workers.values() for state in worker.engines.values()]
    if not history.workers:
        return f"no worker of this machine has begun; look at {root}/logs, or at the fleets elsewhere"
    if serving := states.count("serving"):
        ledger = f"leeway ledger {root} says whether groups are rejected or expire"
        return f"{serving} of {len(states)} engines serve; {ledger}, logs/worker-*.log what workers do"
    return f"none of {len(states)} engines serves; look at {root}/logs/worker-*.log"


def _median(steps: list[Row]) -> float:
    return statistics.median((b["time"] - a["time"]) / (b["step"] - a["step"]) for a, b in itertools.pairwise(steps))
