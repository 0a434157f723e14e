"""Scoring: quick tasks in place; slow ones in reward workers, under a time limit, replaced when they hang or die."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rollout.config import TaskConfig
from rollout.tasks import Prompt, load_task, scoring
from rollout.tasks.reward_error import RewardError
from rollout.tasks.score import Score
from rollout.tasks.scoring import RewardPool
from tests.tools import fleet_tasks

SOURCE = Path(fleet_tasks.__file__)
SLOW = "tests.tools.fleet_tasks:Slow"


async def test_quick_tasks_are_scored_in_place():
    task = load_task("sort", 0, {})
    pool = RewardPool(task, TaskConfig(), seed=0)
    prompt = task.prompt(0)
    assert await pool.score(prompt, [prompt.data, "1"]) == [Score(1.0), Score(0.0)]


@pytest.fixture(params=[60.0])
async def slow(request: pytest.FixtureRequest) -> AsyncIterator[RewardPool]:
    """Two reward workers; the parameter is the time limit, in seconds."""
    config = TaskConfig(name=SLOW, reward_workers=2, reward_timeout_s=request.param)
    pool = RewardPool(load_task(SLOW, 0, {}), config, seed=0)
    yield pool
    await pool.close()


async def test_slow_tasks_are_scored_elsewhere_with_the_prompt_that_was_asked(slow: RewardPool):
    prompt = load_task(SLOW, 0, {}).prompt(7)
    scores = await slow.score(prompt, ["0.75", "parts", "print"])
    assert scores == [Score(0.75), Score(7.25, {"format": 0.25, "answer": 7.0}), Score(0.5)]


@pytest.mark.parametrize("slow", [1.0], indirect=True)
async def test_a_response_whose_scoring_hangs_is_not_scored_and_the_next_ones_are(slow: RewardPool):
    prompt = load_task(SLOW, 0, {}).prompt(0)
    with pytest.raises(
        RewardError, match=r"not scored within reward_timeout_s = 1; prompt '0', response 'hang'"
    ) as error:
        await slow.score(prompt, ["hang", "1", "hang", "2"])
    assert error.value.reason == "reward_timeout"
    assert await slow.score(prompt, ["1", "2"]) == [Score(1.0), Score(2.0)]


async def test_a_reward_that_raises_is_named_with_task_line_prompt_and_response(slow: RewardPool):
    prompt = load_task(SLOW, 0, {}).prompt(0)
    line = next(
        at for at, text in enumerate(inspect.getsource(fleet_tasks).splitlines(), start=1) if "scripted" in text
    )
    with pytest.raises(RewardError) as error:
        await slow.score(prompt, ["raise"])
    assert error.value.reason == "reward_error"
    assert str(error.value) == (
        f"task.name = {SLOW!r}: reward failed: ZeroDivisionError: scripted at {SOURCE}:{line}; prompt '0', response 'raise'"
    ).replace(SLOW, "slow")
    assert await slow.score(prompt, ["3"]) == [Score(3.0)]


async def test_a_quick_reward_that_raises_is_named_with_the_start_of_a_long_response():
    task = load_task("tests.tools.fleet_tasks:Quick", 0, {})
    pool = RewardPool(task, TaskConfig(), seed=0)
    with pytest.raises(RewardError) as error:
        await pool.score(task.prompt(0), ["1", "raise" + "x" * 500])
    assert f"ValueError: scripted at {SOURCE}:" in str(error.value)
    assert "prompt '0', response 'raisexxx" in str(error.value)
    assert len(str(error.value)) < 400
    with pytest.raises(RewardError, match=r"TaskError: reward = nan: expected a finite number"):
        await pool.score(task.prompt(0), ["nan"])


async def test_numbers_of_numpy_come_out_of_a_reward_worker(slow: RewardPool):
    prompt = load_task(SLOW, 0, {}).prompt(0)
    assert await slow.score(prompt, ["numpy"]) == [Score(1.5, {"right": 1.0, "short": 0.5})]


async def test_a_reward_that_is_not_finite_is_an_error_of_the_task(slow: RewardPool):
    prompt = load_task(SLOW, 0, {}).prompt(0)
    with pytest.raises(RewardError, match="reward = nan: expected a finite number") as error:
        await slow.score(prompt, ["nan"])
    assert error.value.reason == "reward_error"


async def test_a_reward_worker_that_ends_is_replaced(slow: RewardPool):
    prompt = load_task(SLOW, 0, {}).prompt(0)
    with pytest.raises(RewardError, match="its reward worker ended") as error:
        await slow.score(prompt, ["exit"])
    assert error.value.reason == "reward_worker"
    assert await slow.score(prompt, ["1", "2", "3"]) == [Score(1.0), Score(2.0), Score(3.0)]


async def test_a_reward_worker_that_cannot_start_scores_nothing(slow: RewardPool, monkeypatch: pytest.MonkeyPatch):
    prompt = load_task(SLOW, 0, {}).prompt(0)
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "_START_S", 0.001)
        with pytest.raises(RewardError, match=r"its reward worker did not start within 0\.001 s") as error:
            await slow.score(prompt, ["1"])
        assert error.value.reason == "reward_worker"
        patch.setattr(scoring.sys, "executable", "/no/such/python")
        patch.setattr(scoring, "_START_S", 60.0)
        with pytest.raises(RewardError, match=r"its reward worker did not start: .*/no/such/python"):
            await slow.score(prompt, ["1"])
    assert await slow.score(prompt, ["1"]) == [Score(1.0)]


async def test_a_restarted_reward_worker_judges_what_was_asked_though_the_data_changed_meanwhile(tmp_path: Path):
    data = tmp_path / "train.jsonl"
    data.write_text("".join(f'{{"question": "{one}+1?", "answer": "#### {one + 1}"}}\n' for one in range(10)))
    options = {"path": str(data)}
    task = load_task("gsm8k", 0, options)
    pool = RewardPool(task, TaskConfig(name="gsm8k", options=options), seed=0)
    prompts = [task.prompt(index) for index in range(10)]
    right = [f"\\boxed{{{prompt.data['final']}}}" for prompt in prompts]
    try:
        assert await pool.score(prompts[0], [right[0]]) == [Score(1.0)]
        with data.open("a") as file:
            file.write('{"question": "half a row')  # another row, and not even complete
        await pool.close()  # as if it had died: the next response starts it again
        scores = [await pool.score(prompt, [answer]) for prompt, answer in zip(prompts, right, strict=True)]
    finally:
        await pool.close()
    assert scores == [[Score(1.0)]] * 10


async def test_the_data_of_a_prompt_arrives_as_the_task_made_it(slow: RewardPool):
    data = {"keys": {1: {2, 3}}, "pair": (4, b"5")}  # what JSON would have changed without a word
    assert await slow.score(Prompt("p", "=", data), [f"data {data!r}"]) == [Score(1.0)]


async def test_a_prompt_that_cannot_be_sent_is_not_scored(slow: RewardPool):
    with pytest.raises(
        RewardError, match=r"task\.name = 'slow': prompt 'p' cannot be sent to a reward worker: .*pickle"
    ) as error:
        await slow.score(Prompt("p", "=", lambda: 1), ["1"])
    assert error.value.reason == "reward_error"
