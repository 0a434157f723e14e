"""Divides a step's sequences, given by their lengths, among ranks and micro-batches. Integers only, no tensors."""

from __future__ import annotations

import bisect
import heapq
import itertools
from collections.abc import Iterable

_EVEN = 1.01  # a load at most so many times the mean is balanced well enough


def assign(lengths: list[int], ranks: int, min_micro_batches: int, budget: int) -> list[list[list[int]]]:
    """Assigns sequences to ranks and micro-batches. Deterministic.

    The sequences of each rank are chosen first, so that the ranks have equal work whatever their micro-batches contain.

    Args:
        lengths: tokens of each sequence, padding included.
        ranks: data-parallel size.
        min_micro_batches: fewest micro-batches per rank.
        budget: most tokens in a micro-batch; a longer sequence raises it to its own length.

    Returns:
        For each rank, and for each of its micro-batches, the indices of the sequences in it. All ranks have the same number
        of micro-batches: as few as the budget and ``min_micro_batches`` allow.
    """
    budget = max(budget, *lengths)
    fewest = [_best_fit(lengths, share, budget) for share in _balanced(lengths, ranks)]
    count = max(min_micro_batches, *map(len, fewest))
    return [_split(lengths, bins, count, budget) for bins in fewest]


def _split(lengths: list[int], fewest: list[list[int]], count: int, budget: int) -> list[list[int]]:
    """Makes ``count`` bins out of fewer ones within the budget: about equal ones, if those are within the budget too."""
    even = _even(lengths, list(itertools.chain(*fewest)), count)
    if max(sum(lengths[i] for i in members) for members in even) <= budget:
        return even
    bins = list(fewest)
    while len(bins) < count:
        most = max(range(len(bins)), key=lambda i: len(bins[i]))
        bins += _even(lengths, bins.pop(most), 2)
    return bins


def _best_fit(lengths: list[int], members: list[int], budget: int) -> list[list[int]]:
    """Fills as few bins as best-fit decreasing finds: the longest first, each into the bin that it leaves least space in."""
    bins: list[list[int]] = []
    spaces: list[tuple[int, int]] = []  # free tokens and the bin's number, ascending
    for index in _longest_first(lengths, members):
        smallest = bisect.bisect_left(spaces, (lengths[index], 0))
        if smallest == len(spaces):
            bins.append([])
            space, number = budget, len(bins) - 1
        else:
            space, number = spaces.pop(smallest)
        bins[number].append(index)
        bisect.insort(spaces, (space - lengths[index], number))
    return bins


def _even(lengths: list[int], members: list[int], count: int) -> list[list[int]]:
    """Fills ``count`` bins about evenly: the longest first, each into the emptiest bin."""
    bins: list[list[int]] = [[] for _ in range(count)]
    loads = [(0, number) for number in range(count)]
    for index in _longest_first(lengths, members):
        load, number = loads[0]
        bins[number].append(index)
        heapq.heapreplace(loads, (load + lengths[index], number))
    return bins


def _longest_first(lengths: list[int], members: Iterable[int]) -> list[int]:
    return sorted(members, key=lambda i: (-lengths[i], i))


def _balanced(lengths: list[int], ranks: int) -> list[list[int]]:
    """Divides all sequences among the ranks so that their loads are about equal.

    The fullest rank trades sequences with others until it is within 1% of the mean, or no trade helps.
    """
    bins = _even(lengths, list(range(len(lengths))), ranks)
    loads = [sum(lengths[i] for i in members) for members in bins]
    while max(loads) > _EVEN * sum(loads) / ranks:
        fullest = max(range(ranks), key=loads.__getitem__)
        emptier = sorted(range(ranks), key=loads.__getitem__)
        trades = (_trade(lengths, bins[fullest], bins[i], loads[fullest] - loads[i]) for i in emptier)
        found = next(((i, trade) for i, trade in zip(emptier, trades, strict=True) if trade), None)
        if found is None:
            break
        other, (given, taken) = found
        bins[fullest] = [i for i in bins[fullest] if i != given] + taken
        bins[other] = [i for i in bins[other] if i not in taken] + [given]
        moved = lengths[given] - sum(lengths[i] for i in taken)
        loads[fullest] -= moved
        loads[other] += moved
    return bins


def _trade(lengths: list[int], full: list[int], other: list[int], gap: int) -> tuple[int, list[int]] | None:
    """Finds the trade that brings two bins, ``gap`` tokens apart, closest together; None if no trade does.

    Returns:
        The sequence to move out of the full bin, and the sequences, at most one, to move back in exchange.
    """
    best, least = None, gap
    for given in full:
        for taken in ([], *([i] for i in other)):
            left = abs(gap - 2 * (lengths[given] - sum(lengths[i] for i in taken)))
            if left < least:
                best, least = (given, taken), left
    return best
