"""Hosts of a launcher, in real processes: they give what child processes give, and nothing of theirs outlives its worker."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from rollout.config import TaskConfig
from rollout.environments import host_process
from rollout.environments.access import EpisodeAccess
from rollout.environments.launch_order import LaunchOrder
from rollout.environments.launched_host import LaunchedHost
from rollout.environments.loading import TaskSpec, runs_user_code
from rollout.environments.pool import EnvironmentPool
from rollout.environments.serve import main
from rollout.tasks import Prompt
from rollout.tasks.reward_error import RewardError
from rollout.tasks.score import Score
from tests.tools.fake_endpoint import FakeEndpoint
from tests.tools.fleet_peers import until
from tests.tools.fleet_tasks import children_of

PLAYING = "tests.tools.fleet_tasks:Playing"
REWARDS = "tests.unit.rollout.rewards.user_rewards"
NOWHERE = EpisodeAccess("http://127.0.0.1:1/v1", "/nowhere", "key", "policy", [1])
OWN = """
import os, sys
from rollout.tasks import Prompt, Task

class Own(Task):
    name = "own"
    def prompt(self, index):
        return Prompt(str(index), "=", {"pid": os.getpid(), "set": {1, 2}})
    async def rollout(self, prompt, policy):
        print("played", file=sys.stderr, flush=True)
        answer = await policy.generate(policy.prompt_tokens)
        told = answer.text == "It is 4." and prompt.data["set"] == {1, 2} and prompt.data["pid"] != os.getpid()
        return {"told": float(told), "key": float("LEEWAY_TEST_KEY" in os.environ)}
"""


class Launched:
    """Launchers of one socket, as processes, and pools whose hosts they start."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "launcher.socket"
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(directory / "code"), str(Path.cwd())))}
        self.process: asyncio.subprocess.Process | None = None
        self.pools = contextlib.AsyncExitStack()

    async def start(self) -> asyncio.subprocess.Process:
        command = (sys.executable, "-m", "rollout.environments.serve", "--socket", str(self.socket))
        self.process = await asyncio.create_subprocess_exec(*command, env=self.environment)
        return self.process

    def listens(self) -> bool:
        """Whether the launcher takes connections: its socket is there a moment earlier."""
        with socket.socket(socket.AF_UNIX) as asking:
            return asking.connect_ex(str(self.socket)) == 0

    async def pool(self, **changes: Any) -> EnvironmentPool:
        config = TaskConfig.parse({"processes": 1, **changes}, source="test")
        opened = EnvironmentPool.open(config, 0, self.directory / "environment", self.socket)
        return await self.pools.enter_async_context(opened)

    async def playing(self, **changes: Any) -> tuple[EnvironmentPool, Prompt, Prompt]:
        """A pool of the task Playing, and prompts of an episode that waits and of one that goes wrong."""
        options = {"path": str(self.directory), "how": changes.pop("how", "")}
        opened = await self.pool(name=PLAYING, options=options, **changes)
        zero, one = await opened.prompts([0, 1])
        return opened, zero, one

    def begun(self) -> set[int]:
        """The processes in which the episode that waits has begun."""
        return {int(path.name.rpartition("-")[2]) for path in self.directory.glob("begun-0-*")}


@pytest.fixture
async def launched(tmp_path: Path) -> AsyncIterator[Launched]:
    launchers = Launched(tmp_path)
    await launchers.start()
    yield launchers
    await launchers.pools.aclose()
    assert launchers.process
    await until(lambda: not children_of(launchers.process.pid), "the end of the hosts of pools that are closed")  # type: ignore[union-attr]
    launchers.process.send_signal(signal.SIGTERM)
    assert await launchers.process.wait() == 0
    assert not launchers.socket.exists()


async def outcome(pool: EnvironmentPool, prompt: Prompt, access: EpisodeAccess = NOWHERE) -> Score | str:
    """The score of one episode, or the reason why it has none."""
    try:
        return await pool.rollout(prompt, access)
    except RewardError as error:
        return error.reason


async def test_code_that_the_worker_does_not_have_plays_judges_and_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "own_of_launcher.py").write_text(OWN)
    launchers = Launched(tmp_path)
    monkeypatch.setenv("LEEWAY_TEST_KEY", "secret")  # the worker has it, the launcher does not
    async with launchers.pools, FakeEndpoint.open(tmp_path) as endpoint:
        opening = asyncio.create_task(launchers.pool(name="own_of_launcher:Own"))  # it waits for its launcher
        process = await launchers.start()
        own = await opening
        (prompt,) = await own.prompts([0])
        score = await own.rollout(prompt, endpoint.access)
        assert score == Score(1.0, {"told": 1.0, "key": 0.0})
        monkeypatch.setenv("PYTHONPATH", launchers.environment["PYTHONPATH"])
        monkeypatch.delenv("LEEWAY_TEST_KEY")
        config = TaskConfig.parse({"name": "own_of_launcher:Own"}, source="test")
        async with EnvironmentPool.open(config, 0, tmp_path / "child") as child:
            assert await child.rollout((await child.prompts([0]))[0], endpoint.access) == score
        assert "own_of_launcher" not in sys.modules
        assert "played" in (tmp_path / "environment-0.log").read_text()
        assert own.pids() == []
        assert len(children_of(process.pid)) == 4  # two hosts and their guards
    process.terminate()
    await process.wait()


async def test_rewards_of_a_user_are_judged_there_and_ours_with_the_worker(launched: Launched, tmp_path: Path):
    parts = [
        {"name": f"{REWARDS}:scripted", "part": "own"},
        {"name": "llm_judge", "options": {"base_url": "http://127.0.0.1:9", "model": "m"}},
    ]
    judging = await launched.pool(name="sort", reward=parts[:1])
    (prompt,) = await judging.prompts([0])
    right, gone = await judging.score(prompt, ["right", "exit"])
    assert right == Score(1.0, {"own": 1.0})
    assert isinstance(gone, RewardError)
    assert gone.reason == "environment_died"
    assert judging.pids() == []
    ours = await launched.pool(name="sort", reward=parts[1:])
    assert len(ours.pids()) == 1
    spec = TaskSpec("sort", rewards=parts[1:])
    for changed in ({"command": ["x"]}, {"name": "x:Y"}, {"name": "verifiers"}, {"prompts": "x:Y"}, {"rewards": parts}):
        assert runs_user_code(replace(spec, **changed))
    assert not runs_user_code(replace(spec, name="x:Y", remote=True, prompts="questions.jsonl"))


@pytest.mark.parametrize(
    ("how", "changes", "bad"),
    [
        ("hang", {"limits": {"seconds": 2}}, "limit_seconds"),
        ("memory", {"limits": {"memory_mb": 300}}, "environment_died"),
    ],
)
async def test_an_episode_that_goes_wrong_takes_only_its_own_host_with_it(
    launched: Launched, monkeypatch: pytest.MonkeyPatch, how: str, changes: dict[str, Any], bad: str
):
    monkeypatch.setattr(host_process, "_GRACE_S", 0.2)
    other, waiting, _ = await launched.playing()
    beside = asyncio.create_task(outcome(other, waiting))
    await until(lambda: bool(launched.begun()), "the neighbour's begin")
    (neighbour,) = launched.begun()
    wrong, again, one = await launched.playing(how=how, **changes)
    assert await outcome(wrong, one) == bad
    wrong._limit_s = 600.0
    (launched.directory / "0").touch()
    assert await outcome(wrong, again) == Score(1.0)
    assert await beside == Score(1.0)
    assert psutil.pid_exists(neighbour)
    if how == "memory":
        with pytest.raises(RewardError, match=r"had \d+ MiB, task\.limits\.memory_mb = 300"):
            await wrong.rollout(one, NOWHERE)


async def test_a_launcher_that_dies_fails_its_episodes_and_the_next_one_plays_them(launched: Launched):
    playing, waiting, _ = await launched.playing()
    running = asyncio.create_task(outcome(playing, waiting))
    await until(lambda: bool(launched.begun()), "its begin")
    (first,) = launched.begun()
    assert launched.process
    launched.process.kill()
    await launched.process.wait()
    assert await running == "environment_died"
    await until(lambda: not psutil.pid_exists(first), "the end of the host")
    again = asyncio.create_task(outcome(playing, waiting))
    await launched.start()
    (launched.directory / "0").touch()
    assert await again == Score(1.0)


async def test_a_host_that_is_killed_is_reaped_and_started_again(launched: Launched):
    playing, waiting, _ = await launched.playing()
    running = asyncio.create_task(outcome(playing, waiting))
    await until(lambda: bool(launched.begun()), "its begin")
    (first,) = launched.begun()
    os.kill(first, signal.SIGKILL)
    assert await running == "environment_died"
    await until(lambda: not psutil.pid_exists(first), "its end, without a zombie")
    (launched.directory / "0").touch()
    assert await outcome(playing, waiting) == Score(1.0)


async def test_starts_that_took_too_long_do_not_hold_up_the_next(launched: Launched, tmp_path: Path):
    await until(launched.listens, "the launcher")
    assert launched.process
    launcher = psutil.Process(launched.process.pid)
    launcher.suspend()
    await until(lambda: launcher.status() == psutil.STATUS_STOPPED, "its stop")
    with (tmp_path / "host.log").open("ab") as log:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(LaunchedHost.start(launched.socket, LaunchOrder(), log), 0.5)
        launcher.resume()
        hosts = [await asyncio.wait_for(LaunchedHost.start(launched.socket, LaunchOrder(), log), 60) for _ in range(2)]
    for host in hosts:
        host.kill()
        await asyncio.wait_for(host.ended(), 60)


async def test_a_launcher_says_what_it_does_not_understand(launched: Launched, capsys: pytest.CaptureFixture[str]):
    await until(launched.listens, "the launcher")
    assert launched.socket.stat().st_mode & 0o777 == 0o600
    for order in (b"x\n", LaunchOrder().line(), b'{"pythons": ""}\n'):
        reader, writer = await asyncio.open_unix_connection(launched.socket)
        writer.write(order)
        assert b"the launcher did not understand its order" in await reader.readline()
        writer.close()
    check = ["--check", "--socket", str(launched.socket)]
    assert await asyncio.to_thread(main, check) == 0
    check[-1] += ".absent"
    assert await asyncio.to_thread(main, check) == 1
    assert "No such file" in capsys.readouterr().err
