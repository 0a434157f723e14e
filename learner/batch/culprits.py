"""Finds the groups whose loss or gradient is not finite, by bisection. Pure: it is told which subsets are finite."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_PROBES = 8  # single groups that are tried: if none of them is finite, it is the model that is not
_MOST_PASSES = 128  # each over a part of the batch; one level of the bisection is at most one pass over the whole batch
_MOST_GUILTY = 4  # at most one in so many groups is guilty


def culprits(groups: Sequence[int], fleets: Sequence[str], finite: Callable[[set[int]], bool]) -> set[int] | None:
    """Finds the guilty among groups that are not finite together.

    First by fleet, then within the fleets, so that one bad fleet costs few passes. Deterministic: ranks that get the same
    answers ask the same questions in the same order.

    Args:
        groups: indices of the step's groups that have sequences.
        fleets: fleet of each group of the step, by index.
        finite: whether the loss and the gradient of a subset of ``groups`` are finite.

    Returns:
        The guilty groups. None if there is no telling: the model itself is not finite, more than a quarter of the groups look
        guilty, or what is left is not finite either.
    """
    search = _Search(fleets, finite, max(1, len(groups) // _MOST_GUILTY))
    spread = [groups[index * len(groups) // _PROBES] for index in range(_PROBES)]
    if len(groups) < 2 or not any(finite({group}) for group in dict.fromkeys(spread)):
        return None
    if not search.divide(sorted(groups, key=lambda group: (fleets[group], group))):
        return None
    return search.guilty if finite(set(groups) - search.guilty) else None


class _Search:
    """A bisection under way.

    Attributes:
        guilty: the groups that have been found.
    """

    def __init__(self, fleets: Sequence[str], finite: Callable[[set[int]], bool], most: int) -> None:
        self.guilty: set[int] = set()
        self._fleets = fleets
        self._finite = finite
        self._most = most
        self._passes = 0

    def divide(self, groups: list[int]) -> bool:
        """Searches groups, sorted by fleet, that are not finite together; False if it has to give up."""
        if len(groups) == 1:
            self.guilty.update(groups)
            return len(self.guilty) <= self._most
        middle = self._middle(groups)
        left, right = groups[:middle], groups[middle:]
        left_finite = self._test(left)
        if left_finite:  # then the others are not
            return self._passes <= _MOST_PASSES and self.divide(right)
        if not self.divide(left):
            return False
        return self._test(right) or (self._passes <= _MOST_PASSES and self.divide(right))

    def _middle(self, groups: list[int]) -> int:
        """Returns where to divide: between two fleets if there are several, as near to the middle as possible."""
        begins = [i for i in range(1, len(groups)) if self._fleets[groups[i]] != self._fleets[groups[i - 1]]]
        return min(begins or range(1, len(groups)), key=lambda i: abs(2 * i - len(groups)))

    def _test(self, groups: list[int]) -> bool:
        self._passes += 1
        return self._finite(set(groups))
