"""A tool call in a model's text, and how the formats of tool calls are told apart from other text."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rollout.episodes.observer import ParseFailure


@dataclass(frozen=True)
class ToolCall:
    """A call of a function by the model."""

    name: str
    arguments: dict[str, Any]

    def message_part(self) -> dict[str, Any]:
        """Returns the call as an assistant message has it, with a new id."""
        arguments = json.dumps(self.arguments, ensure_ascii=False)
        function = {"name": self.name, "arguments": arguments}
        return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}


@dataclass(frozen=True)
class ParsedContent:
    """Text that has been searched for tool calls.

    Attributes:
        content: what is no tool call.
        calls: the tool calls, in order.
        failures: what looks like a tool call, cannot be read as one, and stays in ``content``.
    """

    content: str
    calls: Sequence[ToolCall] = ()
    failures: Sequence[ParseFailure] = ()


class ToolFormat(Protocol):
    """How a family of models writes tool calls."""

    def plain(self, text: str, begins: bool) -> int:
        """Returns how many characters at the beginning are content, whatever text follows.

        Args:
            text: the part of an answer that has not been shown.
            begins: whether it is the beginning of the answer's content.
        """
        ...

    def parse(self, text: str) -> ParsedContent:
        """Searches the whole content of an answer. Never raises: what cannot be read stays content."""
        ...


def read_call(value: Any) -> ToolCall | None:
    """Reads {"name": ..., "arguments" or "parameters": {...}}; None if it is something else."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    return ToolCall(value["name"], arguments) if isinstance(arguments, dict) and is_json(arguments) else None


def is_json(arguments: dict[str, Any]) -> bool:
    """Returns whether arguments can be sent as JSON: no infinite numbers, no halves of surrogate pairs."""
    try:
        json.dumps(arguments, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def read_json_at(text: str, start: int) -> tuple[Any, int] | None:
    """Reads the JSON value that begins at ``start``, spaces aside; returns it and its end, or None if there is none."""
    while start < len(text) and text[start].isspace():
        start += 1
    try:
        return json.JSONDecoder(parse_constant=_refuse).raw_decode(text, start)
    except (ValueError, RecursionError):
        return None


def held_back(text: str, markers: Sequence[str]) -> int:
    """Returns how many characters at the end of a text may be the beginning of one of some markers."""
    longest = max(map(len, markers), default=1) - 1
    for size in range(min(longest, len(text)), 0, -1):
        if any(marker.startswith(text[-size:]) for marker in markers):
            return size
    return 0


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
