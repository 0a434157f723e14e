"""Calls and answers of POST /v1/completions: token ids in, token ids and their text out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from rollout.endpoint.api_error import bad
from rollout.endpoint.chat_answer import Pieces, extension, usage
from rollout.endpoint.chat_request import require_known
from rollout.endpoint.fields import Fields
from rollout.episodes.calls import Answer, Delta

_READ = frozenset(("prompt", "max_tokens", "stop", "stream", "stream_options"))
_REFUSED: Mapping[str, tuple[Any, ...]] = {"best_of": (1,), "echo": (False,), "logprobs": (), "suffix": ("",)}
_MOST_ID = 2**31


@dataclass(frozen=True)
class CompletionCall:
    """A request to go on after token ids, or after a text.

    Attributes:
        prompt: the whole context.
        max_tokens: largest number of generated tokens; None: what the settings allow.
        stop: texts that end the generation.
    """

    prompt: list[int] | str
    max_tokens: int | None
    stop: tuple[str, ...]


def read_completion(body: Fields) -> CompletionCall:
    """Reads a call.

    Raises:
        ApiError: a field is not as OpenAI describes it, or asks for what there is not.
    """
    require_known(body, _READ, _REFUSED)
    prompt: Any = body.values.get("prompt")
    if not (isinstance(prompt, str) and prompt) and not _are_ids(prompt):
        raise bad("prompt", prompt, "a list of token ids, or one text; several prompts are several calls")
    return CompletionCall(prompt, body.count("max_tokens"), body.texts("stop"))


def _are_ids(prompt: Any) -> bool:
    return (
        isinstance(prompt, list)
        and bool(prompt)
        and all(isinstance(token, int) and not isinstance(token, bool) and 0 <= token < _MOST_ID for token in prompt)
    )


class CompletionAnswer:
    """One answer in the making, whole or in pieces.

    Args:
        model: the model's name.
        with_usage: whether the last piece has the numbers of tokens.
    """

    def __init__(self, model: str, with_usage: bool = False) -> None:
        self._head = {
            "id": f"cmpl-{uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        self._with_usage = with_usage
        self._pieces = Pieces()

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The answer as one text_completion."""
        choices = [_choice(answer.message.get("content") or "", answer.finish)]
        return {**self._head, "choices": choices, "usage": usage(answer), "leeway": extension(answer)}

    def begin(self) -> Iterator[str]:
        """Nothing: a text has no role."""
        yield from ()

    def piece(self, delta: Delta) -> Iterator[str]:
        """A piece of text."""
        self._pieces.sent(delta)
        if delta.text:
            yield self._event(choices=[_choice(delta.text, None)])

    def end(self, answer: Answer) -> Iterator[str]:
        """The last pieces: why it ended, the numbers of tokens, and the mark of the end."""
        yield from self.piece(self._pieces.rest(answer.message))
        yield self._event(choices=[_choice("", answer.finish)], leeway=extension(answer))
        if self._with_usage:
            yield self._event(choices=[], usage=usage(answer))
        yield "data: [DONE]\n\n"

    def _event(self, **fields: Any) -> str:
        return f"data: {json.dumps({**self._head, **fields}, separators=(',', ':'))}\n\n"


def _choice(text: str, finish: str | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
