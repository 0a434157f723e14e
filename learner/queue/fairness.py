"""Whose group is trained next: deficit round robin over fleets, in tokens (Shreedhar and Varghese, 1995)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class DeficitRoundRobin:
    """Shares the learner between fleets by weight, counted in tokens, whatever the size of their groups.

    Fleets with groups waiting earn credit at the rate of their weights and spend it on their oldest group as soon as they
    can afford it. (Rounds in which nobody can afford anything are skipped at once, so the quantum is as fine as can be.)
    Credit is kept only while a fleet has groups waiting: silence saves nothing up, so there is no burst after it.
    Work-conserving: as long as any fleet has a group, one is chosen. Over any stretch in which fleets a and b always
    have groups waiting, |served_a / weight_a - served_b / weight_b| <= largest_a / weight_a + largest_b / weight_b.

    Args:
        weights: fleet -> weight, > 0; 1 for those not named.
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self._weights = dict(weights or {})
        if bad := {fleet: weight for fleet, weight in self._weights.items() if not weight > 0}:
            raise ValueError(f"fleet weights must be > 0: {bad}")
        self._credit: dict[str, float] = {}  # in the order of turns: who was served last is last

    def choose(self, queues: Mapping[str, Sequence[int]], groups: int) -> list[str]:
        """The fleets to take the next groups from, in order.

        Args:
            queues: fleet -> tokens of its waiting groups, oldest first. A fleet may show only its first ``groups``.
            groups: how many to choose; fewer are chosen only when fewer wait.
        """
        waiting = {fleet: [max(1, cost) for cost in reversed(costs)] for fleet, costs in queues.items() if costs}
        for fleet in [fleet for fleet in self._credit if fleet not in waiting]:
            del self._credit[fleet]
        for fleet in sorted(waiting):
            self._credit.setdefault(fleet, 0.0)
        chosen: list[str] = []
        while waiting and len(chosen) < groups:
            fleet = self._serve({fleet: costs[-1] for fleet, costs in waiting.items()})
            chosen.append(fleet)
            waiting[fleet].pop()
            if not waiting[fleet]:
                del waiting[fleet]
        return chosen

    def refund(self, fleet: str, tokens: int) -> None:
        """Gives back the credit of a group that was not trained after all (it had expired)."""
        if fleet in self._credit:
            self._credit[fleet] += max(1, tokens)

    def _serve(self, heads: Mapping[str, int]) -> str:
        """Lets credit grow until one fleet affords its head, and spends it there."""
        rounds = {
            fleet: max(0.0, (heads[fleet] - credit) / self._weights.get(fleet, 1.0))
            for fleet, credit in self._credit.items()
            if fleet in heads
        }
        first = min(rounds, key=rounds.__getitem__)  # of equals, the one whose turn is earliest
        for fleet in rounds:
            self._credit[fleet] += rounds[first] * self._weights.get(fleet, 1.0)
        self._credit[first] = max(0.0, self._credit.pop(first) - heads[first])
        return first
