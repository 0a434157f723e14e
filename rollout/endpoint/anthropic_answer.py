"""Writes answers in the form of Anthropic's messages, whole or in pieces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal
from uuid import uuid4

from rollout.endpoint.chat_answer import Pieces, extension
from rollout.episodes.calls import Answer, Delta

_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class MessageAnswer:
    """One answer in the making.

    Args:
        model: the model's name.
    """

    def __init__(self, model: str) -> None:
        self._head = {"id": f"msg_{uuid4().hex}", "type": "message", "role": "assistant", "model": model}
        self._pieces = Pieces()
        self._index = -1  # of the block that is open, or was last
        self._open: Literal["text", "thinking"] | None = None

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The answer as one message."""
        return {
            **self._head,
            "content": list(_blocks(answer.message)),
            "stop_reason": _REASONS[answer.finish],
            "stop_sequence": None,
            "usage": _usage(answer),
            "leeway": extension(answer),
        }

    def begin(self) -> Iterator[str]:
        """The first events. How many tokens the prompt has is said at the end, when it is known."""
        nothing = {"content": [], "stop_reason": None, "stop_sequence": None}
        usage = {"input_tokens": 0, "output_tokens": 0}
        yield _event("message_start", message={**self._head, **nothing, "usage": usage})
        yield _event("ping")

    def piece(self, delta: Delta) -> Iterator[str]:
        """Events of reasoning and content; each kind of text has a block of its own."""
        self._pieces.sent(delta)
        if delta.reasoning:
            yield from self._block("thinking")
            yield self._delta({"type": "thinking_delta", "thinking": delta.reasoning})
        if delta.text:
            yield from self._block("text")
            yield self._delta({"type": "text_delta", "text": delta.text})

    def end(self, answer: Answer) -> Iterator[str]:
        """The last events: tool calls, why it ended, the numbers of tokens."""
        yield from self.piece(self._pieces.rest(answer.message))
        yield from self._close()
        for block in _blocks(answer.message):
            if block["type"] == "tool_use":
                self._index += 1
                begun = {**block, "input": {}}
                given = json.dumps(block["input"], ensure_ascii=False)
                yield _event("content_block_start", index=self._index, content_block=begun)
                yield self._delta({"type": "input_json_delta", "partial_json": given})
                yield _event("content_block_stop", index=self._index)
        ended = {"stop_reason": _REASONS[answer.finish], "stop_sequence": None}
        yield _event("message_delta", delta=ended, usage=_usage(answer), leeway=extension(answer))
        yield _event("message_stop")

    def _block(self, kind: Literal["text", "thinking"]) -> Iterator[str]:
        if self._open != kind:
            yield from self._close()
            self._index += 1
            self._open = kind
            empty = {"type": "text", "text": ""} if kind == "text" else _thinking("")
            yield _event("content_block_start", index=self._index, content_block=empty)

    def _close(self) -> Iterator[str]:
        if self._open is not None:
            if self._open == "thinking":
                yield self._delta({"type": "signature_delta", "signature": ""})
            self._open = None
            yield _event("content_block_stop", index=self._index)

    def _delta(self, delta: dict[str, str]) -> str:
        return _event("content_block_delta", index=self._index, delta=delta)


def _blocks(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if reasoning := message.get("reasoning_content"):
        yield _thinking(reasoning)
    if text := message.get("content"):
        yield {"type": "text", "text": text}
    for call in message.get("tool_calls") or ():
        function = call["function"]
        yield {
            "type": "tool_use",
            "id": call["id"],
            "name": function["name"],
            "input": json.loads(function["arguments"] or "{}"),
        }


def _thinking(text: str) -> dict[str, str]:
    return {"type": "thinking", "thinking": text, "signature": ""}


def _usage(answer: Answer) -> dict[str, int]:
    return {"input_tokens": answer.prompt_tokens, "output_tokens": len(answer.tokens)}


def _event(kind: str, **fields: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields}, separators=(',', ':'))}\n\n"
