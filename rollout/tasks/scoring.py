"""Scores for responses: at once for quick tasks, in processes of their own under a time limit for slow ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from rollout.config import TaskConfig
from rollout.tasks import Prompt, Reward, Task, TaskError
from runtime.children import die_with_parent


@dataclass(frozen=True)
class Score:
    """The reward of one response, and its named parts where the task gives them."""

    reward: float
    parts: dict[str, float] = field(default_factory=dict)


def as_score(reward: Reward) -> Score:
    """Named parts add up to the reward. Raises TaskError for anything but a number or a mapping to numbers."""
    parts = reward if isinstance(reward, dict) else {}
    numbers = list(parts.values()) if isinstance(reward, dict) else [reward]
    if not all(isinstance(number, (int, float)) for number in numbers):
        raise TaskError(f"reward = {reward!r}: expected a number or a dict of named numbers")
    return Score(float(sum(numbers)), {name: float(part) for name, part in parts.items()})


class RewardPool:
    """Scores the responses of one task."""

    def __init__(self, task: Task, config: TaskConfig, seed: int) -> None:
        self._task = task
        self.timeouts = 0
        self._idle: asyncio.Queue[_RewardWorker] = asyncio.Queue()
        self._judges = [_RewardWorker(config, seed) for _ in range(config.judges)] if task.slow else []
        for judge in self._judges:
            self._idle.put_nowait(judge)

    async def score(self, index: int, prompt: Prompt, responses: Sequence[str]) -> list[Score]:
        """One score for each response. A slow judgement that outlasts its time limit is a reward of 0, and counted.

        Raises:
            TaskError: the task raised, or returned something that is no reward.
        """
        if not self._judges:
            return [as_score(self._task.reward(prompt, response)) for response in responses]
        return list(await asyncio.gather(*(self._judge(index, response) for response in responses)))

    async def _judge(self, index: int, response: str) -> Score:
        judge = await self._idle.get()
        try:
            return as_score(await judge.reward(index, response))
        except TimeoutError:
            self.timeouts += 1
            structlog.get_logger().warning("judge timed out", index=index, response=response[:200])
            return Score(0.0)
        finally:
            self._idle.put_nowait(judge)

    async def close(self) -> None:
        """Ends the judging processes."""
        for judge in self._judges:
            await judge.kill()


class _RewardWorker:
    """One judging process, started when first needed and again after it had to be killed."""

    def __init__(self, config: TaskConfig, seed: int) -> None:
        self._greeting = {"name": config.name, "seed": seed, "options": config.options}
        self._timeout = config.judge_timeout_s
        self._process: asyncio.subprocess.Process | None = None

    async def reward(self, index: int, response: str) -> Reward:
        """Raises TimeoutError after the limit; the process is then killed, for nothing else stops a stuck parser."""
        try:
            process = self._process or await self._start()
            async with asyncio.timeout(self._timeout):
                answer = await self._ask(process, {"index": index, "response": response})
        except BaseException:
            # Half an exchange cannot be resumed, whatever broke it off: a limit, a crash or our own cancellation.
            await self.kill()
            raise
        if "error" in answer:
            raise TaskError(f"task.name = {self._greeting['name']!r}: reward failed: {answer['error']}")
        return answer["reward"]

    async def _start(self) -> asyncio.subprocess.Process:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "rollout.tasks.reward_worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            preexec_fn=die_with_parent,
            limit=1 << 20,
        )
        self._write(self._process, self._greeting)
        # The first judgement pays for imports that can take seconds; they are no fault of the response.
        async with asyncio.timeout(60):
            await self._ask(self._process, {"index": 0, "response": ""})
        return self._process

    async def _ask(self, process: asyncio.subprocess.Process, request: dict) -> dict:
        self._write(process, request)
        assert process.stdin
        assert process.stdout
        await process.stdin.drain()
        line = await process.stdout.readline()
        if not line:
            raise TaskError(f"task.name = {self._greeting['name']!r}: its judging process ended; see the worker's log")
        return json.loads(line)

    @staticmethod
    def _write(process: asyncio.subprocess.Process, message: dict) -> None:
        assert process.stdin
        process.stdin.write(json.dumps(message).encode() + b"\n")

    async def kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
