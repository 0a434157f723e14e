"""Scores responses: in place for quick tasks, in processes of their own under a time limit for slow ones."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import pickle
import sys
from collections.abc import Sequence
from typing import Any

from rollout.config import TaskConfig
from rollout.tasks import Prompt, Task
from rollout.tasks.reward_error import RewardError, describe, explain
from rollout.tasks.score import Score, as_score
from runtime.children import die_with_parent

_START_S = 60.0  # limit of a reward worker's imports, which can take seconds


class RewardPool:
    """Scores the responses of one task; for a slow task, in ``config.reward_workers`` processes."""

    def __init__(self, task: Task, config: TaskConfig, seed: int) -> None:
        self._task = task
        self._idle: asyncio.Queue[_RewardWorker] = asyncio.Queue()
        self._workers = [_RewardWorker(config, seed) for _ in range(config.reward_workers)] if task.slow else []
        for worker in self._workers:
            self._idle.put_nowait(worker)

    async def score(self, prompt: Prompt, responses: Sequence[str]) -> list[Score]:
        """Scores each response to a prompt, all of them or none.

        Args:
            prompt: what was asked.
            responses: texts, their end tokens removed.

        Raises:
            RewardError: a response could not be scored; the message names task, prompt and response.
        """
        if not self._workers:
            return [self._score_here(prompt, response) for response in responses]
        failures: list[RewardError] = []
        packed = self._packed(prompt)
        scores = await asyncio.gather(
            *(self._score_elsewhere(prompt.prompt_id, packed, response, failures) for response in responses)
        )
        if failures:
            raise failures[0]
        return [score for score in scores if score is not None]

    def _score_here(self, prompt: Prompt, response: str) -> Score:
        try:
            return as_score(self._task.reward(prompt, response))
        except Exception as error:  # the user's code: the worker logs it, counts it and goes on
            message = explain(
                self._task.name, f"reward failed: {describe(self._task, error)}", prompt.prompt_id, response
            )
            raise RewardError("reward_error", message) from error

    def _packed(self, prompt: Prompt) -> str:
        """Returns a prompt as a reward worker reads it. Raises RewardError."""
        try:
            return base64.b64encode(pickle.dumps(prompt)).decode()
        except Exception as error:  # the user's data: the worker logs it, counts it and goes on
            raise RewardError(
                "reward_error",
                f"task.name = {self._task.name!r}: prompt {prompt.prompt_id!r} cannot be sent to a reward worker: "
                f"{type(error).__name__}: {error}; make Prompt.data of values that can be pickled, or set slow = False",
            ) from error

    async def _score_elsewhere(
        self, prompt_id: str, packed: str, response: str, failures: list[RewardError]
    ) -> Score | None:
        """Scores one response, or adds to ``failures``. Does nothing once another response to the prompt has failed."""
        worker = await self._idle.get()
        try:
            return None if failures else await worker.score(packed, response)
        except RewardError as error:
            message = explain(self._task.name, str(error), prompt_id, response)
            failures.append(RewardError(error.reason, message))
            return None
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

    async def score(self, packed: str, response: str) -> Score:
        """Scores one response to a packed prompt.

        Raises:
            RewardError: it could not be scored. When the limit was over, the process was killed, because nothing else stops
                a parser that hangs.
        """
        try:
            process = self._process or await self._start(packed)
            answer = await self._within(self._timeout, process, {"prompt": packed, "response": response})
        except TimeoutError as error:
            await self.kill()
            raise RewardError("reward_timeout", f"not scored within reward_timeout_s = {self._timeout:g}") from error
        except BaseException:
            # Half an exchange cannot be resumed, whatever interrupted it: a crash or a cancellation.
            await self.kill()
            raise
        if "error" in answer:
            raise RewardError("reward_error", f"reward failed: {answer['error']}")
        return Score(**answer)

    async def _start(self, packed: str) -> asyncio.subprocess.Process:
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "rollout.tasks.reward_worker"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                preexec_fn=die_with_parent,
                limit=1 << 20,
            )
            self._write(self._process, self._task)
            # The first response would pay for the imports; an empty one does instead.
            await self._within(_START_S, self._process, {"prompt": packed, "response": ""})
        except TimeoutError as error:
            raise RewardError("reward_worker", f"its reward worker did not start within {_START_S:g} s") from error
        except OSError as error:
            raise RewardError("reward_worker", f"its reward worker did not start: {error}") from error
        return self._process

    async def _within(self, limit_s: float, process: asyncio.subprocess.Process, request: dict) -> dict[str, Any]:
        """Sends a request and returns its answer. Raises TimeoutError, and RewardError when the process ends."""
        assert process.stdin
        assert process.stdout
        async with asyncio.timeout(limit_s):
            try:
                self._write(process, request)
                await process.stdin.drain()
                line = await process.stdout.readline()
                if line:
                    return json.loads(line)
            except TimeoutError:
                raise
            except (OSError, ValueError) as error:  # a broken pipe, an answer that is too long or no JSON
                raise RewardError("reward_worker", f"its reward worker failed: {error!r}") from error
        raise RewardError("reward_worker", "its reward worker ended; see the worker's log")

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
