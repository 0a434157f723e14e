"""Reads the version spans of a response of the contract, whichever of its two forms it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

Span = TypeVar("Span", covariant=True)


class Spanned(Protocol[Span]):
    """A message with spans: a segment, or a response of one sequence."""

    @property
    def spans(self) -> Sequence[Span]:
        """Which of its tokens the policy generated, and with which version."""
        ...


class Segmented(Spanned[Span], Protocol[Span]):
    """A response, of one sequence or of several."""

    @property
    def segments(self) -> Sequence[Spanned[Span]]:
        """Its sequences, if it has several."""
        ...


def spans_of(response: Segmented[Span]) -> Sequence[Span]:
    """Returns all spans of a response: its own, and those of its segments; offsets count from each segment's tokens.

    The contract allows a response one of the two only.
    """
    spans = response.spans[:]
    if not response.segments:
        return spans
    return [*spans, *(span for segment in response.segments[:] for span in segment.spans[:])]
