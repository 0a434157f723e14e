"""The order of a pass: every row once, another order for each pass and seed, no row preferred at any place."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.tasks.dataset.pass_order import PassOrder


@given(size=st.integers(1, 600), seed=st.integers(-(2**63), 2**63), number=st.integers(0, 2**40))
def test_a_pass_has_every_row_once(size: int, seed: int, number: int):
    order = PassOrder(size, seed)
    assert sorted(order.row(number, place) for place in range(size)) == list(range(size))


def test_passes_and_seeds_have_orders_of_their_own_and_keep_them():
    def rows(seed: int, number: int) -> tuple[int, ...]:
        order = PassOrder(1000, seed)
        return tuple(order.row(number, place) for place in range(1000))

    orders = [rows(seed, number) for seed in range(4) for number in range(4)]
    assert len(set(orders)) == 16
    assert orders == [rows(seed, number) for seed in range(4) for number in range(4)]
    # Two orders that know nothing of each other agree at one place on average (Poisson: 12 and more once in 10^10).
    assert all(sum(map(int.__eq__, one, other)) < 12 for one in orders for other in orders if one is not other)


@pytest.mark.parametrize("size", [2, 5, 100])
def test_at_every_place_each_row_comes_equally_often(size: int):
    passes = 400 * size
    order = PassOrder(size, 7)
    for place in (0, size - 1):
        counts = Counter(order.row(number, place) for number in range(passes))
        squares = sum((counts[row] - 400) ** 2 / 400 for row in range(size))
        # Chi squared with size - 1 degrees of freedom: six standard deviations above its mean.
        assert squares < size - 1 + 6 * (2 * (size - 1)) ** 0.5 + 6


def test_neighbours_in_the_data_are_no_neighbours_in_a_pass():
    order = PassOrder(10_000, 0)
    rows = [order.row(0, place) for place in range(10_000)]
    assert sum(abs(one - other) == 1 for one, other in pairwise(rows)) < 15  # 2 are expected
