"""The estimators of advantages, by hand and for arbitrary rewards."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.batch.advantages import advantages, leave_one_out, mean_centred, standardised, standardised_unbiased

ESTIMATORS = [mean_centred, standardised, standardised_unbiased, leave_one_out]


def test_advantages_by_hand():
    assert mean_centred([1, 0, 0, 0]).tolist() == [0.75, -0.25, -0.25, -0.25]
    assert standardised([1, 0, 0, 0]).tolist() == pytest.approx([3**0.5, *[-(3**-0.5)] * 3], rel=1e-5)
    assert standardised_unbiased([1, 0, 0, 0]).tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5], rel=1e-5)
    assert advantages([1, 0, 0, 0], "std_unbiased").tolist() == standardised_unbiased([1, 0, 0, 0]).tolist()
    assert leave_one_out([1, 0, 0, 0]).tolist() == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=64))
def test_advantages_are_finite_and_sum_to_zero(estimator: Callable[[list[float]], torch.Tensor], rewards: list[float]):
    values = estimator(rewards).double()
    assert bool(values.isfinite().all())
    assert abs(float(values.sum())) < 1e-2


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_equal_rewards_have_no_advantage(estimator: Callable[[list[float]], torch.Tensor]):
    assert estimator([0.1] * 7).tolist() == [0.0] * 7  # the mean of seven 0.1 is not 0.1 in binary
    assert estimator([3.0]).tolist() == [0.0]


def test_the_divisor_g_minus_1_is_that_of_torch():
    rewards = torch.tensor([0.2, 0.9, 0.4, 0.4, 0.7], dtype=torch.float64)
    expected = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
    assert standardised_unbiased(rewards.tolist()).tolist() == pytest.approx(expected.tolist(), rel=1e-6)
