"""What is kept of an episode when it has ended: its segments, token by token."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rollout.engine.response import VersionSpan
from rollout.engine.routed_tokens import RoutedTokens
from runtime.rollout_record import RecordedTurn

Opening = Literal[
    "first", "new_conversation", "rewritten_history", "template_not_prefix_stable", "parallel_call", "other_tools"
]
OPENINGS: tuple[Opening, ...] = (
    "first",
    "new_conversation",
    "rewritten_history",
    "template_not_prefix_stable",
    "parallel_call",
    "other_tools",
)


@dataclass(frozen=True)
class SegmentRecord:
    """One sequence of an episode.

    Attributes:
        context: token ids before the first generated one.
        tokens: generated token ids, and those of the environment between them; the last one was generated.
        spans: which of ``tokens`` which version generated; offsets count from the beginning of ``tokens``.
        opening: why the segment was opened.
        turns: its messages, or what was read and generated in turn, for people; empty where nobody has written them yet.
        routed: the experts of its tokens from the beginning of the context on, as far as they are known; None: of none.
    """

    context: list[int]
    tokens: list[int]
    spans: list[VersionSpan]
    opening: Opening
    turns: tuple[RecordedTurn, ...] = ()
    routed: RoutedTokens | None = field(default=None, compare=False)


@dataclass(frozen=True)
class EpisodeRecord:
    """An episode that has ended.

    Attributes:
        segments: its sequences that have generated tokens, in the order in which they were opened.
        finish: how its last call ended.
        calls: number of calls that were answered.
        limit: the limit that it reached: "turns", "tokens", "seconds"; None if none.
    """

    segments: list[SegmentRecord]
    finish: Literal["stop", "length", "abort"]
    calls: int
    limit: Literal["turns", "tokens", "seconds"] | None
