"""Notices when what a worker makes comes to nothing, so that going on would be pointless."""

from __future__ import annotations

from collections.abc import Sequence

from leeway.v1 import rollout_pb2
from rollout.generation.withdrawal import ScoringHealth, Withdrawal

FRUITLESS = 10  # requests in a row that no engine could answer
TOO_LONG = 1000  # prompts in a row without room for a response: data may be sorted by length
_UNANSWERED = ("aborted", "refused")


class ProductionGuard:
    """Counts requests that no group came of."""

    def __init__(self) -> None:
        self._fruitless = 0
        self._too_long = 0
        self._scoring = ScoringHealth()

    def note(self, groups: Sequence[rollout_pb2.Group | Withdrawal]) -> str | None:
        """Takes note of what one request made; returns why the worker has to end, or None."""
        if (problem := self._scoring.note(groups)) is not None:
            return problem
        withdrawn = [group for group in groups if isinstance(group, Withdrawal)]
        too_long = [withdrawal.message for withdrawal in withdrawn if withdrawal.reason == "too_long"]
        unanswered = [withdrawal.message for withdrawal in withdrawn if withdrawal.reason in _UNANSWERED]
        self._too_long = self._too_long + len(groups) if len(too_long) == len(groups) else 0
        if self._too_long >= TOO_LONG:
            return f"{self._too_long} prompts in a row are too long; the last: {too_long[-1]}"
        if unanswered and len(unanswered) + len(too_long) == len(groups):
            return self.failed(unanswered[-1])
        if len(too_long) < len(groups):
            self._fruitless = 0
        return None

    def failed(self, error: str) -> str | None:
        """Takes note of a request that no engine could answer; returns why the worker has to end, or None."""
        self._fruitless += 1
        if self._fruitless < FRUITLESS:
            return None
        return f"no engine could answer {FRUITLESS} requests in a row; the last: {error}"
