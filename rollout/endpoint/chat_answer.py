"""Writes answers in the form of OpenAI's chat completions, whole or in pieces."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

from rollout.episodes.calls import Answer, Delta


def extension(answer: Answer) -> dict[str, Any]:
    """What our own policy client reads beyond OpenAI's fields: generated token ids, and which version generated which."""
    return {
        "token_ids": answer.tokens,
        "prompt_tokens": answer.prompt_tokens,
        "versions": [[span.version, span.start, span.end] for span in answer.versions],
        "segment": answer.segment,
        "continued": answer.continued,
    }


def usage(answer: Answer) -> dict[str, int]:
    """Numbers of tokens in OpenAI's form; the end token counts as generated."""
    prompt, generated = answer.prompt_tokens, len(answer.tokens)
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}


class Pieces:
    """Keeps what has been sent of an answer's texts, so that its last piece completes them.

    Attributes:
        text: content that has been sent.
        reasoning: reasoning that has been sent.
    """

    def __init__(self) -> None:
        self.text = ""
        self.reasoning = ""

    def sent(self, delta: Delta) -> None:
        """Takes note of a piece."""
        self.text += delta.text
        self.reasoning += delta.reasoning

    def rest(self, message: dict[str, Any]) -> Delta:
        """Returns what the message has beyond the pieces that were sent."""
        text, reasoning = message.get("content") or "", message.get("reasoning_content") or ""
        return Delta(text.removeprefix(self.text), reasoning.removeprefix(self.reasoning))


class ChatAnswer:
    """One answer in the making.

    Args:
        model: the model's name.
        with_usage: whether the last piece has the numbers of tokens.
    """

    def __init__(self, model: str, with_usage: bool = False) -> None:
        self._head = {"id": f"chatcmpl-{uuid4().hex}", "created": int(time.time()), "model": model}
        self._with_usage = with_usage
        self._pieces = Pieces()

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The answer as one chat.completion."""
        choice = {"index": 0, "message": answer.message, "logprobs": None, "finish_reason": answer.finish}
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": usage(answer),
            "leeway": extension(answer),
        }

    def begin(self) -> Iterator[str]:
        """The first piece, which has the role."""
        yield self._chunk({"role": "assistant", "content": ""})

    def piece(self, delta: Delta) -> Iterator[str]:
        """Pieces of reasoning and content."""
        self._pieces.sent(delta)
        if delta.reasoning:
            yield self._chunk({"reasoning_content": delta.reasoning})
        if delta.text:
            yield self._chunk({"content": delta.text})

    def end(self, answer: Answer) -> Iterator[str]:
        """The last pieces: tool calls, why it ended, the numbers of tokens, and the mark of the end."""
        yield from self.piece(self._pieces.rest(answer.message))
        for index, call in enumerate(answer.message.get("tool_calls") or ()):
            yield self._chunk({"tool_calls": [{"index": index, **call}]})
        yield self._chunk({}, answer.finish, leeway=extension(answer))
        if self._with_usage:
            yield _event({**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage(answer)})
        yield "data: [DONE]\n\n"

    def _chunk(self, delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        usage_yet = {"usage": None} if self._with_usage else {}
        return _event({**self._head, "object": "chat.completion.chunk", "choices": [choice], **usage_yet, **more})


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, separators=(',', ':'))}\n\n"
