"""A host, `python -m rollout.environments.host`: a process that runs tasks, judges and agents away from the worker.

It speaks JSON lines. First in: {"spec": a TaskSpec, "load": whether it makes prompts}, and out, once that is done: {"id": 0,
"task": a TaskDescription}. Then requests in, each with an id and what to do, and one answer out for each, in any order:

    {"do": "prompts", "indices", "public"}                 {"prompts": packed prompts}
    {"do": "judge", "prompt", "response"}                  {"scores": [score]}        fields of a JudgedResponse
    {"do": "judge_group", "prompt", "responses"}           {"scores": scores}         texts
    {"do": "play", "prompt", "access"}                     {"scores": [score]}
    {"cancel": id}                                         ends that request; its answer is {"cancelled": true}

What went wrong is {"error": text}, with "reason" where a judge says why it did not judge. Prompts are packed (packing.py).
Many requests run at once, on one event loop; a judge that is no coroutine holds it up, which is why the worker asks such a
process for one thing at a time. Judges run on the main thread: libraries with time limits of their own need it (SIGALRM).

It imports nothing but the standard library and what the task imports: it runs in any virtualenv with Python 3.11 or newer.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, BinaryIO

from rollout.environments.access import EpisodeAccess
from rollout.environments.asked_elsewhere import public_prompt
from rollout.environments.description import describe_task
from rollout.environments.http_policy import HttpPolicy
from rollout.environments.loading import TaskSpec, load, make
from rollout.environments.packing import pack, unpack
from rollout.tasks import Task, TaskError
from rollout.tasks.judged_response import JudgedResponse
from rollout.tasks.reward_error import RewardError, describe
from rollout.tasks.score import as_score
from runtime.children import die_with_parent
from runtime.errors import LeewayError

_LONGEST_LINE = 1 << 28  # bytes
_THREADS = 1024  # for agents that are no coroutines: one each


class _PromptError(Exception):
    """A prompt that the task did not make; the message is complete."""


class Host:
    """Answers requests.

    Args:
        task: what they are about.
        answers: where answers are written.
    """

    def __init__(self, task: Task, answers: BinaryIO) -> None:
        self._task = task
        self._answers = answers
        self._running: dict[int, asyncio.Task[None]] = {}

    async def serve(self, requests: asyncio.StreamReader) -> None:
        """Answers requests until there are no more."""
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
        while line := await requests.readline():
            request = json.loads(line)
            if "cancel" in request:
                if (running := self._running.get(request["cancel"])) is not None:
                    running.cancel()
                continue
            number = request["id"]
            self._running[number] = asyncio.create_task(self._answer(number, request))

    async def _answer(self, number: int, request: Mapping[str, Any]) -> None:
        try:
            answer = await self._done(request)
        except asyncio.CancelledError:
            answer = {"cancelled": True}
        except _PromptError as error:
            answer = {"error": str(error)}
        except RewardError as error:
            answer = {"error": str(error), "reason": error.reason}
        except Exception as error:  # noqa: BLE001 - a process boundary: the worker logs it, counts it and goes on
            answer = {"error": describe(self._task, error)}
        del self._running[number]
        write(self._answers, {"id": number, **answer})

    async def _done(self, request: Mapping[str, Any]) -> dict[str, Any]:
        match request["do"]:
            case "prompts":
                return {"prompts": [self._packed(index, request["public"]) for index in request["indices"]]}
            case "judge":
                response = JudgedResponse(**request["response"])
                rewards = [await _awaited(self._task.judge(unpack(request["prompt"]), response))]
            case "judge_group":
                rewards = await self._judge_group(request["prompt"], request["responses"])
            case "play":
                rewards = [await self._play(request["prompt"], EpisodeAccess(**request["access"]))]
            case other:
                raise ValueError(f"do = {other!r}")
        # Converted here: a number of numpy is a reward, but not JSON.
        return {"scores": [vars(as_score(reward)) for reward in rewards]}

    def _packed(self, index: int, public: bool) -> dict[str, Any]:
        try:
            prompt = self._task.prompt(index)
        except Exception as error:
            raise _PromptError(f"prompt({index}) raised {describe(self._task, error)}") from error
        packed = pack(prompt)
        return {**packed, "public": json.loads(json.dumps(public_prompt(prompt)))} if public else packed

    async def _judge_group(self, prompt: Mapping[str, Any], responses: Sequence[str]) -> list[Any]:
        rewards = list(await _awaited(self._task.group_rewards(unpack(prompt), responses)))
        if len(rewards) != len(responses):
            raise TaskError(f"group_rewards returned {len(rewards)} rewards for {len(responses)} responses")
        return rewards

    async def _play(self, prompt: Mapping[str, Any], access: EpisodeAccess) -> Any:
        policy = HttpPolicy(access)
        try:
            return await self._task.rollout(unpack(prompt), policy)
        finally:
            await policy.close()


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def write(answers: BinaryIO, answer: Mapping[str, Any]) -> None:
    """Writes one line."""
    answers.write(json.dumps(answer).encode() + b"\n")


def main() -> None:
    """Answers requests from stdin until it ends."""
    die_with_parent()  # the guard that started it
    # stdout carries the answers and stdin the requests; what a task prints or reads must not mix with them.
    requests = os.fdopen(os.dup(0), "rb", 0)
    answers = os.fdopen(os.dup(1), "wb", 0)
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    task = _made(_first_line(requests), answers)
    if task is not None:
        asyncio.run(_serve(task, requests, answers))


def _first_line(requests: Any) -> dict[str, Any]:
    line = b""
    while not line.endswith(b"\n"):  # byte by byte: what follows belongs to the event loop
        if not (byte := requests.read(1)):
            raise SystemExit(0)  # the worker is gone
        line += byte
    return json.loads(line)


def _made(first: Mapping[str, Any], answers: BinaryIO) -> Task | None:
    """Makes the task and says what it is, or why there is none."""
    spec = TaskSpec(**first["spec"])
    try:
        task = load(spec) if first["load"] else make(spec)
        write(answers, {"id": 0, "task": json.loads(json.dumps(asdict(describe_task(task)), default=repr))})
    except LeewayError as error:
        write(answers, {"id": 0, "error": str(error)})
    except Exception as error:  # noqa: BLE001 - the user's module: whatever it raises is passed on
        text = f"task.name = {spec.name!r}: loading it raised {type(error).__name__}: {error}"
        write(answers, {"id": 0, "error": text})
    else:
        return task
    return None


async def _serve(task: Task, requests: Any, answers: BinaryIO) -> None:
    reader = asyncio.StreamReader(limit=_LONGEST_LINE)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), requests)
    await Host(task, answers).serve(reader)


if __name__ == "__main__":
    main()
