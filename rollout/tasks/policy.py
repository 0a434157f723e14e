"""What an environment sees of the policy: it generates after token ids or messages, and records every token itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol


@dataclass(frozen=True)
class Generation:
    """What the policy generated in one call.

    Attributes:
        tokens: token ids, the end token included.
        text: the tokens as text, without the end token.
        finish: "stop": an end token or stop text; "length": a limit on tokens.
        versions: (version, start, end) of each run of tokens that one version generated.
    """

    tokens: list[int]
    text: str
    finish: Literal["stop", "length"]
    versions: list[tuple[int, int, int]]


class EpisodePolicy(Protocol):
    """The policy within one episode.

    Attributes:
        base_url: base URL of the episode's endpoint for client libraries of OpenAI's kind, with /v1 at its end.
        api_key: the episode's key: single-use, it ends with the episode.
        model: the model's name for such libraries.
        prompt_tokens: token ids of the episode's prompt, as the worker renders it.
    """

    base_url: str
    api_key: str
    model: str
    prompt_tokens: Sequence[int]

    async def generate(
        self, tokens: Sequence[int], *, max_new_tokens: int | None = None, stop: Sequence[str] = ()
    ) -> Generation:
        """Generates after ``tokens``.

        If they begin with everything that a segment of the episode has so far, that segment goes on, and what follows is
        context without loss; otherwise they open a new segment.

        Args:
            tokens: token ids of the whole context.
            max_new_tokens: largest number of generated tokens; None: what the settings allow.
            stop: texts that end the generation.

        Raises:
            EpisodeOverError: a limit of the episode was reached.
        """
        ...

    async def chat(
        self, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] | None = None, **options: Any
    ) -> dict[str, Any]:
        """Generates the next assistant message, in the form of OpenAI's chat completions.

        Args:
            messages: the whole conversation.
            tools: descriptions of tools, as OpenAI's.
            options: tool_choice, max_tokens, stop, chat_template_kwargs.

        Returns:
            The assistant message: {"role", "content", "tool_calls"?, "reasoning_content"?}. Append it to ``messages`` as it
            is, and no token is rendered again.

        Raises:
            EpisodeOverError: a limit of the episode was reached.
        """
        ...

    def openai(self) -> Any:
        """Returns an ``openai.AsyncOpenAI`` whose calls belong to this episode; needs the package openai.

        Raises:
            TaskError: the package is not installed.
        """
        ...


class EpisodeOverError(Exception):
    """The episode has reached a limit (turns, tokens, seconds); let it through: the worker knows what to do."""
