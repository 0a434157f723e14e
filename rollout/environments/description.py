"""What a worker has to know of a task that lives in another process."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

from rollout.environments.asked_elsewhere import AskedElsewhere
from rollout.rewards.rewarded_task import RewardedTask
from rollout.tasks import Task
from rollout.tasks.row_error import UnusableRow


@dataclass(frozen=True)
class TaskDescription:
    """A task as its worker sees it.

    Attributes:
        name: its name in messages.
        size: number of prompts of one pass over its data; None: endless.
        stop: texts, each one token of the model, that end a response.
        fingerprint: what else its prompts are made of (``Task.fingerprint``).
        plays: it has a rollout of its own, or is an agent: each response is an episode.
        judges_groups: all responses to a prompt are judged together.
        unusable_rows: number of rows of its data of which no prompt is made, by reason.
        judges_many: its judge is a coroutine, so that one process can judge many responses at once.
    """

    name: str
    size: int | None = None
    stop: tuple[str, ...] = ()
    fingerprint: dict[str, Any] = field(default_factory=dict)
    plays: bool = False
    judges_groups: bool = False
    judges_many: bool = False
    unusable_rows: dict[UnusableRow, int] = field(default_factory=dict)


def describe_task(task: Task) -> TaskDescription:
    """Returns the description of a task whose data is loaded."""
    cls = type(task)
    grouped = cls.group_rewards is not Task.group_rewards
    alone = cls.reward if cls.judge is Task.judge else cls.judge
    return TaskDescription(
        name=task.name,
        size=task.size,
        stop=tuple(task.stop),
        fingerprint=task.fingerprint(),
        plays=cls.rollout is not Task.rollout or isinstance(task, AskedElsewhere),
        judges_groups=grouped,
        unusable_rows=dict(task.unusable_rows),
        judges_many=task.judges_many
        if isinstance(task, RewardedTask)
        else inspect.iscoroutinefunction(cls.group_rewards if grouped else alone),
    )
