"""An agent that is a Python function, as a task: its prompts come from elsewhere, an episode is one call of the function.

The smallest one, named as ``task.name = "my_agent:run"`` with ``task.prompts = "questions.jsonl"``:

    async def run(prompt, client):
        answer = await client.chat.completions.create(model="policy", messages=prompt.messages)
        return float(prompt.data["answer"] in answer.choices[0].message.content)

Its parameters are chosen by their names, in any order: ``prompt`` (rollout.tasks.Prompt), ``client`` (openai.AsyncOpenAI; in
a function that is not a coroutine openai.OpenAI) and ``policy`` (rollout.tasks.policy.EpisodePolicy, coroutines only). It
returns the reward. A function that is not a coroutine runs in a thread; nobody can stop a thread, so its whole process is
killed when it is not over at the episode's limit.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from rollout.environments.asked_elsewhere import AskedElsewhere
from rollout.environments.http_policy import HttpPolicy, blocking_client
from rollout.tasks import Prompt, Reward, Task, TaskError

_ALLOWED = ("prompt", "client", "policy")


class FunctionAgent(AskedElsewhere):
    """An agent that is a function.

    Args:
        name: its name in messages.
        function: the agent.
        prompts: the task that asks.

    Raises:
        TaskError: a parameter of the function has a name that stands for nothing.
    """

    def __init__(self, name: str, function: Callable[..., Any], prompts: Task) -> None:
        super().__init__(name, prompts)
        self.source = function
        self._coroutine = inspect.iscoroutinefunction(function)
        self._wanted = tuple(inspect.signature(function).parameters)
        allowed = _ALLOWED if self._coroutine else _ALLOWED[:2]
        if unknown := [parameter for parameter in self._wanted if parameter not in allowed]:
            raise TaskError(
                f"task.name = {name!r}: its parameter {unknown[0]!r} is none of {', '.join(allowed)}"
                + ("" if self._coroutine else "; policy is for functions that are coroutines (async def)")
            )

    async def rollout(self, prompt: Prompt, policy: HttpPolicy) -> Reward:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Calls the function."""
        given: dict[str, Any] = {"prompt": prompt, "policy": policy}
        if self._coroutine:
            if "client" in self._wanted:
                given["client"] = policy.openai()
            return await self.source(**{name: given[name] for name in self._wanted})
        if "client" in self._wanted:
            given["client"] = blocking_client(policy.api_key, policy.socket)
        call = asyncio.get_running_loop().run_in_executor(
            None, lambda: self.source(**{name: given[name] for name in self._wanted})
        )
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            await asyncio.wait([call])  # it may end by itself, now that its episode is closed
            raise
        finally:
            if "client" in given:
                given["client"].close()
