"""Judges responses in hosts: one at a time in each, or many at once where the judge is a coroutine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rollout.environments.description import TaskDescription
from rollout.environments.host_process import HostDiedError, HostProcess, RequestError
from rollout.environments.packing import pack
from rollout.tasks import Prompt
from rollout.tasks.judged_response import JudgedResponse
from rollout.tasks.reward_error import Reason, RewardError, explain
from rollout.tasks.score import Score

_AT_ONCE = 64  # responses that one host judges at once where its judge is a coroutine
_WARM_UP_S = 60.0  # limit of what a judge imports when it is first called, which can take seconds
_TRIES = 2  # of a response whose host died: it may have died of another one


class RewardPool:
    """Judges the responses of one task.

    Args:
        task: what is judged.
        hosts: where.
        limit_s: limit of judging one response, or the responses of one group together.
    """

    def __init__(self, task: TaskDescription, hosts: Sequence[HostProcess], limit_s: float) -> None:
        self._task = task
        self._limit_s = limit_s
        self._warm: dict[HostProcess, int] = {}  # number of the start after which it was warmed up
        self._free: asyncio.Queue[HostProcess] = asyncio.Queue()
        for _ in range(_AT_ONCE if task.judges_many else 1):
            for host in hosts:
                self._free.put_nowait(host)

    async def score(self, prompt: Prompt, responses: Sequence[JudgedResponse]) -> list[Score | RewardError]:
        """Judges responses to a prompt; each has its own outcome. Those judged together fail together."""
        try:
            packed = pack(prompt)
        except Exception as error:  # noqa: BLE001 - the user's data: the worker logs it, counts it and goes on
            what = (
                f"its data cannot be sent to a process that judges: {type(error).__name__}: {error}; make Prompt.data of "
                "values that can be pickled"
            )
            return [self._error("reward_error", what, prompt, response.text) for response in responses]
        if self._task.judges_groups:
            return await self._score_together(prompt, packed, [response.text for response in responses])
        return list(await asyncio.gather(*(self._score_one(prompt, packed, response) for response in responses)))

    async def _score_one(
        self, prompt: Prompt, packed: Mapping[str, Any], response: JudgedResponse
    ) -> Score | RewardError:
        try:
            (score,) = await self._ask({"do": "judge", "prompt": packed, "response": asdict(response)})
        except RewardError as error:
            return self._error(error.reason, str(error), prompt, response.text)
        return score

    async def _score_together(
        self, prompt: Prompt, packed: Mapping[str, Any], texts: Sequence[str]
    ) -> list[Score | RewardError]:
        try:
            return [*await self._ask({"do": "judge_group", "prompt": packed, "responses": list(texts)})]
        except RewardError as error:
            return [self._error(error.reason, str(error), prompt, text) for text in texts]

    async def _ask(self, asked: Mapping[str, Any]) -> list[Score]:
        """Makes a request, of another host when the first one dies. Raises RewardError."""
        died: Exception | None = None
        for _ in range(_TRIES):
            host = await self._free.get()
            try:
                await self._warm_up(host, asked)
                answer = await host.request(asked, self._limit_s)
                return [Score(**score) for score in answer["scores"]]
            except TimeoutError as error:
                message = f"not scored within reward_timeout_s = {self._limit_s:g}"
                raise RewardError("reward_timeout", message) from error
            except RequestError as error:
                if error.reason is not None:
                    raise RewardError(error.reason, str(error)) from error
                raise RewardError("reward_error", f"reward failed: {error}") from error
            except HostDiedError as error:
                died = error
            finally:
                self._free.put_nowait(host)
        raise RewardError("environment_died", str(died)) from died

    async def _warm_up(self, host: HostProcess, asked: Mapping[str, Any]) -> None:
        """Lets a judge that is no coroutine judge an empty response after each start, which pays for its late imports."""
        if self._task.judges_many or self._task.judges_groups:
            return
        await host.described()
        if self._warm.get(host) == host.starts:
            return
        try:
            with contextlib.suppress(RequestError):
                await host.request({**asked, "response": asdict(JudgedResponse("", 0))}, _WARM_UP_S)
        except TimeoutError as error:
            raise HostDiedError(f"its judge was not ready within {_WARM_UP_S:g} s") from error
        self._warm[host] = host.starts

    def _error(self, reason: Reason, what: str, prompt: Prompt, text: str) -> RewardError:
        return RewardError(reason, explain(self._task.name, what, prompt.prompt_id, text))
