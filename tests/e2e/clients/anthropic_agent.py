"""An agent on the anthropic client, run by its own virtualenv: asks, calls the tool, answers; prints what it saw as JSON."""
# pyright: reportMissingImports=false

from __future__ import annotations

import json
import sys
from typing import Any

import anthropic

TOOL: dict[str, Any] = {
    "name": "add",
    "description": "Adds two numbers.",
    "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
}
ASK: dict[str, Any] = {"model": "any", "max_tokens": 200, "system": "Be brief.", "tools": [TOOL]}


def streamed(client: anthropic.Anthropic, messages: list[Any]) -> Any:
    with client.messages.stream(messages=messages, **ASK) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert text == "".join(block.text for block in message.content if block.type == "text")
    return message


def main(stream: bool) -> None:
    client = anthropic.Anthropic(max_retries=0)
    messages: list[Any] = [{"role": "user", "content": "What is 1 + 1?"}]
    counted = client.messages.count_tokens(messages=messages, **{k: ASK[k] for k in ("model", "system", "tools")})
    seen: list[Any] = []
    while True:
        message = streamed(client, messages) if stream else client.messages.create(messages=messages, **ASK)
        seen.append(message.model_dump())
        if message.stop_reason != "tool_use":
            break
        messages.append({"role": "assistant", "content": message.content})
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": str(block.input["a"] + block.input["b"])}
            for block in message.content
            if block.type == "tool_use"
        ]
        messages.append({"role": "user", "content": results})
    print(json.dumps({"seen": seen, "counted": counted.input_tokens}))
    try:
        anthropic.Anthropic(api_key="another", max_retries=0).messages.create(messages=messages, **ASK)
    except anthropic.AuthenticationError:
        return
    raise SystemExit("an unknown key was let in")


main("--stream" in sys.argv)
