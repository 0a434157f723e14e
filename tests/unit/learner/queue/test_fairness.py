"""Tests of deficit round robin: orders worked out by hand, and its guarantees as properties."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.queue.fairness import DeficitRoundRobin

QUEUES = st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(0, 50), max_size=12), max_size=4)


def test_equal_groups_alternate():
    assert DeficitRoundRobin().choose({"a": [5, 5, 5], "b": [5, 5, 5]}, 4) == ["a", "b", "a", "b"]


def test_one_large_group_for_three_small_ones():
    # b affords 10 three times while a saves up for 30; they tie at the third, and a's turn is earlier then.
    assert DeficitRoundRobin().choose({"a": [30, 30], "b": [10] * 9}, 8) == ["b", "b", "a", "b", "b", "b", "a", "b"]


def test_weights_share_tokens():
    fair = DeficitRoundRobin({"a": 3.0})
    assert Counter(fair.choose({"a": [10] * 40, "b": [10] * 40}, 40)) == {"a": 30, "b": 10}


def test_credit_lasts_over_calls():
    # Asked for one group at a time, the shares are the same.
    fair = DeficitRoundRobin()
    chosen = [fair.choose({"a": [30] * 2, "b": [10] * 2}, 1)[0] for _ in range(40)]
    assert Counter(chosen) == {"b": 30, "a": 10}


def test_silence_saves_nothing_up():
    fair = DeficitRoundRobin()
    for _ in range(50):
        assert fair.choose({"a": [10] * 4}, 1) == ["a"]
    # b has been silent for 50 groups; from now on it gets its half, not 50 groups at once.
    assert Counter(fair.choose({"a": [10] * 20, "b": [10] * 20}, 20)) == {"a": 10, "b": 10}


def test_refund_lets_a_fleet_go_on():
    fair = DeficitRoundRobin()
    assert fair.choose({"a": [10] * 5, "b": [10] * 5}, 2) == ["a", "b"]
    fair.refund("b", 10)
    assert fair.choose({"a": [10] * 5, "b": [10] * 5}, 1) == ["b"]


def test_bad_weight():
    with pytest.raises(ValueError, match="'a': 0"):
        DeficitRoundRobin({"a": 0})


@given(QUEUES, st.integers(0, 30))
def test_work_conserving(queues: dict[str, list[int]], groups: int):
    chosen = Counter(DeficitRoundRobin().choose(queues, groups))
    assert chosen.total() == min(groups, sum(map(len, queues.values())))
    assert all(chosen[fleet] <= len(queues[fleet]) for fleet in chosen)


@given(
    st.lists(st.tuples(st.integers(1, 100), st.integers(1, 100)), min_size=20, max_size=200),
    st.floats(0.25, 4.0),
    st.integers(1, 7),
)
def test_backlogged_fleets_get_their_share(costs: list[tuple[int, int]], weight: float, batch: int):
    """The bound in DeficitRoundRobin's docstring holds after every call, for any sizes."""
    fair = DeficitRoundRobin({"a": weight})
    queues = {"a": [a for a, _ in costs], "b": [b for _, b in costs]}
    largest = {fleet: max(sizes) for fleet, sizes in queues.items()}
    served = {"a": 0.0, "b": 0.0}
    while all(len(queue) >= batch for queue in queues.values()):
        for fleet in fair.choose({fleet: queue[:batch] for fleet, queue in queues.items()}, batch):
            served[fleet] += queues[fleet].pop(0)
        apart = abs(served["a"] / weight - served["b"])
        assert apart <= largest["a"] / weight + largest["b"] + 1e-6


@given(st.lists(QUEUES, max_size=6), st.integers(1, 5))
def test_nobody_starves(history: list[dict[str, list[int]]], groups: int):
    """A waiting fleet is served within a bounded number of groups, whatever happened before."""
    fair = DeficitRoundRobin()
    for queues in history:
        fair.choose(queues, groups)
    backlog = {"a": [1] * 400, "b": [100]}
    assert "b" in fair.choose(backlog, 200)


class Fleets:
    """Fleets that join, leave and come back with groups of any size, and what they were served."""

    def __init__(self, weights: dict[str, float]) -> None:
        self.weights = weights
        self.fair = DeficitRoundRobin(weights)
        self.queues: dict[str, list[int]] = {fleet: [] for fleet in "abc"}
        self.served: Counter[str] = Counter()
        self.largest = 1

    def arrive(self, fleet: str, sizes: list[int]) -> None:
        self.queues[fleet] += sizes
        self.largest = max([self.largest, *sizes])

    def take(self, groups: int) -> list[str]:
        waiting = sum(map(len, self.queues.values()))
        chosen = self.fair.choose({fleet: queue[:groups] for fleet, queue in self.queues.items()}, groups)
        assert len(chosen) == min(groups, waiting)  # work-conserving
        for fleet in chosen:
            self.served[fleet] += self.queues[fleet].pop(0)
        return chosen


SIZES = st.lists(st.sampled_from([1, 3, 10, 100]), max_size=6)
HISTORY = st.lists(st.tuples(st.sampled_from("abc"), SIZES, st.integers(0, 5)), max_size=30)
FLEET_WEIGHTS = st.fixed_dictionaries({fleet: st.sampled_from([0.25, 1.0, 3.0]) for fleet in "abc"})


@settings(deadline=None, max_examples=40)
@given(HISTORY, FLEET_WEIGHTS, st.lists(st.sampled_from([1, 10, 100]), min_size=40, max_size=80))
def test_whatever_happened_before_a_window_is_shared_by_weight(
    history: list[tuple[str, list[int], int]], weights: dict[str, float], sizes: list[int]
):
    """Over any window in which a and b have groups waiting, neither gets more than its share and one group's worth."""
    fleets = Fleets(weights)
    for fleet, arrived, groups in history:  # joining, leaving and coming back
        fleets.arrive(fleet, arrived)
        fleets.take(groups)
    for fleet in "ab":
        fleets.arrive(fleet, sizes)
    fleets.served.clear()
    while len(fleets.queues["a"]) > 3 and len(fleets.queues["b"]) > 3:
        fleets.take(3)
        apart = abs(fleets.served["a"] / weights["a"] - fleets.served["b"] / weights["b"])
        assert apart <= fleets.largest / weights["a"] + fleets.largest / weights["b"] + 1e-6


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 200), st.sampled_from([1, 100]), st.sampled_from([1, 100]), st.sampled_from([0.25, 1.0, 3.0]))
def test_a_fleet_that_comes_back_gets_no_burst(silence: int, size_a: int, size_b: int, weight: float):
    """After any silence, b is never more than one group ahead of its share."""
    fleets = Fleets({"b": weight})
    fleets.arrive("b", [size_b])
    fleets.take(1)
    fleets.arrive("a", [size_a] * (silence + 600))
    for _ in range(silence):
        fleets.take(1)
    fleets.served.clear()
    fleets.arrive("b", [size_b] * 600)
    while all(fleets.queues[fleet] for fleet in "ab") and fleets.served.total() < 40_000:
        fleets.take(1)
        assert fleets.served["b"] / weight <= fleets.served["a"] + size_a + size_b / weight + 1e-6


def test_three_to_one_whatever_the_sizes():
    """Weights 3:1, the heavier fleet's groups 100 times smaller: tokens come out 3:1 within one large group."""
    fleets = Fleets({"a": 3.0})
    fleets.arrive("a", [10] * 3000)
    fleets.arrive("b", [1000] * 10)
    while fleets.queues["b"]:
        fleets.take(16)
    assert abs(fleets.served["a"] - 3 * fleets.served["b"]) <= 3 * 1000 + 16 * 10
