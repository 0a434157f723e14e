"""What became of one response of a group: its tokens and its score, or why it has none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rollout.episodes.record import SegmentRecord
from rollout.tasks.score import Score

Finish = Literal["stop", "length", "abort"]


@dataclass(frozen=True)
class ResponseOutcome:
    """A response that has ended.

    Attributes:
        segments: its sequences; none where it has no tokens that may be sent.
        finish: how its last generation ended.
        score: None: it is unscored.
        unscored: why it has no score, as the ledger counts it: lower-case letters and underscores; empty if it has one.
        message: what happened, for the log; empty if it has a score.
        text: what was said, where it is one text; empty where its segments have turns.
    """

    segments: Sequence[SegmentRecord]
    finish: Finish
    score: Score | None
    unscored: str = ""
    message: str = ""
    text: str = ""
