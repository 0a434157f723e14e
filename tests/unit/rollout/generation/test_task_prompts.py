"""The prompts of one task: those that are held out or rest are passed over, and a search for one that is asked ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rollout.config import RestConfig, TaskConfig
from rollout.data.prompt_cursor import PromptSource
from rollout.data.prompt_memory import PromptMemory
from rollout.data.prompt_order import PromptOrder
from rollout.environments.description import TaskDescription
from rollout.generation.task_prompts import TaskPrompts
from rollout.tasks import Prompt, TaskError
from rollout.tasks.held_out import is_held_out

FINGERPRINT = {"task.name": "rows"}


class Rows:
    """Environments of data of some rows, or of endless prompts."""

    def __init__(self, size: int | None) -> None:
        self.task = TaskDescription("rows", size=size)
        self.made: list[int] = []
        self.calls = 0

    async def prompts(self, indices: Sequence[int]) -> list[Prompt]:
        self.made += indices
        self.calls += 1
        return [Prompt(self.name(index), "?") for index in indices]

    def name(self, index: int) -> str:
        return f"row:{index if self.task.size is None else index % self.task.size}"


class Counted:
    """Counts what is passed over."""

    def __init__(self) -> None:
        self.passed: Counter[str] = Counter()
        self.cut_short = 0
        self.rates: list[float] = []

    def passed_over(self, task: str, why: str, prompts: int) -> None:
        assert task == "rows"
        self.passed[why] += prompts

    def rest_cut_short(self, task: str) -> None:
        self.cut_short += 1

    def pass_rate(self, task: str, rate: float) -> None:
        self.rates.append(rate)


class Bench:
    """A task's prompts, and what they are made of."""

    def __init__(self, directory: Path, size: int | None, held_out: float = 0.0, after: int = 0) -> None:
        rest = RestConfig(after=after)
        config = TaskConfig(name="m:Rows", label="rows", held_out=held_out, rest=rest)
        self.rows, self.counted = Rows(size), Counted()
        order = PromptOrder("worker-0", size)
        source = PromptSource(directory / "cursor.json", order, FINGERPRINT)
        memory = PromptMemory(directory / "memory.jsonl", size, rest, FINGERPRINT) if after and size else None
        environments: Any = self.rows
        self.prompts = TaskPrompts(config, environments, source, memory, self.counted)

    async def indices(self, count: int) -> list[int]:
        taken = await self.prompts.take(count)
        assert [prompt.prompt_id for _, prompt in taken] == [self.rows.name(index) for index, _ in taken]
        return [index for index, _ in taken]

    async def work(self, count: int, *flat: int) -> list[int]:
        """Takes prompts one by one, and answers them: without contrast those of the rows in ``flat``."""
        found = []
        for _ in range(count):
            (index,) = await self.indices(1)
            size = self.rows.task.size
            assert size is not None
            self.prompts.learn(index, [1.0, 1.0] if index % size in flat else [0.0, 1.0])
            self.prompts.done([index])
            found.append(index)
        return found


def trained(count: int, share: float, size: int | None = None) -> list[int]:
    """The first indices that are not held out."""
    rows = range(10 * count if size is None else size)
    return [row for row in rows if not is_held_out(f"row:{row}", share)][:count]


async def test_without_anything_to_pass_over_every_prompt_is_asked_and_made_once(tmp_path: Path):
    bench = Bench(tmp_path, 10)
    assert await bench.indices(12) == list(range(12))
    assert bench.rows.made == list(range(12))
    assert bench.counted.passed == {}


@pytest.mark.parametrize("size", [None, 200])
async def test_held_out_prompts_are_never_handed_out_and_are_done(tmp_path: Path, size: int | None):
    bench = Bench(tmp_path, size, held_out=0.5)
    expected = trained(60, 0.5, size)
    first = [index for _ in range(5) for index in await bench.indices(6)]
    assert first == expected[:30]
    bench.prompts.done(first)
    again = Bench(tmp_path, size, held_out=0.5)
    assert await again.indices(30) == expected[30:]
    passed = bench.counted.passed["held_out"] + again.counted.passed["held_out"]
    assert passed == expected[-1] + 1 - 60 + sum(
        1 for index in again.rows.made if index > expected[-1] and is_held_out(again.rows.name(index), 0.5)
    )


async def test_few_calls_find_a_prompt_among_many_that_are_held_out(tmp_path: Path):
    bench = Bench(tmp_path, None, held_out=0.99)
    found = [index for _ in range(10) for index in await bench.indices(1)]
    assert found == [row for row in range(found[-1] + 1) if not is_held_out(f"row:{row}", 0.99)]
    assert found[-1] > 300
    assert bench.rows.calls < found[-1] / 5


@pytest.mark.parametrize("size", [20, None])
async def test_where_all_prompts_are_held_out_the_worker_ends_with_the_settings_name(tmp_path: Path, size: int | None):
    bench = Bench(tmp_path, size, held_out=0.5)
    held = next(row for row in range(1000) if is_held_out(f"row:{row}", 0.5))
    bench.rows.name = lambda index: f"row:{held}"
    with pytest.raises(
        TaskError, match=r"'m:Rows': \d+ prompts in a row are held out, .* task\.held_out = 0\.5: lower it"
    ):
        await bench.prompts.take(1)
    assert len(bench.rows.made) < 1000


async def test_prompts_without_contrast_rest_and_come_back(tmp_path: Path):
    bench = Bench(tmp_path, 4, after=1)
    assert await bench.work(4, 0, 1) == [0, 1, 2, 3]
    assert bench.prompts.resting() == {"solved": 2, "hopeless": 0}
    assert await bench.work(4, 0, 1) == [6, 7, 10, 11]  # two passes without rows 0 and 1
    assert await bench.work(4, 0) == [12, 13, 14, 15]
    assert bench.prompts.resting() == {"solved": 1, "hopeless": 0}
    assert bench.counted.passed == {"solved": 4}
    assert bench.rows.made == [0, 1, 2, 3, 6, 7, 10, 11, 12, 13, 14, 15]
    assert bench.counted.rates[-1] == 0.0  # of 0.5 and 1, the lowest mean


async def test_what_rests_is_known_after_a_restart(tmp_path: Path):
    await Bench(tmp_path, 4, after=1).work(4, 0, 1)
    assert await Bench(tmp_path, 4, after=1).work(4, 0, 1) == [6, 7, 10, 11]


async def test_where_every_prompt_rests_the_first_to_wake_is_asked_early(tmp_path: Path):
    bench = Bench(tmp_path, 4, after=1)
    await bench.work(4, 0, 1, 2, 3)
    assert [index % 4 for index in await bench.work(8, 0, 1, 2, 3)] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert bench.counted.cut_short == 2
    assert bench.counted.passed["solved"] < 40


async def test_where_some_are_held_out_and_all_others_rest_the_search_ends_too(tmp_path: Path):
    rows = trained(20, 0.5, 20)
    bench = Bench(tmp_path, 20, held_out=0.5, after=1)
    found = await bench.work(3 * len(rows), *rows)
    assert sorted(Counter(index % 20 for index in found)) == rows
    assert bench.counted.cut_short == 2


async def test_endless_prompts_have_no_memory(tmp_path: Path):
    bench = Bench(tmp_path, None, after=1)
    bench.prompts.learn(0, [1.0, 1.0])
    assert bench.prompts.resting() == {"solved": 0, "hopeless": 0}
    assert await bench.indices(3) == [0, 1, 2]
