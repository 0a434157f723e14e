"""Reads the body of POST /v1/messages, and says it in the form of OpenAI's chat completions.

Nothing that a template shows gets lost or changed on the way there and back: ids of tool calls stay, and the arguments of a
call come back as the JSON that they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from rollout.endpoint.api_error import bad, unsupported
from rollout.endpoint.chat_request import require_known
from rollout.endpoint.fields import Fields
from rollout.episodes.calls import ChatCall

_READ = frozenset(
    ("messages", "system", "tools", "tool_choice", "max_tokens", "stop_sequences", "stream", "chat_template_kwargs")
)
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def read_messages(body: Fields, *, counted: bool = False) -> ChatCall:
    """Reads a call for the next assistant message.

    Args:
        body: of the call.
        counted: its tokens are only counted: max_tokens may be absent.

    Raises:
        ApiError: a field is not as Anthropic describes it, or asks for what there is not.
    """
    require_known(body, _READ)
    messages = [] if "system" not in body.values else [{"role": "system", "content": _text(body, "system")}]
    said = [made for message in body.objects("messages") for made in _messages(message)]
    if not said:
        raise bad("messages", body.values.get("messages"), "at least one message")
    if said[-1]["role"] == "assistant":
        where = f"messages[{len(body.values['messages']) - 1}]"
        raise unsupported(where, "assistant", "this endpoint does not continue a message that was begun for it")
    largest = body.count("max_tokens")
    if largest is None and not counted:
        raise bad("max_tokens", None, "a whole number of at least 1")
    tools = [_tool(tool) for tool in body.objects("tools")]
    return ChatCall(
        messages=[*messages, *said],
        tools=tools,
        tool_choice=_tool_choice(body, [tool["function"]["name"] for tool in tools]),
        max_tokens=largest,
        stop=body.texts("stop_sequences"),
        template=body.mapping("chat_template_kwargs"),
    )


def _messages(message: Fields) -> Iterator[dict[str, Any]]:
    """Yields the messages that one of Anthropic's stands for: results of tools are messages of their own."""
    role = message.choice("role", "user", "assistant", "system")
    if isinstance(message.values.get("content"), str):
        yield {"role": role, "content": message.text("content")}
        return
    if not isinstance(message.values.get("content"), list):
        raise bad(message.path("content"), message.values.get("content"), "a text or a list of blocks")
    blocks = list(message.objects("content"))
    if role == "assistant":
        yield _assistant(blocks)
        return
    for block in blocks:
        if block.values.get("type") == "tool_result":
            content = _text(block, "content") if "content" in block.values else ""
            yield {"role": "tool", "tool_call_id": block.text("tool_use_id"), "content": content}
    texts = [_text_block(block) for block in blocks if block.values.get("type") != "tool_result"]
    if texts or not blocks:
        yield {"role": role, "content": "\n".join(texts)}


def _assistant(blocks: list[Fields]) -> dict[str, Any]:
    texts: list[str] = []
    reasoning: list[str] = []
    calls: list[dict[str, Any]] = []
    for block in blocks:
        match block.text("type"):
            case "thinking":
                reasoning.append(block.text("thinking"))
            case "tool_use":
                named = {"name": block.text("name"), "arguments": json.dumps(block.mapping("input"))}
                calls.append({"id": block.text("id"), "type": "function", "function": named})
            case _:
                texts.append(_text_block(block))
    made: dict[str, Any] = {"role": "assistant", "content": "".join(texts) if texts else None}
    if calls:
        made["tool_calls"] = calls
    elif not texts:
        made["content"] = ""
    return made | ({"reasoning_content": "".join(reasoning)} if reasoning else {})


def _text(owner: Fields, name: str) -> str:
    """Reads a text, or text blocks, which are joined by line ends."""
    if isinstance(owner.values.get(name), str):
        return owner.text(name)
    return "\n".join(_text_block(block) for block in owner.objects(name))


def _text_block(block: Fields) -> str:
    kind = block.text("type")
    if kind != "text":
        raise unsupported(block.path("type"), kind, "this endpoint reads text only")
    return block.text("text")


def _tool(tool: Fields) -> dict[str, Any]:
    if tool.values.get("type", "custom") != "custom":
        raise unsupported(tool.path("type"), tool.values["type"], "this endpoint has no tools of its own")
    if not isinstance(tool.values.get("input_schema"), dict):
        raise bad(tool.path("input_schema"), tool.values.get("input_schema"), "a JSON schema")
    function: dict[str, Any] = {"name": tool.text("name")}
    if "description" in tool.values:
        function["description"] = tool.text("description")
    return {"type": "function", "function": function | {"parameters": tool.mapping("input_schema")}}


def _tool_choice(body: Fields, names: list[str]) -> str:
    if "tool_choice" not in body.values:
        return "auto"
    choice = Fields(body.values["tool_choice"], "tool_choice")
    kind = choice.choice("type", "tool", *_CHOICES)
    if kind != "tool":
        if kind == "any" and not names:
            raise bad("tool_choice.type", kind, "tools beside it")
        return _CHOICES[kind]
    name = choice.text("name")
    if name not in names:
        raise bad("tool_choice.name", name, f"the name of one of the tools: {', '.join(names) or 'none'}")
    return name
