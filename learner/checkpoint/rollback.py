"""Returns a run to its newest healthy checkpoint when an alarm asks for it, or to an older one when an operator does.

What was learnt since that checkpoint is given up, so the run begins a new timeline, and a timeline begins with a learner's
start. Therefore the learner that raises the alarm writes a request, ``rollback.json``, next to the checkpoints and ends with
the exit status ROLLED_BACK. Its supervisor (`leeway up`, Kubernetes) starts it again, and that start applies the request: it
sets aside the checkpoints after the healthy one and trains on at a lower learning rate. If that start is killed half-way, the
next one applies the request again. What the rollback cost is the difference between the groups that the ledger counts as
trained and those that the healthy checkpoint contains (LearnerQueue.give_up): no record of what was set aside is needed.

The request stays in the directory. It covers checkpoints of learners up to its own epoch, so that a later start which falls
back on one of those still finds the lower learning rate; newer checkpoints contain that rate themselves. To undo a rollback,
remove ``rollback.json`` and give the checkpoints that were set aside their names back.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from learner.checkpoint.store import (
    CheckpointError,
    DamagedError,
    completed,
    epoch_and_step,
    is_healthy,
    read_state,
)
from learner.control.alarms import Alarm
from learner.storage.fence import DirectoryFence

ROLLED_BACK = 4  # exit status of a learner that has requested a rollback
_REQUEST = "rollback.json"
SET_ASIDE = "rolled_back_"  # prefix of the names of checkpoints that a rollback gave up


@dataclass(frozen=True)
class RollbackRequest:
    """Request to resume from ``checkpoint`` at a lower learning rate; the content of ``rollback.json``.

    Attributes:
        number: number of this rollback in the run, from 1.
        epoch: epoch of the learner that wrote the request.
        step: step at which the alarm was raised.
        checkpoint: directory name of the healthy checkpoint.
        factor: what the scheduled learning rate is multiplied by from then on.
        rule: rule of the alarm that asked for the rollback.
        reason: the alarm's sentence for people.
        reported: whether the start that applied the request has logged what it cost.
        request_id: an operator's request for it; empty: an alarm asked.
    """

    number: int
    epoch: int
    step: int
    checkpoint: str
    factor: float
    rule: str
    reason: str
    reported: bool = False
    request_id: str = ""

    def write(self, fence: DirectoryFence) -> None:
        """Writes ``rollback.json``, replacing an older one. Raises OSError."""
        fence.replace_text(_REQUEST, json.dumps(asdict(self), indent=1))

    def covers(self, epoch: int) -> bool:
        """Whether the request applies to checkpoints that a learner of ``epoch`` wrote."""
        return epoch <= self.epoch


def read_request(root: Path) -> RollbackRequest | None:
    """Reads the newest request; None if there has been no rollback. Raises CheckpointError when it cannot be read."""
    path = root / _REQUEST
    try:
        return RollbackRequest(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); remove it to go on without the rollback") from error


def request_rollback(
    fence: DirectoryFence, step: int, alarm: Alarm, number: int, factor: float
) -> RollbackRequest | None:
    """Requests a rollback to the newest healthy checkpoint; None if there is none, or the request cannot be written.

    Raises:
        SupersededError: a newer learner has taken over.
    """
    target = next((directory for directory in reversed(completed(fence.root)) if is_healthy(directory)), None)
    if target is None:
        return None
    request = RollbackRequest(number, fence.epoch, step, target.name, factor, alarm.rule, alarm.reason)
    try:
        request.write(fence)
    except OSError:
        fence.require_current()
        return None
    return request


def newest_at(root: Path, epoch: int, step: int) -> Path | None:
    """Finds the newest checkpoint whose weights are of this step or an earlier one, on the timeline of ``epoch``.

    Its files are not verified here: the start that resumes from it does that, and falls back on an older one.
    """
    for directory in reversed(completed(root)):
        try:
            state = read_state(directory)
        except DamagedError:
            continue
        if state.epoch <= epoch and state.step <= step:
            return directory
    return None


def apply_rollback(fence: DirectoryFence, request: RollbackRequest) -> None:
    """Sets aside the checkpoints after the requested one, and removes those that earlier rollbacks set aside. Idempotent."""
    target, root = epoch_and_step(request.checkpoint), fence.root
    doomed = [
        directory
        for directory in completed(root)
        if epoch_and_step(directory.name) > target and request.covers(epoch_and_step(directory.name)[0])
    ]
    for directory in reversed(doomed):  # newest first: if interrupted, the oldest ones still form an unbroken line
        fence.rename(directory.name, f"{_prefix(request)}{directory.name}")
    for directory in root.glob(f"{SET_ASIDE}*_step_*"):
        if not directory.name.startswith(_prefix(request)) and directory.name.split("_")[2].isdigit():
            fence.remove(directory.name)


def set_aside_by(root: Path, request: RollbackRequest) -> list[str]:
    """Returns the names that the checkpoints set aside by an applied request had, oldest first."""
    names = (path.name.removeprefix(_prefix(request)) for path in root.glob(f"{_prefix(request)}step_*"))
    return sorted(names, key=epoch_and_step)


def mark_reported(fence: DirectoryFence, request: RollbackRequest) -> None:
    """Records in ``rollback.json`` that the cost has been logged. Raises OSError."""
    replace(request, reported=True).write(fence)


def _prefix(request: RollbackRequest) -> str:
    """Prefix of the names of the checkpoints that this request sets aside."""
    return f"{SET_ASIDE}{request.number}_"
