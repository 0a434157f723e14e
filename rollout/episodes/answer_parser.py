"""Reads a model's text as an assistant message: reasoning, content, tool calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from rollout.engine.errors import EngineError, RefusedError
from rollout.episodes.hermes import HermesFormat
from rollout.episodes.llama3 import Llama3Format
from rollout.episodes.observer import ParseFailure
from rollout.episodes.pythonic import PythonicFormat
from rollout.episodes.reasoning import split_reasoning
from rollout.episodes.tool_call import ParsedContent, ToolCall, ToolFormat, read_call
from runtime.errors import MISCONFIGURED, LeewayError

FORMATS: Mapping[str, ToolFormat] = {"hermes": HermesFormat(), "llama3": Llama3Format(), "pythonic": PythonicFormat()}
_ELSEWHERE = "sglang:"
Tools = Sequence[Mapping[str, Any]]


class ParserConfigError(LeewayError):
    """A parser of tool calls or reasoning that is not known. The message names the setting."""

    exit_status = MISCONFIGURED


class ParserElsewhere(Protocol):
    """Parsers of the engine, by their names there."""

    async def tool_calls(self, parser: str, text: str, tools: Tools) -> tuple[str, list[tuple[str, Any]]]:
        """Returns the content, and the name and arguments of each tool call. Raises EngineError or RefusedError."""
        ...

    async def reasoning(self, parser: str, text: str) -> tuple[str, str]:
        """Returns reasoning and content. Raises EngineError or RefusedError."""
        ...


@dataclass(frozen=True)
class ParsedAnswer:
    """A model's text, read as an assistant message.

    Attributes:
        reasoning: what it thought; empty if nothing.
        content: what it says; empty if nothing.
        calls: what it calls, in order.
        failures: what looks like a tool call and stays in ``content``.
    """

    reasoning: str
    content: str
    calls: Sequence[ToolCall] = ()
    failures: Sequence[ParseFailure] = ()

    def message(self) -> dict[str, Any]:
        """Returns the assistant message in OpenAI's form."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.calls:
            message["content"] = self.content or None
            message["tool_calls"] = [call.message_part() for call in self.calls]
        return message


class AnswerParser:
    """Reads a model's text with one parser of tool calls and one of reasoning.

    Args:
        tool_parser: "auto" (by the chat template), "hermes", "llama3", "pythonic", or "sglang:NAME".
        reasoning_parser: "think" (between <think> and </think>), "none", "auto" ("think" where the chat template knows of
            reasoning: another one would drop it from the next turn's history), or "sglang:NAME".
        template: text of the chat template.
        elsewhere: parsers of the engine; None: "sglang:NAME" cannot be used.

    Attributes:
        splits_reasoning: whether reasoning is what stands between <think> and </think>.

    Raises:
        ParserConfigError: a parser is not known, or one of the engine's is asked for and there is no engine to ask.
    """

    def __init__(
        self, tool_parser: str, reasoning_parser: str, template: str, elsewhere: ParserElsewhere | None = None
    ) -> None:
        named = _by_template(template) if tool_parser == "auto" else tool_parser
        _require("tool_parser", named, tuple(FORMATS), elsewhere)
        _require("reasoning_parser", reasoning_parser, ("auto", "think", "none"), elsewhere)
        self._format = FORMATS.get(named)
        self._tools_elsewhere = named.removeprefix(_ELSEWHERE)
        self._reasoning_elsewhere = reasoning_parser.startswith(_ELSEWHERE)
        self._reasoning_parser = reasoning_parser.removeprefix(_ELSEWHERE)
        self._elsewhere = elsewhere
        knows = "<think>" in template or "</think>" in template or "reasoning" in template
        self.splits_reasoning = reasoning_parser == "think" or (reasoning_parser == "auto" and knows)

    def streams(self, tools: Tools) -> bool:
        """Whether content is known before the answer is complete; parsers elsewhere read whole answers only."""
        return not self._reasoning_elsewhere and (self._format is not None or not tools)

    def format(self, tools: Tools) -> ToolFormat | None:
        """Returns how tool calls are written; None if there is no tool to call."""
        return self._format if tools else None

    async def parse(self, text: str, opened: bool, tools: Tools) -> ParsedAnswer:
        """Reads an answer. What cannot be read stays content; it never raises for a text.

        Args:
            text: the answer, without its end token.
            opened: whether the prompt has opened the reasoning.
            tools: descriptions of the tools that can be called.
        """
        reasoning, content, failures = await self._split(text, opened)
        if not tools:
            return ParsedAnswer(reasoning, content, (), failures)
        parsed = self._format.parse(content) if self._format else await self._ask(content, tools)
        names = {tool.get("function", {}).get("name") for tool in tools}
        if any(call.name not in names for call in parsed.calls):
            # No agent can run it, and many client libraries raise: as text, the model learns from what comes of it.
            return ParsedAnswer(reasoning, content, (), (*failures, *parsed.failures, "unknown_tool"))
        return ParsedAnswer(reasoning, parsed.content, parsed.calls, (*failures, *parsed.failures))

    async def _split(self, text: str, opened: bool) -> tuple[str, str, tuple[ParseFailure, ...]]:
        if self.splits_reasoning:
            return *split_reasoning(text, opened), ()
        if not self._reasoning_elsewhere or self._elsewhere is None:
            return "", text, ()
        try:
            return *await self._elsewhere.reasoning(self._reasoning_parser, text), ()
        except (EngineError, RefusedError) as error:
            structlog.get_logger().warning("reasoning parser failed", parser=self._reasoning_parser, error=str(error))
            return "", text, ("parser_failed",)

    async def _ask(self, content: str, tools: Tools) -> ParsedContent:
        assert self._elsewhere is not None  # the settings were checked
        try:
            rest, found = await self._elsewhere.tool_calls(self._tools_elsewhere, content, tools)
        except (EngineError, RefusedError) as error:
            structlog.get_logger().warning("tool parser failed", parser=self._tools_elsewhere, error=str(error))
            return ParsedContent(content, (), ("parser_failed",))
        calls = [read_call({"name": name, "arguments": arguments}) for name, arguments in found]
        good = [call for call in calls if call is not None]
        if len(good) != len(calls):
            return ParsedContent(content, (), ("malformed_call",))
        return ParsedContent(rest, good)


def _by_template(template: str) -> str:
    """Returns the format of tool calls that a chat template shows to the model."""
    if "<tool_call>" in template:
        return "hermes"
    return "llama3" if "<|python_tag|>" in template or '"parameters"' in template else "hermes"


def _require(setting: str, name: str, known: Sequence[str], elsewhere: ParserElsewhere | None) -> None:
    if name in known or (name.startswith(_ELSEWHERE) and len(name) > len(_ELSEWHERE) and elsewhere is not None):
        return
    if name.startswith(_ELSEWHERE):
        raise ParserConfigError(
            f"endpoint.{setting} = {name!r}: expected sglang:NAME, and an engine that has the parser"
        )
    names = ", ".join(dict.fromkeys(("auto", *known)))
    raise ParserConfigError(f"endpoint.{setting} = {name!r}: expected {names} or sglang:NAME")
