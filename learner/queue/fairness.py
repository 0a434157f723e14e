"""Decides which fleet's group is trained next: deficit round robin, counted in tokens (Shreedhar and Varghese, 1995)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class DeficitRoundRobin:
    """Shares the learner between fleets by weight, counted in tokens, whatever the size of their groups.

    Fleets with groups waiting earn credit at the rate of their weights and spend it on their oldest group as soon as they
    can afford it. (Rounds in which no fleet can afford anything are skipped at once, so the quantum is arbitrarily fine.)
    A fleet keeps its credit only while it has groups waiting: an idle fleet saves nothing, so no burst follows.
    Work-conserving: as long as any fleet has a group, one is chosen. Over any stretch in which fleets a and b always
    have groups waiting, |served_a / weight_a - served_b / weight_b| <= largest_a / weight_a + largest_b / weight_b.

    Args:
        weights: fleet -> weight, > 0; 1 for fleets not named.

    Raises:
        ValueError: a weight is not positive.
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self._weights: dict[str, float] = {}
        self._credit: dict[str, float] = {}  # in the order of turns: the fleet served last is last
        self.weigh(weights or {})

    def weigh(self, weights: Mapping[str, float]) -> None:
        """Sets other weights; fleets keep the credit that they have. Raises ValueError: a weight is not positive."""
        if bad := {fleet: weight for fleet, weight in weights.items() if not weight > 0}:
            raise ValueError(f"fleet weights must be > 0: {bad}")
        self._weights = dict(weights)

    def choose(self, queues: Mapping[str, Sequence[int]], groups: int) -> list[str]:
        """Chooses the fleets to take the next groups from, in order; one element per group.

        Args:
            queues: fleet -> tokens of each of its waiting groups, oldest first. The first ``groups`` of a fleet suffice.
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
        """Gives back the credit spent on a group that was not trained on after all, because it had expired."""
        if fleet in self._credit:
            self._credit[fleet] += max(1, tokens)

    def _serve(self, heads: Mapping[str, int]) -> str:
        """Lets credit grow until one fleet can afford its oldest group, spends it there, and returns that fleet."""
        rounds = {
            fleet: max(0.0, (heads[fleet] - credit) / self._weights.get(fleet, 1.0))
            for fleet, credit in self._credit.items()
            if fleet in heads
        }
        first = min(rounds, key=rounds.__getitem__)  # among equals the one whose turn is earliest
        for fleet in rounds:
            self._credit[fleet] += rounds[first] * self._weights.get(fleet, 1.0)
        self._credit[first] = max(0.0, self._credit.pop(first) - heads[first])
        return first
