"""Episodes in real processes: agents that hang, crash, take memory or are killed fail their own episodes, nobody else's."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from rollout.config import TaskConfig
from rollout.environments import host_process, pool
from rollout.environments.access import EpisodeAccess
from rollout.environments.pool import EnvironmentPool
from rollout.tasks import Prompt, TaskError
from rollout.tasks.reward_error import RewardError
from rollout.tasks.score import Score
from tests.tools.fake_endpoint import FakeEndpoint
from tests.tools.fleet_peers import until
from tests.tools.fleet_tasks import children_of

TASKS = "tests.tools.fleet_tasks"
NOWHERE = EpisodeAccess("http://127.0.0.1:1/v1", "/nowhere", "key", "policy", [1])


@pytest.fixture
async def opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """Opens pools of one process that are closed after the test."""
    monkeypatch.setattr(host_process, "_GRACE_S", 60.0)  # of episodes that obey, on a machine that is busy
    monkeypatch.setattr(pool, "_WATCH_S", 0.05)
    opened: list[Any] = []

    async def opening(**changes: Any) -> EnvironmentPool:
        config = TaskConfig.parse({"processes": 1, **changes}, source="test")
        opened.append(EnvironmentPool.open(config, 0, tmp_path / "environment"))
        return await opened[-1].__aenter__()

    yield opening
    for one in opened:
        await one.__aexit__(None, None, None)


@pytest.fixture
async def endpoint(tmp_path: Path) -> AsyncIterator[FakeEndpoint]:
    async with FakeEndpoint.open(tmp_path) as opened:
        yield opened


def begun(directory: Path, index: int) -> set[int]:
    """The processes in which episodes of a prompt have begun."""
    return {int(path.name.rpartition("-")[2]) for path in directory.glob(f"begun-{index}-*")}


async def outcome(pool: EnvironmentPool, prompt: Prompt, access: EpisodeAccess = NOWHERE) -> Score | str:
    """The score of one episode, or the reason why it has none."""
    try:
        return await pool.rollout(prompt, access)
    except RewardError as error:
        return error.reason


@pytest.mark.parametrize(
    ("how", "limits", "bad", "neighbour"),
    [
        ("hang", {}, "limit_seconds", "environment_died"),
        ("wait", {}, "limit_seconds", None),
        ("exit", {}, "environment_died", "environment_died"),
        ("memory", {"memory_mb": 300}, "environment_died", "environment_died"),
        ("raise", {}, "rollout_failed", None),
    ],
)
async def test_an_episode_that_goes_wrong_takes_only_its_own_process_with_it(
    opens: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    limits: dict[str, Any],
    bad: str,
    neighbour: str | None,
):
    if how == "hang":
        monkeypatch.setattr(host_process, "_GRACE_S", 0.2)
    playing = await opens(name=f"{TASKS}:Playing", options={"how": how, "path": str(tmp_path)}, limits=limits)
    zero, one = await playing.prompts([0, 1])
    beside = asyncio.create_task(outcome(playing, zero))
    await until(lambda: bool(begun(tmp_path, 0)), "the neighbour's begin")
    if bad == "limit_seconds":
        playing._limit_s = 2.0  # of this episode, not of its neighbour
    assert await outcome(playing, one) == bad
    playing._limit_s = 600.0
    if neighbour is None:
        (tmp_path / "0").touch()
    # An episode that lost its process is played again by whoever asked for it, in a new one.
    assert await beside == (Score(1.0) if neighbour is None else neighbour)
    (tmp_path / "0").touch()
    assert await outcome(playing, zero) == Score(1.0)
    pids = begun(tmp_path, 0)
    assert len(pids) == (1 if neighbour is None else 2)


async def test_memory_is_limited_where_logs_cannot_be_kept_small(
    opens: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tried: list[Path] = []

    def full(log: Path, _: int) -> None:
        tried.append(log)
        raise OSError(errno.ENOSPC, "No space left on device", str(log))

    monkeypatch.setattr(pool, "keep_small", full)
    options = {"how": "memory", "path": str(tmp_path)}
    playing = await opens(name=f"{TASKS}:Playing", options=options, limits={"memory_mb": 300})
    (one,) = await playing.prompts([1])
    await until(lambda: bool(tried), "the attempt on a log")
    assert await asyncio.wait_for(outcome(playing, one), 60) == "environment_died"


async def test_a_host_that_is_killed_is_replaced_and_leaves_no_process(opens: Any, tmp_path: Path):
    playing = await opens(name=f"{TASKS}:Playing", options={"path": str(tmp_path)}, processes=2)
    prompts = await playing.prompts([0, 2])
    running = [asyncio.create_task(outcome(playing, prompt)) for prompt in prompts]
    await until(lambda: bool(begun(tmp_path, 0) and begun(tmp_path, 2)), "two episodes in two processes")
    (pid,) = begun(tmp_path, 0)
    assert {pid} != begun(tmp_path, 2)
    os.kill(pid, signal.SIGKILL)
    assert await running[0] == "environment_died"
    (tmp_path / "0").touch()
    (tmp_path / "2").touch()
    assert await running[1] == Score(1.0)
    assert await outcome(playing, prompts[0]) == Score(1.0)
    assert not psutil.pid_exists(pid)


async def test_the_process_that_makes_prompts_is_replaced_and_notices_other_data(opens: Any, tmp_path: Path):
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"prompt": "2+2?", "id": "four"}\n{"prompt": "2+3?"}\n')
    asking = await opens(name=f"{TASKS}:agent", prompts=str(questions))
    assert (asking.task.size, asking.task.plays, asking.task.name) == (2, True, "agent")
    assert [prompt.prompt_id for prompt in await asking.prompts([0, 1, 2])] == ["four", "questions:1", "four"]
    (pid,) = asking.pids()
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not asking.pids(), "its end")
    assert [prompt.text for prompt in await asking.prompts([3])] == ["2+3?"]
    questions.write_text('{"prompt": "2+2?"}\n')
    (pid,) = asking.pids()
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not asking.pids(), "its end")
    with pytest.raises(TaskError, match="its data has changed since the worker was started"):
        await asking.prompts([4])


def write_questions(directory: Path) -> str:
    """Writes a file of one question, as messages; returns its path."""
    path = directory / "questions.jsonl"
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]
    path.write_text(json.dumps({"messages": messages, "answer": "4"}) + "\n")
    return str(path)


@pytest.mark.parametrize(
    ("function", "score"),
    [("agent", Score(1.0)), ("blocking_agent", Score(1.0, {"right": 1.0})), ("policy_agent", Score(1.0))],
)
async def test_an_agent_that_is_a_function(
    opens: Any, endpoint: FakeEndpoint, tmp_path: Path, function: str, score: Score
):
    playing = await opens(name=f"{TASKS}:{function}", prompts=write_questions(tmp_path))
    (prompt,) = await playing.prompts([0])
    assert await playing.rollout(prompt, endpoint.access) == score
    path, body = endpoint.bodies[0]
    assert path == "chat/completions"
    assert [turn["role"] for turn in body["messages"]] == ["system", "user"]
    endpoint.over = True
    assert await outcome(playing, prompt, endpoint.access) == "rollout_failed"


async def test_agents_that_cannot_be_used_are_named(opens: Any, tmp_path: Path):
    with pytest.raises(TaskError, match=r"its parameter 'model' is none of prompt, client"):
        await opens(name=f"{TASKS}:bad_agent", prompts=write_questions(tmp_path))
    with pytest.raises(TaskError, match=r"is a function, an agent: set task\.prompts"):
        await opens(name=f"{TASKS}:agent")
    with pytest.raises(TaskError, match=r"task\.prompts = '/no/such\.jsonl': no such file"):
        await opens(name=f"{TASKS}:agent", prompts="/no/such.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n{"question": "b"}\n')
    with pytest.raises(TaskError, match=r"bad\.jsonl, line 2: expected an object with prompt"):
        await opens(name=f"{TASKS}:agent", prompts=str(tmp_path / "bad.jsonl"))


PROGRAM = """
import json, os, sys, urllib.request
asked = json.loads(sys.stdin.readline())
key, url = os.environ["OPENAI_API_KEY"], os.environ["OPENAI_BASE_URL"]
assert os.environ["ANTHROPIC_BASE_URL"] + "/v1" == url and os.environ["ANTHROPIC_API_KEY"] == key
body = json.dumps({"model": os.environ["LEEWAY_MODEL"], "messages": asked["messages"]}).encode()
headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
answer = json.load(urllib.request.urlopen(urllib.request.Request(url + "/chat/completions", body, headers)))
print("thinking")
print(json.dumps(float(asked["data"]["answer"] in answer["choices"][0]["message"]["content"])))
"""


async def test_an_agent_that_is_a_program(opens: Any, endpoint: FakeEndpoint, tmp_path: Path):
    playing = await opens(command=["python", "-c", PROGRAM], prompts=write_questions(tmp_path))
    (prompt,) = await playing.prompts([0])
    assert playing.task.name == "agent"
    assert await playing.rollout(prompt, endpoint.access) == Score(1.0)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("print(1.0); raise SystemExit(5)", "the program ended with status 5"),
        ("print('done')", "the last line of its stdout is no reward: 'done'"),
        ("pass", "the last line of its stdout is no reward: ''"),
        ("import sys; print('out of luck', file=sys.stderr); print('x')", "its stderr ends with 'out of luck"),
        ("print('NaN')", "reward = nan: expected a finite number"),
        ("print('[1.0]')", r"reward = \[1.0\]: expected a number"),
        ("import os; os.kill(os.getpid(), 9)", "the program ended with status -9"),
    ],
)
async def test_a_program_without_a_reward_is_unscored(opens: Any, tmp_path: Path, program: str, message: str):
    playing = await opens(command=[sys.executable, "-c", program], prompts="sort")
    (prompt,) = await playing.prompts([0])
    with pytest.raises(RewardError, match=message) as error:
        await playing.rollout(prompt, NOWHERE)
    assert error.value.reason == "rollout_failed"


LASTING = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
open(sys.argv[1] + ".tmp", "w").write(f"{os.getpid()} {child.pid}")
os.rename(sys.argv[1] + ".tmp", sys.argv[1])
time.sleep(3600)
"""


def alive(pids: list[int]) -> bool:
    return any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)


@pytest.mark.parametrize("end", ["limit", "host"])
async def test_a_program_and_what_it_started_are_killed_at_the_limit_or_with_their_host(
    opens: Any, tmp_path: Path, end: str
):
    seconds = 2 if end == "limit" else 600
    command = [sys.executable, "-c", LASTING, str(tmp_path / "pids")]
    playing = await opens(command=command, prompts="sort", limits={"seconds": seconds})
    (prompt,) = await playing.prompts([0])
    running = asyncio.create_task(outcome(playing, prompt))
    await until((tmp_path / "pids").exists, "the program")
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert set(pids) <= set(children_of(*playing.pids()))
    if end == "host":
        host = next(child for child in psutil.Process(playing.pids()[1]).children() if child.pid not in pids)
        host.kill()
    assert await running == ("limit_seconds" if end == "limit" else "environment_died")
    await until(lambda: not alive(pids), "the end of the program's processes")


async def test_agents_elsewhere_get_prompts_as_json_and_no_host(opens: Any, tmp_path: Path):
    remote = await opens(remote=True, prompts=write_questions(tmp_path))
    (prompt,) = await remote.prompts([0])
    assert prompt.data.public["data"]["answer"] == "4"
    assert [turn["role"] for turn in prompt.data.public["messages"]] == ["system", "user"]
    assert len(remote.pids()) == 1


async def test_logs_of_user_code_stay_small(opens: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from rollout.environments import pool

    monkeypatch.setattr(pool, "_LOG_BYTES", 5000)
    playing = await opens(name=f"{TASKS}:Playing", options={"how": "print"})
    (prompt,) = await playing.prompts([1])
    log = tmp_path / "environment-0.log"
    for _ in range(3):
        for _ in range(10):
            assert await outcome(playing, prompt) == Score(0.5)
        await until(lambda: log.stat().st_size < 5000, "a small log")
    assert 5000 < log.with_name("environment-0.log.1").stat().st_size < 21_000


async def test_hosts_need_nothing_but_the_standard_library_and_our_rooms(opens: Any, tmp_path: Path):
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # without site-packages, as in an empty virtualenv
    bare.chmod(0o755)
    (tmp_path / "own_task.py").write_text(
        "from rollout.tasks import Prompt, Task\n"
        "import rollout.tasks.gsm8k, rollout.tasks.sort, sys\n"
        "class Own(Task):\n"
        "    def prompt(self, index):\n"
        "        return Prompt(str(index), str(sum(name in sys.modules for name in ('numpy', 'pydantic', 'learner'))))\n"
        "    def reward(self, prompt, response):\n"
        "        import importlib.util\n"
        "        return float(importlib.util.find_spec('numpy') is None and importlib.util.find_spec('learner') is None)\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        patch.chdir(tmp_path)  # python -m puts the current directory first: here that would be this repository
        own = await opens(name="own_task:Own", python=bare, processes=1)
        (prompt,) = await own.prompts([0])
        assert prompt.text == "0"
        assert await own.score(prompt, [""]) == [Score(1.0)]
