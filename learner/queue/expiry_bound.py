"""Bounds how much of a take a fleet can use up with groups that expire."""

from __future__ import annotations

from collections import Counter

_IN_A_ROW = 64


class ExpiryBound:
    """Counts the groups of each fleet that expire in a row, and says what follows from it for the fleet's turn.

    A group that expires costs its fleet nothing, so that a fleet with a few old groups does not lose its share. A fleet
    that never loads a new version submits nothing else: if all of that were free of charge, it would be served first for
    ever and every other fleet would wait. So once 64 groups of a fleet have expired in a row, over however many takes,
    their credit is no longer given back, and the fleet is passed over for the rest of a take as soon as one more has
    expired in it: its share is counted in tokens, and small groups that expire must not keep a large one waiting. Its next
    group that can be trained on ends this.
    """

    def __init__(self) -> None:
        self._in_a_row: Counter[str] = Counter()
        self._this_take: set[str] = set()

    def begin_take(self) -> None:
        """Starts a take: no fleet is passed over."""
        self._this_take.clear()

    def expired(self, fleet: str) -> bool:
        """Counts an expired group; returns whether its credit is to be given back to the fleet."""
        self._in_a_row[fleet] += 1
        self._this_take.add(fleet)
        return self._in_a_row[fleet] <= _IN_A_ROW

    def trainable(self, fleet: str) -> None:
        """Notes that the fleet had a group that can be trained on."""
        self._in_a_row.pop(fleet, None)

    def passed_over(self) -> set[str]:
        """Fleets from which this take shall take nothing more."""
        return {fleet for fleet in self._this_take if self._in_a_row[fleet] >= _IN_A_ROW}
