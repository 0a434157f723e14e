"""Who judges the responses of a task: the worker's own process, hosts, or several of them for one sum of rewards."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from rollout.environments.loading import TaskSpec
from rollout.rewards.registry import RewardPart
from rollout.tasks import Prompt, Task
from rollout.tasks.judged_response import JudgedResponse
from rollout.tasks.reward_error import RewardError, describe, explain
from rollout.tasks.score import Score, as_score


class Judge(Protocol):
    """Judges responses."""

    async def score(self, prompt: Prompt, responses: Sequence[JudgedResponse]) -> list[Score | RewardError]:
        """Judges responses to a prompt; each has its own outcome."""
        ...


class LocalJudge:
    """Judges in this process, for quick built-in tasks.

    Args:
        task: the task.
    """

    def __init__(self, task: Task) -> None:
        self._task = task

    async def score(self, prompt: Prompt, responses: Sequence[JudgedResponse]) -> list[Score | RewardError]:
        return [self._score_one(prompt, response) for response in responses]

    def _score_one(self, prompt: Prompt, response: JudgedResponse) -> Score | RewardError:
        try:
            return as_score(self._task.judge(prompt, response))
        except RewardError as error:
            return RewardError(error.reason, explain(self._task.name, str(error), prompt.prompt_id, response.text))
        except Exception as error:  # noqa: BLE001 - the same boundary as a host's: the worker logs it, counts it and goes on
            what = f"reward failed: {describe(self._task, error)}"
            return RewardError("reward_error", explain(self._task.name, what, prompt.prompt_id, response.text))


class JointJudge:
    """Adds up the parts that several judges give; what one of them could not judge has no score.

    Args:
        judges: each gives named parts, all of different names.
    """

    def __init__(self, judges: Sequence[Judge]) -> None:
        self._judges = judges

    async def score(self, prompt: Prompt, responses: Sequence[JudgedResponse]) -> list[Score | RewardError]:
        outcomes = await asyncio.gather(*(judge.score(prompt, responses) for judge in self._judges))
        return [_sum(parts) for parts in zip(*outcomes, strict=True)]


def split_rewards(spec: TaskSpec, own_is_quick: bool) -> list[TaskSpec]:
    """Returns the specifications of the hosts that judge together: one for what computes, one for what waits for others.

    A judge that computes holds up its process, and would hold up those that wait. Quick rewards go with either.

    Args:
        spec: the whole task.
        own_is_quick: whether the task is built in and its own reward is quick.
    """
    kinds: dict[str, list[Mapping[str, Any]]] = {"quick": [], "slow": [], "waiting": []}
    for part in spec.rewards:
        own = part["name"] == "task"
        kinds["quick" if own and own_is_quick else RewardPart(**part).kind].append(part)
    computing = kinds["slow"] if kinds["waiting"] else kinds["slow"] or kinds["quick"]
    groups = [computing, kinds["waiting"]]
    if kinds["quick"] and computing is not kinds["quick"]:
        groups[0 if kinds["slow"] else 1] = [*groups[0 if kinds["slow"] else 1], *kinds["quick"]]
    return [replace(spec, rewards=tuple(group)) for group in groups if group]


def is_quick(spec: TaskSpec, own_is_quick: bool) -> bool:
    """Whether all rewards of a built-in task can be judged in the worker's process.

    Args:
        spec: the task.
        own_is_quick: whether its own reward is quick.
    """
    return all(own_is_quick if part["name"] == "task" else RewardPart(**part).kind == "quick" for part in spec.rewards)


def _sum(parts: Sequence[Score | RewardError]) -> Score | RewardError:
    together: dict[str, float] = {}
    for part in parts:
        if isinstance(part, RewardError):
            return part
        together |= part.parts
    return as_score(together)
