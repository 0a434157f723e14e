"""The search for groups that are not finite: what it finds, when it gives up, and what it costs."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from learner.batch.culprits import culprits

FLEETS = ["oslo", "tokyo", "lima", "tokyo"] * 16  # of 64 groups


class Model:
    """Is finite on groups without a guilty one; counts what it was asked."""

    def __init__(self, *guilty: int, also: Callable[[set[int]], bool] = lambda groups: True) -> None:
        self.guilty, self.also = set(guilty), also
        self.asked: list[set[int]] = []

    def finite(self, groups: set[int]) -> bool:
        self.asked.append(groups)
        return not groups & self.guilty and self.also(groups)


@pytest.mark.parametrize("guilty", [[0], [63], [5], [0, 63], [1, 3, 5], list(range(1, 64, 4)), [8, 16, 24]])
def test_the_guilty_are_found_and_nobody_else(guilty: list[int]):
    model = Model(*guilty)
    assert culprits(range(64), FLEETS, model.finite) == set(guilty)


def test_one_guilty_group_costs_few_passes_and_its_fleet_is_found_first():
    model = Model(7)
    culprits(range(64), FLEETS, model.finite)
    assert len(model.asked) <= 1 + 2 * 6 + 1  # a group alone, two halves at each of six levels, and what is left
    assert {FLEETS[group] for group in model.asked[1]} in ({"lima", "oslo"}, {"lima"}, {"tokyo"})


def test_groups_without_sequences_are_never_asked_for():
    model = Model(9)
    assert culprits([3, 9, 11, 40], FLEETS, model.finite) == {9}
    assert set().union(*model.asked) == {3, 9, 11, 40}


@pytest.mark.parametrize("groups", [1, 2, 3, 16, 64, 512])
def test_a_model_that_is_not_finite_accuses_nobody(groups: int):
    model = Model(also=lambda groups: False)
    assert culprits(range(groups), FLEETS * 8, model.finite) is None
    assert len(model.asked) <= 8


def test_more_than_a_quarter_are_not_believed():
    for guilty in (range(17), range(0, 64, 2)):
        assert culprits(range(64), FLEETS, Model(*guilty).finite) is None
    assert culprits(range(3), FLEETS, Model(0, 1).finite) is None
    assert culprits(range(3), FLEETS, Model(1).finite) == {1}


def test_what_is_not_finite_without_a_guilty_group_accuses_nobody():
    """Groups that are finite alone, but not together: the sum is too large."""
    assert culprits(range(64), FLEETS, Model(also=lambda groups: len(groups) < 20).finite) is None


def test_the_cost_is_bounded():
    noise = random.Random(0)
    for count in (5, 40, 200):
        model = Model(*noise.sample(range(1024), count))
        found = culprits(range(1024), FLEETS * 16, model.finite)
        assert found in (None, model.guilty)
        assert len(model.asked) <= 128 + 11 + 8 + 1
