"""What a task may return as a reward."""

from __future__ import annotations

from collections import OrderedDict
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from rollout.tasks import TaskError
from rollout.tasks.score import Score, as_score


def test_named_parts_add_up():
    assert as_score({"format": 0.25, "answer": 1}) == Score(1.25, {"format": 0.25, "answer": 1.0})
    assert as_score(OrderedDict(right=np.True_, short=np.float32(0.5))) == Score(1.5, {"right": 1.0, "short": 0.5})


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        (True, 1.0),
        (-3, -3.0),
        (0.5, 0.5),
        (Fraction(1, 4), 0.25),
        (np.True_, 1.0),
        (np.False_, 0.0),
        (np.int8(-2), -2.0),
        (np.uint64(7), 7.0),
        (np.float16(0.5), 0.5),
        (np.float32(0.25), 0.25),
        (np.float64(1.5), 1.5),
    ],
)
def test_every_real_number_is_a_reward(reward: Any, expected: float):
    score = as_score(reward)
    assert score == Score(expected)
    assert type(score.reward) is float


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("good", r"reward = 'good': expected a number .*found str"),
        (None, r"reward = None: .*found NoneType"),
        (1j, r"reward = 1j: .*found complex"),
        (np.array([1.0]), r"found ndarray; convert it, with \.item\(\)"),
        ([1.0], "found list"),
        (float("nan"), "reward = nan: expected a finite number"),
        (float("-inf"), "reward = -inf: expected a finite number"),
        (np.float32("inf"), "reward = inf: expected a finite number"),
        (10**400, "reward = inf: expected a finite number"),
        ({}, r"reward = \{\}: .*at least one"),
        ({1: 1.0}, r"reward = \{1: 1\.0\}: .*named"),
        ({"format": 1.0, "answer": None}, r"reward\['answer'\] = None"),
        ({"format": 1.0, "answer": float("nan")}, r"reward\['answer'\] = nan"),
        ({"a": 1e308, "b": 1e308}, "the sum of the reward's parts = inf"),
    ],
)
def test_what_is_no_reward_is_refused(reward: Any, message: str):
    with pytest.raises(TaskError, match=message):
        as_score(reward)
