"""A task whose responses are judged by named rewards instead of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rollout.rewards.registry import OWN, RewardPart
from rollout.rewards.reward_function import RewardInput
from rollout.rewards.weighted import WeightedRewards
from rollout.tasks import Prompt, Task, TaskError
from rollout.tasks.base import Reward
from rollout.tasks.judged_response import JudgedResponse


class RewardedTask(Task):
    """A task with other rewards.

    Args:
        task: what is asked.
        parts: the rewards.
        limit_s: seconds in which a response has to be judged.
        state: beginning of the paths of files that rewards keep; None: they keep none.

    Attributes:
        judges_many: whether many responses can be judged at once in one process.

    Raises:
        TaskError: a reward cannot be made, or the task cannot have one.
    """

    def __init__(
        self, task: Task, parts: Sequence[RewardPart], limit_s: float = 10.0, state: Path | None = None
    ) -> None:
        super().__init__(task.seed)
        cls = type(task)
        if cls.rollout is not Task.rollout:
            raise TaskError(episodes_judge_themselves(task.name))
        if any(part.name == OWN for part in parts) and cls.group_rewards is not Task.group_rewards:
            raise TaskError(
                f"task.reward, name = {OWN!r}: the task {task.name!r} judges all responses to a prompt together, which "
                "cannot be one part: remove task.reward, and let group_rewards return named parts"
            )
        self.name = task.name
        self.stop = task.stop
        self.tools = task.tools
        self.slow = task.slow or any(part.kind != "quick" for part in parts if part.name != OWN)
        self._task = task
        self._rewards = WeightedRewards(parts, task, limit_s, state)
        self.judges_many = self._rewards.waits

    def load(self) -> None:
        self._task.load()
        self.size = self._task.size
        self.unusable_rows = self._task.unusable_rows

    def prompt(self, index: int) -> Prompt:
        return self._task.prompt(index)

    def reward(self, prompt: Prompt, response: str) -> Reward | Awaitable[Reward]:
        return self.judge(prompt, JudgedResponse(response))

    def judge(self, prompt: Prompt, response: JudgedResponse) -> Reward | Awaitable[Reward]:
        return self._rewards.judge(RewardInput(prompt, self._task.answer(prompt), response))  # type: ignore[return-value]

    def answer(self, prompt: Prompt) -> Any:
        return self._task.answer(prompt)

    def solution(self, prompt: Prompt) -> str | None:
        return self._task.solution(prompt)

    def conversation(self, prompt: Prompt) -> Sequence[Mapping[str, Any]] | None:
        return self._task.conversation(prompt)

    def fingerprint(self) -> dict[str, Any]:
        return self._task.fingerprint()


def episodes_judge_themselves(name: str) -> str:
    """Returns the message for a task that plays episodes and was given rewards."""
    return (
        f"task.reward: the task {name!r} plays episodes and gives their rewards itself: remove task.reward, and let its "
        "rollout or its agent return named parts"
    )
