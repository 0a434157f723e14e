"""Writes a segment for people to read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rollout.data.tokenizer import Tokenizer
from rollout.engine.response import VersionSpan, joined
from rollout.episodes.segment import Segment
from runtime.rollout_record import RecordedCall, RecordedTurn


def transcript(segment: Segment, tokenizer: Tokenizer) -> tuple[RecordedTurn, ...]:
    """Returns the messages of a segment as turns; of one without messages, what was read and generated in turn."""
    if segment.conversation is not None:
        return tuple(map(turn_of, segment.conversation.messages))
    found: list[RecordedTurn] = []
    at = 0
    for start, end in _generated(segment.spans):
        if start > at:
            role = "environment" if at else "context"
            found.append(RecordedTurn(role=role, text=tokenizer.part(segment.tokens[at:start])))
        found.append(RecordedTurn(role="assistant", text=tokenizer.part(segment.tokens[start:end])))
        at = end
    return tuple(found)


def turn_of(message: Mapping[str, Any]) -> RecordedTurn:
    """Returns a message in canonical form as a turn."""
    calls = tuple(
        RecordedCall(
            name=str(call["function"]["name"]),
            arguments=json.dumps(call["function"]["arguments"], ensure_ascii=False, default=repr),
        )
        for call in message.get("tool_calls", ())
    )
    return RecordedTurn(
        role=message["role"],
        text=message.get("content") or "",
        reasoning=message.get("reasoning_content") or "",
        calls=calls,
    )


def _generated(spans: list[VersionSpan]) -> list[tuple[int, int]]:
    """Returns the generated ranges, whatever versions generated them."""
    return [(span.start, span.end) for span in joined(VersionSpan(0, span.start, span.end) for span in spans)]
