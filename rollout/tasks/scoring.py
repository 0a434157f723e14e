"""Scores responses: in place for quick tasks, in processes of their own under a time limit for slow ones."""

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

_START_S = 60.0  # limit of a reward worker's imports, which can take seconds


@dataclass(frozen=True)
class Score:
    """The reward of one response, and its named parts where the task gives them."""

    reward: float
    parts: dict[str, float] = field(default_factory=dict)


def as_score(reward: Reward) -> Score:
    """Converts what a task returned; named parts add up to the reward.

    Raises:
        TaskError: it is neither a number nor a mapping to numbers.
    """
    parts = reward if isinstance(reward, dict) else {}
    numbers = list(parts.values()) if isinstance(reward, dict) else [reward]
    if not all(isinstance(number, (int, float)) for number in numbers):
        raise TaskError(f"reward = {reward!r}: expected a number or a dict of named numbers")
    return Score(float(sum(numbers)), {name: float(part) for name, part in parts.items()})


class RewardPool:
    """Scores the responses of one task; for a slow task, in ``config.reward_workers`` processes.

    Attributes:
        timeouts: responses that were not scored within the time limit.
    """

    def __init__(self, task: Task, config: TaskConfig, seed: int) -> None:
        self._task = task
        self.timeouts = 0
        self._idle: asyncio.Queue[_RewardWorker] = asyncio.Queue()
        self._workers = [_RewardWorker(config, seed) for _ in range(config.reward_workers)] if task.slow else []
        for worker in self._workers:
            self._idle.put_nowait(worker)

    async def score(self, index: int, prompt: Prompt, responses: Sequence[str]) -> list[Score]:
        """Scores each response to a prompt. One that is not scored within the time limit gets reward 0, and is counted.

        Args:
            index: the prompt's index in the task.
            prompt: the prompt itself.
            responses: texts, their end tokens removed.

        Raises:
            TaskError: the task raised, or returned something that is no reward.
        """
        if not self._workers:
            return [as_score(self._task.reward(prompt, response)) for response in responses]
        return list(await asyncio.gather(*(self._score_elsewhere(index, response) for response in responses)))

    async def _score_elsewhere(self, index: int, response: str) -> Score:
        worker = await self._idle.get()
        try:
            return as_score(await worker.reward(index, response))
        except TimeoutError:
            self.timeouts += 1
            structlog.get_logger().warning("reward timed out", index=index, response=response[:200])
            return Score(0.0)
        finally:
            self._idle.put_nowait(worker)

    async def close(self) -> None:
        """Kills the reward workers."""
        for worker in self._workers:
            await worker.kill()


class _RewardWorker:
    """A process that scores responses, started when first needed and again after it was killed."""

    def __init__(self, config: TaskConfig, seed: int) -> None:
        self._task = {"name": config.name, "seed": seed, "options": config.options}
        self._timeout = config.reward_timeout_s
        self._process: asyncio.subprocess.Process | None = None

    async def reward(self, index: int, response: str) -> Reward:
        """Scores one response.

        Raises:
            TimeoutError: the limit is over; the process is killed, because nothing else stops a parser that hangs.
            TaskError: the task raised, or the process ended.
        """
        try:
            process = self._process or await self._start()
            async with asyncio.timeout(self._timeout):
                answer = await self._ask(process, {"index": index, "response": response})
        except BaseException:
            # Half an exchange cannot be resumed, whatever interrupted it: the limit, a crash or a cancellation.
            await self.kill()
            raise
        if "error" in answer:
            raise TaskError(f"task.name = {self._task['name']!r}: reward failed: {answer['error']}")
        return answer["reward"]

    async def _start(self) -> asyncio.subprocess.Process:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "rollout.tasks.reward_worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            preexec_fn=die_with_parent,
            limit=1 << 20,
        )
        self._write(self._process, self._task)
        # The first response would pay for the imports; an empty one does instead.
        async with asyncio.timeout(_START_S):
            await self._ask(self._process, {"index": 0, "response": ""})
        return self._process

    async def _ask(self, process: asyncio.subprocess.Process, request: dict) -> dict:
        self._write(process, request)
        assert process.stdin
        assert process.stdout
        await process.stdin.drain()
        line = await process.stdout.readline()
        if not line:
            raise TaskError(f"task.name = {self._task['name']!r}: its reward worker ended; see the worker's log")
        return json.loads(line)

    @staticmethod
    def _write(process: asyncio.subprocess.Process, message: dict) -> None:
        assert process.stdin
        process.stdin.write(json.dumps(message).encode() + b"\n")

    async def kill(self) -> None:
        """Kills the process, if there is one, and waits for its end."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
