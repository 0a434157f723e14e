"""The prompts that are evaluated: held-out ones only, the same every time, and never those that are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from rollout.config import TaskConfig
from rollout.data.fingerprint import fingerprint
from rollout.data.prompt_cursor import PromptSource
from rollout.data.prompt_order import PromptOrder
from rollout.environments.pool import EnvironmentPool
from rollout.evaluation.prompt_set import PromptSetError, prompt_set, require_same_prompts
from rollout.generation.task_prompts import TaskPrompts
from rollout.tasks import Prompt, load_task
from rollout.tasks.held_out import is_held_out


async def sorting(indices: Sequence[int]) -> list[Prompt]:
    task = load_task("sort", 0, {})
    return [task.prompt(index) for index in indices]


async def numbered(indices: Sequence[int]) -> list[Prompt]:
    return [Prompt(f"row:{index // 2}", text="?") for index in indices]


class Uncounted:
    def passed_over(self, task: str, why: str, prompts: int) -> None: ...

    def rest_cut_short(self, task: str) -> None: ...

    def pass_rate(self, task: str, rate: float) -> None: ...


@pytest.mark.parametrize("digits", [6, 2])  # endless prompts that are all different, and ones that come again and again
async def test_what_a_worker_trains_on_and_what_is_evaluated_have_no_prompt_in_common(tmp_path: Path, digits: int):
    task = TaskConfig(held_out=0.2, options={"digits": digits})
    async with EnvironmentPool.open(task, 0, tmp_path / "log") as environments:
        asked = await prompt_set(environments.prompts, environments.task.size, task, 12)
        prompts = fingerprint(task, 0, environments.task.size, environments.task.fingerprint)
        source = PromptSource(tmp_path / "cursor.json", PromptOrder("worker-0", environments.task.size), prompts)
        trained = await TaskPrompts(task, environments, source, None, Uncounted()).take(1000)
    evaluated = {one.prompt.prompt_id for one in asked}
    assert len(evaluated) == 12
    assert [one.index for one in asked] == sorted(one.index for one in asked)
    assert len(trained) == 1000
    assert not evaluated & {prompt.prompt_id for _, prompt in trained}


async def test_a_smaller_share_is_disjoint_from_what_is_trained_too():
    asked = await prompt_set(sorting, None, TaskConfig(held_out=0.05), 20)
    assert all(is_held_out(one.prompt.prompt_id, 0.1) for one in asked)


async def test_a_split_of_its_own_is_asked_whole_each_prompt_once():
    asked = await prompt_set(numbered, 7, TaskConfig(), 100)
    assert [(one.index, one.prompt.prompt_id) for one in asked] == [
        (0, "row:0"),
        (2, "row:1"),
        (4, "row:2"),
        (6, "row:3"),
    ]
    assert len(await prompt_set(numbered, 7, TaskConfig(), 2)) == 2


async def test_a_task_without_a_held_out_prompt_says_what_to_do():
    with pytest.raises(PromptSetError, match="none of its 3 prompts is held out with held_out = 1e-09; raise it"):
        await prompt_set(numbered, 3, TaskConfig(held_out=1e-9), 5)


def test_other_prompts_than_the_last_time_are_refused(tmp_path: Path):
    path = tmp_path / "state" / "prompts.json"
    require_same_prompts(path, ["a", "b"])
    require_same_prompts(path, ["a", "b"])
    with pytest.raises(PromptSetError, match=r"2 then, 3 now; new: \['c'\]"):
        require_same_prompts(path, ["a", "b", "c"])
    with pytest.raises(PromptSetError, match=r"no longer there: \['b'\]"):
        require_same_prompts(path, ["a"])
    path.write_text("[")
    with pytest.raises(PromptSetError, match="delete it"):
        require_same_prompts(path, ["a"])
