"""Counts of response tokens that engines generated, and of those that came to nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Discard = Literal["stop_text", "nan", "failed", "cancelled"]

DISCARDS: tuple[Discard, ...] = ("stop_text", "nan", "failed", "cancelled")


@dataclass
class TokenCounts:
    """Tokens that arrived from engines since the worker started.

    Attributes:
        received: all of them.
        discarded: those in no response, by reason: they came after a stop text; the engine's logits were not finite; engine
            after engine failed; nobody wanted the response any more.
        continued: responses that another engine, or a restarted one, went on with.
    """

    received: int = 0
    discarded: dict[Discard, int] = field(default_factory=lambda: dict.fromkeys(DISCARDS, 0))
    continued: int = 0
