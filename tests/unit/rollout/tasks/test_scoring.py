"""Scoring: quick tasks in place; slow ones in reward workers, under a time limit, replaced when they hang or die."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from rollout.config import TaskConfig
from rollout.tasks import TaskError, load_task
from rollout.tasks.scoring import RewardPool, Score, as_score

SLOW = "tests.tools.fleet_tasks:Slow"


def test_named_parts_add_up():
    assert as_score({"format": 0.25, "answer": 1}) == Score(1.25, {"format": 0.25, "answer": 1.0})
    assert as_score(True) == Score(1.0, {})
    with pytest.raises(TaskError, match="reward = 'good'"):
        as_score("good")  # pyright: ignore[reportArgumentType]


async def test_quick_tasks_are_scored_in_place():
    task = load_task("sort", 0, {})
    pool = RewardPool(task, TaskConfig(), seed=0)
    prompt = task.prompt(0)
    assert await pool.score(0, prompt, [prompt.data, "1"]) == [Score(1.0), Score(0.0)]


@pytest.fixture(params=[60.0])
async def slow(request: pytest.FixtureRequest) -> AsyncIterator[RewardPool]:
    """Two reward workers; the parameter is the time limit, in seconds."""
    config = TaskConfig(name=SLOW, reward_workers=2, reward_timeout_s=request.param)
    pool = RewardPool(load_task(SLOW, 0, {}), config, seed=0)
    yield pool
    await pool.close()


async def test_slow_tasks_are_scored_elsewhere_with_the_prompt_of_the_index(slow: RewardPool):
    prompt = load_task(SLOW, 0, {}).prompt(7)
    scores = await slow.score(7, prompt, ["0.75", "parts", "print"])
    assert scores == [Score(0.75), Score(7.25, {"format": 0.25, "answer": 7.0}), Score(0.5)]


@pytest.mark.parametrize("slow", [1.0], indirect=True)
async def test_a_response_whose_scoring_hangs_earns_nothing_and_the_next_ones_are_scored(slow: RewardPool):
    prompt = load_task(SLOW, 0, {}).prompt(0)
    assert await slow.score(0, prompt, ["hang", "1", "hang", "2"]) == [Score(0), Score(1.0), Score(0), Score(2.0)]
    assert slow.timeouts == 2


async def test_a_reward_that_raises_is_an_error_with_its_message(slow: RewardPool):
    prompt = load_task(SLOW, 0, {}).prompt(0)
    with pytest.raises(TaskError, match="ZeroDivisionError: scripted"):
        await slow.score(0, prompt, ["raise"])
    assert await slow.score(0, prompt, ["3"]) == [Score(3.0)]
