"""Judging responses: quick built-in tasks in place; others in hosts, under a time limit, replaced when they hang or die."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rollout.config import TaskConfig
from rollout.environments import host_process
from rollout.environments.pool import EnvironmentPool
from rollout.tasks import Prompt, load_task
from rollout.tasks.reward_error import RewardError
from rollout.tasks.score import Score
from tests.tools import fleet_tasks

SOURCE = Path(fleet_tasks.__file__)
SLOW = "tests.tools.fleet_tasks:Slow"


@pytest.fixture
async def open_pool(tmp_path: Path) -> AsyncIterator[Any]:
    """Opens pools that are closed after the test."""
    opened: list[Any] = []

    async def opens(name: str = SLOW, **changes: Any) -> EnvironmentPool:
        config = TaskConfig(name=name, **{"processes": 2, "reward_timeout_s": 60.0, **changes})
        opened.append(EnvironmentPool.open(config, 0, tmp_path / "environment"))
        return await opened[-1].__aenter__()

    yield opens
    for one in opened:
        await one.__aexit__(None, None, None)


def failed(outcome: Score | RewardError) -> tuple[str, str]:
    """The reason and the message of a response that has no score."""
    assert isinstance(outcome, RewardError), outcome
    return outcome.reason, str(outcome)


async def test_quick_built_in_tasks_are_judged_in_place(open_pool: Any):
    pool = await open_pool("sort")
    (prompt,) = await pool.prompts([0])
    assert prompt == load_task("sort", 0, {}).prompt(0)
    assert await pool.score(prompt, [prompt.data, "1"]) == [Score(1.0), Score(0.0)]
    assert pool.pids() == []


async def test_tasks_of_a_users_own_never_run_in_this_process(open_pool: Any):
    pool = await open_pool("tests.tools.fleet_tasks:Where", processes=1)
    (prompt,) = await pool.prompts([0])
    (score,) = await pool.score(prompt, [""])
    asking, judging = pool.pids()
    # Their parents are guards, which are the children of this process.
    assert {int(prompt.text), int(score.reward)} <= set(fleet_tasks.children_of(asking, judging))
    assert int(prompt.text) != int(score.reward)


async def test_tasks_are_judged_with_the_prompt_that_was_asked_and_what_they_print_is_logged(
    open_pool: Any, tmp_path: Path
):
    pool = await open_pool()
    (prompt,) = await pool.prompts([7])
    scores = await pool.score(prompt, ["0.75", "parts", "print"])
    assert scores == [Score(0.75), Score(7.25, {"format": 0.25, "answer": 7.0}), Score(0.5)]
    logs = [tmp_path / f"environment-{number}.log" for number in range(2)]
    assert "not an answer" in "".join(log.read_text() for log in logs)


async def test_a_response_whose_judging_hangs_is_not_scored_and_the_others_are(open_pool: Any, monkeypatch: Any):
    monkeypatch.setattr(host_process, "_GRACE_S", 0.1)
    pool = await open_pool(reward_timeout_s=2.0)
    (prompt,) = await pool.prompts([0])
    hung, one, also, two = await pool.score(prompt, ["hang", "1", "hang", "2"])
    assert (one, two) == (Score(1.0), Score(2.0))
    assert failed(hung) == failed(also)
    assert failed(hung) == (
        "reward_timeout",
        "task.name = 'slow': not scored within reward_timeout_s = 2; prompt '0', response 'hang'",
    )


async def test_a_reward_that_raises_is_named_with_task_line_prompt_and_response(open_pool: Any):
    pool = await open_pool()
    (prompt,) = await pool.prompts([0])
    line = next(
        at for at, text in enumerate(inspect.getsource(fleet_tasks).splitlines(), start=1) if "scripted" in text
    )
    outcome, three = await pool.score(prompt, ["raise", "3"])
    assert failed(outcome) == (
        "reward_error",
        f"task.name = 'slow': reward failed: ZeroDivisionError: scripted at {SOURCE}:{line}; prompt '0', response 'raise'",
    )
    assert three == Score(3.0)


async def test_a_quick_reward_that_raises_is_named_with_the_start_of_a_long_response(open_pool: Any, monkeypatch: Any):
    pool = await open_pool("sort")
    (prompt,) = await pool.prompts([0])
    monkeypatch.setattr(pool._local, "reward", fleet_tasks.Quick().reward)
    one, raised, nan = await pool.score(prompt, ["1", "raise" + "x" * 500, "nan"])
    assert one == Score(1.0)
    reason, message = failed(raised)
    assert reason == "reward_error"
    assert f"ValueError: scripted at {SOURCE}:" in message
    assert f"prompt {prompt.prompt_id!r}, response 'raisexxx" in message
    assert len(message) < 400
    assert "TaskError: reward = nan: expected a finite number" in failed(nan)[1]


async def test_numbers_of_numpy_come_out_of_a_host(open_pool: Any):
    pool = await open_pool()
    assert await pool.score(Prompt("0", "="), ["numpy"]) == [Score(1.5, {"right": 1.0, "short": 0.5})]


async def test_a_reward_that_is_not_finite_is_an_error_of_the_task(open_pool: Any):
    pool = await open_pool()
    (outcome,) = await pool.score(Prompt("0", "="), ["nan"])
    reason, message = failed(outcome)
    assert reason == "reward_error"
    assert "reward = nan: expected a finite number" in message


async def test_a_host_that_ends_is_replaced_and_what_ends_every_host_is_unscored(open_pool: Any):
    pool = await open_pool()
    outcome, *others = await pool.score(Prompt("0", "="), ["exit", "1", "2", "3"])
    assert others == [Score(1.0), Score(2.0), Score(3.0)]
    reason, message = failed(outcome)
    assert reason == "environment_died"
    assert "its process ended; " in message


async def test_a_host_that_cannot_start_judges_nothing(open_pool: Any, monkeypatch: Any):
    pool = await open_pool()
    with monkeypatch.context() as patch:
        patch.setattr(host_process, "_START_S", 0.001)
        (outcome,) = await pool.score(Prompt("0", "="), ["1"])
        assert failed(outcome)[0] == "environment_died"
        assert "its process did not start within 0.001 s" in failed(outcome)[1]
        patch.setattr("sys.executable", "/no/such/python")
        patch.setattr(host_process, "_START_S", 60.0)
        (outcome,) = await pool.score(Prompt("0", "="), ["1"])
        assert "its process did not start: " in failed(outcome)[1]
        assert "/no/such/python" in failed(outcome)[1]
    assert await pool.score(Prompt("0", "="), ["1"]) == [Score(1.0)]


async def test_a_host_that_starts_again_judges_what_was_asked_though_the_data_changed_meanwhile(
    open_pool: Any, tmp_path: Path
):
    data = tmp_path / "train.jsonl"
    data.write_text("".join(f'{{"question": "{one}+1?", "answer": "#### {one + 1}"}}\n' for one in range(10)))
    pool = await open_pool("gsm8k", options={"path": str(data)}, processes=1)
    prompts = await pool.prompts(range(10))
    right = [f"\\boxed{{{prompt.data['final']}}}" for prompt in prompts]
    assert await pool.score(prompts[0], [right[0]]) == [Score(1.0)]
    with data.open("a") as file:
        file.write('{"question": "half a row')  # another row, and not even complete
    (host,) = pool._working
    await host.kill("as if it had died")
    scores = [await pool.score(prompt, [answer]) for prompt, answer in zip(prompts, right, strict=True)]
    assert scores == [[Score(1.0)]] * 10


async def test_the_data_of_a_prompt_arrives_as_the_task_made_it(open_pool: Any):
    pool = await open_pool()
    data = {"keys": {1: {2, 3}}, "pair": (4, b"5")}  # what JSON would have changed without a word
    assert await pool.score(Prompt("p", "=", data), [f"data {data!r}"]) == [Score(1.0)]


async def test_a_prompt_that_cannot_be_sent_is_not_scored(open_pool: Any):
    pool = await open_pool()
    (outcome,) = await pool.score(Prompt("p", "=", lambda: 1), ["1"])
    reason, message = failed(outcome)
    assert reason == "reward_error"
    assert "task.name = 'slow': its data cannot be sent to a process that judges: " in message
    assert "pickle" in message


async def test_the_responses_of_a_group_are_judged_together(open_pool: Any):
    pool = await open_pool("tests.tools.fleet_tasks:Together")
    assert pool.task.judges_groups
    assert await pool.score(Prompt("p", "="), ["aa", "b", "ccc"]) == [Score(0.0), Score(1.0), Score(0.0)]


async def test_one_host_judges_many_responses_at_once_where_the_judge_is_a_coroutine(open_pool: Any):
    pool = await open_pool("tests.tools.fleet_tasks:Waiting", processes=1)
    (prompt,) = await pool.prompts([5])
    assert await pool.score(prompt, ["1", "2", "3", "4", "5"]) == [Score(float(one)) for one in range(1, 6)]
