"""Writes a segment for people to read."""

from __future__ import annotations

import json
from typing import Any

from rollout.data.tokenizer import Tokenizer
from rollout.engine.response import VersionSpan, joined
from rollout.episodes.segment import Segment


def transcript(segment: Segment, tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """Returns (role, text) of every message of a segment; of one without messages, of what was read and generated in turn."""
    if segment.conversation is not None:
        return [(message["role"], _text(message)) for message in segment.conversation.messages]
    found: list[tuple[str, str]] = []
    at = 0
    for start, end in _generated(segment.spans):
        if start > at:
            found.append(("environment" if at else "context", tokenizer.part(segment.tokens[at:start])))
        found.append(("assistant", tokenizer.part(segment.tokens[start:end])))
        at = end
    return found


def _generated(spans: list[VersionSpan]) -> list[tuple[int, int]]:
    """Returns the generated ranges, whatever versions generated them."""
    return [(span.start, span.end) for span in joined(VersionSpan(0, span.start, span.end) for span in spans)]


def _text(message: dict[str, Any]) -> str:
    reasoning = message.get("reasoning_content")
    parts = [f"<think>{reasoning}</think>"] if reasoning else []
    parts += [message["content"]] if message["content"] else []
    for call in message.get("tool_calls", ()):
        parts.append(f"{call['function']['name']}({json.dumps(call['function']['arguments'], ensure_ascii=False)})")
    return "\n".join(parts)
