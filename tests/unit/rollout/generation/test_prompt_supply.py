"""Prompts of a mixture: drawn by weight, told apart by task and index, done each in its own cursor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from leeway.v1 import rollout_pb2
from rollout.data.task_shares import TaskShares
from rollout.generation.asked_prompt import AskedPrompt
from rollout.generation.generated import MadeGroup
from rollout.generation.outcome import ResponseOutcome
from rollout.generation.prompt_supply import PromptSupply
from rollout.generation.withdrawal import Withdrawal
from rollout.tasks import Prompt
from rollout.tasks.score import Score


class Counting:
    """A task whose prompts are numbers."""

    def __init__(self) -> None:
        self.next = 0
        self.finished: list[int] = []
        self.learnt: list[tuple[int, list[float]]] = []

    async def take(self, count: int) -> list[tuple[int, Prompt]]:
        self.next += count
        return [(index, Prompt(str(index), "?")) for index in range(self.next - count, self.next)]

    def done(self, indices: list[int]) -> None:
        self.finished += indices

    def learn(self, index: int, rewards: list[float]) -> None:
        self.learnt.append((index, rewards))


def supply(path: Path, *weights: float) -> tuple[PromptSupply, list[Counting]]:
    tasks = [Counting() for _ in weights]
    shares = TaskShares(path / "shares.json", {str(task): weight for task, weight in enumerate(weights)})
    parts: Any = tasks
    return PromptSupply(parts, shares), tasks


def places(asked: list[AskedPrompt]) -> list[tuple[int, int]]:
    return [(one.task, one.index) for one in asked]


async def test_prompts_are_handed_out_by_weight_each_with_its_tasks_own_index(tmp_path: Path):
    prompts, _ = supply(tmp_path, 3.0, 1.0)
    assert places(await prompts.take(5)) == [(0, 0), (0, 1), (1, 0), (0, 2), (0, 3)]
    assert places(await prompts.take(3)) == [(0, 4), (1, 1), (0, 5)]


async def test_what_is_done_is_done_in_its_own_task_and_counts_for_the_shares(tmp_path: Path):
    prompts, tasks = supply(tmp_path, 3.0, 1.0)
    asked = await prompts.take(8)
    prompts.done(asked[1:4])
    assert [task.finished for task in tasks] == [[1, 2], [0]]
    again, _ = supply(tmp_path, 3.0, 1.0)
    assert [one.task for one in await again.take(5)] == [one.task for one in asked[3:8]]


async def test_only_groups_that_are_submitted_are_learnt_from(tmp_path: Path):
    prompts, tasks = supply(tmp_path, 1.0, 1.0)
    asked = await prompts.take(3)
    outcomes = [
        ResponseOutcome([], "stop", Score(1.0)),
        ResponseOutcome([], "abort", None, "aborted"),
        ResponseOutcome([], "stop", Score(0.5)),
    ]
    groups = [rollout_pb2.Group(), rollout_pb2.Group(), Withdrawal("truncated", "")]
    prompts.learn(MadeGroup(one, [1], outcomes, group) for one, group in zip(asked, groups, strict=True))
    assert [task.learnt for task in tasks] == [[(0, [1.0, 0.5])], [(0, [1.0, 0.5])]]
