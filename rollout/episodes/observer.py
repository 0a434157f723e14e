"""The events of episodes, and the interface through which they are counted."""

from __future__ import annotations

from typing import Literal, Protocol

from rollout.episodes.record import Opening

CallOutcome = Literal["answered", "limit", "cancelled", "failed"]
CALL_OUTCOMES: tuple[CallOutcome, ...] = ("answered", "limit", "cancelled", "failed")

ParseFailure = Literal["malformed_call", "unknown_tool", "unclosed_reasoning", "parser_failed"]
PARSE_FAILURES: tuple[ParseFailure, ...] = ("malformed_call", "unknown_tool", "unclosed_reasoning", "parser_failed")


class EpisodeObserver(Protocol):
    """Receives the events of episodes."""

    def call_ended(self, outcome: CallOutcome) -> None:
        """Reports that a call has ended.

        Args:
            outcome: answered; limit: it would exceed a limit of its episode; cancelled: its caller is gone, or the episode
                was closed; failed: it cannot be rendered, or no engine answers it.
        """
        ...

    def segment_opened(self, opening: Opening) -> None:
        """Reports that a segment has its first generated tokens, and why it was opened."""
        ...

    def parse_failed(self, failure: ParseFailure) -> None:
        """Reports a part of an answer that stays text because it cannot be read as what it seems to be."""
        ...

    def overridden(self, parameter: str) -> None:
        """Reports a parameter of a call that the worker's settings have overridden."""
        ...

    def answer_dropped(self) -> None:
        """Reports an answer that is in no record because its call was made again."""
        ...


class UncountedEpisodes:
    """Counts nothing."""

    def call_ended(self, outcome: CallOutcome) -> None:
        """Does nothing."""

    def segment_opened(self, opening: Opening) -> None:
        """Does nothing."""

    def parse_failed(self, failure: ParseFailure) -> None:
        """Does nothing."""

    def overridden(self, parameter: str) -> None:
        """Does nothing."""

    def answer_dropped(self) -> None:
        """Does nothing."""
