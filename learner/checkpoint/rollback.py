"""Back to a healthy checkpoint, because an alarm says so.

What was learnt since is given up: a new timeline, and a timeline is a learner's start. So the learner that sees the alarm
writes an order next to the checkpoints and ends with the exit status ROLLED_BACK. Whoever supervises it (`leeway up`,
Kubernetes) starts it again, and that start carries the order out: the checkpoints after the healthy one are set aside, and
training goes on at a lower rate. A start that is killed in between leaves the order to the next one.

The order stays in the directory. It speaks of checkpoints that learners up to its epoch have written, so a later start that
falls back on one of those still finds the lower rate; newer ones hold it themselves. To undo a rollback, remove
``rollback.json`` and give the checkpoints set aside their names back.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from learner.checkpoint.store import CheckpointError, DamagedError, completed, is_healthy, order_of, read_state
from learner.control.alarms import Alarm
from learner.queue import GroupRef
from learner.storage.fence import DirectoryFence

ROLLED_BACK = 4  # exit status
_REQUEST = "rollback.json"
_ASIDE = "rolled_back_"


@dataclass(frozen=True)
class RollbackRequest:
    """To go on from ``checkpoint``.

    Attributes:
        number: of the run's rollbacks, from 1.
        epoch: of the learner that gave it.
        step: at which the alarm was raised.
        checkpoint: the healthy one, a directory's name.
        factor: of the scheduled learning rate from then on.
        rule, reason: the alarm's.
        reported: whether the start that carried it out has said what it cost.
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
        """Raises OSError."""
        fence.put_text(_REQUEST, json.dumps(asdict(self), indent=1))

    def commands(self, epoch: int) -> bool:
        """Whether it speaks of a checkpoint that a learner of ``epoch`` wrote."""
        return epoch <= self.epoch


@dataclass(frozen=True)
class RollbackCost:
    """What a rollback gave up: checkpoints, the newest step in them, groups of theirs; ``complete``: all of those."""

    aside: list[str]
    newest_step: int
    trained: list[GroupRef]
    complete: bool


def read_request(root: Path) -> RollbackRequest | None:
    """The last order given to this directory. Raises CheckpointError when it cannot be read."""
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
    """Orders the newest healthy checkpoint; None when there is none, or the order cannot be written.

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
        fence.require()
        return None
    return request


def apply_rollback(fence: DirectoryFence, request: RollbackRequest) -> None:
    """Sets aside the checkpoints that the order gives up; those of earlier orders are removed. Doing it twice is harmless."""
    target, root = order_of(request.checkpoint), fence.root
    for directory in reversed(completed(root)):  # newest first: cut short, what is left still ends in a checkpoint
        if order_of(directory.name) > target and request.commands(order_of(directory.name)[0]):
            fence.rename(directory.name, f"{_aside(request)}{directory.name}")
    for directory in root.glob(f"{_ASIDE}*_step_*"):
        if not directory.name.startswith(_aside(request)) and directory.name.split("_")[2].isdigit():
            fence.remove(directory.name)


def cost(root: Path, request: RollbackRequest, groups_per_step: int) -> RollbackCost:
    """What carrying it out has given up. ``groups_per_step`` tells whether checkpoints that retention removed are missing."""
    names, trained, readable = [], [], True
    target = order_of(request.checkpoint)[1]
    newest = target
    for directory in sorted(root.glob(f"{_aside(request)}*")):
        name = directory.name.removeprefix(_aside(request))
        names.append(name)
        newest = max(newest, order_of(name)[1])
        try:
            trained += read_state(directory).trained
        except DamagedError:
            readable = False
    return RollbackCost(names, newest, trained, readable and len(trained) >= (newest - target) * groups_per_step)


def reported(fence: DirectoryFence, request: RollbackRequest) -> None:
    """Notes that the cost was told. Raises OSError."""
    replace(request, reported=True).write(fence)


def _aside(request: RollbackRequest) -> str:
    return f"{_ASIDE}{request.number}_"
