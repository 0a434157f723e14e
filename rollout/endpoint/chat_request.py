"""Reads the body of POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rollout.endpoint.api_error import bad, unsupported
from rollout.endpoint.fields import Fields
from rollout.endpoint.foreign_sampling import OVERRIDABLE
from rollout.episodes.calls import ChatCall

# They change neither what the model reads nor what it generates.
HARMLESS = frozenset(
    (
        *("model", "user", "metadata", "store", "service_tier", "prediction", "safety_identifier"),
        *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"),
    )
)
_READ = frozenset(
    (
        *("messages", "tools", "tool_choice", "max_tokens", "max_completion_tokens", "stop", "chat_template_kwargs"),
        *("stream", "stream_options"),
    )
)
# What would change the answer, with the values that ask for nothing.
REFUSED: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "functions": ([],),
}
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}


@dataclass(frozen=True)
class Streaming:
    """Whether an answer comes in pieces, and whether a last piece says how many tokens it took."""

    wanted: bool
    with_usage: bool

    @classmethod
    def read(cls, body: Fields) -> Streaming:
        """Reads ``stream`` and ``stream_options``."""
        options = Fields(body.mapping("stream_options"), "stream_options")
        return cls(body.flag("stream"), options.flag("include_usage"))


def require_known(body: Fields, read: frozenset[str], refused: Mapping[str, tuple[Any, ...]] | None = None) -> None:
    """Refuses parameters that would change the result, and those that nobody knows.

    Args:
        body: of the call.
        read: names of those that are used.
        refused: names of further ones that would change the result, with the values that ask for nothing.

    Raises:
        ApiError: it names the first of them.
    """
    for name, value in body.values.items():
        if name in read or name in HARMLESS or name in OVERRIDABLE:
            continue
        neutral = {**REFUSED, **(refused or {})}.get(name)
        if neutral is None:
            raise unsupported(name, value, "this endpoint has no such parameter")
        if not any(value == usual and type(value) in (type(usual), float) for usual in neutral):
            raise unsupported(name, value, "this endpoint does not do that")


def read_chat(body: Fields) -> ChatCall:
    """Reads a call for the next assistant message.

    Raises:
        ApiError: a field is not as OpenAI describes it, or asks for what there is not.
    """
    require_known(body, _READ)
    messages = [_message(message) for message in body.objects("messages")]
    if not messages:
        raise bad("messages", body.values.get("messages"), "at least one message")
    tools = [_tool(tool) for tool in body.objects("tools")]
    return ChatCall(
        messages=messages,
        tools=tools,
        tool_choice=_tool_choice(body, tools),
        max_tokens=max_tokens(body),
        stop=body.texts("stop"),
        template=body.mapping("chat_template_kwargs"),
    )


def max_tokens(body: Fields) -> int | None:
    """Reads the largest number of generated tokens, by its newer or its older name; None where neither is there."""
    return body.count("max_completion_tokens") or body.count("max_tokens")


def _message(message: Fields) -> dict[str, Any]:
    """Returns a message with those fields only that a template may read, its content as one text."""
    role = _ROLES[message.choice("role", *_ROLES)]
    made: dict[str, Any] = {"role": role, "content": _text(message)}
    if "name" in message.values:
        made["name"] = message.text("name")
    if role == "tool":
        made["tool_call_id"] = message.text("tool_call_id")
    if role != "assistant":
        if made["content"] is None:
            raise bad(message.path("content"), None, "a text, or a list of text parts")
        return made
    if message.values.get("function_call") or message.values.get("audio"):
        name = "function_call" if "function_call" in message.values else "audio"
        raise unsupported(message.path(name), message.values[name], "this endpoint does not do that")
    calls = [_tool_call(call) for call in message.objects("tool_calls")]
    if calls:
        made["tool_calls"] = calls
    reasoning = message.optional_text("reasoning_content") or message.optional_text("reasoning")
    if reasoning is not None:
        made["reasoning_content"] = reasoning
    return made


def _text(message: Fields) -> str | None:
    """Reads the content of a message: a text, or text parts, which are joined; None where it is absent."""
    content = message.values.get("content")
    if content is None or isinstance(content, str):
        return content
    parts: list[str] = []
    for part in message.objects("content"):
        kind = part.text("type")
        if kind not in ("text", "refusal"):
            raise unsupported(part.path("type"), kind, "this endpoint reads text only")
        parts.append(part.text(kind))
    return "".join(parts)


def _tool_call(call: Fields) -> dict[str, Any]:
    if call.values.get("type", "function") != "function":
        raise unsupported(call.path("type"), call.values["type"], "this endpoint knows tools of type function only")
    function = Fields(call.values.get("function"), call.path("function"))
    named = {"name": function.text("name"), "arguments": function.text("arguments")}
    return {"id": call.text("id"), "type": "function", "function": named}


def _tool(tool: Fields) -> dict[str, Any]:
    """Returns a tool as it came: a template shows the model what the agent says about it."""
    if tool.values.get("type") != "function":
        raise unsupported(tool.path("type"), tool.values.get("type"), "this endpoint knows tools of type function only")
    function = Fields(tool.values.get("function"), tool.path("function"))
    function.text("name")
    function.optional_text("description")
    function.mapping("parameters")
    return {**tool.values, "function": function.values}


def _tool_choice(body: Fields, tools: list[dict[str, Any]]) -> str:
    choice = body.values.get("tool_choice")
    if choice is None:
        return "auto"
    names = [tool["function"]["name"] for tool in tools]
    if isinstance(choice, str):
        name = body.choice("tool_choice", "auto", "none", "required")
        if name == "required" and not tools:
            raise bad("tool_choice", choice, "tools beside it")
        return name
    chosen = Fields(choice, "tool_choice")
    chosen.choice("type", "function")
    name = Fields(chosen.values.get("function"), "tool_choice.function").text("name")
    if name not in names:
        raise bad("tool_choice.function.name", name, f"the name of one of the tools: {', '.join(names) or 'none'}")
    return name
