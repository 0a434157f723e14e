"""A task whose environment compacts: it calls a tool, then goes on from a summary alone; for the model of TOOL_TABLE."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rollout.tasks import Prompt, Reward, Task
from rollout.tasks.policy import EpisodePolicy

_NUMBERS = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
_TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": _NUMBERS}}]
_SYSTEM = {"role": "system", "content": "Be brief."}


class Compacting(Task):
    """Two calls of the model with a tool between them, then a third after a summary of both. Odd sums are worth 1."""

    name = "compacting"

    def prompt(self, index: int) -> Prompt:
        return Prompt(f"sum-{index}", messages=[_SYSTEM, {"role": "user", "content": "What is 1 + 1?"}])

    async def rollout(self, prompt: Prompt, policy: EpisodePolicy) -> Reward:
        messages: list[Mapping[str, Any]] = list(prompt.messages)
        asked = await policy.chat(messages, tools=_TOOLS)
        (call,) = asked["tool_calls"]
        given = json.loads(call["function"]["arguments"])
        total = given["a"] + given["b"]
        messages += [asked, {"role": "tool", "tool_call_id": call["id"], "content": str(total)}]
        answer = await policy.chat(messages, tools=_TOOLS)
        summary = {"role": "user", "content": f"You found {total} and said: {answer['content']}"}
        await policy.chat([_SYSTEM, summary], tools=_TOOLS)
        return float(total % 2)
