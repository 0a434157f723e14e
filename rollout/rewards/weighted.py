"""The weighted sum of several rewards, with named parts."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollout.rewards.python_function import PythonFunction
from rollout.rewards.registry import OWN, RewardPart, check_parts, make_reward
from rollout.rewards.reward_function import RewardFunction, RewardInput, RewardPlace, Value
from rollout.tasks import Task
from rollout.tasks.reward_error import RewardError
from rollout.tasks.score import as_score

_BUILT_IN = "rollout.tasks."


class OwnReward(RewardFunction):
    """What the task itself says of the response.

    Args:
        task: the task.
    """

    def __init__(self, task: Task) -> None:
        self.task = task

    def value(self, asked: RewardInput) -> Any:
        return self.task.judge(asked.prompt, asked.response)


@dataclass(frozen=True)
class _Weighted:
    part: RewardPart
    reward: RewardFunction


class WeightedRewards:
    """Judges with all its parts. If one of them cannot judge a response, the response is unscored.

    Args:
        parts: what the sum consists of.
        task: the task, for the part that is its own reward.
        limit_s: seconds in which a response has to be judged.
        state: beginning of the paths of files that parts keep; None: they keep none.

    Raises:
        TaskError: a part cannot be made.
    """

    def __init__(self, parts: Sequence[RewardPart], task: Task, limit_s: float, state: Path | None) -> None:
        check_parts(parts)
        self._parts = [_Weighted(part, OwnReward(task) if part.name == OWN else make_reward(part)) for part in parts]
        for one in self._parts:
            one.reward.prepare(RewardPlace(one.part.label, limit_s, state))

    @property
    def waits(self) -> bool:
        """Whether all that is not quick waits for others, so that many responses can be judged at once."""
        slow = [one.reward for one in self._parts if one.part.kind != "quick" and not _is_quick(one.reward)]
        return bool(slow) and all(map(_waits, slow))

    def judge(self, asked: RewardInput) -> dict[str, float] | Awaitable[dict[str, float]]:
        """Returns the weighted values by part, which add up to the reward; a coroutine where one part is one.

        A part that gives named numbers itself is several parts, called PART.NAME.

        Raises:
            RewardError: a part could not judge the response; the message begins with its name.
            TaskError: a part gave no finite number.
        """
        values: list[Any] = []
        for one in self._parts:
            try:
                values.append(one.reward.value(asked))
            except RewardError as error:
                _close(values)
                raise _named(one.part, error) from error
            except BaseException:
                _close(values)
                raise
        if any(inspect.isawaitable(value) for value in values):
            return self._gathered(values)
        return self._weighted(values)

    async def _gathered(self, values: Sequence[Any]) -> dict[str, float]:
        waiting = [value if inspect.isawaitable(value) else _known(value) for value in values]
        tasks = [asyncio.ensure_future(one) for one in waiting]
        try:
            # The first failure decides: what the others would say costs time, and perhaps money.
            await asyncio.gather(*tasks)
        except RewardError as error:
            failed = next(one.part for one, task in zip(self._parts, tasks, strict=True) if _failed_with(task, error))
            raise _named(failed, error) from error
        finally:
            for task in tasks:
                task.cancel()
        return self._weighted([task.result() for task in tasks])

    def _weighted(self, values: Sequence[Value]) -> dict[str, float]:
        parts: dict[str, float] = {}
        for one, value in zip(self._parts, values, strict=True):
            label, weight = one.part.label, one.part.weight
            score = as_score(value if isinstance(value, Mapping) else {label: value})
            if isinstance(value, Mapping):
                parts |= {f"{label}.{name}": weight * number for name, number in score.parts.items()}
            else:
                parts[label] = weight * score.reward
        return parts


def _is_quick(reward: RewardFunction) -> bool:
    """Whether it is the own reward of a built-in task that can be judged anywhere."""
    return isinstance(reward, OwnReward) and not reward.task.slow and type(reward.task).__module__.startswith(_BUILT_IN)


def _waits(reward: RewardFunction) -> bool:
    if isinstance(reward, PythonFunction):
        return reward.waits
    return inspect.iscoroutinefunction(type(reward).value)


async def _known(value: Any) -> Any:
    return value


def _close(values: Sequence[Any]) -> None:
    """Ends coroutines that nobody will await."""
    for value in values:
        if inspect.iscoroutine(value):
            value.close()


def _failed_with(task: asyncio.Future[Any], error: BaseException) -> bool:
    return task.done() and not task.cancelled() and task.exception() is error


def _named(part: RewardPart, error: RewardError) -> RewardError:
    return RewardError(error.reason, f"reward {part.label!r}: {error}")
