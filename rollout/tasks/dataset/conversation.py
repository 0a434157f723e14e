"""Conversations in rows: checked, and without the nulls that columns fill them up with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rollout.tasks.row_error import RowError


def read_conversation(value: Any, column: str, fills_with_nulls: bool) -> list[dict[str, Any]]:
    """Returns a column's messages, in OpenAI's form.

    Args:
        value: what the column has.
        column: its name, for messages.
        fills_with_nulls: what is null within a message, at any depth, is not there (see RowSource); otherwise that holds for
            the message's own fields alone.

    Raises:
        RowError: it is no list of messages, or the last one is the assistant's, so that nothing is asked.
    """
    if not isinstance(value, list) or not value:
        hint = f"; a text is asked with columns.prompt = {column!r}" if isinstance(value, str) else ""
        raise _bad(column, f"= {value!r:.60} is no list of messages{hint}")
    messages = [_message(one, f"{column}[{index}]", fills_with_nulls) for index, one in enumerate(value)]
    if messages[-1]["role"] == "assistant":
        raise _bad(column, "ends with a message of the assistant, so that nothing is asked")
    return messages


def _message(value: Any, column: str, fills_with_nulls: bool) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _bad(column, f"= {value!r:.60} is no message: expected an object with role and content")
    message = {key: _without_nulls(one) if fills_with_nulls else one for key, one in value.items() if one is not None}
    role, content, calls = message.get("role"), message.setdefault("content", ""), message.get("tool_calls", [])
    if not isinstance(role, str) or not role:
        raise _bad(column, f".role = {role!r:.60}: expected system, user, assistant or tool")
    if not isinstance(content, str) and not (isinstance(content, list) and all(map(_is_text_part, content))):
        raise _bad(column, f".content = {content!r:.60}: expected a text, or a list of parts of type text")
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) and "function" in call for call in calls):
        raise _bad(column, f".tool_calls = {calls!r:.60}: expected a list of objects with function")
    return message


def _is_text_part(part: Any) -> bool:
    if isinstance(part, Mapping):
        return part.get("type", "text") == "text" and isinstance(part.get("text"), str)
    return isinstance(part, str)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value


def _bad(column: str, why: str) -> RowError:
    return RowError("bad_messages", f"{column} {why}" if not why.startswith(".") else f"{column}{why}")
