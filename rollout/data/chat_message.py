"""Messages of a conversation in the one form in which they are compared and rendered, whatever form a client sends."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from runtime.errors import LeewayError

# Fields that client libraries send back with an assistant message and that no template reads.
_NOISE = frozenset({"annotations", "audio", "function_call", "refusal", "reasoning"})


class ChatRequestError(LeewayError):
    """A conversation that cannot be rendered as it was sent. The message names the field, its value and what to do."""


def canonical(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns messages in the form that chat templates read.

    Content is text: parts are joined without anything between them, no content is an empty text. Arguments of tool calls are
    objects, not JSON text. The role "developer" is "system". What is null is left out.

    Raises:
        ChatRequestError: a message has no role, content that is not text, or arguments that are no JSON object.
    """
    return [_canonical(message, f"messages[{index}]") for index, message in enumerate(messages)]


def same_message(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Returns whether a message that was sent is one that is known, both in canonical form.

    Reasoning that a client leaves out is no difference, because many do; nor are ids of tool calls that it leaves out.
    """
    left = {key: value for key, value in ours.items() if key not in ("reasoning_content", "tool_calls")}
    right = {key: value for key, value in theirs.items() if key not in ("reasoning_content", "tool_calls")}
    said = theirs.get("reasoning_content")
    if left != right or (said and said != ours.get("reasoning_content")):
        return False
    calls, others = ours.get("tool_calls", ()), theirs.get("tool_calls", ())
    return len(calls) == len(others) and all(map(_same_call, calls, others))


def _same_call(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    same_id = not ours.get("id") or not theirs.get("id") or ours["id"] == theirs["id"]
    return same_id and ours["function"] == theirs["function"]


def _canonical(message: Mapping[str, Any], path: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise ChatRequestError(f"{path} = {message!r:.80}: expected an object with role and content")
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise ChatRequestError(f"{path}.role = {role!r:.80}: expected system, user, assistant or tool")
    made: dict[str, Any] = {
        "role": "system" if role == "developer" else role,
        "content": _text(message.get("content"), f"{path}.content"),
    }
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(reasoning, str):
        made["reasoning_content"] = reasoning
    calls = message.get("tool_calls") or ()
    if calls:
        made["tool_calls"] = [_call(call, f"{path}.tool_calls[{index}]") for index, call in enumerate(calls)]
    for key, value in message.items():
        if (
            key not in made
            and key not in _NOISE
            and key not in ("tool_calls", "reasoning_content")
            and value is not None
        ):
            made[key] = value
    return made


def _text(content: Any, path: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, (list, tuple)):
        raise ChatRequestError(f"{path} = {content!r:.80}: expected a text or a list of text parts")
    texts: list[str] = []
    for index, part in enumerate(content):
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, Mapping) else None
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        if kind != "text" or not isinstance(text, str):
            raise ChatRequestError(
                f"{path}[{index}] = {part!r:.80}: this policy reads text only; send parts of type text"
            )
        texts.append(text)
    return "".join(texts)


def _call(call: Any, path: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ChatRequestError(f"{path} = {call!r:.80}: expected an object with function.name and function.arguments")
    arguments = _arguments(function.get("arguments"), f"{path}.function.arguments")
    made: dict[str, Any] = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return {"id": call["id"], **made} if call.get("id") else made


def _arguments(value: Any, path: str) -> dict[str, Any]:
    if value is None or value == "":
        return {}
    found = value
    if isinstance(value, str):
        try:
            found = json.loads(value)
        except ValueError:
            found = None
    if not isinstance(found, dict):
        raise ChatRequestError(f"{path} = {value!r:.80}: expected a JSON object, as text or as it is")
    return found
