"""Returns a run to its newest healthy checkpoint when an alarm asks for it.

What was learnt since that checkpoint is given up, so the run begins a new timeline, and a timeline begins with a learner's
start. Therefore the learner that raises the alarm writes a request, ``rollback.json``, next to the checkpoints and ends with
the exit status ROLLED_BACK. Its supervisor (`leeway up`, Kubernetes) starts it again, and that start applies the request: it
sets aside the checkpoints after the healthy one and trains on at a lower learning rate. Before it sets the first one aside it
writes down what all of them contain, ``given_up_1.json`` for rollback 1. If that start is killed half-way, the next one
applies the request again, and what the rollback cost is still known.

The request stays in the directory. It covers checkpoints of learners up to its own epoch, so that a later start which falls
back on one of those still finds the lower learning rate; newer checkpoints contain that rate themselves. To undo a rollback,
remove ``rollback.json`` and give the checkpoints that were set aside their names back.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from learner.checkpoint.store import CheckpointError, DamagedError, completed, epoch_and_step, is_healthy, read_state
from learner.control.alarms import Alarm
from learner.queue import GroupRef
from learner.storage.fence import DirectoryFence

ROLLED_BACK = 4  # exit status of a learner that has requested a rollback
_REQUEST = "rollback.json"
_RECORD = "given_up_{}.json"
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
    """

    number: int
    epoch: int
    step: int
    checkpoint: str
    factor: float
    rule: str
    reason: str
    reported: bool = False

    def write(self, fence: DirectoryFence) -> None:
        """Writes ``rollback.json``, replacing an older one. Raises OSError."""
        fence.replace_text(_REQUEST, json.dumps(asdict(self), indent=1))

    def covers(self, epoch: int) -> bool:
        """Whether the request applies to checkpoints that a learner of ``epoch`` wrote."""
        return epoch <= self.epoch


@dataclass(frozen=True)
class RollbackCost:
    """What a rollback gave up.

    Attributes:
        set_aside: names of the checkpoints that were set aside.
        newest_step: the newest step in them.
        trained: groups that only they contain.
        complete: whether ``trained`` is all of those groups; not so if a checkpoint was unreadable or already removed.
    """

    set_aside: list[str]
    newest_step: int
    trained: list[GroupRef]
    complete: bool


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


def apply_rollback(fence: DirectoryFence, request: RollbackRequest) -> None:
    """Sets aside the checkpoints after the requested one, and removes those that earlier rollbacks set aside. Idempotent.

    Raises:
        CheckpointError: the record of what is given up cannot be read.
    """
    target, root = epoch_and_step(request.checkpoint), fence.root
    doomed = [
        directory
        for directory in completed(root)
        if epoch_and_step(directory.name) > target and request.covers(epoch_and_step(directory.name)[0])
    ]
    _record(fence, request, doomed)
    for directory in reversed(doomed):  # newest first: if interrupted, the oldest ones still form an unbroken line
        fence.rename(directory.name, f"{_prefix(request)}{directory.name}")
    for directory in root.glob(f"{SET_ASIDE}*_step_*"):
        if not directory.name.startswith(_prefix(request)) and directory.name.split("_")[2].isdigit():
            fence.remove(directory.name)
    for number in range(1, request.number):
        if (root / _RECORD.format(number)).exists():
            fence.remove(_RECORD.format(number))


def rollback_cost(root: Path, request: RollbackRequest, groups_per_step: int) -> RollbackCost:
    """Counts what an applied request has given up.

    Args:
        groups_per_step: groups trained in a step, from which follows whether retention had removed some of the checkpoints.

    Raises:
        CheckpointError: the record of what was given up cannot be read.
    """
    target = epoch_and_step(request.checkpoint)[1]
    given_up = _given_up(root, request)
    newest = max([target, *(epoch_and_step(name)[1] for name in given_up)])
    trained = [ref for name in sorted(given_up) for ref in given_up[name] or []]
    readable = None not in given_up.values()
    return RollbackCost(
        sorted(given_up), newest, trained, readable and len(trained) >= (newest - target) * groups_per_step
    )


def mark_reported(fence: DirectoryFence, request: RollbackRequest) -> None:
    """Records in ``rollback.json`` that the cost has been logged. Raises OSError."""
    replace(request, reported=True).write(fence)


def _prefix(request: RollbackRequest) -> str:
    """Prefix of the names of the checkpoints that this request sets aside."""
    return f"{SET_ASIDE}{request.number}_"


def _record(fence: DirectoryFence, request: RollbackRequest, doomed: Sequence[Path]) -> None:
    """Adds the groups of checkpoints that are about to be set aside to the durable record of what was given up."""
    given_up = _given_up(fence.root, request)
    if new := {directory.name: _trained(directory) for directory in doomed if directory.name not in given_up}:
        refs = {
            name: None if refs is None else [asdict(ref) for ref in refs] for name, refs in (given_up | new).items()
        }
        fence.replace_text(_RECORD.format(request.number), json.dumps(refs))


def _given_up(root: Path, request: RollbackRequest) -> dict[str, list[GroupRef] | None]:
    """Groups of each checkpoint that the request gave up, by its name; None for one that could not be read."""
    path = root / _RECORD.format(request.number)
    try:
        recorded = json.loads(path.read_text()) if path.exists() else {}
        found = {name: None if refs is None else [GroupRef(**ref) for ref in refs] for name, refs in recorded.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error}); remove it to go on, with the cost counted from what was set aside"
        ) from error
    for directory in root.glob(f"{_prefix(request)}*"):
        name = directory.name.removeprefix(_prefix(request))
        if name not in found:
            found[name] = _trained(directory)
    return found


def _trained(directory: Path) -> list[GroupRef] | None:
    """Groups that a checkpoint's state.json names; None if it is damaged."""
    try:
        return read_state(directory).trained
    except DamagedError:
        return None
