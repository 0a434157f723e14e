"""Tests of the difference between two evaluations on the same prompts."""

from __future__ import annotations

import numpy as np
import pytest

from learner.cli.run.paired import paired_difference


def test_four_prompts_of_which_one_has_gained():
    # Of 4 draws from gains (1, 0, 0, 0), none is the 1 with probability .32, all but one with .003: from 0 to 3 quarters.
    assert paired_difference([0.0, 0.0, 1.0, 1.0], [1.0, 0.0, 1.0, 1.0]) == (0.25, 0.0, 0.75)


def test_the_interval_of_many_prompts_is_that_of_their_mean():
    draw = np.random.default_rng(3)
    before = draw.random(400)
    after = before + draw.normal(0.05, 0.2, 400)
    found = paired_difference(before.tolist(), after.tolist())
    assert found is not None
    value, low, high = found
    error = float((after - before).std(ddof=1)) / 20  # of the mean of 400
    assert value == pytest.approx(float((after - before).mean()))
    assert low == pytest.approx(value - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(value + 1.96 * error, abs=0.15 * error)
    assert paired_difference(before.tolist(), after.tolist()) == found


def test_prompts_without_a_judged_response_are_left_out():
    assert paired_difference([None, 0.5, 1.0], [1.0, 0.75, None]) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize(("before", "after"), [([], []), ([0.5], [0.5, 1.0]), ([None], [1.0])])
def test_nothing_is_known_without_pairs(before: list[float | None], after: list[float | None]):
    assert paired_difference(before, after) is None
