"""Environments that a server of the package openenv-core serves, as the task "openenv": reset, then a step per action."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from rollout.adapters.foreign_package import import_package
from rollout.tasks import Prompt, Reward, Task, TaskError
from rollout.tasks.policy import EpisodePolicy

_REQUIREMENT = "openenv-core==0.3.0"
_TOOL = "act"  # name of the tool whose arguments are an action
_SCHEMA_S = 30.0
_INVALID = "VALIDATION_ERROR"  # code of the server's error about an action that is not as its schema says


class OpenEnv(Task):
    """Episodes in the environment of one server; their reward is the sum of the steps' rewards.

    The model sees observations and answers with actions: by calls of the tool "act", whose parameters are the action's schema
    as the server tells it, or, where the action is one text, by what it says. An answer without an action ends the episode.

    Args:
        seed: of the episodes: with the prompt's index it is the seed that the environment is reset with, so that all
            responses to a prompt begin alike, if the environment knows seeds.
        url: of the server, such as "http://127.0.0.1:8000".
        instruction: first message of the conversation, as the system's.
        action: name of the action's field that is the model's text; empty: the model calls the tool.
        observation: name of the observation's field that the model reads; empty: it reads all of it, as JSON.
        size: number of different prompts; unset: endless.

    Raises:
        TaskError: the package is not installed, or an option is missing.
    """

    def __init__(
        self,
        seed: int = 0,
        url: str = "",
        instruction: str = "",
        action: str = "",
        observation: str = "",
        size: int | None = None,
    ) -> None:
        super().__init__(seed)
        if not url.startswith(("http://", "https://")) or not instruction:
            raise TaskError(
                f"task.options.url = {url!r}, instruction = {instruction!r}: expected the server's URL (http://...) and a "
                "text that tells the model what to do"
            )
        self._client = import_package("openenv.core", _REQUIREMENT).GenericEnvClient
        self._url = url.rstrip("/")
        self._system = {"role": "system", "content": instruction}
        self._action = action
        self._observation = observation
        self._schema: Mapping[str, Any] | None = None
        self.size = size
        self.name = "openenv"

    def prompt(self, index: int) -> Prompt:
        """Returns the instruction; the prompt's data is the seed of the environment's reset."""
        number = index if self.size is None else index % self.size
        return Prompt(f"openenv:{number}", data=self.seed + number, messages=[self._system])

    async def rollout(self, prompt: Prompt, policy: EpisodePolicy) -> Reward:
        """Plays one episode."""
        tools = None if self._action else [await self._tool()]
        rewards: list[float] = []
        async with self._client(base_url=self._url) as client:
            result = await client.reset(seed=prompt.data)
            messages = [*prompt.messages, {"role": "user", "content": self._shown(result.observation)}]
            stepped = False
            while not result.done:
                answer = await policy.chat(messages, tools=tools)
                messages.append(answer)
                if not (actions := self._actions(answer)):
                    break
                for action, reply in actions:
                    stepped = True
                    try:
                        result = await client.step(action)
                    except RuntimeError as error:
                        if _INVALID not in str(error):
                            raise
                        messages.append({**reply, "content": f"This is no valid action: {error}"})
                        continue
                    if result.reward is not None:
                        rewards.append(float(result.reward))
                    messages.append({**reply, "content": self._shown(result.observation)})
                    if result.done:
                        break
        if stepped and not rewards:
            raise RuntimeError(f"{self._url}: the environment gave no reward")
        return sum(rewards, 0.0)

    def _actions(self, answer: Mapping[str, Any]) -> Sequence[tuple[dict[str, Any], dict[str, Any]]]:
        """Returns the actions in an answer, each with the beginning of the message that replies to it."""
        if self._action:
            return [({self._action: answer["content"] or ""}, {"role": "user"})]
        return [
            (json.loads(call["function"]["arguments"]), {"role": "tool", "tool_call_id": call["id"]})
            for call in answer.get("tool_calls") or ()
        ]

    def _shown(self, observation: Any) -> str:
        if not self._observation:
            return json.dumps(observation, ensure_ascii=False)
        if self._observation not in observation:
            raise TaskError(
                f"task.options.observation = {self._observation!r}: the environment's observations have "
                f"{', '.join(observation) or 'no field'}"
            )
        shown = observation[self._observation]
        return shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)

    async def _tool(self) -> dict[str, Any]:
        if self._schema is None:
            self._schema = await asyncio.to_thread(self._read_schema)
        function = {"name": _TOOL, "description": "Acts in the environment.", "parameters": self._schema}
        return {"type": "function", "function": function}

    def _read_schema(self) -> Mapping[str, Any]:
        with urllib.request.urlopen(f"{self._url}/schema", timeout=_SCHEMA_S) as answer:
            return json.load(answer)["action"]
