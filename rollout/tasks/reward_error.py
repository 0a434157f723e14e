"""The error of a response that could not be scored, and how a failing reward function is described."""

from __future__ import annotations

import inspect
import traceback
from typing import Literal

from rollout.tasks.base import Task
from runtime.errors import LeewayError

Reason = Literal[
    "reward_timeout",
    "reward_error",
    "rollout_failed",
    "environment_died",
    "limit_seconds",
    "unjudgeable",
    "judge_unavailable",
    "judge_output",
    "judge_budget",
]

_SHOWN = 120  # characters of a response in a message


class RewardError(LeewayError):
    """A response that could not be scored. It has no reward: neither zero nor any other number.

    Attributes:
        reason: reward_timeout: the judge's time limit was over; reward_error: the judge raised, or returned something that is
            no reward; rollout_failed: an environment or agent raised or gave no reward; environment_died: its process did not
            start, ended, or was killed for what another episode did; limit_seconds: the episode's time was over; unjudgeable:
            the response is larger than its judge compares; judge_unavailable: a judge elsewhere did not answer, its retries
            included; judge_output: it answered something that is no score; judge_budget: its calls or tokens are used up.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


def describe(task: Task, error: Exception) -> str:
    """Returns an error that a task raised with file and line: the innermost ones in the task's own file, if it is there."""
    try:
        own = inspect.getsourcefile(getattr(task, "source", type(task)))
    except TypeError:  # a class that was made at run time
        own = None
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((frame for frame in reversed(frames) if frame.filename == own), frames[-1] if frames else None)
    place = "" if frame is None else f" at {frame.filename}:{frame.lineno}"
    return f"{type(error).__name__}: {error}{place}"


def explain(task_name: str, what: str, prompt_id: str, response: str | None = None) -> str:
    """Returns the message of a RewardError: which task, what happened, at which prompt, with which response if any."""
    if response is None:
        return f"task.name = {task_name!r}: {what}; prompt {prompt_id!r}"
    shown = response if len(response) <= _SHOWN else response[:_SHOWN] + "..."
    return f"task.name = {task_name!r}: {what}; prompt {prompt_id!r}, response {shown!r}"
