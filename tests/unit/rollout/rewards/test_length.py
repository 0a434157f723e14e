"""The reward length."""

from __future__ import annotations

import pytest

from rollout.rewards.registry import RewardPart, make_reward
from rollout.tasks import TaskError
from rollout.tasks.reward_error import RewardError
from tests.unit.rollout.rewards.judging import value

DAPO = {"from_tokens": 16_384, "to_tokens": 20_480}  # L_max 20,480, L_cache 4,096, as in the paper


@pytest.mark.parametrize(
    ("tokens", "reward"), [(0, 0.0), (16_384, 0.0), (18_432, -0.5), (17_408, -0.25), (20_480, -1.0), (30_000, -1.0)]
)
def test_the_penalty_is_linear_between_the_two_lengths(tokens: int, reward: float):
    assert value("length", "x", options=DAPO, tokens=tokens) == reward


def test_a_response_that_was_cut_off_gets_all_of_it_where_that_is_wanted():
    assert value("length", "x", options=DAPO, tokens=5, finish="length") == 0.0
    assert value("length", "x", options={**DAPO, "truncated": True}, tokens=5, finish="length") == -1.0
    assert value("length", "x", options={**DAPO, "truncated": True}, tokens=5, finish="stop") == 0.0


def test_an_unknown_length_is_unscored():
    with pytest.raises(RewardError, match="number of generated tokens is not known"):
        value("length", "x", options=DAPO)


def test_lengths_in_the_wrong_order_are_refused():
    with pytest.raises(TaskError, match="from_tokens = 5, to_tokens = 5"):
        make_reward(RewardPart("length", options={"from_tokens": 5, "to_tokens": 5}))
