"""A response as engines generate it: its tokens, why it ended, and which version generated which token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rollout.engine.routed_tokens import RoutedTokens

Finish = Literal["stop", "length", "abort", "too_long", "refused"]


@dataclass(frozen=True)
class VersionSpan:
    """A range [start, end) of response tokens that were generated with the weights of ``version``."""

    version: int
    start: int
    end: int


@dataclass(frozen=True)
class Response:
    """One response to a prompt.

    Attributes:
        tokens: token ids, the end or stop token included, and the token that completes a stop text.
        finish: why it ended: an end or stop token or text, the length limit, or the server aborted it. "too_long",
            "refused": there is none, because the prompt leaves no room for it, or the server refuses the prompt.
        spans: which version generated which tokens; they cover ``tokens`` without a gap.
        stopped_by: the end or stop token that ended it, as the server says; None when it ended otherwise.
        message: why the server aborted it, in its words, or why there is none.
        stop_text: the stop text that ended it; None when it ended otherwise.
        routed: the experts of the prompt's tokens and its own, as far as they are known; None where they are not.
    """

    tokens: list[int]
    finish: Finish
    spans: list[VersionSpan]
    stopped_by: int | None = None
    message: str = ""
    stop_text: str | None = None
    routed: RoutedTokens | None = field(default=None, compare=False)


def covers(spans: Sequence[VersionSpan], tokens: int) -> bool:
    """Whether spans, none of them empty, hold each of ``tokens`` tokens exactly once, in order."""
    return [0, *(span.end for span in spans)] == [*(span.start for span in spans), tokens]


def joined(spans: Iterable[VersionSpan]) -> list[VersionSpan]:
    """Returns adjacent spans with those of one version that touch each other made one."""
    result: list[VersionSpan] = []
    for span in spans:
        if result and result[-1].version == span.version and result[-1].end == span.start:
            result[-1] = VersionSpan(span.version, result[-1].start, span.end)
        elif span.end > span.start:
            result.append(span)
    return result


def cut(spans: Iterable[VersionSpan], tokens: int) -> list[VersionSpan]:
    """Returns the spans of the first ``tokens`` tokens."""
    return [VersionSpan(span.version, span.start, min(span.end, tokens)) for span in spans if span.start < tokens]


def moved(spans: Iterable[VersionSpan], by: int) -> list[VersionSpan]:
    """Returns spans that begin ``by`` tokens later."""
    return [VersionSpan(span.version, span.start + by, span.end + by) for span in spans]
