"""What a worker asks next: prompts of its tasks by weight, without those that are held out for evaluation or rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from leeway.v1 import rollout_pb2
from rollout.data.task_shares import TaskShares
from rollout.generation.asked_prompt import AskedPrompt
from rollout.generation.generated import MadeGroup
from rollout.generation.task_prompts import TaskPrompts


class PromptSupply:
    """Hands out the prompts of a mixture, each until it is done.

    Args:
        prompts: of every task, in the order of the settings.
        shares: says which task is next.
    """

    def __init__(self, prompts: Sequence[TaskPrompts], shares: TaskShares) -> None:
        self._prompts = prompts
        self._shares = shares

    async def take(self, count: int) -> list[AskedPrompt]:
        """Hands out the next prompts, never fewer: what is not asked is passed over here, so that no lease is wasted on it.

        Raises:
            TaskError: a task did not make a prompt, or all its prompts are held out.
        """
        tasks = [self._shares.draw() for _ in range(count)]
        found = {task: iter(await self._prompts[task].take(tasks.count(task))) for task in dict.fromkeys(tasks)}
        return [AskedPrompt(task, *next(found[task])) for task in tasks]

    def learn(self, groups: Iterable[MadeGroup]) -> None:
        """Remembers how the groups went that are submitted."""
        for made in groups:
            if isinstance(made.group, rollout_pb2.Group):
                self._prompts[made.asked.task].learn(made.asked.index, made.rewards)

    def done(self, asked: Sequence[AskedPrompt]) -> None:
        """Marks prompts as done for good, and writes that."""
        by_task: Mapping[int, list[int]] = {one.task: [] for one in asked}
        for one in asked:
            by_task[one.task].append(one.index)
        for task, indices in by_task.items():
            self._prompts[task].done(indices)
        self._shares.done([one.task for one in asked])
