"""Bootstrap and paired differences against numbers worked by hand."""

from __future__ import annotations

import math

import pytest

from tests.evidence.statistics import Estimate, estimate, exponent, largest_stable, paired


def test_every_resample_of_two_values_counts_once():
    # Means of (0,0), (0,1), (1,0), (1,1): 0, .5, .5, 1. The 2.5% quantile lies 0.075 of the way from 0 to .5.
    found = estimate([0.0, 1.0])
    assert (found.mean, found.seeds) == (0.5, 2)
    assert (found.low, found.high) == pytest.approx((0.0375, 0.9625))


def test_three_values_have_27_resamples():
    # 1 of 27 means is 0, 3 are 1/3: the quantile at 0.025 * 26 = 0.65 is 0.65 of the way from 0 to 1/3.
    found = estimate([0.0, 0.0, 1.0])
    assert found.mean == pytest.approx(1 / 3)
    assert found.low == 0.0  # 8 of the 27 resamples have no 1
    assert found.high == pytest.approx(2 / 3 + (1 / 3) * max(0.0, 0.975 * 26 - 25))  # the last of 27 is 1, six are 2/3


def test_one_value_is_its_own_interval_and_none_is_refused():
    assert estimate([0.3]) == Estimate(0.3, 0.3, 0.3, 1)
    with pytest.raises(ValueError, match="no values"):
        estimate([])


def test_many_values_are_drawn_and_give_about_the_normal_interval():
    values = [math.sin(n) for n in range(100)]
    found = estimate(values)
    deviation = (sum((v - found.mean) ** 2 for v in values) / 100) ** 0.5
    assert found.high - found.low == pytest.approx(2 * 1.96 * deviation / 10, rel=0.05)
    assert estimate(values) == found


def test_pairs_are_made_of_the_seeds_that_both_have():
    found = paired({0: 0.5, 1: 0.7, 2: 0.9}, {0: 0.4, 1: 0.5, 7: 0.0})
    assert found is not None
    assert (found.mean, found.seeds) == (pytest.approx(0.15), 2)
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_a_common_level_of_a_seed_does_not_widen_the_difference():
    found = paired({0: 0.2, 1: 0.5, 2: 0.8}, {0: 0.1, 1: 0.4, 2: 0.7})
    assert found is not None
    assert found.low == pytest.approx(0.1)
    assert found.high == pytest.approx(0.1)
    assert found.sign == 1


@pytest.mark.parametrize(
    ("found", "sign"),
    [
        (Estimate(0.1, 0.01, 0.2, 5), 1),
        (Estimate(-0.1, -0.2, -0.01, 5), -1),
        (Estimate(0.1, -0.01, 0.2, 5), 0),
        (Estimate(0.1, 0.01, 0.2, 2), 0),
    ],
)
def test_a_sign_needs_an_interval_without_zero_and_three_seeds(found: Estimate, sign: int):
    assert found.sign == sign


def test_the_largest_stable_rate_is_interpolated():
    # 0.9 of the best, 0.8, is 0.72: half of the way from 0.8 at 4 to 0.64 at 16 in the logarithm, which is 8.
    assert largest_stable({1.0: 0.5, 4.0: 0.8, 16.0: 0.64, 64.0: 0.0}) == pytest.approx(8.0)


def test_a_limit_beyond_what_was_tried_is_not_known():
    assert largest_stable({1.0: 0.5, 4.0: 0.8}) is None
    assert largest_stable({1.0: 0.5}) is None


def test_the_exponent_of_a_power_is_found():
    assert exponent({4: 1.0, 16: 0.25, 64: 0.0625}) == pytest.approx(-1.0)
    assert exponent({4: 1.0, 16: 0.5, 0: 9.0}) == pytest.approx(-0.5)
    assert exponent({0: 1.0, 4: 1.0}) is None
