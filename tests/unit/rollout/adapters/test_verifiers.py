"""Episodes of the real package, in a host of its own virtualenv, at a real endpoint with scripted answers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rollout.tasks.reward_error import RewardError
from rollout.tasks.score import Score
from tests.tools.adapted_tasks import ADAPTED, open_pool, require_python, scripted
from tests.tools.scripted_book import answer

NAME = "leeway-digits"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch):
    """Lets hosts import the environment as if it were installed."""
    monkeypatch.setenv("PYTHONPATH", str(ADAPTED))


async def test_an_episode_is_the_environments_and_so_are_its_rewards(tmp_path: Path):
    python = require_python("verifiers")
    async with (
        open_pool("verifiers", tmp_path, python, environment=NAME) as pool,
        scripted(tmp_path, answer("3"), answer("7"), answer("seven"), answer("4")) as (episode, access, counted),
    ):
        assert (pool.task.name, pool.task.size, pool.task.plays) == (f"verifiers:{NAME}", 4, True)
        assert pool.task.fingerprint["verifiers"] == "0.4.0"
        prompt, again = await pool.prompts([1, 5])
        asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say a digit (1)."}]
        assert (prompt.messages, prompt.prompt_id) == (asked, f"verifiers:{NAME}:1")
        assert again.prompt_id == prompt.prompt_id
        assert await pool.rollout(prompt, access) == Score(1.0, {"digits": 0.25, "high": 0.75})
        assert await pool.rollout(prompt, access) == Score(0.125, {"digits": 0.125, "high": 0.0})
        first, second = episode.calls[:2]
        assert first.messages == asked
        further = [{"role": "assistant", "content": "3"}, {"role": "user", "content": "Higher."}]
        assert second.messages == [*asked, *further]
        assert counted.parameters == []


@pytest.mark.parametrize(
    ("least", "script", "told"),
    [
        (-1, [answer("3"), answer("7")], "no digit is less"),
        (5, [answer("3"), RuntimeError("broken")], "episode failed"),
    ],
)
async def test_an_episode_that_fails_has_no_reward(tmp_path: Path, least: int, script: list[Any], told: str):
    options = {"environment": NAME, "config": {"taskset": {"least": least}}}
    async with (
        open_pool("verifiers", tmp_path, require_python("verifiers"), **options) as pool,
        scripted(tmp_path, *script) as (_, access, _),
    ):
        [prompt] = await pool.prompts([0])
        with pytest.raises(RewardError, match=told) as failed:
            await pool.rollout(prompt, access)
        assert failed.value.reason == "rollout_failed"


async def test_tasks_are_selected_as_in_a_file_of_the_package(tmp_path: Path):
    options = {"environment": NAME, "config": {"taskset": {"count": 9}}, "select": {"skip": 2, "limit": 3}}
    async with open_pool("verifiers", tmp_path, require_python("verifiers"), **options) as pool:
        assert pool.task.size == 3
        assert [prompt.prompt_id for prompt in await pool.prompts([0, 3])] == [f"verifiers:{NAME}:2"] * 2


_CHOSEN = """
import json, os, sys
from rollout.tasks import TaskError, load_task
def made(options):
    try:
        agent = load_task("verifiers", 0, options)._config.agent
    except TaskError as error:
        return str(error)
    return [agent.harness and agent.harness.id, agent.runtime.type]
print(json.dumps([os.environ["PATH"].split(":")[0], *map(made, json.loads(sys.argv[1])), os.environ["PATH"].split(":")[0]]))
"""


def test_an_agent_chats_on_this_machine_unless_told_otherwise_and_what_is_not_known_is_named():
    plain, few = {"environment": "leeway-plain"}, {"select": {"limit": 1}}
    made: list[tuple[dict[str, Any], Any]] = [
        ({**plain, **few}, ["null", "subprocess"]),
        ({"environment": NAME}, [None, "subprocess"]),  # its own
        ({**plain, **few, "config": {"agent": {"harness": {"id": "bash"}}}}, ["bash", "subprocess"]),
        ({**plain, **few, "config": {"agent": {"runtime": {"type": "docker"}}}}, ["null", "docker"]),
        (plain, "task.options.select.limit"),
        ({}, "task.options.environment"),
        ({"environment": "no-such-environment"}, "no-such-environment"),
        ({"environment": NAME, "config": {"taskset": {"counts": 2}}}, "counts"),
        ({"environment": NAME, "config": {"taskset": {"count": 0}}}, "no question"),
        ({"environment": NAME, "config": {"id": "user-sim"}}, "agents"),
        ({"environment": NAME, "config": {"agent": {"retries": {"max_retries": 1}}}}, "retries"),
        ({"environment": NAME, "select": {"limits": 2}}, "limits"),
    ]
    python = require_python("verifiers")
    told = subprocess.run(
        [str(python), "-c", _CHOSEN, json.dumps([options for options, _ in made])],
        env={"PYTHONPATH": f"{Path(__file__).parents[4]}:{ADAPTED}", "PATH": "/usr/bin", "HOME": "/nonexistent"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    before, *found, after = json.loads(told.stdout)
    # Programs of its virtualenv are found first: uv, which installs the chat agent's program.
    assert (before, after) == ("/usr/bin", str(python.parent))
    for (options, expected), one in zip(made, found, strict=True):
        assert expected in one if isinstance(expected, str) else expected == one, options
