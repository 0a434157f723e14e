"""SGLang's own parsers of tool calls and reasoning, over its HTTP API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from rollout.engine.errors import EngineError

Ask = Callable[[str, dict[str, Any]], Awaitable[Any]]


class EngineParsers:
    """The parsers of whichever engine answers.

    Args:
        ask: posts a JSON body to a path of an engine that serves and returns the JSON of the answer, as ``EnginePool.ask``.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def tool_calls(
        self, parser: str, text: str, tools: Sequence[Mapping[str, Any]]
    ) -> tuple[str, list[tuple[str, Any]]]:
        """Returns the text without its tool calls, and the name of each call with its arguments as JSON text.

        Args:
            parser: its name there, such as "mistral".
            text: an answer without its reasoning.
            tools: descriptions of the tools, as OpenAI's.

        Raises:
            RefusedError: the engine has no such parser.
            EngineError: no answer, or a malformed one.
        """
        body = {"text": text, "tools": list(tools), "tool_call_parser": parser}
        answer = await self._ask("/parse_function_call", body)
        try:
            return answer["normal_text"], [(call["name"], call["parameters"]) for call in answer["calls"]]
        except (KeyError, TypeError) as error:
            raise EngineError(f"/parse_function_call: malformed answer: {answer!r:.200}") from error

    async def reasoning(self, parser: str, text: str) -> tuple[str, str]:
        """Returns the reasoning of an answer and the rest of its text.

        Args:
            parser: its name there, such as "deepseek-r1".
            text: the answer.

        Raises:
            RefusedError: the engine has no such parser.
            EngineError: no answer, or a malformed one.
        """
        answer = await self._ask("/separate_reasoning", {"text": text, "reasoning_parser": parser})
        try:
            return answer["reasoning_text"] or "", answer["text"] or ""
        except (KeyError, TypeError) as error:
            raise EngineError(f"/separate_reasoning: malformed answer: {answer!r:.200}") from error
