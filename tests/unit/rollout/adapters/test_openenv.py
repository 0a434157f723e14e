"""Episodes in a real server's environment, played by a host of the package's virtualenv with scripted answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rollout.tasks import TaskError
from rollout.tasks.reward_error import RewardError
from rollout.tasks.score import Score
from tests.tools.adapted_tasks import ADAPTED, open_pool, require_python, scripted
from tests.tools.scripted_book import answer, calling

_START_S = 120
ASK = "Find the number."
OVER = RuntimeError("asked once too often")  # an episode that does not end by itself ends here


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    """URL of a server that is killed after the test."""
    command = [str(require_python("openenv")), str(ADAPTED / "openenv_server.py")]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        port = int(await asyncio.wait_for(process.stdout.readline(), _START_S))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        await process.communicate()


def act(number: int) -> Any:
    return calling("act", f'{{"number": {number}}}')


async def test_the_model_acts_by_tool_calls_with_the_servers_own_schema(url: str, tmp_path: Path):
    script = [act(2), act(12), act(4), answer("I give up."), OVER]
    async with (
        open_pool("openenv", tmp_path, require_python("openenv"), url=url, instruction=ASK) as pool,
        scripted(tmp_path, *script) as (episode, access, _),
    ):
        [prompt] = await pool.prompts([1])  # seed 3 + 1
        assert await pool.rollout(prompt, access) == Score(0.75)
        [tool] = episode.calls[0].tools
        assert tool["function"]["parameters"]["properties"]["number"]["maximum"] == 9
        told = [message["content"] for message in episode.calls[2].messages if message["role"] in ("user", "tool")]
        assert told[:2] == ['{"text": "Guess my number."}', '{"text": "Higher."}']
        assert "no valid action" in told[2]
        assert await pool.rollout(prompt, access) == Score(0.0)  # it said that it gives up, and did nothing


async def test_an_action_of_one_field_is_what_the_model_says(url: str, tmp_path: Path):
    options = {"url": url, "instruction": ASK, "action": "number", "observation": "text", "size": 2}
    async with (
        open_pool("openenv", tmp_path, require_python("openenv"), **options) as pool,
        scripted(tmp_path, answer("9"), answer("3"), OVER) as (episode, access, _),
    ):
        assert pool.task.size == 2
        [prompt] = await pool.prompts([2])
        assert await pool.rollout(prompt, access) == Score(0.75)
        assert [message["content"] for message in episode.calls[1].messages] == [ASK, "Guess my number.", "9", "Lower."]


async def test_a_server_that_is_not_there_is_no_reward(tmp_path: Path):
    options = {"url": "http://127.0.0.1:1", "instruction": ASK}
    async with (
        open_pool("openenv", tmp_path, require_python("openenv"), **options) as pool,
        scripted(tmp_path) as (_, access, _),
    ):
        [prompt] = await pool.prompts([0])
        with pytest.raises(RewardError, match="refused"):
            await pool.rollout(prompt, access)


async def test_an_option_that_is_missing_is_named(tmp_path: Path):
    with pytest.raises(TaskError, match=r"task\.options\.url"):
        async with open_pool("openenv", tmp_path, require_python("openenv"), url="127.0.0.1"):
            pass
