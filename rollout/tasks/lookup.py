"""The task lookup: the number behind a key has to be looked up with a tool, and its digits given in order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rollout.tasks.base import Prompt, Reward, Task
from rollout.tasks.policy import EpisodePolicy

_TURNS = 3
_TOOL = {
    "type": "function",
    "function": {
        "name": "lookup",
        "description": "Returns the number that belongs to a key.",
        "parameters": {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]},
    },
}


class Lookup(Task):
    """Keys of ``key`` random digits, each with a number of ``digits`` random digits that only the tool knows.

    The model is told the key. It has to call ``lookup`` with exactly that key, and then to answer with the number's digits in
    ascending order. The reward is 1 for the right answer, else 0; a wrong key finds "?".
    """

    name = "lookup"
    tools = (_TOOL,)

    def __init__(self, seed: int = 0, key: int = 3, digits: int = 5) -> None:
        super().__init__(seed)
        if key < 1 or digits < 1:
            raise ValueError(f"key = {key}, digits = {digits}: at least 1 each")
        self.key = key
        self.digits = digits

    def prompt(self, index: int) -> Prompt:
        rng = self.rng(index)
        key, number = ("".join(rng.choices("0123456789", k=count)) for count in (self.key, self.digits))
        return Prompt(
            prompt_id=f"lookup:{key}:{number}",
            messages=[{"role": "user", "content": key}],
            data={"key": key, "number": number, "answer": "".join(sorted(number))},
        )

    async def rollout(self, prompt: Prompt, policy: EpisodePolicy) -> Reward:
        messages: list[Mapping[str, Any]] = list(prompt.messages)
        for _ in range(_TURNS):
            answer = await policy.chat(messages, tools=self.tools)
            messages.append(answer)
            calls = answer.get("tool_calls") or []
            if not calls:
                return float(answer["content"] == prompt.data["answer"])
            messages += [self._looked_up(prompt, call) for call in calls]
        return 0.0

    def conversation(self, prompt: Prompt) -> Sequence[Mapping[str, Any]]:
        call = {
            "id": "call_0",
            "type": "function",
            "function": {"name": "lookup", "arguments": {"key": prompt.data["key"]}},
        }
        return [
            *prompt.messages,
            {"role": "assistant", "content": "", "tool_calls": [call]},
            self._looked_up(prompt, call),
            {"role": "assistant", "content": prompt.data["answer"]},
        ]

    def _looked_up(self, prompt: Prompt, call: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the tool's message. Anything but the key of this episode finds nothing."""
        arguments = call["function"]["arguments"]
        asked = json.loads(arguments) if isinstance(arguments, str) else arguments
        right = call["function"]["name"] == "lookup" and asked == {"key": prompt.data["key"]}
        return {"role": "tool", "tool_call_id": call["id"], "content": prompt.data["number"] if right else "?"}
