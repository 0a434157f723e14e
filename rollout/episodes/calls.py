"""Calls within an episode and their answers, whatever API they came through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rollout.engine.response import VersionSpan

Finish = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True)
class Delta:
    """A piece of an answer under way.

    Attributes:
        text: further text of the message's content.
        reasoning: further text of its reasoning.
    """

    text: str = ""
    reasoning: str = ""


OnDelta = Callable[[Delta], None]


@dataclass(frozen=True)
class ChatCall:
    """A request for the next assistant message.

    Attributes:
        messages: the whole conversation, in the form of OpenAI's chat completions.
        tools: descriptions of tools, as OpenAI's: {"type": "function", "function": {...}}.
        tool_choice: "auto", "none", "required", or the name of a function.
        max_tokens: largest number of generated tokens; None: what the settings allow.
        stop: texts that end the message.
        template: keywords for the chat template, such as enable_thinking.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: str = "auto"
    max_tokens: int | None = None
    stop: Sequence[str] = ()
    template: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What the policy generated in one call.

    Attributes:
        message: the assistant message in OpenAI's form, to be sent back as it is; for a call by token ids its content is the
            text.
        tokens: generated token ids, the end token included.
        versions: which version generated which of ``tokens``.
        finish: why it ended.
        prompt_tokens: number of tokens of its context.
        segment: index of the segment that it belongs to.
        continued: whether it continued a segment, instead of opening one.
    """

    message: dict[str, Any]
    tokens: list[int]
    versions: list[VersionSpan]
    finish: Finish
    prompt_tokens: int
    segment: int
    continued: bool
