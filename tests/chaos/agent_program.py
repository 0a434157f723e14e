"""An agent as a program, of the standard library alone: asks, uses a tool, answers, and asks once more.

The model is the one that ``tests/chaos/agent_stack.py`` writes: after a user's turn it calls ``add``, after a tool's result
it talks. The reward is how much it has talked.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from collections.abc import Mapping
from typing import Any

_LIMIT_S = 240  # of one call; the episode has a limit of its own
_NUMBERS = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": _NUMBERS}}]


def chat(messages: list[Any]) -> dict[str, Any]:
    """Asks the endpoint for the next message."""
    body = {"model": os.environ["LEEWAY_MODEL"], "messages": messages, "tools": TOOLS}
    request = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"] + "/chat/completions",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=_LIMIT_S) as reply:
        return json.load(reply)["choices"][0]["message"]


def result(call: Mapping[str, Any]) -> dict[str, Any]:
    """The tool's message."""
    given = json.loads(call["function"]["arguments"])
    return {"role": "tool", "tool_call_id": call["id"], "content": str(given["a"] + given["b"])}


def main() -> None:
    """Plays one episode, whose prompt is on stdin."""
    messages = list(json.loads(sys.stdin.readline())["messages"])
    asked = chat(messages)
    if not asked.get("tool_calls"):
        sys.exit(f"the model did not call the tool: {asked}")
    answer = chat([*messages, asked, *map(result, asked["tool_calls"])])
    messages += [asked, *map(result, asked["tool_calls"]), answer, {"role": "user", "content": "What is 2 + 2?"}]
    chat(messages)
    print(min(1.0, len(answer["content"]) / 400))


if __name__ == "__main__":
    main()
